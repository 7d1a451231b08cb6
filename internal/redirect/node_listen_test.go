package redirect

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"postern.dev/postern/testenv"
)

// TestListenersInEveryKindOfNamespace: what the namespace lacks is missed by
// nobody, and is there when it comes.
func TestListenersInEveryKindOfNamespace(t *testing.T) {
	for _, row := range []struct {
		name    string
		arrange func(*testing.T, *nodeWorld)
		later   func(*testing.T, *nodeWorld)
		want    map[string]string
	}{
		{
			name: "both", arrange: func(*testing.T, *nodeWorld) {},
			want: map[string]string{"plain4": "proxied", "plain6": "proxied", "mapped6": "proxied"},
		},
		{
			name:    "IPv4 alone",
			arrange: func(t *testing.T, w *nodeWorld) { w.here.Sysctl(t, "ipv6/conf/all/disable_ipv6", "1") },
			want:    map[string]string{"plain4": "proxied", "mapped6": "proxied"},
		},
		{
			name:    "IPv6 alone",
			arrange: func(t *testing.T, w *nodeWorld) { w.dropLoopback4(t) },
			want:    map[string]string{"plain6": "proxied"},
		},
		{
			name:    "neither yet",
			arrange: func(t *testing.T, w *nodeWorld) { w.setLoopback(t, netlink.LinkSetDown) },
			later:   func(t *testing.T, w *nodeWorld) { w.setLoopback(t, netlink.LinkSetUp) },
			want:    map[string]string{"plain4": "proxied", "plain6": "proxied", "mapped6": "proxied"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newBareNodeWorld(t)
			row.arrange(t, w)
			w.guarded = w.newPod(t, "guarded")
			w.classify(t, w.guarded, ClassGuarded, w.here)
			w.listen(t, w.guarded)
			w.serve(t)
			if row.later != nil {
				for _, workload := range []string{"plain4", "plain6"} {
					if got := w.from(t, w.guarded, workload); got == "proxied" || got == directReply {
						t.Errorf("%s: got %q, want a failure", workload, got)
					}
				}
				row.later(t, w)
			}
			for workload, want := range row.want {
				if got := w.from(t, w.guarded, workload); got != want {
					t.Errorf("%s: got %q, want %q", workload, got, want)
				}
			}
			if got := w.direct.Load(); got != 0 {
				t.Errorf("%d connections reached the database, want 0", got)
			}
		})
	}
}

func (w *nodeWorld) setLoopback(t *testing.T, set func(netlink.Link) error) {
	t.Helper()
	err := w.here.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return set(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *nodeWorld) dropLoopback4(t *testing.T) {
	t.Helper()
	w.setLoopback(t, func(lo netlink.Link) error {
		return netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}})
	})
}

// TestListenersPort is none that the kernel chooses by itself, nor a server's.
func TestListenersPort(t *testing.T) {
	w := newBareNodeWorld(t)
	for name, limits := range map[string]string{"by default": "32768 60999", "at the end": "61000 65535"} {
		ns := testenv.NewNetns(t)
		ns.Sysctl(t, "ipv4/ip_local_port_range", limits)
		p := w.newPod(t, "pod"+limits[:2])
		w.classify(t, p, ClassGuarded, ns)
		w.listen(t, p)
		if got := portOf(w.listeners[0]); got < firstPort {
			t.Errorf("%s: got port %d, want one from %d on", name, got, firstPort)
		}
		if a, b := portOf(w.listeners[0]), portOf(w.listeners[1]); a != b {
			t.Errorf("%s: got ports %d and %d, want one", name, a, b)
		}
		stop(t, w.listeners)
	}
}

// TestAServersPortIsNotTaken: a pod's server listens where the listeners would.
func TestAServersPortIsNotTaken(t *testing.T) {
	w := newBareNodeWorld(t)
	var held []int
	err := w.here.Do(func() (err error) { held, err = holdPort(61001); return err })
	if err != nil {
		t.Fatal(err)
	}
	err = w.here.Do(func() error {
		_, err := holdPort(61001)
		return err
	})
	if err == nil {
		t.Error("got the port of a server, want an error")
	}
	if len(held) != len(loopbacks) {
		t.Errorf("got %d addresses held, want %d", len(held), len(loopbacks))
	}
}

// TestFindPods: where kubelets put the pods' cgroup, and where it will be.
func TestFindPods(t *testing.T) {
	for _, row := range []struct {
		name, given string
		have        []string
		want        string
	}{
		{"cgroupfs", "", []string{"kubepods", "system.slice"}, "kubepods"},
		{"systemd", "", []string{"kubepods.slice", "system.slice/a"}, "kubepods.slice"},
		{"a node in a container", "", []string{"a", "node/kubepods.slice"}, "node/kubepods.slice"},
		{"the outer one first", "", []string{"a/kubepods", "kubepods"}, "kubepods"},
		{"given", "a/b", []string{"kubepods"}, "a/b"},
		{"given from the root", "/a/b/", nil, "a/b"},
	} {
		root := t.TempDir()
		for _, dir := range row.have {
			mkdirAll(t, root, dir)
		}
		got, err := findPods(root, row.given)
		if err != nil || got != row.want {
			t.Errorf("%s: got %q, %v, want %q", row.name, got, err, row.want)
		}
	}
	for _, given := range []string{"/", ".", "..", "../a", "a/../.."} {
		if got, err := findPods(t.TempDir(), given); err == nil {
			t.Errorf("%q: got %q, want an error", given, got)
		}
	}
	made, err := findPods(t.TempDir(), "")
	if err != nil || !slices.Contains(podsNames, made) {
		t.Errorf("none yet: got %q, %v, want one of %v made", made, err, podsNames)
	}
}

// TestGuardsOfTheNodesAddresses: a server on one of the node's addresses is reached
// by the others too, but by 127.0.0.1 it is the pod's own.
func TestGuardsOfTheNodesAddresses(t *testing.T) {
	w := newNodelessWorld(t)
	w.host = w.db
	w.open(t)
	err := w.node.Set(Guarded{Guards: []Guard{{Prefix: netip.PrefixFrom(quiet4.Addr(), 32), Port: db4.Port(), Target: true}}})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[netip.AddrPort]bool{
		quiet4: true, db4: true, db6: true, loopback(db4.Port()): false, other4: false,
	} {
		flags, err := w.node.flagsAt(addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := flags != 0; got != want {
			t.Errorf("%v: got guarded %v, want %v", addr, got, want)
		}
	}
}

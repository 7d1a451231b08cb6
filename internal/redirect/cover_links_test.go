package redirect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

func testContext(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}

// addLink makes a further veth pair between pod and node.
func (w *coverWorld) addLink(inPod, onNode string) {
	w.t.Helper()
	w.do(w.node, func() error {
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: onNode}, PeerName: inPod, PeerNamespace: netlink.NsFd(int(w.podFile.Fd())),
		}
		return errors.Join(netlink.LinkAdd(pair), netlink.LinkSetUp(pair))
	})
}

func (w *coverWorld) removeLink(onNode string) {
	w.t.Helper()
	w.do(w.node, func() error {
		return netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: onNode}})
	})
}

// add adds a link to a namespace; false: the kernel has none of its kind.
func (w *coverWorld) add(in *testenv.Netns, l netlink.Link) bool {
	w.t.Helper()
	err := in.Do(func() error { return netlink.LinkAdd(l) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, os.ErrNotExist) {
		w.t.Logf("this kernel has no links of kind %s", l.Type())
		return false
	}
	if err != nil {
		w.t.Fatalf("add link of kind %s: %v", l.Type(), err)
	}
	return true
}

// TestEveryKindOfLinkIsKnown: as one that ends on the node, stays in the pod, or is
// named.
func TestEveryKindOfLinkIsKnown(t *testing.T) {
	const node, third = 3, 4
	for _, row := range []struct {
		link device
		ends bool
		want string
	}{
		{device{kind: "device", netns: -1, loopback: true}, false, ""},
		{device{kind: "veth", netns: node}, true, ""},
		{device{kind: "veth", netns: third}, false, "its other end is not on the node"},
		{device{kind: "veth", netns: -1}, false, ""},
		{device{kind: "device", netns: -1}, false, "a device of the machine has no end on the node"},
		{device{kind: "macvlan", netns: node}, false, "a link of kind macvlan has no end on the node"},
		{device{kind: "macvlan", netns: -1}, false, ""},
		{device{kind: "ipvlan", netns: node}, false, "a link of kind ipvlan has no end on the node"},
		{device{kind: "vlan", netns: node}, false, "a link of kind vlan has no end on the node"},
		{device{kind: "vxlan", netns: node}, false, "a link of kind vxlan has no end on the node"},
		{device{kind: "vxlan", netns: -1}, false, ""},
		{device{kind: "wireguard", netns: -1}, false, "a link of kind wireguard has no end on the node"},
		{device{kind: "tuntap", netns: -1}, false, "a link of kind tuntap has no end on the node"},
		{device{kind: "netkit", netns: node}, false, "a link of kind netkit has no end on the node"},
		{device{kind: "later", netns: -1}, false, "a link of kind later has no end on the node"},
	} {
		if got := row.link.endsAt(node); got != row.ends {
			t.Errorf("%+v: got an end on the node: %v, want %v", row.link, got, row.ends)
		}
		if got := row.link.escapes(node); got != row.want {
			t.Errorf("%+v: got %q, want %q", row.link, got, row.want)
		}
	}
	if (device{kind: "veth", netns: -1}).endsAt(-1) {
		t.Error("got an end on a node whose namespace has no id here, want none")
	}
}

// TestLinksWithoutAnEndAreNamed: and those whose packets come out in the pod itself
// are not.
func TestLinksWithoutAnEndAreNamed(t *testing.T) {
	named := func(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name} }
	for _, row := range []struct {
		name string
		add  func(*coverWorld) bool // false: the kernel has no such links
		want string                 // empty: none is named
	}{
		{"end in a third namespace", func(w *coverWorld) bool {
			third := netlink.NsFd(int(w.open(testenv.NewNetns(t)).Fd()))
			return w.add(w.here, &netlink.Veth{LinkAttrs: named("far0"), PeerName: "near0", PeerNamespace: third})
		}, "far0: its other end is not on the node"},
		{"both ends in the pod", func(w *coverWorld) bool {
			return w.add(w.here, &netlink.Veth{LinkAttrs: named("own0"), PeerName: "own1"})
		}, ""},
		{"macvlan of the node's", func(w *coverWorld) bool {
			at := w.index("extra")
			attrs := netlink.LinkAttrs{Name: "mac0", ParentIndex: at, Namespace: netlink.NsFd(int(w.podFile.Fd()))}
			return w.add(w.node, &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
		}, "mac0: a link of kind macvlan has no end on the node"},
		{"tap", func(w *coverWorld) bool {
			return w.add(w.here, &netlink.Tuntap{LinkAttrs: named("tap0"), Mode: netlink.TUNTAP_MODE_TAP})
		}, "tap0: a link of kind tuntap has no end on the node"},
		{"bridge", func(w *coverWorld) bool { return w.add(w.here, &netlink.Bridge{LinkAttrs: named("own2")}) }, ""},
		{"vxlan", func(w *coverWorld) bool {
			return w.add(w.here, &netlink.Vxlan{LinkAttrs: named("own3"), VxlanId: 1, Port: 4789})
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newCoverWorld(t)
			w.addLink("net1", "extra")
			var want []string
			if row.add(w) && row.want != "" {
				want = append(want, row.want)
			}
			w.covers(w.cover, want...)
			for end, want := range map[string]int{podEnd: 1, "extra": 1, dbEnd: 0} {
				if got := len(w.oursAt(end)); got != want {
					t.Errorf("got %d programs at %s, want %d", got, end, want)
				}
			}
		})
	}
}

// TestExpressProgramIsNamed: one for XDP sees packets before ours.
func TestExpressProgramIsNamed(t *testing.T) {
	w := newCoverWorld(t)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	const inKernel = 1 << 1 // XDP_FLAGS_SKB_MODE
	w.do(w.node, func() error {
		l, err := netlink.LinkByName(podEnd)
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(l, program.FD(), inKernel)
	})
	w.covers(w.cover, "veth0: an XDP program is before us at its end on the node")
}

// TestManyLinksAreNotListed: a pod with CAP_NET_ADMIN makes as many as it likes.
func TestManyLinksAreNotListed(t *testing.T) {
	w := newCoverWorld(t)
	for limit, want := range map[int]bool{1: true, 2: false} { // lo and veth0
		var err error
		w.do(w.here, func() error { _, err = listLinks(limit); return nil })
		if (err != nil) != want {
			t.Errorf("limit %d: got %v, want an error: %v", limit, err, want)
		}
	}
	if got, want := printable("a\x1b[0m\n"), "a?[0m?"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLaterLinkIsCovered: the watcher tells of it.
func TestLaterLinkIsCovered(t *testing.T) {
	w := newCoverWorld(t)
	w.covers(w.cover)
	ctx, cancel := testContext(t)
	changed := make(chan struct{}, 64)
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		close(started)
		done <- watchLinks(ctx, w.podFile, func() { changed <- struct{}{} })
	}()
	<-started
	for i := range 100 { // until the watcher is there
		name := fmt.Sprintf("extra%d", i)
		w.addLink("net1", name)
		if awaits(changed) {
			w.covers(w.cover)
			if got := len(w.oursAt(name)); got != 1 {
				t.Errorf("got %d programs at the later link, want 1", got)
			}
			break
		}
		w.removeLink(name)
		if i == 99 {
			t.Error("got no word of a later link, want it")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
}

// TestDatagramsThatTheNodeOpensAreDropped: what is inside would leave the node's
// device as if another node had sent it.
func TestDatagramsThatTheNodeOpensAreDropped(t *testing.T) {
	w := newCoverWorld(t)
	tunnel := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan0"}, VxlanId: 7, Port: nodeTunnel}
	has := w.add(w.node, tunnel)
	at := netip.AddrPortFrom(db4.Addr(), nodeTunnel)
	send := func() (reached int64) {
		w.reached(t)
		w.do(w.here, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, []byte(strings.Repeat("x", 64)), 0, sockaddr(at))
		})
		return w.reached(t)
	}
	if got := send(); got == 0 {
		t.Error("open: got no datagram at the other end, want it")
	}
	w.covers(w.cover)
	if got := send(); (got == 0) != has {
		t.Errorf("got %d datagrams at the other end, want none: %v", got, has)
	}
	if has {
		w.do(w.node, func() error { return netlink.LinkDel(tunnel) })
	}
	w.covers(w.cover)
	if got := send(); got == 0 {
		t.Error("without the device: got no datagram at the other end, want it")
	}
}

func awaits(changed <-chan struct{}) bool {
	select {
	case <-changed:
		return true
	case <-time.After(time.Second):
		return false
	}
}

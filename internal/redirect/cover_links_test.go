package redirect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

// TestLinksWithoutAnEndAreNamed: and those that end in the pod itself are not.
func TestLinksWithoutAnEndAreNamed(t *testing.T) {
	w := newCoverWorld(t)
	w.addLink("net1", "extra")
	elsewhere := w.open(testenv.NewNetns(t))
	w.do(w.node, func() error {
		macvlan := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{
			Name: "mac0", ParentIndex: w.indexHere("extra"), Namespace: netlink.NsFd(int(w.podFile.Fd())),
		}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		return netlink.LinkAdd(macvlan)
	})
	w.do(w.here, func() error {
		return errors.Join(
			netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "far0"}, PeerName: "near0", PeerNamespace: netlink.NsFd(int(elsewhere.Fd()))}),
			netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "own0"}, PeerName: "own1"}),
			netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "own2"}}),
			netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "own3"}, VxlanId: 1, Port: 4789}),
			netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}))
	})
	uncovered, err := w.cover.pod("pod", w.podFile, w.pod)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(uncovered)
	want := []string{
		"far0: its other end is not on the node",
		"mac0: a link of kind macvlan has no end on the node",
		"tun0: a link of kind tuntap has no end on the node",
	}
	if !slices.Equal(uncovered, want) {
		t.Errorf("got uncovered links %q, want %q", uncovered, want)
	}
	if got := len(w.programsAt("extra")); got != 1 {
		t.Errorf("got %d programs at the further link, want 1", got)
	}
	if got := len(w.programsAt(dbEnd)); got != 0 {
		t.Errorf("got %d programs at the database's link, want 0", got)
	}
}

func (w *coverWorld) indexHere(name string) int {
	l, err := netlink.LinkByName(name)
	if err != nil {
		w.t.Error(err)
		return 0
	}
	return l.Attrs().Index
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
			if got := len(w.programsAt(name)); got != 1 {
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
	w.do(w.node, func() error { return netlink.LinkAdd(tunnel) })
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
	if got := send(); got != 0 {
		t.Errorf("got %d datagrams at the other end, want 0", got)
	}
	w.do(w.node, func() error { return netlink.LinkDel(tunnel) })
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

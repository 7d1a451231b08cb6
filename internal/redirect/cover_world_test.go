package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
	"postern.dev/postern/testenv"
)

// coverPods is for how many pods the tests count.
const coverPods = 4

// away4 is an address that nobody has and nothing guards.
var away4 = netip.MustParseAddrPort("10.78.0.9:7777")

// coverWorld is a world with the node in between, with a link of the pod and one of
// the database's machine. What comes in at one goes out at all others, by a
// classifier, as some networks of clusters do it: no bridge is needed, which kernels
// have as a module at best, and nothing looks into the frames.
type coverWorld struct {
	*world
	t                 testing.TB
	node              *testenv.Netns
	nodeFile, podFile *os.File
	ends              []int // of the node
	maps              map[string]*ebpf.Map
	cover             *cover
	pod               bpf.TcxPod
}

// Devices of the node.
const (
	podEnd = "pod0"
	dbEnd  = "db0"
)

func newCoverWorld(t *testing.T) *coverWorld {
	t.Helper()
	w := newLinkedWorld(t)
	w.do(w.here, func() (err error) { w.listeners, err = listenBoth(); return err })
	for _, l := range w.listeners {
		t.Cleanup(func() { l.Close() })
	}
	w.serveDatabase(t)
	return w
}

// newLinkedWorld is a world without servers.
func newLinkedWorld(t testing.TB) *coverWorld {
	t.Helper()
	w := &coverWorld{
		t:     t,
		world: &world{here: testenv.NewNetns(t), db: testenv.NewNetns(t), ended: make(chan error, 8)},
		node:  testenv.NewNetns(t),
		pod:   bpf.TcxPod{Netns: 1, Index: 2},
	}
	w.nodeFile, w.podFile = w.open(w.node), w.open(w.here)
	w.join(podEnd, w.here)
	w.join(dbEnd, w.db)
	pods := []netip.Prefix{netip.PrefixFrom(here4, 24), netip.PrefixFrom(here6, 64)}
	databases := []netip.Prefix{
		netip.PrefixFrom(db4.Addr(), 24), netip.PrefixFrom(quiet4.Addr(), 24), netip.PrefixFrom(other4.Addr(), 24),
		netip.PrefixFrom(db6.Addr(), 64), netip.PrefixFrom(quiet6.Addr(), 64),
	}
	pod, db := w.address(w.here, pods), w.address(w.db, databases)
	w.meet(w.here, db, append(databases, netip.PrefixFrom(away4.Addr(), 24)))
	w.meet(w.db, pod, pods)
	w.maps = newCoverMaps(t)
	feed(t, w.maps)
	w.cover = w.openCover()
	return w
}

// openCover is what a new process of the agent does.
func (w *coverWorld) openCover() *cover {
	w.t.Helper()
	c, err := openCover(w.nodeFile, w.maps)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// covers covers the pod's links and wants these named.
func (w *coverWorld) covers(c *cover, want ...string) {
	w.t.Helper()
	got, err := c.pod("pod", w.podFile, w.pod)
	if err != nil {
		w.t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("got uncovered links %q, want %q", got, want)
	}
}

func (w *coverWorld) do(in *testenv.Netns, f func() error) {
	w.t.Helper()
	if err := in.Do(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *coverWorld) open(in *testenv.Netns) (file *os.File) {
	w.t.Helper()
	w.do(in, func() (err error) { file, err = os.Open("/proc/thread-self/ns/net"); return err })
	w.t.Cleanup(func() { file.Close() })
	return file
}

// openNetns is the test's own network namespace.
func openNetns(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// join makes a veth pair between the node and veth0 of a namespace.
func (w *coverWorld) join(name string, to *testenv.Netns) {
	w.t.Helper()
	peer := w.open(to)
	w.do(w.node, func() error {
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "veth0", PeerNamespace: netlink.NsFd(int(peer.Fd())),
		}
		if err := errors.Join(netlink.LinkAdd(pair), netlink.LinkSetUp(pair)); err != nil {
			return err
		}
		w.ends = append(w.ends, w.indexHere(name))
		for _, end := range w.ends {
			if err := w.patch(end); err != nil {
				return err
			}
		}
		return nil
	})
}

// patch sends what comes in at an end out at all others.
func (w *coverWorld) patch(end int) error {
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for _, other := range w.ends {
		if other != end {
			code = append(code, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, int32(other)), asm.Mov.Imm(asm.R3, 0),
				asm.FnCloneRedirect.Call())
		}
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: append(code, asm.Mov.Imm(asm.R0, int32(drop)), asm.Return()),
	})
	if err != nil {
		return err
	}
	defer program.Close()
	if err := addClsact(end); err != nil {
		return err
	}
	return netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: end, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 99, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: "patch", DirectAction: true,
	})
}

// indexHere is the index of a device of the thread's namespace.
func (w *coverWorld) indexHere(name string) int {
	l, err := netlink.LinkByName(name)
	if err != nil {
		w.t.Error(err)
		return 0
	}
	return l.Attrs().Index
}

// address gives veth0 its addresses and answers its hardware address.
func (w *coverWorld) address(in *testenv.Netns, prefixes []netip.Prefix) (hardware net.HardwareAddr) {
	w.t.Helper()
	w.do(in, func() error {
		l, err := netlink.LinkByName("veth0")
		if err != nil {
			return err
		}
		hardware = l.Attrs().HardwareAddr
		for _, p := range prefixes {
			n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD}); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
	return hardware
}

// meet tells a namespace the hardware address behind some addresses.
func (w *coverWorld) meet(in *testenv.Netns, hardware net.HardwareAddr, prefixes []netip.Prefix) {
	w.t.Helper()
	w.do(in, func() error {
		l, err := netlink.LinkByName("veth0")
		if err != nil {
			return err
		}
		for _, p := range prefixes {
			err = errors.Join(err, netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: p.Addr().AsSlice(), HardwareAddr: hardware,
			}))
		}
		return err
	})
}

// index of a device of the node.
func (w *coverWorld) index(name string) (index int) {
	w.t.Helper()
	w.do(w.node, func() error { index = w.indexHere(name); return nil })
	return index
}

// dropped answers how many packets of a pod were dropped.
func (w *coverWorld) dropped(pod uint32) (sum uint64) {
	w.t.Helper()
	var perCPU []uint64
	key := pod*uint32(bpf.RedirectCounterCOUNTERS) + uint32(bpf.RedirectCounterDROPPED)
	if err := w.maps[bpf.TcxMapCounters].Lookup(key, &perCPU); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

func setFed(t testing.TB, maps map[string]*ebpf.Map, fed uint8) {
	t.Helper()
	writeNode(t, maps, bpf.NodeNode{Fed: fed})
}

func writeNode(t testing.TB, maps map[string]*ebpf.Map, node bpf.NodeNode) {
	t.Helper()
	if err := maps[bpf.TcxMapPosternNode].Put(uint32(0), node); err != nil {
		t.Fatal(err)
	}
}

// ownCgroup is the id of this process's cgroup.
func ownCgroup(t *testing.T) uint64 {
	t.Helper()
	root, err := findRoot("")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, path, ok := strings.Cut("\n"+string(own), "\n0::") // cgroups(7)
	if !ok {
		t.Fatalf("got no cgroup v2 in %q, want one", own)
	}
	path, _, _ = strings.Cut(path, "\n")
	id, err := cgroupID(root + path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// addPod adds a pod that nobody guards.
func (w *coverWorld) addPod() *testenv.Netns {
	w.t.Helper()
	pod := testenv.NewNetns(w.t)
	w.join("pod1", pod)
	w.address(pod, []netip.Prefix{netip.MustParsePrefix("10.78.0.5/24")})
	return pod
}

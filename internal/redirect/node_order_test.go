package redirect

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"postern.dev/postern/bpf"
	"postern.dev/postern/testenv"
)

// Addresses that another's program replaces by the database's: one that is
// guarded as the database is, as a Service's, and one that is not.
var (
	cluster4 = netip.MustParseAddrPort("10.96.78.99:6000")
	decoy4   = netip.MustParseAddrPort("203.0.113.78:6001")
)

// balancer is a program that does to connect what a socket load balancer does, for
// as long as the test runs.
func balancer(t *testing.T, from netip.AddrPort, cgroup string) {
	t.Helper()
	const addressAt, portAt = 4, 24 // struct bpf_sock_addr: user_ip4, user_port
	word := func(a netip.Addr) int32 {
		b := a.As4()
		return int32(binary.NativeEndian.Uint32(b[:]))
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "balancer", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, addressAt, asm.Word),
			asm.JNE.Imm32(asm.R2, word(from.Addr()), "pass"),
			asm.LoadMem(asm.R2, asm.R1, portAt, asm.Word),
			asm.JNE.Imm32(asm.R2, int32(networkOrder(from.Port())), "pass"),
			asm.Mov.Imm32(asm.R2, word(db4.Addr())),
			asm.StoreMem(asm.R1, addressAt, asm.R2, asm.Word),
			asm.Mov.Imm32(asm.R2, int32(networkOrder(db4.Port()))),
			asm.StoreMem(asm.R1, portAt, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

// TestOrderAgainstABalancer: the address that the client dialled is known, wherever
// another's program that replaces it is attached, and before or after ours.
func TestOrderAgainstABalancer(t *testing.T) {
	for _, row := range []struct {
		name  string
		first bool // it was there before us
		below bool // at the pods' cgroup, else at the root
		flags uint32
		want  Placement
		old   Placement // on a kernel that does not take these flags
	}{
		{"there first", true, false, allowMulti | preorder, PlacedFirst, PlacedAtPods},
		{"there later", false, false, allowMulti | preorder, PlacedFirst, PlacedAtRoot},
		{"there first, at the pods' cgroup", true, true, allowMulti | preorder, PlacedFirst, PlacedAtRoot},
		{"there later, at the pods' cgroup", false, true, allowMulti | preorder, PlacedFirst, PlacedAtRoot},
		{"an older kernel, there first", true, false, allowMulti, PlacedAtPods, PlacedAtPods},
		{"an older kernel, there later", false, false, allowMulti, PlacedAtRoot, PlacedAtRoot},
		{"an older kernel, at the pods' cgroup", true, true, allowMulti, PlacedAtRoot, PlacedAtRoot},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newNodelessWorld(t)
			at := filepath.Dir(w.top)
			if row.below {
				at = filepath.Join(w.top, "kubepods")
			}
			if row.first {
				balancer(t, cluster4, at)
			}
			w.flags = row.flags
			w.openGuarded(t)
			if !row.first {
				balancer(t, cluster4, at)
			}
			if !takesPreorder(t) {
				row.want = row.old
			}
			placed := w.node.State().Placement
			if placed != row.want {
				t.Errorf("got placement %q, want %q", placed, row.want)
			}
			want := "proxied"
			if row.below && placed != PlacedFirst { // the balancer's program runs first: nothing can be done
				want = "proxied, origin: got " + db4.String()
			}
			if got := w.from(t, w.guarded, "cluster-ip"); got != want && !strings.HasPrefix(got, want+" ") {
				t.Errorf("cluster-ip: got %q, want %q", got, want)
			}
			for _, workload := range []string{"plain4", "plain6"} {
				if got := w.from(t, w.guarded, workload); got != "proxied" {
					t.Errorf("%s: got %q, want proxied", workload, got)
				}
			}
			w.nothingReached(t)
		})
	}
}

// openGuarded opens a node with a guarded pod, also for what the balancer replaces.
func (w *nodeWorld) openGuarded(t *testing.T) {
	t.Helper()
	w.open(t)
	guarded := postgresGuards()
	guarded.Guards = append(guarded.Guards, Guard{Prefix: netip.PrefixFrom(cluster4.Addr(), 32), Port: cluster4.Port()})
	if err := w.node.Set(guarded); err != nil {
		t.Fatal(err)
	}
	w.guarded = w.newPod(t, "guarded")
	w.classify(t, w.guarded, ClassGuarded, w.here)
	w.listen(t, w.guarded)
	w.serve(t)
}

// TestOthersMayAttachMeanwhile: others' programs come and go while ours are looked
// for.
func TestOthersMayAttachMeanwhile(t *testing.T) {
	cgroup := testenv.NewCgroup(t)
	dir, err := os.Open(cgroup.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pass", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pass.Close()
	var ended atomic.Bool
	others := make(chan error, 1)
	go func() {
		for !ended.Load() {
			l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup.Path, Attach: ebpf.AttachCGroupInet4Connect, Program: pass})
			if err == nil {
				err = l.Close()
			}
			if err != nil {
				others <- err
				return
			}
		}
		others <- nil
	}()
	// One that stays: of no program, the length alone is read.
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup.Path, Attach: ebpf.AttachCGroupInet4Connect, Program: pass})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 20_000 {
		ids, err := attachedAt(dir, hook{bpf.NodeProgConnect4, ebpf.AttachCGroupInet4Connect})
		if err != nil || len(ids) == 0 {
			t.Errorf("got programs %v, %v, want one or two", ids, err)
			break
		}
	}
	ended.Store(true)
	if err := <-others; err != nil {
		t.Error(err)
	}
}

// TestMovedFromThePodsToTheRoot: a process that can do better than the one before
// does, and leaves nothing of it behind.
func TestMovedFromThePodsToTheRoot(t *testing.T) {
	w := newNodelessWorld(t)
	w.flags = allowMulti
	t.Run("while a balancer is at the root", func(t *testing.T) {
		balancer(t, cluster4, filepath.Dir(w.top))
		if got := w.open(t).State().Placement; got != PlacedAtPods {
			t.Errorf("got placement %q, want %q", got, PlacedAtPods)
		}
	})
	w.openGuarded(t)
	if got := w.node.State().Placement; got != PlacedAtRoot {
		t.Errorf("got placement %q, want %q", got, PlacedAtRoot)
	}
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("got %q, want proxied", got)
	}
	if got := w.programs(t); got != w.hooks() {
		t.Errorf("got %d programs attached, want %d", got, w.hooks())
	}
}

// TestHostileProgramOfAContainer: one that sends what is not guarded to the
// database, which only a privileged container can have. Ahead of it, connect does
// not see where it goes, but the packets do not leave.
func TestHostileProgramOfAContainer(t *testing.T) {
	for _, row := range []struct {
		name  string
		flags uint32
		want  string
	}{
		{"ahead", allowMulti | preorder, "timeout"},
		{"after", allowMulti, "proxied"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newNodelessWorld(t)
			w.flags = row.flags
			w.openGuarded(t)
			balancer(t, decoy4, w.guarded.container.Path)
			want := row.want
			if w.node.State().Placement != PlacedFirst {
				want = "proxied"
			}
			if got := w.from(t, w.guarded, "decoy"); got != want && !strings.HasPrefix(got, want+", origin: got "+db4.String()) {
				t.Errorf("got %q, want %q", got, want)
			}
			w.nothingReached(t)
		})
	}
}

package redirect

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
	"postern.dev/postern/testenv"
)

// coverVectors are ways to the database that pass no hook of a cgroup, or would
// not if these were there: here the program on the node's end is alone.
var coverVectors = []vector{
	{workload: "plain4", caps: containers, want: "timeout"},
	{workload: "plain6", caps: containers, want: "timeout"},
	{workload: "mapped6", caps: none, want: "timeout"},
	{workload: "so-mark", caps: netAdmin, want: "timeout"},
	{workload: "tfo-sendto4", caps: none, want: "timeout"},
	{workload: "mptcp4", caps: none, want: "timeout"},
	{workload: "udp-sendto4", caps: none, want: "timeout"},
	{workload: "udp-sendto6", caps: none, want: "timeout"},
	{workload: "ipopt-lsrr", caps: containers, want: "timeout"},
	{workload: "repair", caps: netAdmin, want: "timeout"},
	{workload: "listen", caps: none, want: "timeout", arrange: databaseDials(time.Minute)},
	{workload: "raw4", caps: containers, want: "sent"},
	{workload: "raw4-tcp", caps: containers, want: "sent"},
	{workload: "raw6-tcp", caps: containers, want: "sent"},
	{workload: "raw4-first", caps: containers, want: "sent"},
	{workload: "raw4-later", caps: containers, want: "sent"},
	{workload: "raw4-short", caps: containers, want: "sent"},
	{workload: "raw4-lsrr", caps: containers, want: "sent"},
	{workload: "raw6-fragment", caps: containers, want: "sent"},
	{workload: "raw6-many", caps: containers, want: "sent"},
	{workload: "raw6-few", caps: containers, want: "sent"},
	{workload: "raw6-route", caps: containers, want: "sent"},
	{workload: "packet", caps: containers, want: "sent"},
	{workload: "packet-bypass", caps: containers, want: "sent"},
	{workload: "packet-pieces", caps: containers, want: "sent"},
	{workload: "packet-tagged", caps: containers, want: "sent"},
	{workload: "packet-xdp", caps: containers, want: "sent"},
	{workload: "away", caps: containers, want: "timeout", arrange: translated},
}

// TestNodesEndIsTheLastOne plays every vector without the program, with it, and
// without it again.
func TestNodesEndIsTheLastOne(t *testing.T) {
	w := newCoverWorld(t)
	cgroup := testenv.NewCgroup(t)
	try := func(t *testing.T, v vector, want string, reaches bool) {
		t.Helper()
		said, reached := v.try(t, w.world, cgroup)
		if want != "" && said != want {
			t.Errorf("got %q, want %q", said, want)
		}
		if (reached != 0) != reaches {
			t.Errorf("%d packets and connections reached the database (the workload said %q), want some: %v", reached, said, reaches)
		}
	}
	each := func(name, want string, reaches bool) {
		for _, v := range coverVectors {
			t.Run(name+"/"+v.name(), func(t *testing.T) {
				if want != "" {
					try(t, v, v.want, reaches)
					return
				}
				try(t, v, "", reaches)
			})
		}
	}
	each("open", "", true)
	w.covers(w.cover)
	each("covered", "said", false)
	if w.dropped(w.pod.Index) == 0 {
		t.Error("got no dropped packets counted for the pod, want some")
	}
	if err := w.cover.forget("pod", w.pod); err != nil {
		t.Fatal(err)
	}
	if !testing.Short() {
		each("open again", "", true)
	}
}

// translated lets the pod translate an address that nothing guards into the
// database's on its own, as a rule of its netfilter would.
func translated(t *testing.T, w *world, _ *exec.Cmd) {
	from, to := away4.Addr().As4(), db4.Addr().As4()
	port := int32(networkOrder(db4.Port()))
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: translate(native(from), native(to), port),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	err = w.here.Do(func() error {
		device, err := net.InterfaceByName("veth0")
		if err != nil {
			return err
		}
		if err := addClsact(device.Index); err != nil {
			return err
		}
		filter := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: device.Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
			},
			Fd: program.FD(), Name: "translate", DirectAction: true,
		}
		t.Cleanup(func() { w.here.Do(func() error { return netlink.FilterDel(filter) }) })
		return netlink.FilterReplace(filter)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// native is how the kernel's helpers take an address.
func native(a [4]byte) int32 {
	return int32(uint32(a[0]) | uint32(a[1])<<8 | uint32(a[2])<<16 | uint32(a[3])<<24)
}

// translate is a program that sends packets for one address to another, and to a
// port of it.
func translate(from, to, port int32) asm.Instructions {
	const destination, checksum, tcpPort, tcpChecksum = 14 + 16, 14 + 10, 14 + 20 + 2, 14 + 20 + 16
	const pseudoHeader = 1 << 4 // BPF_F_PSEUDO_HDR
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, destination),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -4),
		asm.Mov.Imm(asm.R4, 4),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R7, asm.RFP, -4, asm.Word),
		asm.LoadImm(asm.R8, int64(uint32(from)), asm.DWord),
		asm.JNE.Reg(asm.R7, asm.R8, "out"),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, tcpPort),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8), asm.Mov.Imm(asm.R4, 2),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R3, asm.RFP, -8, asm.Half),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, tcpChecksum), asm.Mov.Imm(asm.R4, port), asm.Mov.Imm(asm.R5, 2),
		asm.FnL4CsumReplace.Call(),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, tcpChecksum), asm.Mov.Imm(asm.R3, from), asm.Mov.Imm(asm.R4, to),
		asm.Mov.Imm(asm.R5, pseudoHeader|4),
		asm.FnL4CsumReplace.Call(),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, checksum), asm.Mov.Imm(asm.R3, from), asm.Mov.Imm(asm.R4, to),
		asm.Mov.Imm(asm.R5, 4),
		asm.FnL3CsumReplace.Call(),
		asm.StoreImm(asm.RFP, -4, int64(to), asm.Word),
		asm.StoreImm(asm.RFP, -8, int64(port), asm.Half),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, destination),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -4), asm.Mov.Imm(asm.R4, 4), asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, tcpPort),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8), asm.Mov.Imm(asm.R4, 2), asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("out"),
		asm.Return(),
	}
}

// TestTruncatedFramesAreDropped cuts each frame that is dropped after every octet
// and sends it from the pod.
func TestTruncatedFramesAreDropped(t *testing.T) {
	w := newCoverWorld(t)
	w.reached(t)
	w.covers(w.cover)
	const ethernet, tag = 14, 6 // the kernel drops shorter ones itself
	sent := uint64(0)
	w.do(w.here, func() error {
		send, err := frameSender()
		if err != nil {
			return err
		}
		for _, f := range allFrames() {
			if f.passes || f.opens || strings.HasPrefix(f.name, "vxlan") {
				continue
			}
			shortest := ethernet
			if kind := binary.BigEndian.Uint16(f.bytes[12:]); kind == typeTag || kind == typeServiceTag {
				shortest += tag
			}
			for n := shortest; n <= len(f.bytes); n++ {
				if err := send(f.bytes[:n]); err != nil {
					return err
				}
				sent++
			}
		}
		return nil
	})
	if got := w.reached(t); got != 0 {
		t.Errorf("got %d packets at the database, want 0", got)
	}
	// Frames of several processors do not arrive in the order they were sent in.
	for deadline := time.Now().Add(10 * time.Second); w.dropped(w.pod.Index) < sent && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if got := w.dropped(w.pod.Index); got != sent {
		t.Errorf("got %d of %d frames dropped, want all", got, sent)
	}
}

// TestAgentsSocketsPass: with and without the help of the device that a large
// segment is cut with.
func TestAgentsSocketsPass(t *testing.T) {
	w := newCoverWorld(t)
	w.covers(w.cover)
	agents := testenv.NewCgroup(t)
	id, err := cgroupID(agents.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.maps[bpf.TcxMapAgents].Put(id, uint8(1)); err != nil {
		t.Fatal(err)
	}
	for _, whole := range []bool{true, false} {
		if !whole {
			w.do(w.here, noOffload)
		}
		for _, workload := range []string{"plain4", "plain6", "upload"} {
			if got := w.play(t, w.workload(agents, workload, none)); got != directReply {
				t.Errorf("%s: got %q, want %q", workload, got, directReply)
			}
		}
	}
	if got := w.play(t, w.workload(testenv.NewCgroup(t), "plain4", none)); got != "timeout" {
		t.Errorf("beside: got %q, want timeout", got)
	}
}

// TestOthersAreUntouched: other destinations of the pod, and other pods.
func TestOthersAreUntouched(t *testing.T) {
	w := newCoverWorld(t)
	other := w.addPod()
	w.covers(w.cover)
	cgroup := testenv.NewCgroup(t)
	for _, workload := range []string{"unguarded", "udp-unguarded", "udp-large"} {
		if got := w.play(t, w.workload(cgroup, workload, containers)); got != directReply {
			t.Errorf("%s: got %q, want %q", workload, got, directReply)
		}
	}
	w.here = other
	for _, workload := range []string{"plain4", "unguarded", "raw4"} {
		want := directReply
		if workload == "raw4" {
			want = "sent"
		}
		if got := w.play(t, w.workload(cgroup, workload, containers)); got != want {
			t.Errorf("another pod, %s: got %q, want %q", workload, got, want)
		}
	}
	if w.reached(t) == 0 {
		t.Error("nothing of another pod reached the database, want what it sent")
	}
	if got := w.dropped(w.pod.Index); got != 0 {
		t.Errorf("got %d packets dropped, want 0", got)
	}
}

// TestEarlierConnectionIsCutOff: nothing of it arrives any more but its end.
func TestEarlierConnectionIsCutOff(t *testing.T) {
	w := newCoverWorld(t)
	var c net.Conn
	w.do(w.here, func() (err error) { c, err = net.Dial("tcp4", held4.String()); return err })
	defer c.Close()
	guard := bpf.RedirectGuardFlagGUARD_SET | bpf.RedirectGuardFlagGUARD_TARGET
	if err := w.maps[bpf.TcxMapGuards].Put(keyOf(netip.PrefixFrom(held4.Addr(), 32), held4.Port()), guard); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "before"); err != nil {
		t.Fatal(err)
	}
	if w.reached(t) == 0 {
		t.Error("nothing reached the database before, want the connection")
	}
	w.covers(w.cover)
	w.reached(t)
	if _, err := io.WriteString(c, "after"); err != nil {
		t.Fatal(err)
	}
	if got := w.reached(t); got != 0 {
		t.Errorf("got %d packets at the database, want 0", got)
	}
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
	if got := <-w.ended; !errors.Is(got, unix.ECONNRESET) {
		t.Errorf("the database's end: got %v, want %v", got, unix.ECONNRESET)
	}
}

// TestCoverIsFirstAndAlone: after every call, whoever came before.
func TestCoverIsFirstAndAlone(t *testing.T) {
	ways := map[string]bool{"as a classifier": true}
	if has, err := hasTCX(); err != nil {
		t.Fatal(err)
	} else if has {
		ways["by itself"] = false
	}
	for name, classic := range ways {
		t.Run(name, func(t *testing.T) {
			w := newCoverWorld(t)
			w.cover.classic = classic
			const patch = 1
			w.attachStranger(newStranger(t), classic)
			w.wantOrder("before", false, patch+1)
			w.covers(w.cover)
			w.wantOrder("covered", true, patch+1)
			first := w.oursAt(podEnd)
			w.covers(w.cover)
			w.wantOrder("covered twice", true, patch+1)
			if got := w.oursAt(podEnd); !classic && !slices.Equal(got, first) {
				t.Errorf("got program %d after a second call, want %d still", got, first)
			}
			w.attachStranger(newStranger(t), classic)
			w.covers(w.cover)
			w.wantOrder("a stranger before us", true, patch+2)
			later := w.openCover()
			later.classic = classic
			w.covers(later)
			w.wantOrder("another process", true, patch+2)
			if got := w.oursAt(podEnd); slices.Equal(got, first) {
				t.Error("got the first process's program still, want the other's")
			}
			for range 2 {
				if err := uncoverAll(w.nodeFile, ""); err != nil {
					t.Fatal(err)
				}
				w.wantOrder("uncovered", false, patch+2)
			}
		})
	}
}

// TestClassifierCovers is [TestNodesEndIsTheLastOne] in short for older kernels.
func TestClassifierCovers(t *testing.T) {
	w := newCoverWorld(t)
	w.cover.classic = true
	cgroup := testenv.NewCgroup(t)
	w.covers(w.cover)
	w.reached(t)
	for _, workload := range []string{"plain4", "raw4", "packet", "packet-bypass", "packet-tagged"} {
		w.play(t, w.workload(cgroup, workload, containers))
	}
	if got := w.reached(t); got != 0 {
		t.Errorf("got %d packets at the database, want 0", got)
	}
	if got := w.play(t, w.workload(cgroup, "unguarded", none)); got != directReply {
		t.Errorf("got %q, want %q", got, directReply)
	}
}

// TestReplacingLeavesNoGap: packets go on while one process's program takes the
// place of another's.
func TestReplacingLeavesNoGap(t *testing.T) {
	w := newCoverWorld(t)
	w.covers(w.cover)
	w.reached(t)
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- w.here.Do(func() error {
			send, err := frameSender()
			for err == nil {
				select {
				case <-stop:
					return nil
				default:
					err = send(stack(syn4(db4), ether(typeIPv4)))
				}
			}
			return err
		})
	}()
	for range 6 {
		w.covers(w.openCover())
		w.attachStranger(newStranger(t), w.cover.classic)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := w.reached(t); got != 0 {
		t.Errorf("got %d packets at the database, want 0", got)
	}
	if w.dropped(w.pod.Index) == 0 {
		t.Error("got no packets dropped, want those that were sent")
	}
}

func newStranger(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "cover", // the name alone does not make it ours
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// attachStranger puts somebody's program before all others.
func (w *coverWorld) attachStranger(program *ebpf.Program, classic bool) {
	w.t.Helper()
	index := w.index(podEnd)
	w.do(w.node, func() error {
		if !classic {
			return link.RawAttachProgram(link.RawAttachProgramOptions{
				Target: index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
			})
		}
		if err := addClsact(index); err != nil {
			return err
		}
		c := &cover{objects: coverObjects{Cover: program}}
		return netlink.FilterAdd(c.filter(index, uint32(program.FD())))
	})
}

// programsAt are the programs that see what comes in at a device of the node, in
// order.
func (w *coverWorld) programsAt(name string) (ids []ebpf.ProgramID) {
	w.t.Helper()
	index := w.index(name)
	w.do(w.node, func() error {
		found, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			ids = programIDs(found)
		}
		filters, err := classicFilters(index)
		for _, f := range filters {
			ids = append(ids, ebpf.ProgramID(f.Id))
		}
		return err
	})
	return ids
}

// oursAt are those of them that are ours.
func (w *coverWorld) oursAt(name string) (ids []ebpf.ProgramID) {
	w.t.Helper()
	ours, err := ourCovers(w.programsAt(name))
	if err != nil {
		w.t.Fatal(err)
	}
	defer closeAll(ours)
	for _, o := range ours {
		ids = append(ids, o.id)
	}
	return ids
}

// wantOrder wants our program first and once, or not at all, and others' all there.
func (w *coverWorld) wantOrder(when string, covered bool, others int) {
	w.t.Helper()
	all, ours := w.programsAt(podEnd), w.oursAt(podEnd)
	if len(all)-len(ours) != others {
		w.t.Errorf("%s: got %d programs of others, want %d", when, len(all)-len(ours), others)
	}
	if !covered && len(ours) != 0 {
		w.t.Errorf("%s: got programs %d of ours, want none", when, ours)
	}
	if covered && (len(ours) != 1 || all[0] != ours[0]) {
		w.t.Errorf("%s: got programs %d of ours among %d, want one at the front", when, ours, all)
	}
}

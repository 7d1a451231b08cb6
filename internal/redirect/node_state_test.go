package redirect

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/testenv"
)

func mkdirAll(t *testing.T, root, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
		t.Fatal(err)
	}
}

// refusals collects what the node tells of refusals.
func (w *nodeWorld) refusals(t *testing.T) <-chan KernelRefusal {
	t.Helper()
	told := make(chan KernelRefusal, 1024)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.node.Refusals(ctx, func(r KernelRefusal) { told <- r }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("refusals: got %v, want %v", err, context.Canceled)
		}
	})
	return told
}

func receive(t *testing.T, told <-chan KernelRefusal) KernelRefusal {
	t.Helper()
	select {
	case r := <-told:
		return r
	case <-time.After(30 * time.Second):
		t.Fatal("nothing is told, want a refusal")
		return KernelRefusal{}
	}
}

// TestRefusalsAreTold, each with its reason, its process and its pod.
func TestRefusalsAreTold(t *testing.T) {
	w := newNodeWorld(t)
	unknown, plain := w.newPod(t, "unknown"), w.newPod(t, "plain")
	elsewhere, plainNetns := testenv.NewNetns(t), testenv.NewNetns(t)
	w.classify(t, plain, ClassPlain, plainNetns)
	guarded := postgresGuards()
	for i := range guarded.Guards {
		guarded.Guards[i].Exclusive = guarded.Guards[i].Target
	}
	guarded.Guards = append(guarded.Guards, Guard{Prefix: netip.PrefixFrom(quiet4.Addr(), 32), Port: quiet4.Port(), Refuse: true})
	if err := w.node.Set(guarded); err != nil {
		t.Fatal(err)
	}
	told := w.refusals(t)
	for _, row := range []struct {
		pod      *nodePod
		in       *testenv.Netns
		workload string
		want     KernelRefusal
	}{
		{unknown, elsewhere, "plain4", KernelRefusal{Dialled: db4, Why: "pod not known yet"}},
		{plain, plainNetns, "plain6", KernelRefusal{UID: plain.uid, Dialled: db6, Why: "exclusive target"}},
		{w.guarded, elsewhere, "mapped6", KernelRefusal{UID: w.guarded.uid, Dialled: db4, Why: "socket of another namespace"}},
		{w.guarded, w.here, "udp-sendto4", KernelRefusal{UID: w.guarded.uid, Dialled: db4, Why: "not TCP"}},
		{w.guarded, w.here, "quiet4", KernelRefusal{UID: w.guarded.uid, Dialled: quiet4, Why: "refused"}},
		{w.guarded, w.here, "raw4", KernelRefusal{UID: w.guarded.uid, Dialled: db4, Why: "packet around connect"}},
		{w.guarded, w.here, "proxyport4", KernelRefusal{UID: w.guarded.uid, Dialled: loopback(portOf(w.listeners[0])), Why: "the listener's port"}},
	} {
		cmd := w.workload(row.pod.container, row.workload, containers)
		w.playIn(t, row.in, cmd)
		got := receive(t, told)
		id, err := cgroupID(row.pod.container.Path)
		if err != nil {
			t.Fatal(err)
		}
		row.want.Cgroup, row.want.Netns = id, got.Netns
		if row.workload != "raw4" {
			row.want.PID, row.want.LinuxID, row.want.Comm = cmd.Process.Pid, user, "exe"
		}
		if got != row.want {
			t.Errorf("%s: got %+v, want %+v", row.workload, got, row.want)
		}
		if got.Netns == 0 && w.node.has.packetNetns {
			t.Errorf("%s: got no namespace, want one", row.workload)
		}
	}
}

// TestOnePodsRefusalsLeaveRoom: a pod that does nothing but being refused is told
// of up to its share; what is not told is counted.
func TestOnePodsRefusalsLeaveRoom(t *testing.T) {
	w := newNodeWorld(t)
	guarded := Guarded{Guards: []Guard{{Prefix: netip.PrefixFrom(db4.Addr(), 32), Refuse: true}}}
	if err := w.node.Set(guarded); err != nil {
		t.Fatal(err)
	}
	told := w.refusals(t)
	next, end := w.begin(t, w.workload(w.guarded.container, "load", none))
	if got := next(); got != "first refused" {
		t.Fatalf("got %q, want first refused", got)
	}
	for {
		c, err := w.node.Counters(w.guarded.uid)
		if err != nil {
			t.Fatal(err)
		}
		if c.Untold > 0 {
			break
		}
	}
	other := w.newPod(t, "other")
	w.classify(t, other, ClassPlain, testenv.NewNetns(t))
	w.play(t, w.workload(other.container, "plain4", none))
	end()
	for got := receive(t, told); got.UID == w.guarded.uid; got = receive(t, told) {
	}
}

// TestState tells where the programs are, and what an older kernel lacks.
func TestState(t *testing.T) {
	w := newNodelessWorld(t)
	w.without = func(f *features) { *f = features{} }
	w.flags = allowMulti
	w.open(t)
	got := w.node.State()
	if want := (NodeState{Root: filepath.Dir(w.top), Pods: filepath.Join(w.top, "kubepods"), Placement: PlacedAtRoot}); got.Root != want.Root ||
		got.Pods != want.Pods || got.Placement != want.Placement || got.Fed {
		t.Errorf("got %+v, want %+v", got, want)
	}
	lacks := strings.Join(got.Missing, "\n")
	for _, want := range []string{"bpf_set_retval", "connect_unix", "bpf_sock_destroy", "netns cookies", "BPF_F_PREORDER"} {
		if !strings.Contains(lacks, want) {
			t.Errorf("got %q missing, want %s among it", lacks, want)
		}
	}
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	if !w.node.State().Fed {
		t.Error("got nothing said of what is guarded, want it")
	}
	w.guarded = w.newPod(t, "guarded")
	w.classify(t, w.guarded, ClassGuarded, w.here)
	w.listen(t, w.guarded)
	if got := w.play(t, w.workload(w.guarded.container, "udp-sendto4", none)); got != "EPERM" {
		t.Errorf("got %q, want EPERM", got)
	}
	stop(t, w.listeners)
	if got := w.play(t, w.workload(w.guarded.container, "proxyport4", none)); got != "EPERM" {
		t.Errorf("got %q, want EPERM", got)
	}
}

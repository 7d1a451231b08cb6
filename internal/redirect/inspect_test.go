package redirect

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"postern.dev/postern/testenv"
)

// TestInspectAnswersAsTheKernelDoesLater: a node that is told that all is well
// has its programs where it was told.
func TestInspectAnswersAsTheKernelDoesLater(t *testing.T) {
	w := newNodelessWorld(t)
	before := Inspect(w.options)
	for what, err := range map[string]error{
		"root": before.RootErr, "features": before.FeaturesErr, "order": before.FirstErr,
		"others": before.OthersErr, "programs": before.LoadErr,
	} {
		if err != nil {
			t.Errorf("got %v of %s, want an answer", err, what)
		}
	}
	running := runningRelease(t)
	if got, want := before.First, takesPreorder(t); got != want {
		t.Errorf("got first %v on Linux %v, want %v", got, running, want)
	}
	if got, want := before.TCX, !running.olderThan(release{6, 6}); got != want {
		t.Errorf("got tcx %v on Linux %v, want %v", got, running, want)
	}
	w.open(t)
	if got, want := w.node.State().Placement == PlacedFirst, before.First; got != want {
		t.Errorf("got programs first: %v, want %v as was said before", got, want)
	}
	after := Inspect(w.options)
	if got, want := after.Ours, len(earlyHooks); got < want { // there may be other nodes here
		t.Errorf("got %d programs of Postern, want %d or more", got, want)
	}
	for _, h := range earlyHooks {
		if other := h.program + " at " + h.program; slices.Contains(after.Others, other) {
			t.Errorf("got %q among others' programs, want it known as Postern's", other)
		}
	}
}

// TestInspectNamesOthers: who else rewrites addresses is told by name.
func TestInspectNamesOthers(t *testing.T) {
	w := newNodelessWorld(t)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "neighbour", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	const want = "neighbour at connect4"
	if got := Inspect(w.options); slices.Contains(got.Others, want) {
		t.Fatalf("got %v, want nobody called so yet", got.Others)
	}
	pods, err := os.Open(filepath.Join(w.top, "kubepods"))
	if err != nil {
		t.Fatal(err)
	}
	defer pods.Close()
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(pods.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect, Flags: allowMulti,
	}); err != nil {
		t.Fatal(err)
	}
	if got := Inspect(w.options); !slices.Contains(got.Others, want) {
		t.Errorf("got %v, want %q among them", got.Others, want)
	}
}

// TestInspectChangesNothing: neither programs nor cgroups are made.
func TestInspectChangesNothing(t *testing.T) {
	cgroup := testenv.NewCgroup(t)
	root := Inspect(NodeOptions{Log: quietLog()}).Root
	pods, err := filepath.Rel(root, filepath.Join(cgroup.Path, "kubepods"))
	if err != nil {
		t.Fatal(err)
	}
	got := Inspect(NodeOptions{Log: quietLog(), Pods: pods})
	if !os.IsNotExist(got.PodsErr) {
		t.Errorf("got %v for pods' cgroup %q, want it not to be there", got.PodsErr, got.Pods)
	}
	if got := Inspect(NodeOptions{Log: quietLog(), Cgroups: t.TempDir()}); got.RootErr == nil || got.PodsErr == nil || got.OthersErr == nil {
		t.Errorf("got %+v of a folder that is no hierarchy, want errors", got)
	}
}

// TestTakesFlagTellsFlagsApart: one that no kernel has is not taken.
func TestTakesFlagTellsFlagsApart(t *testing.T) {
	testenv.Need(t, os.Geteuid() == 0, "root")
	for flag, want := range map[uint32]bool{0: true, 1 << 30: false} {
		if got, err := takesFlag(flag); err != nil || got != want {
			t.Errorf("got %v, %v for flag %#x, want %v", got, err, flag, want)
		}
	}
}

package redirect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
	"postern.dev/postern/testenv"
)

// release of Linux: major and minor number.
type release [2]int

func (r release) olderThan(other release) bool { return slices.Compare(r[:], other[:]) < 0 }

func runningRelease(t *testing.T) (r release) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	text := unix.ByteSliceToString(name.Release[:])
	if _, err := fmt.Sscanf(text, "%d.%d", &r[0], &r[1]); err != nil {
		t.Fatalf("read release %q: %v", text, err)
	}
	return r
}

// takesPreorder tries whether programs can be attached ahead of others: since Linux
// 6.15, and stable releases of older series have it too (seen in 6.12.117).
func takesPreorder(t *testing.T) bool {
	t.Helper()
	dir, err := os.Open(testenv.NewCgroup(t).Path)
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
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: pass, Attach: ebpf.AttachCGroupInet4Connect, Flags: allowMulti | preorder,
	})
	if err != nil && (!errors.Is(err, unix.EINVAL) || !runningRelease(t).olderThan(release{6, 15})) {
		t.Fatalf("attach ahead of others: %v", err)
	}
	return err == nil
}

// TestProbeFindsWhatTheReleaseHas: no feature goes unused because it is looked
// for under a wrong name.
func TestProbeFindsWhatTheReleaseHas(t *testing.T) {
	running := runningRelease(t)
	got, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	want := features{
		setRetval:   !running.olderThan(release{5, 18}),
		sockDestroy: !running.olderThan(release{6, 5}),
		unixConnect: !running.olderThan(release{6, 7}),
		packetNetns: !running.olderThan(release{6, 15}),
	}
	if got != want {
		t.Errorf("Linux %v: got %+v, want %+v", running, got, want)
	}
}

// TestLoadWithoutFeatures: what an older kernel lacks is left out, and said.
func TestLoadWithoutFeatures(t *testing.T) {
	log, logged := test.NewNullLogger()
	log.SetOutput(io.Discard)
	r := &Run{log: log}
	loaded, err := r.load(Options{}, features{})
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	defer r.maps.Close()
	for _, name := range []string{bpf.RedirectProgConnectUnix, bpf.RedirectProgOthersUnix} {
		if loaded.Programs[name] != nil {
			t.Errorf("got %s loaded, want it left out", name)
		}
	}
	if last := logged.LastEntry(); last == nil || last.Level != logrus.WarnLevel {
		t.Errorf("got %v logged, want a warning", last)
	}
}

package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern.dev/postern/testenv"
)

// Bounds of what a run may hold more after a soak than before: eight workers'
// connections with two descriptors each, and what a collector has not collected.
const (
	soakDescriptors = 32
	soakMiB         = 128
)

// TestSoakLeavesNothingBehind connects for as long as POSTERN_TEST_SOAK says, five
// seconds otherwise: the agent may not grow, and the whole trail has to verify.
func TestSoakLeavesNothingBehind(t *testing.T) {
	length, err := time.ParseDuration(cmp.Or(os.Getenv("POSTERN_TEST_SOAK"), "5s"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "linux:"+guest)
	before := rootPrograms(t)
	p := w.startWorker(t, testenv.Superuser)
	said := func(line string) int { return strings.Count(p.stdout.String(), line+"\n") }
	eventually(t, "a warm agent", func() bool { return said(testenv.Superuser) > 500 })
	early, ended := said(testenv.Superuser), said("ended") // a statement may wait for the parser longer than the worker does
	descriptors, resident := held(t, p)
	time.Sleep(length)
	late := said(testenv.Superuser)
	moreDescriptors, moreResident := held(t, p)
	t.Logf("%s: %d connections; descriptors %d, then %d; resident %d MiB, then %d", length, late-early, descriptors, moreDescriptors, resident, moreResident)
	if late == early {
		t.Errorf("got no connection in %s, want the agent to go on", length)
	}
	if got, most := moreDescriptors, descriptors+soakDescriptors; got > most {
		t.Errorf("got %d descriptors, want at most %d", got, most)
	}
	if got, most := moreResident, resident+soakMiB; got > most {
		t.Errorf("got %d MiB resident, want at most %d", got, most)
	}
	send(t, p.Process.Pid, syscall.SIGTERM)
	r := p.end(t)
	if got := said("ended"); got != ended {
		t.Errorf("got %d sessions that broke, want none: %s", got-ended, r.stderr)
	}
	w.nothingLeft(t, before)
	if got := strings.Count(w.trail(t), `"kind":"session.open"`); got < late {
		t.Errorf("got %d sessions in the trail, want %d at least", got, late)
	}
	out, err := exec.Command(w.program, "audit", "verify", "--key", filepath.Join(w.dir, "operator.pub"), filepath.Join(w.dir, "log")).CombinedOutput()
	if err != nil {
		t.Errorf("got %v, want the trail to verify:\n%s", err, out)
	}
}

// held is what a run's agent has of descriptors and of memory, in MiB.
func held(t *testing.T, p *process) (descriptors, resident int) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d", p.Process.Pid)
	open, err := os.ReadDir(folder + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(folder + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\nVmRSS:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		t.Fatalf("got %q, want VmRSS there", status)
	}
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return len(open), kib >> 10
}

package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"postern.dev/postern/testenv"
)

// The test binary is also the agent that is killed or whose disk fails: these
// name what it does and where.
const (
	childEnv    = "POSTERN_AUDIT_CHILD"
	childDirEnv = "POSTERN_AUDIT_DIR"
)

func TestMain(m *testing.M) {
	dir := os.Getenv(childDirEnv)
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "sessions":
		os.Exit(childSessions(dir))
	case "failing":
		os.Exit(childFailing(dir))
	}
	os.Exit(2)
}

func childOptions(dir string) Options {
	return Options{Dir: filepath.Join(dir, "log"), Node: "n1", Agent: "0.1.0", OperatorKey: filepath.Join(dir, "operator"),
		CheckpointFile: filepath.Join(dir, "kept"), SignEvery: 10 * time.Millisecond}
}

// childSessions runs sessions that tell the pipe of every request whose reply a
// client may have seen: half of them wait for the disk, half do not.
func childSessions(dir string) int {
	l, err := Open(childOptions(dir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	acks := os.NewFile(3, "acks")
	ctx, cancel := context.WithCancel(context.Background())
	var run, sessions errgroup.Group
	run.Go(func() error { return l.Run(ctx) })
	for i := range 4 {
		sessions.Go(func() error {
			for range 30 {
				r := benchRecord("request")
				index, err := l.Append(r)
				if err == nil && i%2 == 0 {
					err = l.Wait(ctx, index)
				}
				if err == nil {
					_, err = acks.WriteString(r.ID + "\n")
				}
				if err == nil && i < 2 {
					_, err = l.Append(&Record{Kind: KindOutcome, RequestID: r.ID, Outcome: &Outcome{Status: StatusOK}})
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = sessions.Wait()
	cancel()
	if err := errors.Join(err, run.Wait()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// traced runs the test binary as a child under strace, which injects a fault,
// and returns what the child wrote to its pipe.
func traced(t *testing.T, child, dir, inject string) (acks []string, state *os.ProcessState, stderr string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	testenv.Need(t, err == nil, "strace")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(strace, "-f", "-qqq", "-o", filepath.Join(t.TempDir(), "trace"), "-e", "inject="+inject, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+child, childDirEnv+"="+dir)
	cmd.ExtraFiles = []*os.File{write}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(read); s.Scan(); {
		acks = append(acks, s.Text())
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return acks, cmd.ProcessState, errs.String()
}

func TestKilledAgentLosesNothingThatWasAcknowledged(t *testing.T) {
	killed, repaired := 0, 0
	for _, call := range []string{"pwrite64", "fdatasync", "write", "renameat", "fsync"} {
		for _, n := range []int{1, 2, 3, 5, 8, 13, 21, 34} {
			name := fmt.Sprintf("%s:signal=KILL:when=%d", call, n)
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				if _, err := EnsureOperatorKey(filepath.Join(dir, "operator")); err != nil {
					t.Fatal(err)
				}
				acks, state, stderr := traced(t, "sessions", dir, name)
				if stderr != "" {
					t.Fatalf("got %s, want the agent killed or finished", stderr)
				}
				if state.ExitCode() != 0 {
					killed++
				}
				if afterKill(t, dir, acks) {
					repaired++
				}
			})
		}
	}
	if killed < 20 {
		t.Errorf("got %d agents killed, want most of 40", killed)
	}
	t.Logf("%d agents killed, %d logs repaired", killed, repaired)
}

// afterKill checks what a killed agent left in dir, and says whether the next
// one had something to repair.
func afterKill(t *testing.T, dir string, acks []string) (repaired bool) {
	t.Helper()
	f := &fixture{dir: filepath.Join(dir, "log"), o: childOptions(dir)}
	var err error
	if f.public, err = EnsureOperatorKey(f.o.OperatorKey); err != nil {
		t.Fatal(err)
	}
	dirs, err := Logs(f.dir)
	if err != nil { // killed before its log had a name
		if len(acks) > 0 {
			t.Fatalf("got %d acknowledged requests and no log: %v", len(acks), err)
		}
		f.write(t, func(*Log) {})
		return false
	}
	unfinished := unfinishedBytes(t, dirs[0])
	next := read(t, f.write(t, func(*Log) {}))
	there := make(map[string]bool)
	open := make(map[string]bool)
	for _, e := range read(t, dirs[0]) {
		switch e.Kind {
		case KindRequest:
			there[e.ID], open[e.ID] = true, true
			if len(e.Missing) > 0 {
				t.Errorf("got request %s without %v, want its values", e.ID, e.Missing)
			}
		case KindOutcome:
			delete(open, e.RequestID)
		}
	}
	for _, id := range acks {
		if !there[id] {
			t.Errorf("got no record of request %s, want it: it was acknowledged", id)
		}
	}
	for _, e := range ofKind(next, KindOutcome) {
		if !open[e.RequestID] || e.Outcome.Status != StatusUnknown {
			t.Errorf("got %s for %s, want unknown outcomes of open requests only", e.Outcome.Status, e.RequestID)
		}
		delete(open, e.RequestID)
	}
	if len(open) > 0 {
		t.Errorf("got %d requests that nobody speaks of any more, want none", len(open))
	}
	kept, err := os.ReadFile(f.o.CheckpointFile)
	if err != nil {
		t.Fatal(err)
	}
	if r := f.verify(t, kept); len(r.Problems)+len(r.Warnings) > 0 {
		t.Errorf("got %+v, %+v, want nothing wrong", r.Problems, r.Warnings)
	}
	repair := ofKind(next, KindPrevious)[0].Previous.Repair
	if got, want := repair != nil, unfinished > 0; got != want {
		t.Errorf("got a repair said: %t, want %t: %d bytes were unfinished", got, want, unfinished)
	}
	return repair != nil
}

// unfinishedBytes counts what is behind the last whole leaf, and the values
// that belong to no leaf.
func unfinishedBytes(t *testing.T, dir string) int {
	t.Helper()
	var n, leaves int
	for _, name := range []string{firstLeaves, firstValues} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.TrimRight(b, "\x00")
		whole := b[:bytes.LastIndexByte(b, '\n')+1]
		n += len(b) - len(whole)
		for line := range bytes.Lines(whole) {
			if name == firstLeaves {
				leaves++
				continue
			}
			v, err := decodeValue(line)
			if err != nil {
				t.Fatal(err)
			}
			if v.Index >= int64(leaves) {
				n += len(line)
			}
		}
	}
	return n
}

// childFailing appends until that fails, and then tells the pipe whether
// everything after it fails as well.
func childFailing(dir string) int {
	l, err := Open(childOptions(dir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	answers := os.NewFile(3, "answers")
	ctx, cancel := context.WithCancel(context.Background())
	var run errgroup.Group
	run.Go(func() error { return l.Run(ctx) })
	for range 5000 {
		index, err := l.Append(benchRecord("request"))
		if err == nil {
			err = l.Wait(ctx, index)
		}
		if err == nil {
			continue
		}
		_, again := l.Append(benchRecord("request"))
		fmt.Fprintf(answers, "first %t\nagain %t\nwait %t\nstate %t\n", errors.Is(err, ErrPoisoned), errors.Is(again, ErrPoisoned),
			errors.Is(l.Wait(ctx, 1<<40), ErrPoisoned), errors.Is(l.Err(), ErrPoisoned))
		break
	}
	cancel()
	fmt.Fprintf(answers, "run %t\n", errors.Is(run.Wait(), ErrPoisoned))
	return 0
}

func TestFailingDiskPoisonsTheLog(t *testing.T) {
	for _, inject := range []string{
		"fdatasync:error=EIO:when=12+", "fdatasync:error=EIO:when=40", "pwrite64:error=EIO:when=60", "pwrite64:error=ENOSPC:when=60",
	} {
		t.Run(inject, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := EnsureOperatorKey(filepath.Join(dir, "operator")); err != nil {
				t.Fatal(err)
			}
			answers, _, stderr := traced(t, "failing", dir, inject)
			want := "first true again true wait true state true run true"
			if got := strings.Join(answers, " "); got != want {
				t.Errorf("got %q, %s, want %q", got, stderr, want)
			}
			afterKill(t, dir, nil)
		})
	}
}

// smallDisk mounts a file system that is soon full.
func smallDisk(t *testing.T, kind string) string {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root, to mount a small file system")
	dir := t.TempDir()
	args := []string{"-t", "tmpfs", "-o", "size=40m", "tmpfs", dir}
	if kind == "ext4" {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 46<<20); err != nil {
			t.Fatal(err)
		}
		_, err := exec.LookPath("mkfs.ext4")
		testenv.Need(t, err == nil, "mkfs.ext4")
		if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", image).CombinedOutput(); err != nil {
			t.Fatalf("make file system: %v: %s", err, out)
		}
		args = []string{"-o", "loop", image, dir}
	}
	out, err := exec.Command("mount", args...).CombinedOutput()
	testenv.Need(t, err == nil, "permission to mount "+kind+": "+string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return dir
}

func TestFullDiskRefusesRequestsAndStillTakesOutcomes(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t)
			disk := smallDisk(t, kind)
			f.dir = filepath.Join(disk, "log")
			f.o.Dir = f.dir
			ballast := filepath.Join(disk, "ballast")
			// As much as each of the log's files may grow by at once, whichever comes first.
			if err := os.WriteFile(ballast, make([]byte, 15<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			f.write(t, func(l *Log) {
				answerAll(t, l, fillUp(t, l))
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
				more := fillUp(t, l)
				if len(more) == 0 {
					t.Error("got no request written after room was made, want the log to go on")
				}
				answerAll(t, l, more)
				if _, err := Open(f.o); !errors.Is(err, ErrFull) {
					t.Errorf("got %v for a second log, want %v", err, ErrFull)
				}
			})
			if r := f.verify(t); len(r.Problems)+len(r.Warnings) > 0 || r.Logs[0].State != StateClosed {
				t.Errorf("got %+v, %+v, want a log that is closed and good", r.Problems, r.Warnings)
			}
		})
	}
}

// answerAll appends outcomes while the disk is full.
func answerAll(t *testing.T, l *Log, open []string) {
	t.Helper()
	if err := l.Err(); err != nil {
		t.Errorf("got %v, want a log that is full and not broken", err)
	}
	for _, id := range open {
		if _, err := l.Append(&Record{Kind: KindOutcome, RequestID: id, Outcome: &Outcome{Status: StatusError}}); err != nil {
			t.Fatalf("got %v for an outcome, want the room that is kept for it", err)
		}
	}
}

// fillUp appends requests until the disk is full and returns the newest of
// them.
func fillUp(t *testing.T, l *Log) (open []string) {
	t.Helper()
	for range 5000 {
		r := benchRecord("request")
		r.Request.Text = strings.Repeat("x", 8<<10)
		r.Request.Relations = slices.Repeat([]string{strings.Repeat("y", 63)}, 200)
		_, err := l.Append(r)
		if err == nil {
			open = append(open, r.ID)
			continue
		}
		if !errors.Is(err, ErrFull) {
			t.Fatalf("got %v, want %v", err, ErrFull)
		}
		return open[max(0, len(open)-50):]
	}
	t.Fatal("got no error, want the disk full")
	return nil
}

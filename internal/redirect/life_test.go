package redirect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern.dev/postern/testenv"
)

// agent is a process of its own that guards a command until it is killed, with a
// keeper beside it. Its argument is the run's id.
func agent(s setting) string {
	run, err := New(Options{ID: s.argument, UID: user, Log: quietLog()})
	if err != nil {
		return err.Error()
	}
	listeners, err := run.Listen()
	if err != nil {
		return err.Error()
	}
	if err := run.Set(postgresGuards()); err != nil {
		return err.Error()
	}
	w := &world{run: run, id: s.argument, listeners: listeners}
	for _, l := range listeners {
		go each(l, func(c net.Conn) {
			if err := w.answer(c, run.Origin); err != nil {
				fmt.Fprintln(os.Stderr, "origin:", err)
			}
		})
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err.Error()
	}
	keeper := exec.Command("/proc/self/exe")
	keeper.Env = append(os.Environ(), asWorkload+"=keeper")
	keeper.Stdin = read
	if err := keeper.Start(); err != nil {
		return err.Error()
	}
	read.Close()
	fmt.Printf("%d %d\n", portOf(listeners[0]), keeper.Process.Pid)
	waitForEnd()
	write.Close()
	return "ended"
}

// keeper ends a run when the agent's end of its standard input is closed.
func keeper(s setting) string {
	waitForEnd()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := Release(ctx, "", s.argument); err != nil {
		return err.Error()
	}
	return "released"
}

// separate is a run whose agent and keeper are processes of their own.
type separate struct {
	*world
	agent  *exec.Cmd
	keeper *os.Process
	place  place
}

func newSeparate(t *testing.T) *separate {
	t.Helper()
	w := newUnguardedWorld(t)
	w.id = newRunID()
	s := &separate{world: w, agent: exec.Command("/proc/self/exe")}
	s.agent.Env = []string{asWorkload + "=agent", "POSTERN_TEST_LISTENER=0", "POSTERN_TEST_ARGUMENT=" + w.id}
	next, _ := w.begin(t, s.agent)
	var port uint16
	var keeperPID int
	line := next()
	if _, err := fmt.Sscan(line, &port, &keeperPID); err != nil {
		t.Fatalf("agent: %q: %v", line, err)
	}
	w.listeners = []net.Listener{elsewhere(port)}
	keeper, err := os.FindProcess(keeperPID)
	if err != nil {
		t.Fatal(err)
	}
	s.keeper = keeper
	root, err := findRoot("")
	if err != nil {
		t.Fatal(err)
	}
	s.place = placeOf(root, w.id)
	w.command = testenv.OpenCgroup(t, s.place.command)
	t.Cleanup(func() {
		s.agent.Process.Kill()
		s.keeper.Kill()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Release(ctx, "", w.id); err != nil {
			t.Errorf("release: %v", err)
		}
	})
	return s
}

// elsewhere stands for a listener of another process.
type elsewhere uint16

func (e elsewhere) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (e elsewhere) Close() error              { return nil }
func (e elsewhere) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(e)} }

// gone waits until the run's cgroups are removed.
func (s *separate) gone(t *testing.T) {
	t.Helper()
	for range 2000 {
		if _, err := os.Stat(s.place.run); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s is still there, want it removed", s.place.run)
}

// outside dials the database as the command's user, from another cgroup.
func (w *world) outside(t *testing.T) string {
	t.Helper()
	return w.play(t, w.workload(testenv.NewCgroup(t), "plain4", none))
}

// TestAgentKilledUnderLoad: with the keeper dead and then the agent, in the midst
// of connects, no connection goes to the database, nobody takes the listener's
// place, and what is left is cleared afterwards.
func TestAgentKilledUnderLoad(t *testing.T) {
	s := newSeparate(t)
	next, end := s.begin(t, s.workload(s.command, "load", none))
	if got := next(); got != "first proxied" {
		t.Fatalf("load: got %q, want first proxied", got)
	}
	if err := s.keeper.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for next() != "first refused" {
	}
	for workload, want := range map[string]string{
		"plain4": "refused", "plain6": "refused", "mapped6": "refused", "udp-sendto4": "EPERM",
		"bind": "EPERM EPERM EPERM EPERM", "steal": "EPERM", "unguarded": directReply,
	} {
		if got := s.play(t, s.workload(s.command, workload, none)); got != want {
			t.Errorf("%s: got %q, want %q", workload, got, want)
		}
	}
	if got := s.outside(t); got != "EPERM" {
		t.Errorf("outside: got %q, want EPERM", got)
	}
	if counts := end(); strings.Contains(counts, directReply) || !strings.Contains(counts, "proxied=") {
		t.Errorf("load: got %q, want proxied and no direct connections", counts)
	}
	if got := s.reached(t) + s.direct.Load(); got != 0 {
		t.Errorf("got %d packets and connections at the database, want 0", got)
	}

	s.begin(t, s.workload(s.command, "load", none)) // is killed
	cleared, err := Clear(t.Context(), "", quietLog())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Cleared{ID: s.id, Killed: 1}); !slices.Contains(cleared, want) {
		t.Errorf("got %+v cleared, want %+v", cleared, want)
	}
	s.gone(t)
	if got := s.outside(t); got != directReply {
		t.Errorf("after clearing, outside: got %q, want %q", got, directReply)
	}
}

// TestKeeperEndsTheRun: with the agent dead, the keeper kills the command and
// then removes everything.
func TestKeeperEndsTheRun(t *testing.T) {
	s := newSeparate(t)
	load := s.workload(s.command, "load", none)
	next, _ := s.begin(t, load)
	if got := next(); got != "first proxied" {
		t.Fatalf("load: got %q, want first proxied", got)
	}
	if err := s.agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.gone(t)
	if err := load.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("command: got %v, want it killed", err)
	}
	if got := s.reached(t) + s.direct.Load(); got != 0 {
		t.Errorf("got %d packets and connections at the database, want 0", got)
	}
	if got := s.outside(t); got != directReply {
		t.Errorf("afterwards, outside: got %q, want %q", got, directReply)
	}
}

// TestClearLeavesTheLiving: a run with a process in its agent cgroup is left
// alone, though that be the keeper alone.
func TestClearLeavesTheLiving(t *testing.T) {
	s := newSeparate(t)
	if _, err := Clear(t.Context(), "", quietLog()); err != nil {
		t.Fatal(err)
	}
	if got := s.dial(t); got != "proxied" {
		t.Errorf("got %q, want proxied", got)
	}
	if got := s.outside(t); got != "EPERM" {
		t.Errorf("outside: got %q, want EPERM", got)
	}
}

// TestReleaseHoldsWhileTheAgentLives: the guard stays whole while Release waits.
func TestReleaseHoldsWhileTheAgentLives(t *testing.T) {
	s := newSeparate(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Release(ctx, "", s.id); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if got := s.outside(t); got != "EPERM" {
		t.Errorf("outside: got %q, want EPERM", got)
	}
}

// TestSameNameTwice: a second run of the name fails, and leaves the first alone.
func TestSameNameTwice(t *testing.T) {
	s := newSeparate(t)
	if _, err := New(Options{ID: s.id, UID: user, Log: quietLog()}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want %v", err, fs.ErrExist)
	}
	if got := s.dial(t); got != "proxied" {
		t.Errorf("got %q, want proxied", got)
	}
	if got := s.outside(t); got != "EPERM" {
		t.Errorf("outside: got %q, want EPERM", got)
	}
}

// TestClearLeavesOthersCgroups: what begins with a run's letters need not be one.
func TestClearLeavesOthersCgroups(t *testing.T) {
	root, err := findRoot("")
	if err != nil {
		t.Fatal(err)
	}
	parent := makeCgroup(t, filepath.Join(root, prefix+newRunID()))
	makeCgroup(t, filepath.Join(parent, "kubepods"))
	populated := testenv.OpenCgroup(t, makeCgroup(t, filepath.Join(root, prefix+newRunID())))
	idler := populated.Command("/proc/self/exe") // a machine may have no other program
	idler.Env = []string{asWorkload + "=idle", "POSTERN_TEST_LISTENER=0"}
	if _, err := idler.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := idler.Start(); err != nil {
		t.Fatal(err)
	}
	cleared, err := Clear(t.Context(), "", quietLog())
	if err != nil || len(cleared) != 0 {
		t.Errorf("got %v, %v, want nothing cleared", cleared, err)
	}
	for _, dir := range []string{parent, populated.Path} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("got %v, want it there", err)
		}
	}
	if err := errors.Join(idler.Process.Signal(syscall.Signal(0)), idler.Process.Kill()); err != nil {
		t.Errorf("the process in it: got %v, want it alive", err)
	}
	_ = idler.Wait()
}

// TestOrphansAtTheRootAreDetached: programs whose cgroups were removed by others.
func TestOrphansAtTheRootAreDetached(t *testing.T) {
	w := newWorld(t, Options{})
	if err := enter(w.run.place.root); err != nil {
		t.Fatal(err)
	}
	if err := w.run.place.remove(); err != nil {
		t.Fatal(err)
	}
	if got := w.outside(t); got != "EPERM" {
		t.Errorf("before: got %q, want EPERM", got)
	}
	if _, err := Clear(t.Context(), "", quietLog()); err != nil {
		t.Fatal(err)
	}
	if got := w.outside(t); got != directReply {
		t.Errorf("after: got %q, want %q", got, directReply)
	}
}

// TestNewLeavesNothingWhenItFails, and refuses what cannot be guarded.
func TestNewLeavesNothingWhenItFails(t *testing.T) {
	testenv.Need(t, os.Geteuid() == 0, "root")
	for name, o := range map[string]Options{
		"root":       {ID: newRunID(), UID: 0},
		"id":         {ID: "../x", UID: user},
		"no cgroups": {ID: newRunID(), UID: user, Cgroups: t.TempDir()},
		"no memory":  {ID: newRunID(), UID: user, Connecting: 1 << 31}, // a map too large to make
	} {
		o.Log = quietLog()
		run, err := New(o)
		if err == nil {
			run.Close()
			t.Errorf("%s: got no error, want one", name)
		}
		if root, err := findRoot(""); err != nil {
			t.Fatal(err)
		} else if _, err := os.Stat(placeOf(root, o.ID).run); err == nil {
			t.Errorf("%s: the cgroup is left, want it removed", name)
		}
	}
}

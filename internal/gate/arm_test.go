package gate

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/redirect"
)

// reboot takes from the kernel what a boot would.
func (n *node) reboot(t *testing.T) {
	t.Helper()
	n.end(t, syscall.SIGTERM)
	err := n.netns.Do(func() error {
		return redirect.Uninstall(redirect.NodeOptions{Cgroups: n.root, Pods: n.options.Pods, Log: logrus.New()})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) uninstall(t *testing.T) {
	t.Helper()
	o := ArmOptions{State: n.options.State, Cgroups: n.root, Pods: n.options.Pods, Log: logrus.New()}
	if err := n.netns.Do(func() error { return Uninstall(o) }); err != nil {
		t.Errorf("uninstall: %v", err)
	}
}

func (n *node) arm(t *testing.T) {
	t.Helper()
	o := ArmOptions{State: n.options.State, Cgroups: n.root, Log: logrus.New()} // the state says where the pods are
	if err := n.netns.Do(func() error { return Arm(o) }); err != nil {
		t.Fatal(err)
	}
}

func TestArmedNodeRefusesTargetsToPodsThatNobodyKnows(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	n.reboot(t)
	n.arm(t)
	p.expect(t, "on a node where nothing was guarded yet", directReply)
	n.start(t)
	p.Guarded = true
	n.newAgent(t).guard(t, p)
	eventually(t, "a state that is written", func() bool {
		s, err := readState(n.options.State)
		return err == nil && s.Fed && len(s.GuardedPods) == 1
	})
	n.reboot(t)
	p.expect(t, "after a boot, not armed", directReply)
	for range 2 {
		n.arm(t)
		p.expect(t, "on an armed node", refused)
	}
	n.start(t)
	n.arm(t)
	p.expect(t, "with a gate and no agent", refused)
	n.newAgent(t).guard(t, p)
	p.expect(t, "with an agent", p.proxied())
	n.end(t, syscall.SIGTERM)
	info, err := os.Stat(filepath.Join(n.options.State, stateFile))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v, %v, want a file for root alone", info, err)
	}
	for range 2 {
		n.uninstall(t)
		p.expect(t, "after uninstalling", directReply)
		if _, err := os.Stat(n.options.State); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want no state", err)
		}
	}
}

func TestTimeUnarmedIsTold(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t) // it runs before anything is guarded
	c := n.client(t, "gate/agent", agentID)
	s, err := c.Status(t.Context())
	if err != nil || !s.Armed.IsZero() {
		t.Errorf("got armed at %v, %v, want not yet", s.Armed, err)
	}
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	s, err = c.Status(t.Context())
	if err != nil || s.Armed.IsZero() || s.Unarmed <= 0 {
		t.Errorf("got armed at %v after %v, %v, want a time without", s.Armed, s.Unarmed, err)
	}
}

func TestNodeIsArmedOnceInABoot(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	// meet asks a gate that has just started since when the node is armed, and then
	// tells it what is guarded.
	meet := func() (time.Time, time.Duration) {
		t.Helper()
		c := n.client(t, "gate/agent", agentID)
		s, err := c.Status(t.Context())
		if err := errors.Join(err, c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
			t.Fatal(err)
		}
		return s.Armed, s.Unarmed
	}
	same := func(when string, at time.Time, unarmed time.Duration) {
		t.Helper()
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			n.end(t, signal)
			n.arm(t) // which is too late
			n.start(t)
			if gotAt, got := meet(); !gotAt.Equal(at) || got != unarmed {
				t.Errorf("got armed at %v after %v %s, want at %v after %v", gotAt, got, when, at, unarmed)
			}
		}
	}
	meet()
	n.end(t, syscall.SIGKILL) // perhaps before anything else was written
	n.start(t)
	first, unarmed := meet()
	if first.IsZero() || unarmed <= 0 {
		t.Errorf("got armed at %v after %v, want after the pod began to run", first, unarmed)
	}
	same("in the first boot", first, unarmed)

	n.reboot(t)
	n.start(t) // the pod has been running meanwhile
	second, again := meet()
	if !second.After(first) || again <= unarmed {
		t.Errorf("got armed at %v after %v in a boot without arm, want after %v and %v", second, again, first, unarmed)
	}
	same("in a boot without arm", second, again)

	p.kill(t)
	n.reboot(t)
	n.arm(t)
	p = n.newPod(t)
	n.start(t)
	third, none := meet()
	if !third.After(second) || none != 0 {
		t.Errorf("got armed at %v after %v in a boot with arm, want after %v and no time unarmed", third, none, second)
	}
	same("in a boot with arm", third, 0)
}

func TestNoteOfAnotherBootDoesNotCount(t *testing.T) {
	id, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		boot string
		fed  bool
		want bool
	}{
		"of this one, and armed":               {id, true, true},
		"of this one, and died before it was":  {id, false, false},
		"of another one, and armed since":      {"another", true, false},
		"of another one, and not armed by now": {"another", false, false},
	} {
		s := state{Armed: &armed{Boot: row.boot}}
		if err := s.boot(redirect.NodeState{Fed: row.fed}); err != nil || (s.Armed != nil) != row.want {
			t.Errorf("got %v, %v of a note %s, want it to count: %v", s.Armed, err, name, row.want)
		}
	}
}

func TestStateThatCannotBeReadIsSaid(t *testing.T) {
	for name, text := range map[string]string{"cut off": `{"version":1,"guar`, "of another version": `{"version":2}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readState(dir); err == nil {
			t.Errorf("got %+v of a state %s, want an error", got, name)
		}
	}
}

func TestGuardOutlivesAStateThatWasNotWritten(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	a := n.newAgent(t)
	a.guard(t, p)
	n.end(t, syscall.SIGKILL)
	if err := os.RemoveAll(n.options.State); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	p.Guarded = false
	a = n.newAgent(t)
	a.guard(t, p)
	p.expect(t, "without its label, under a gate that finds nothing written", p.proxied())
}

package gate

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

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

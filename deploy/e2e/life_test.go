package e2e

import (
	_ "embed"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/load.py
var loadProgram string

// loaded starts a guarded pod that connects as fast as it can until the test ends.
func loaded(t *testing.T) (*world, *output) {
	t.Helper()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: guardLabel})
	w.guarded(t, "client")
	o := w.background(t, "client", "python3", "-c", loadProgram, w.shop())
	o.more(t, " "+loginUser, 10)
	return w, o
}

// more waits until a word was written some times more.
func (o *output) more(t *testing.T, word string, times int) {
	t.Helper()
	before := o.count(word)
	eventually(t, fmt.Sprintf("%d more of %q", times, word), func() bool { return o.count(word) >= before+times })
}

// never checks that no connection was direct.
func never(t *testing.T, o *output) {
	t.Helper()
	if n := o.count(" " + directUser + "\n"); n > 0 {
		t.Errorf("got %d direct connections, want none:\n%s", n, o)
	}
}

// longest is the longest time between two connections that were served.
func longest(t *testing.T, o *output) (gap time.Duration) {
	t.Helper()
	last := time.Duration(0)
	for line := range strings.Lines(o.String()) {
		when, word, whole := strings.Cut(strings.TrimSpace(line), " ")
		if !whole || word != loginUser {
			continue
		}
		at, err := time.ParseDuration(when + "s")
		if err != nil {
			t.Fatal(err)
		}
		gap, last = max(gap, at-last), at
	}
	return gap
}

// kill sends SIGKILL to a process of the node's agent: "gate" or "agent".
func kill(t *testing.T, name string) {
	t.Helper()
	of := running(t, "io.kubernetes.pod.namespace", system, "io.kubernetes.container.name", name)
	if len(of) != 1 {
		t.Fatalf("got %d containers %s, want one", len(of), name)
	}
	of[0].kill(t)
}

// ready waits until the node's agent is.
func ready(t *testing.T) {
	t.Helper()
	kubectl(t, "rollout", "status", "-n", system, "daemonset/postern-agent", "--timeout=120s")
}

// The tests below stop the agent that all tests share, so that none of them is
// parallel to another.

func TestKilledProcessesOpenNothing(t *testing.T) {
	w, o := loaded(t)
	for _, container := range []string{"agent", "gate"} {
		t.Run(container, func(t *testing.T) {
			kill(t, container)
			o.more(t, " refused", 3)
			o.more(t, " "+loginUser, 10)
			never(t, o)
			w.guarded(t, "client")
			ready(t)
			verify(t)
		})
	}
}

func TestRestartLosesNothing(t *testing.T) {
	w, o := loaded(t)
	before := len(trails(t))
	kubectl(t, "rollout", "restart", "-n", system, "daemonset/postern-agent")
	ready(t)
	eventually(t, "the old agent gone", func() bool {
		return strings.Count(kubectl(t, "get", "pod", "-n", system, "-l", "app.kubernetes.io/component=agent", "-o", "name"), "\n") == 1
	})
	o.more(t, " "+loginUser, 10)
	never(t, o)
	w.guarded(t, "client")
	t.Logf("the longest time without an answer during an upgrade was %s", longest(t, o))
	if n := o.count(" refused"); n > 0 {
		t.Errorf("got %d refused connections, want the new agent to serve before the old one goes:\n%s", n, o)
	}
	if after := len(trails(t)); after != before+1 {
		t.Errorf("got %d logs after %d, want one of the new agent's own", after, before)
	}
	verify(t)
}

// trails are the folders of the logs that the node's agents have written.
func trails(t *testing.T) []string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(cluster.logs, "*", "*", "checkpoints"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("got %d logs, %v, want some", len(logs), err)
	}
	return logs
}

// verify checks the trail of every agent that there was, however it ended.
func verify(t *testing.T) {
	t.Helper()
	args := []string{"audit", "verify"}
	keys, err := filepath.Glob(filepath.Join(cluster.keys, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		args = append(args, "--key", key)
	}
	out, err := exec.Command(filepath.Join(cluster.root, "bin/postern"), append(args, cluster.logs)...).CombinedOutput()
	if err != nil || strings.Count(string(out), "covered by signatures") != len(trails(t)) {
		t.Errorf("got %v from postern audit verify, want every log to verify:\n%s", err, out)
	}
}

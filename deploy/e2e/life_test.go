package e2e

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/load.py
var loadProgram string

// loaded starts a guarded pod that connects as fast as it can for some time.
func loaded(t *testing.T, seconds int) (*world, *output) {
	t.Helper()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	dsn := fmt.Sprintf("host=%s user=%s password=%s dbname=shop", w.host, directUser, directPassword)
	o := w.background(t, "client", "python3", "-c", loadProgram, dsn, strconv.Itoa(seconds))
	eventually(t, "connections through Postern", func() bool { return o.count(loginUser) > 10 })
	return w, o
}

// never checks that no connection was direct.
func never(t *testing.T, o *output) {
	t.Helper()
	if n := o.count(" " + directUser + "\n"); n > 0 {
		t.Errorf("got %d direct connections, want none:\n%s", n, o)
	}
}

// longest is the longest time without an answer.
func longest(t *testing.T, o *output) time.Duration {
	t.Helper()
	eventually(t, "the load's end", func() bool { return o.count("longest") > 0 })
	_, text, _ := strings.Cut(o.String(), "longest ")
	seconds, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second))
}

// kill sends SIGKILL to a process of the node's agent: "gate" or "agent".
func kill(t *testing.T, container string) {
	t.Helper()
	id := strings.TrimPrefix(kubectl(t, "get", "pod", "-n", system, "-l", "app.kubernetes.io/component=agent", "-o",
		`jsonpath={.items[0].status.containerStatuses[?(@.name=="`+container+`")].containerID}`), "containerd://")
	inNode(t, "ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", id)
}

// ready waits until the node's agent is.
func ready(t *testing.T) {
	t.Helper()
	kubectl(t, "rollout", "status", "-n", system, "daemonset/postern-agent", "--timeout=120s")
}

// The tests below stop the agent that all tests share, so that none of them is
// parallel to another.

func TestKilledProcessesOpenNothing(t *testing.T) {
	for _, container := range []string{"agent", "gate"} {
		t.Run(container, func(t *testing.T) {
			w, o := loaded(t, 300)
			kill(t, container)
			refused := o.count("refused")
			eventually(t, "refused connections", func() bool { return o.count("refused") > refused+3 })
			served := o.count(" " + loginUser)
			eventually(t, "connections through Postern again", func() bool { return o.count(" "+loginUser) > served+10 })
			never(t, o)
			w.guarded(t, "client")
			ready(t)
		})
	}
}

func TestRestartLosesNothing(t *testing.T) {
	w, o := loaded(t, 45)
	kubectl(t, "rollout", "restart", "-n", system, "daemonset/postern-agent")
	ready(t)
	gap := longest(t, o)
	never(t, o)
	w.guarded(t, "client")
	t.Logf("the longest time without an answer during an upgrade was %s", gap)
	if n := o.count("refused"); n > 0 {
		t.Errorf("got %d refused connections, want the new agent to serve before the old one goes:\n%s", n, o)
	}
}

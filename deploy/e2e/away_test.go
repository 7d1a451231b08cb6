package e2e

import (
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed testdata/session.py
var sessionProgram string

// The values of an agent that knows how to refuse: all else is as the other tests have it.
const (
	maxStale = 80 * time.Second
	// confirmedAgo is how old a restarted agent finds what it knows. A minute of it
	// is said in each record.
	confirmedAgo = 50 * time.Second

	// loggingIn is what may pass between the moment at which a session is judged and
	// its record.
	loggingIn = 10 * time.Second
)

// TestStrictAgent rolls the agent out with other values, once for what needs them.
func TestStrictAgent(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"client", "restarted"} {
		w.start(t, pod{name: name, labels: guardLabel})
	}
	w.start(t, pod{name: "neighbour"})
	w.guarded(t, "client")
	restore := sync.OnceFunc(func() {
		if err := install(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(restore)
	if err := install("agent.strictPods=refuse", "agent.maxStale="+maxStale.String()); err != nil {
		t.Fatal(err)
	}
	t.Run("pods", testStrictPods)
	t.Run("away", func(t *testing.T) { testAPIServerAway(t, w) })
	restore()
	w.guarded(t, "client")
	verify(t)
}

// testAPIServerAway asks by the runtime alone while there is no API server.
func testAPIServerAway(t *testing.T, w *world) {
	uid, snapshot := w.uid(t, "client"), kept(t)
	client, neighbour := w.container(t, "client", ""), w.container(t, "neighbour", "")
	eventually(t, "the pods kept for an agent that starts without API server", func() bool {
		text, err := os.ReadFile(snapshot)
		return err == nil && strings.Contains(string(text), uid)
	})
	w.guarded(t, "restarted")
	earlier := client.background(t, "python3", "-c", sessionProgram, w.shop())
	earlier.more(t, loginUser, 1)
	if err := command(cluster.program, "hold", "kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	back := sync.OnceFunc(func() { comeBack(t) })
	t.Cleanup(back)

	w.goesOn(t, client, neighbour)
	earlier.more(t, loginUser, 3)
	w.startsAlone(t, client, snapshot)
	w.saidSo(t, uid)
	back()
	eventually(t, "an Event on the pod that was refused", func() bool {
		return strings.Contains(w.events(t, "client", "Refused"), noAnswer)
	})
}

// noAnswer is what is told to who is refused because the objects are too old.
const noAnswer = "the cluster's API server has not answered for"

// goesOn checks that everything is as before with the agent that was there before.
func (w *world) goesOn(t *testing.T, client, neighbour container) {
	t.Helper()
	if got, err := w.ask(client, "SELECT current_user"); err != nil || got != loginUser {
		t.Errorf("got %q, %v from a guarded pod, want a guarded session", got, err)
	}
	if got, err := w.ask(client, "DROP TABLE orders"); err == nil || !strings.Contains(got, "no-ddl") {
		t.Errorf("got %q, %v for DDL, want the policy of before to refuse it", got, err)
	}
	if got, err := w.ask(client, "SELECT ssn FROM customers WHERE id = 1"); err != nil || strings.Contains(got, "078-05") {
		t.Errorf("got %q, %v for a sensitive column, want it masked as before", got, err)
	}
	if got, err := w.ask(neighbour, "SELECT current_user"); err != nil || got != directUser {
		t.Errorf("got %q, %v from a pod without the guard, want it untouched", got, err)
	}
	before := w.container(t, "restarted", "")
	before.kill(t)
	if got, err := w.ask(w.container(t, "restarted", before.id), "SELECT current_user"); err != nil || got != loginUser {
		t.Errorf("got %q, %v from a container that was started again, want a guarded session", got, err)
	}
}

// startsAlone kills the agent, which then knows only what it kept, for some time.
func (w *world) startsAlone(t *testing.T, client container, snapshot string) {
	t.Helper()
	then := time.Now().Add(-confirmedAgo)
	if err := os.Chtimes(snapshot, then, then); err != nil {
		t.Fatal(err)
	}
	kill(t, "agent")
	var last string
	defer func() {
		if t.Failed() {
			t.Logf("the last answer was %q", last)
		}
	}()
	eventually(t, "an agent that serves without API server", func() bool {
		last, _ = w.ask(client, "SELECT current_user")
		return last == loginUser
	})
	later := client.background(t, "python3", "-c", sessionProgram, w.shop())
	eventually(t, "new sessions refused", func() bool {
		got, err := w.ask(client, "SELECT current_user")
		last = got
		if err == nil && got != loginUser {
			t.Fatalf("got a session as %q, want it guarded or refused", got)
		}
		return strings.Contains(got, noAnswer)
	})
	later.more(t, loginUser, 3)
}

// saidSo checks what the trail has of the time without API server.
func (w *world) saidSo(t *testing.T, uid string) {
	t.Helper()
	stale, refused := 0, 0
	for _, r := range records(t, func(r record) bool { return r.Workload.UID == uid }) {
		age := time.Duration(r.Stale) * time.Microsecond
		switch {
		case r.Kind == "request" && age > time.Minute && age <= maxStale:
			stale++
		case r.Kind == "refusal" && r.Refusal.Reason == "stale" && age > maxStale:
			refused++
		case r.Kind == "session.open" && age > maxStale+loggingIn:
			t.Errorf("got a session by objects that nobody had confirmed for %s, want it refused", age)
		}
	}
	if stale == 0 || refused == 0 {
		t.Errorf("got %d requests and %d refusals that say how old the objects are, want some of both", stale, refused)
	}
}

// kept is the file of the node's last objects.
func kept(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cluster.logs, "*.snapshot"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got %v, %v, want one snapshot of the cluster", files, err)
	}
	return files[0]
}

// comeBack starts the API server again. The cluster's own programs are started
// anew: they would wait for up to a minute before they ask it again.
func comeBack(t *testing.T) {
	t.Helper()
	others := []string{"kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"}
	for _, program := range others {
		if err := command(cluster.program, "hold", program); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range append([]string{"kube-apiserver"}, others...) {
		if err := command(cluster.program, "release", program); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the API server", func() bool {
			out, err := kubectlRun("", "get", "--raw", "/readyz")
			return err == nil && out == "ok"
		})
	}
}

// events are the messages of a pod's Events with a reason, one a line.
func (w *world) events(t *testing.T, name, reason string) string {
	t.Helper()
	return kubectl(t, "get", "events", "-n", w.namespace, "--field-selector", "involvedObject.name="+name+",reason="+reason,
		"-o", `jsonpath={range .items[*]}{.message}{"\n"}{end}`)
}

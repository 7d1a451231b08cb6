package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestReplacedSandboxIsGuardedAgain: the first process of a pod's sandbox dies,
// and the kubelet makes the pod anew: the same UID in another network namespace.
func TestReplacedSandboxIsGuardedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: guardLabel, command: fmt.Sprintf("[python3, -c, %q, %q]", loadProgram, w.shop())})
	said := func() string {
		out, _ := kubectlRun("", "logs", "-n", w.namespace, "client")
		return out
	}
	eventually(t, "a guarded client", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
	uid, first := w.uid(t, "client"), w.sandbox(t, "client", "")
	namespace := inNode(t, "readlink", "/proc/"+first.pid+"/ns/net")
	first.kill(t)
	second := w.sandbox(t, "client", first.id)
	if again := inNode(t, "readlink", "/proc/"+second.pid+"/ns/net"); again == namespace {
		t.Fatalf("got the namespace %s again, want another one", again)
	}
	w.container(t, "client", "")
	eventually(t, "a guarded client again", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
	if text := said(); strings.Contains(text, " "+directUser+"\n") {
		t.Errorf("got direct connections from the new sandbox, want none:\n%s", text)
	}
	w.guarded(t, "client")

	// Its book goes on: what is led here from the second namespace is recorded, and
	// nothing is missed of the first.
	led := w.status(t, "client").Counters.Redirected
	if led == 0 {
		t.Errorf("got no connections of the second sandbox counted, want some")
	}
	kubectl(t, "delete", "pod", "-n", w.namespace, "client", "--grace-period=1")
	var books []record
	within(t, 2*patience, "the closing of the pod's book", func() bool {
		books = records(t, func(r record) bool { return r.Kind == "ledger" && r.Workload.UID == uid })
		return len(books) > 0 && books[len(books)-1].Ledger.Redirected >= led
	})
	for _, r := range books {
		if r.Ledger.Missing != 0 {
			t.Errorf("got %+v in the ledger, want no connection missing", *r.Ledger)
		}
	}
	if events := w.events(t, "client", "Unaudited"); events != "" {
		t.Errorf("got Events %q, want none of connections without a record", events)
	}
}

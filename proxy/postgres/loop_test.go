package postgres

import (
	"fmt"
	"strings"
	"testing"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
)

func TestConnectionLedBackIsALoop(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	target, _ := g.policy.Load().Target("db")
	target.Spec.Source = policy.SourcePod // which no file may say
	origin := *g.origin.Load()
	origin.Workload.UID = "uid-1"
	g.origin.Store(&origin)
	g.connect(t, "sslmode=disable") // the server does not mind the marker

	g.instead.Store(g.address) // as a sidecar would
	answer := g.refusedAs(t, g.url("sslmode=disable"))
	if answer.Code != stateNoConnection || !strings.Contains(answer.Message, "source: node") {
		t.Errorf("got %s %q, want %s that says what to do", answer.Code, answer.Message, stateNoConnection)
	}
	for _, r := range g.trail.of(t, audit.KindRefusal, 2) { // the loop, and the session that it was for
		if got, want := r.Refusal.Reason, string(metrics.Loop); got != want {
			t.Errorf("got refusal %s, want %s", got, want)
		}
	}
	if got := len(g.trail.of(t, audit.KindSessionOpen, 1)); got != 1 {
		t.Errorf("got %d sessions, want the first alone", got)
	}
	if len(g.handler.loops.marks) != 0 || len(g.handler.logins.rooms) != 0 {
		t.Errorf("got %d markers and %d rooms left, want none", len(g.handler.loops.marks), len(g.handler.logins.rooms))
	}
}

func TestSessionIsDecidedByThePodOfThatMoment(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	fromFile, _ := g.policy.Load().Target("db")
	set, rejected, err := policy.Compile([]policy.Document{
		{Name: "Target/db", JSON: fmt.Appendf(nil, `{"apiVersion": "postern.dev/v1alpha1", "kind": "Target", "metadata": {"name": "db"},
			"spec": {"protocol": "postgres", "hosts": ["127.0.0.1"], "ports": [%d]}}`, g.Port)},
		{Name: "AccessPolicy/agents", JSON: []byte(`{"apiVersion": "postern.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "agents"},
			"spec": {"subjects": [{"namespaces": ["agents"]}], "targets": ["db"], "rules": [{"name": "all", "allow": ["ALL"], "functions": ["*.*"]}]}}`)},
	})
	if err != nil || len(rejected) > 0 {
		t.Fatal(err, rejected)
	}
	target, _ := set.Target("db") // whose Secrets lie in files here
	target.Spec.Source, target.Spec.TLS.CA, target.Spec.Credential = policy.SourceNode, fromFile.Spec.TLS.CA, fromFile.Spec.Credential
	g.policy.Store(set)
	g.refusedAs(t, g.url("sslmode=disable")) // it is of no pod
	g.pod.Store(&policy.PodSubject{Namespace: "agents", Name: "reporter"})
	conn := g.connect(t, "sslmode=disable")
	if _, err := conn.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
		t.Fatalf("got %v, want the pod served", err)
	}
	g.pod.Store(&policy.PodSubject{Namespace: "other", Name: "reporter"})
	_, err = conn.Exec(t.Context(), "SELECT 1").ReadAll()
	if err == nil || !strings.Contains(err.Error(), stateShutdown) {
		t.Errorf("got %v, want %s once the pod matches no more", err, stateShutdown)
	}
}

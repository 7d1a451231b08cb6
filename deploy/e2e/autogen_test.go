package e2e

import (
	"fmt"
	"strings"
	"testing"

	"postern.dev/postern/testenv/autogen"
)

// TestAutoGenIsGuardedWithoutRestart has a real AutoGen agent talk to the
// database through its tools, before and after its pod is labelled.
func TestAutoGenIsGuardedWithoutRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "agent", inside: fmt.Sprintf(`env:
  - {name: DSN, value: "host=%[1]s user=%[2]s password=%[3]s dbname=shop"}
  - {name: URL, value: "postgresql+psycopg://%[2]s:%[3]s@%[1]s/shop"}`, w.host, directUser, directPassword)})
	run := func() string {
		out, err := w.exec("agent", "python3", "-c", autogen.Program)
		if err != nil {
			t.Fatalf("got %v from the agent, want it to end well: %s", err, out)
		}
		return out
	}

	// The agent's own cleaning up fails here too: the table is not the role's.
	before := run()
	if !strings.Contains(before, "customer1@example.com") || !strings.Contains(before, directUser) || !strings.Contains(before, "must be owner") {
		t.Fatalf("got this trace before the label, want direct sessions:\n%s", before)
	}
	w.label(t, "agent")
	w.guarded(t, "agent")
	after := run()
	t.Logf("the agent's trace under guard:\n%s", after)
	for _, want := range []string{"ToolCallExecutionEvent", loginUser, "no-ddl", "schema changes go through migrations", "is_error=True", "The report is done."} {
		if !strings.Contains(after, want) {
			t.Errorf("got no %q in the trace, want it:\n%s", want, after)
		}
	}
	if strings.Contains(after, "example.com") || strings.Contains(after, "078-05") {
		t.Errorf("got sensitive values in the trace, want them masked:\n%s", after)
	}
}

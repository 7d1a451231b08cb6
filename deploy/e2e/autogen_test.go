package e2e

import (
	"fmt"
	"strings"
	"testing"

	"postern.dev/postern/testenv/autogen"
)

// rounds runs a program again and again in one process.
const rounds = `import sys, time
while True:
    exec(sys.argv[1], {"__name__": "__main__"})
    print("round over", flush=True)
    time.sleep(0.5)
`

// TestAutoGenIsGuardedWithoutRestart has a real AutoGen agent talk to the
// database through its tools, before and after its pod is labelled: one process.
func TestAutoGenIsGuardedWithoutRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "agent", command: fmt.Sprintf("[python3, -c, %q, %q]", rounds, autogen.Program), inside: fmt.Sprintf(`env:
  - {name: DSN, value: "host=%[1]s user=%[2]s password=%[3]s dbname=shop"}
  - {name: URL, value: "postgresql+psycopg://%[2]s:%[3]s@%[1]s/shop"}`, w.host, directUser, directPassword)})
	traces := func() []string {
		all := strings.Split(kubectl(t, "logs", "-n", w.namespace, "agent"), "round over\n")
		return all[:len(all)-1] // the last one is not over
	}

	// The agent's own cleaning up fails here too: the table is not the role's.
	eventually(t, "a trace before the label", func() bool { return len(traces()) > 0 })
	before := traces()[0]
	if !strings.Contains(before, "customer1@example.com") || !strings.Contains(before, directUser) || !strings.Contains(before, "must be owner") {
		t.Fatalf("got this trace before the label, want direct sessions:\n%s", before)
	}
	w.label(t, "agent")
	w.guarded(t, "agent")
	begun := len(traces()) + 1 // with the one that is under way
	eventually(t, "a trace after the label", func() bool { return len(traces()) > begun })
	after := traces()[begun]
	t.Logf("the agent's trace under guard:\n%s", after)
	for _, want := range []string{"ToolCallExecutionEvent", loginUser, "no-ddl", "schema changes go through migrations", "is_error=True", "The report is done."} {
		if !strings.Contains(after, want) {
			t.Errorf("got no %q in the trace, want it:\n%s", want, after)
		}
	}
	if strings.Contains(after, "example.com") || strings.Contains(after, "078-05") {
		t.Errorf("got sensitive values in the trace, want them masked:\n%s", after)
	}
	if n := w.restarts(t, "agent"); n != "0" {
		t.Errorf("got %s restarts of the agent, want it guarded as it runs", n)
	}
	w.recorded(t, "agent", "python3", "/python3")
}

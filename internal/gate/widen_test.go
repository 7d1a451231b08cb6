package gate

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"

	"postern.dev/postern/internal/redirect"
)

// holdsOpen has a pod connect to the held server, and answers what it reads there.
func (p *testPod) holdsOpen(t *testing.T) *bufio.Reader {
	t.Helper()
	cmd := p.role(t, "dial", held.String())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.begin(t, cmd)
	fmt.Fprintln(in)
	<-p.node.held // the server has it
	return bufio.NewReader(out)
}

func TestTargetThatGainsAnAddressEndsConnectionsToIt(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	before := redirect.Guarded{Guards: guardedSet.Guards[:1]}
	if err := errors.Join(c.Guard(t.Context(), before), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	direct := p.holdsOpen(t) // of a guarded pod, to what nothing guards
	if err := c.Guard(t.Context(), guardedSet); err != nil {
		t.Fatal(err)
	}
	line, err := direct.ReadString('\n')
	if err != nil || !strings.Contains(line, "connection abort") && !strings.Contains(line, "reset") {
		t.Errorf("got %q, %v from a connection to the new address, want it ended", line, err)
	}
	c.Close() // in whose place nobody serves the pod
	eventually(t, "the new address guarded", func() bool { return strings.Contains(p.dial(t, held), refused) })
}

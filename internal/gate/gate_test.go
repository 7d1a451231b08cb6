package gate

import (
	"fmt"
	"strings"
	"testing"
)

func TestConnectionsOfAGuardedPodAreLedThroughTheAgent(t *testing.T) {
	n := newNode(t)
	p, other := n.newPod(t), n.newPod(t)
	if got, want := p.dial(t, database), directReply; !strings.HasPrefix(got, want) {
		t.Fatalf("got %q before anything was guarded, want %q", got, want)
	}
	a := n.newAgent(t)
	p.Guarded = true
	a.guard(t, p, other)
	got := p.dial(t, database)
	want := fmt.Sprintf("pod=%s container=c001 exe=gate.test direct from 10.79.1.2", p.UID)
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := other.dial(t, database), "direct from 10.79.2.2"; got != want {
		t.Errorf("got %q from a pod that is not guarded, want %q", got, want)
	}
	if got, want := p.dial(t, elsewhere), "direct from 10.79.1.2"; got != want {
		t.Errorf("got %q from what is not guarded, want %q", got, want)
	}
}

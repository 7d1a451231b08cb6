package gate

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// join makes one more gate in the company of a folder.
func join(t *testing.T, dir string) *company {
	t.Helper()
	c, err := joinCompany(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close() }) // some are closed before
	return c
}

func TestGateKnowsSinceWhenItIsAlone(t *testing.T) {
	dir := t.TempDir()
	look := func(c *company, when string, alone bool) {
		t.Helper()
		since, err := c.since()
		if err != nil {
			t.Fatal(err)
		}
		if got := !since.IsZero(); got != alone {
			t.Errorf("got alone=%v %s, want %v", got, when, alone)
		}
	}
	first := join(t, dir)
	look(first, "at the start", true)
	begun, _ := first.since()
	if again, _ := first.since(); !again.Equal(begun) {
		t.Errorf("got alone since %v, want it since %v", again, begun)
	}
	second := join(t, dir)
	look(first, "beside the second", false)
	look(second, "beside the first", false)
	first.close()
	look(second, "when the first has gone", true)
	before, _ := second.since()
	join(t, dir).close() // while nobody looks
	if after, _ := second.since(); !after.After(before) {
		t.Errorf("got alone since %v though another was there after %v, want a later moment", after, before)
	}
}

func TestGateCountsWhatItAcceptedItself(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	serve := func(dials int) PodStatus {
		t.Helper()
		c := n.client(t, "gate/agent", agentID)
		if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := c.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, "served")
				conn.Close()
			}
		}()
		for range dials {
			p.expect(t, "from the agent", "served")
		}
		s, err := c.Status(t.Context())
		if err != nil || len(s.Pods) != 1 || s.Alone.IsZero() {
			t.Fatalf("got %+v, %v, want one pod, and a gate that is alone", s, err)
		}
		return s.Pods[0]
	}
	if got := serve(2); got.Accepted != 2 || got.Earlier != 0 || got.Counters.Redirected != 2 {
		t.Errorf("got %+v of the first gate, want two connections, none of them earlier", got)
	}
	n.end(t, syscall.SIGTERM)
	n.start(t)
	if got := serve(1); got.Accepted != 1 || got.Earlier != 2 || got.Counters.Redirected != 3 {
		t.Errorf("got %+v of the second gate, want one connection of three, two of them earlier", got)
	}
}

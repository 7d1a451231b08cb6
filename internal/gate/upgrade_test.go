package gate

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// successor is a gate of the same node beside the one that there is, as an upgrade
// starts it.
func (n *node) successor(t *testing.T) *node {
	t.Helper()
	next := &node{root: n.root, cgroup: n.cgroup, netns: n.netns, options: n.options}
	next.options.Socket += "2"
	next.start(t)
	return next
}

func TestTwoGatesServeTheSamePods(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	by := make(chan string, 64)
	meet := func(of *node, name string) *Client {
		c := of.client(t, "gate/agent", agentID)
		go serve(c, func(*Conn) { by <- name })
		go drain(c)
		return c
	}
	tell := func(c *Client) {
		if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
			t.Fatal(err)
		}
	}
	tell(meet(n, "old"))
	p.expect(t, "from the old gate", "served")
	next := n.successor(t)
	c := meet(next, "new")
	eventually(t, "the pod known to the new gate", func() bool { return statusOf(t, c, p).Class == "guarded" })
	seen := make(map[string]bool)
	seen[<-by] = true
	for range 50 {
		p.expect(t, "before the new agent has told of the pods", "served")
		seen[<-by] = true
	}
	if seen["new"] {
		t.Error("got connections at the gate whose agent has said nothing, want them at the other")
	}
	tell(c)
	for range 200 {
		p.expect(t, "from one of them", "served")
		if seen[<-by] = true; len(seen) == 2 {
			break
		}
	}
	if len(seen) != 2 {
		t.Errorf("got connections at %v alone, want them at both gates", seen)
	}
	for range 5 { // both see it end, one after the other
		before := statusOf(t, c, p).Sandbox
		p.end(t)
		p.sandbox = p.command(t, 0, "sleep", "600")
		p.begin(t, p.sandbox)
		if err := c.Pods(t.Context(), []Pod{p.Pod}, nil); err != nil {
			t.Fatal(err)
		}
		var got PodStatus
		var tries int
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%d tries, %+v, after %d", tries, got, before)
			}
		})
		eventually(t, "the next sandbox guarded", func() bool {
			got = statusOf(t, c, p)
			tries++
			return got.Class == "guarded" && got.Sandbox > before && p.dial(t, database) == "served"
		})
	}
	n.end(t, syscall.SIGTERM)
	p.expect(t, "from the new gate alone", "served")
	if got := statusOf(t, c, p); len(got.Reasons) != 0 || got.Class != "guarded" {
		t.Errorf("got %+v, want it guarded with nothing against it", got)
	}
}

func TestAgentThatIsStartedAgainAndAgainIsServed(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	for i := range 100 { // more containers than the programs have room for
		t.Run(fmt.Sprint(i), func(t *testing.T) { // its cgroup goes with it
			eventually(t, "an agent that is served", func() bool {
				c := newClient(n.connect(t, fmt.Sprintf("gate/agent%d", i), agentID))
				defer c.Close()
				ended := make(chan error, 1)
				go func() { ended <- c.Run(t.Context()) }()
				err := c.Pods(t.Context(), []Pod{p.Pod}, nil)
				c.Close()
				<-ended
				return err == nil
			})
		})
	}
}

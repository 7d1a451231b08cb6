package gate

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/redirect"
)

// end ends the pod's sandbox, and gives the pod another network namespace with
// addresses and all, in which nothing runs yet.
func (p *testPod) end(t *testing.T) {
	t.Helper()
	p.kill(t)
	p.node.mkdir(t, strings.TrimPrefix(p.dir, p.node.cgroup.Path+"/"))
	next := p.node.newPod(t)
	next.kill(t)
	p.netns, p.IPs, p.number = next.netns, next.IPs, next.number
}

// kill ends the pod as the kubelet does.
func (p *testPod) kill(t *testing.T) {
	t.Helper()
	p.sandbox.Process.Kill()
	p.sandbox.Wait()
	removeTree(t, p.dir)
}

// serve answers every connection with a word, until the client is closed.
func serve(c *Client, each func(*Conn)) {
	for {
		conn, err := c.Accept()
		if err != nil {
			return
		}
		each(conn)
		fmt.Fprint(conn, "served")
		conn.Close()
	}
}

// statusOf is what the gate says of a pod.
func statusOf(t *testing.T, c *Client, p *testPod) PodStatus {
	t.Helper()
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range s.Pods {
		if pod.UID == p.UID {
			return pod
		}
	}
	return PodStatus{}
}

// next is the next event of a kind.
func next(t *testing.T, c *Client, kind string) Event {
	t.Helper()
	for e := range c.Events() {
		if e.Kind == kind {
			return e
		}
	}
	t.Fatalf("got a gate that is gone, want an event %s", kind)
	return Event{}
}

func TestEachSandboxOfAPodHasCountsOfItsOwn(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	of := make(chan uint64, 8)
	go serve(c, func(conn *Conn) { of <- conn.Sandbox })
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	var before uint64
	for dials := 1; dials <= 3; dials++ {
		if e := next(t, c, Guarded); e.Sandbox <= before || e.PodUID != p.UID {
			t.Errorf("got pod %s guarded in sandbox %d, want %s in one after %d", e.PodUID, e.Sandbox, p.UID, before)
		}
		for range dials {
			p.expect(t, "from the agent", "served")
		}
		got := statusOf(t, c, p)
		if got.Sandbox <= before || got.Accepted != uint64(dials) || got.Counters.Redirected != uint64(dials) || got.Earlier != 0 {
			t.Errorf("got %+v, want a sandbox after %d, with %d connections of its own", got, before, dials)
		}
		before = got.Sandbox
		for range dials {
			if got := <-of; got != before {
				t.Errorf("got a connection of sandbox %d, want %d", got, before)
			}
		}
		p.end(t)
		e := next(t, c, Gone)
		if e.Sandbox != before || e.Accepted != uint64(dials) || e.Counters == nil || e.Counters.Redirected != uint64(dials) {
			t.Errorf("got %+v, %+v gone, want sandbox %d with %d connections", e, e.Counters, before, dials)
		}
		if got := statusOf(t, c, p); got.Sandbox != 0 || got.Class != "unknown" || got.Accepted != 0 {
			t.Errorf("got %+v between two sandboxes, want none", got)
		}
		p.sandbox = p.command(t, 0, "sleep", "600")
		p.begin(t, p.sandbox)
		if err := c.Pods(t.Context(), []Pod{p.Pod}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPodThatAnotherGateForgetsIsFoundAgain(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	go serve(c, func(*Conn) {})
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	first := statusOf(t, c, p).Sandbox
	n.forget(t, p.UID)
	p.expect(t, "when it is forgotten", refused)
	if got := statusOf(t, c, p); got.Class != "unknown" {
		t.Errorf("got a pod that is %s, want unknown", got.Class)
	}
	eventually(t, "the pod guarded again", func() bool { return statusOf(t, c, p).Sandbox > first })
	p.expect(t, "when it is found again", "served")
}

// forget makes the kernel forget a pod, as another gate does.
func (n *node) forget(t *testing.T, uid string) {
	t.Helper()
	err := n.netns.Do(func() error {
		other, err := redirect.OpenNode(redirect.NodeOptions{Cgroups: n.root, Pods: n.options.Pods, Log: logrus.New()})
		if err != nil {
			return err
		}
		return errors.Join(other.Forget(uid), other.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

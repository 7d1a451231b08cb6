package gate

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// link gives the pod a link that leads to another pod and not to the node.
func (p *testPod) link(t *testing.T, name string, other *testPod) {
	t.Helper()
	err := p.netns.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer" + name, PeerNamespace: netlink.NsPid(other.sandbox.Process.Pid),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (p *testPod) unlink(t *testing.T, name string) {
	t.Helper()
	if err := p.netns.Do(func() error { return netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}}) }); err != nil {
		t.Fatal(err)
	}
}

func TestStrictPodIsServedWhenNothingIsLeftToGoAround(t *testing.T) {
	n := newNode(t)
	p, lax, other := n.newPod(t), n.newPod(t), n.newPod(t)
	p.Guarded, p.Strict, lax.Guarded = true, true, true
	p.link(t, "side", other)
	lax.link(t, "lax", other)
	c := n.client(t, "gate/agent", agentID)
	go serve(c, func(*Conn) {})
	pods := []Pod{p.Pod, lax.Pod}
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), pods, nil)); err != nil {
		t.Fatal(err)
	}
	p.expect(t, "from a strict pod with a link that is not covered", refused)
	lax.expect(t, "from another one", "served")
	if got := statusOf(t, c, p); !got.Refused || len(got.Reasons) != 1 || len(got.Listeners) != 0 {
		t.Errorf("got %+v, want it refused for one reason", got)
	}
	if got := statusOf(t, c, lax); got.Refused || len(got.Reasons) != 1 {
		t.Errorf("got %+v of a pod that is not strict, want it served", got)
	}
	for range 2 {
		p.unlink(t, "side")
		eventually(t, "a pod that is served", func() bool { return p.dial(t, database) == "served" })
		if got := statusOf(t, c, p); got.Refused || len(got.Reasons) != 0 {
			t.Errorf("got %+v, want it served", got)
		}
		p.link(t, "side", other)
		eventually(t, "a pod that is refused", func() bool { return strings.Contains(p.dial(t, database), refused) })
	}
	pods[0].NoRaw = true
	if err := c.Pods(t.Context(), pods, nil); err != nil {
		t.Fatal(err)
	}
	p.expect(t, "from one that makes no raw packets", "served")
	var told []int
	for len(told) < 6 {
		if e := next(t, c, NotEnforced); e.PodUID == p.UID {
			told = append(told, len(e.Reasons))
		}
	}
	if got, want := fmt.Sprint(told), "[1 0 1 0 1 0]"; got != want {
		t.Errorf("got events of %s reasons, want %s", got, want)
	}
}

func TestPodOfManyLinksNamesAFew(t *testing.T) {
	const links = 40
	n := newNode(t)
	p, other := n.newPod(t), n.newPod(t)
	p.Guarded = true
	for i := range links {
		p.link(t, fmt.Sprintf("side%d", i), other)
	}
	c := n.client(t, "gate/agent", agentID)
	if err := c.Pods(t.Context(), []Pod{p.Pod}, nil); err != nil {
		t.Fatal(err)
	}
	got := statusOf(t, c, p)
	if len(got.Uncovered) == 0 {
		t.Fatalf("got %+v, want links that are not covered", got)
	}
	if want := fmt.Sprintf("and %d more", links-maxUncovered); len(got.Uncovered) != maxUncovered+1 || got.Uncovered[maxUncovered] != want {
		t.Errorf("got %d links, %q the last, want %d and %q", len(got.Uncovered), got.Uncovered[len(got.Uncovered)-1], maxUncovered+1, want)
	}
	if len(got.Reasons) > len(got.Uncovered) {
		t.Errorf("got %d reasons, want one a link", len(got.Reasons))
	}
}

package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/redirect"
)

// uidOf is the UID of a pod of no node.
func uidOf(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", i) }

func TestBadPodIsLeftOutAndTheOthersAreTaken(t *testing.T) {
	named := func(change func(*Pod)) Pod {
		p := Pod{UID: uidOf(2), Namespace: "tenant", Name: "bad", Guarded: true}
		change(&p)
		return p
	}
	many := make([]Pod, 0, maxPods+3)
	for i := range cap(many) {
		many = append(many, Pod{UID: uidOf(i + 10), Namespace: "tenant", Name: "one"})
	}
	for name, row := range map[string]struct {
		bad   []Pod
		taken int // of these
		left  string
	}{
		"33 reasons":              {[]Pod{named(func(p *Pod) { p.Privileges = slices.Repeat([]string{"hostPID"}, maxReasons+1) })}, 0, "33 reasons"},
		"a reason of 10 kB":       {[]Pod{named(func(p *Pod) { p.Privileges = []string{strings.Repeat("x", 10<<10)} })}, 0, "bytes"},
		"17 addresses":            {[]Pod{named(func(p *Pod) { p.IPs = make([]netip.Addr, maxIPs+1) })}, 0, "17 addresses"},
		"a UID that is a path":    {[]Pod{named(func(p *Pod) { p.UID = "../../etc" })}, 0, "no pod's UID"},
		"a name that is a path":   {[]Pod{named(func(p *Pod) { p.Name = "../etc" })}, 0, "no pod's name"},
		"a pod of 1 MB":           {[]Pod{named(func(p *Pod) { p.UID = strings.Repeat("a", 1<<20) })}, 0, "bytes"},
		"a pod twice":             {slices.Repeat([]Pod{named(func(*Pod) {})}, 2), 1, "twice"},
		"more than there can be":  {many, maxPods - 1, fmt.Sprintf("one more than %d", maxPods)},
		"nothing that is a wrong": {[]Pod{named(func(*Pod) {})}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := json.Marshal(append([]Pod{{UID: uidOf(1), Namespace: "agents", Name: "good", Guarded: true}}, row.bad...))
			if err != nil {
				t.Fatal(err)
			}
			body, err := json.Marshal(podsCall{Pods: list})
			if err != nil {
				t.Fatal(err)
			}
			pods, _, left, err := decodePods(body)
			if err != nil || len(pods) != 1+row.taken || pods[0].UID != uidOf(1) {
				t.Fatalf("got %d pods, %v, want the good one and %d others", len(pods), err, row.taken)
			}
			if said := strings.Join(left, "; "); !strings.Contains(said, row.left) || (said == "") != (row.left == "") || len(said) > 300*(maxLeftOut+1) {
				t.Errorf("got %q left out, want %q", clip(said), row.left)
			}
		})
	}
}

func TestNamespacesBeyondTheirNumberAreLeftOut(t *testing.T) {
	names := make([]string, maxNamespaces+100)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i)
	}
	list, err := json.Marshal(append(names, "no_name"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(podsCall{GuardedNamespaces: list})
	if err != nil {
		t.Fatal(err)
	}
	_, namespaces, left, err := decodePods(body)
	if err != nil || len(namespaces) != maxNamespaces || len(left) != maxLeftOut+1 || left[maxLeftOut] != "and 85 more" {
		t.Errorf("got %d namespaces, %d left out, %v, want %d, and %d texts", len(namespaces), len(left), err, maxNamespaces, maxLeftOut+1)
	}
}

// One tenant's pod, or its Services, must cost the others nothing.
func TestBadPodCostsTheOthersNothing(t *testing.T) {
	n := newNode(t)
	p, bad := n.newPod(t), n.newPod(t)
	p.Guarded, bad.Guarded = true, true
	bad.Privileges = slices.Repeat([]string{"container app has BPF"}, maxReasons+1)
	c := n.client(t, "gate/agent", agentID)
	if err := c.Guard(t.Context(), guardedSet); err != nil {
		t.Fatal(err)
	}
	var left *LeftOut
	if err := c.Pods(t.Context(), []Pod{p.Pod, bad.Pod}, nil); !errors.As(err, &left) || len(left.What) != 1 || !strings.Contains(left.What[0], bad.UID) {
		t.Errorf("got %v, want pod %s left out", err, bad.UID)
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Pods, func(one PodStatus) bool { return one.UID == p.UID })
	if i < 0 || s.Pods[i].Class != "guarded" || len(s.Pods[i].Listeners) == 0 {
		t.Errorf("got %+v, want pod %s guarded and served", s.Pods, p.UID)
	}
	bad.expect(t, "from the pod that was left out", refused)
}

func TestTooManyGuardsChangeNothing(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	many := slices.Repeat(guardedSet.Guards[:1], maxGuards+1)
	for name, guarded := range map[string]redirect.Guarded{
		"more guards than there can be": {Guards: many},
		"a guard that is none":          {Guards: make([]redirect.Guard, 1)},
	} {
		if err := c.Guard(t.Context(), guarded); err == nil || errors.Is(err, ErrClosed) {
			t.Errorf("got %v of %s, want it refused by a gate that stays", err, name)
		}
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("got %v, want the agent served", err)
	}
	c.Close() // in whose place nobody serves the pod
	eventually(t, "no listener", func() bool { return strings.Contains(p.dial(t, database), refused) })
}

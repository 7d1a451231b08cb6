package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// unenforceable are guarded pods that can go around their guard, with what is said of it.
type unenforceable struct{ name, why string }

// startUnenforceable starts a privileged pod, and one that has a link whose packets
// the node does not see.
func (w *world) startUnenforceable(t *testing.T) []unenforceable {
	t.Helper()
	w.create(t, pod{name: "privileged", labels: guardLabel, inside: "securityContext: {privileged: true}"})
	w.start(t, pod{name: "linked", labels: guardLabel})
	kubectl(t, "wait", "-n", w.namespace, "pod/privileged", "--for=condition=Ready", "--timeout=90s")
	w.guarded(t, "linked")
	w.link(t, "linked")
	return []unenforceable{{"privileged", "container app is privileged"}, {"linked", "its other end is not on the node"}}
}

// linkName is that of the end of the test's link that the machine has, outside of the node.
func (w *world) linkName() string { return "e2e-" + w.namespace[:min(len(w.namespace), 11)] }

// link gives a pod a second link, which leads past the node.
func (w *world) link(t *testing.T, name string) {
	t.Helper()
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("got %v from ip %s, want it to succeed: %s", err, strings.Join(args, " "), out)
		}
	}
	ip("link", "add", w.linkName(), "type", "veth", "peer", "name", "aside", "netns", w.container(t, name, "").pid)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", w.linkName()).Run() }) // it goes with the pod, too
}

// reported checks that everybody who should know of it is told of an unenforceable pod.
func (w *world) reported(t *testing.T, u unenforceable) {
	t.Helper()
	eventually(t, "an Event on "+u.name, func() bool { return strings.Contains(w.events(t, u.name, "NotEnforceable"), u.why) })
	eventually(t, u.name+" in the NodeStatus", func() bool {
		out := kubectl(t, "get", "nodestatuses", "-o", fmt.Sprintf(`jsonpath={.items[0].status.notEnforceable[?(@.namespace==%q)]}`, w.namespace))
		return strings.Contains(out, fmt.Sprintf(`"name":%q`, u.name)) && strings.Contains(out, u.why)
	})
	uid := w.uid(t, u.name)
	if got := records(t, func(r record) bool {
		return r.Kind == "agent.degraded" && r.Workload.UID == uid && r.Event.Reason == "not-enforceable" && strings.Contains(r.Event.Detail["reasons"], u.why)
	}); len(got) == 0 {
		t.Errorf("got no record that %s cannot be held, want one", u.name)
	}
}

// TestUnenforceablePodsAreServedAndReported: an agent that is not strict says it, and no more.
func TestUnenforceablePodsAreServedAndReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, u := range w.startUnenforceable(t) {
		w.reported(t, u)
		if got, err := w.whoami(u.name); err != nil || got != loginUser {
			t.Errorf("got %q, %v from %s, want it served", got, err, u.name)
		}
	}
}

// testStrictPods: a strict one refuses them every Target, until they can be held.
func testStrictPods(t *testing.T) {
	w := newWorld(t)
	all := w.startUnenforceable(t)
	for _, u := range all {
		eventually(t, u.name+" refused", func() bool {
			got, err := w.whoami(u.name)
			if strings.Contains(got, directUser+"\n") || err == nil && got != loginUser {
				t.Fatalf("got %q from %s, want no direct session", got, u.name)
			}
			return err != nil
		})
		w.reported(t, u)
		uid := w.uid(t, u.name)
		if got := records(t, func(r record) bool { return r.Kind == "refusal" && r.Workload.UID == uid }); !slices.ContainsFunc(got, func(r record) bool {
			return r.Refusal.Reason == "kernel" && r.Target.Name == "shop"
		}) {
			t.Errorf("got refusals %+v of %s, want the kernel's of the shop", got, u.name)
		}
	}
	if out, err := exec.Command("ip", "link", "del", w.linkName()).CombinedOutput(); err != nil {
		t.Fatalf("got %v from ip link del, want it to succeed: %s", err, out)
	}
	w.guarded(t, "linked")
	if got, err := w.whoami("privileged"); err == nil {
		t.Errorf("got %q from a privileged pod, want it refused still", got)
	}
}

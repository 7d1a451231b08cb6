package agent

import (
	"context"
	"errors"
	"testing"

	"postern.dev/postern/internal/cluster"
)

func TestConnectionsEndWithTheirPod(t *testing.T) {
	p := newPods()
	p.replace([]cluster.Pod{{UID: "a"}, {UID: "b"}})
	a, leaveA := p.enter(t.Context(), "a")
	b, leaveB := p.enter(t.Context(), "b")
	gone := p.replace([]cluster.Pod{{UID: "b", Labels: map[string]string{"x": "y"}}})
	if len(gone) != 1 || gone[0].UID != "a" {
		t.Errorf("got %v gone, want a", gone)
	}
	if !errors.Is(context.Cause(a), errPodGone) {
		t.Errorf("got %v for the pod that is gone, want %v", context.Cause(a), errPodGone)
	}
	if b.Err() != nil || p.open("b") != 1 {
		t.Errorf("got %v and %d connections of the other, want it to go on", b.Err(), p.open("b"))
	}
	leaveA()
	leaveB()
	if p.open("b") != 0 {
		t.Errorf("got %d connections when all had ended, want 0", p.open("b"))
	}
}

func TestSubjectIsTheSameUntilItChanges(t *testing.T) {
	p := newPods()
	one := cluster.Pod{UID: "a", ServiceAccount: "s", Labels: map[string]string{"app": "x"}}
	p.replace([]cluster.Pod{one})
	before, _ := p.find("a")
	one.IPs = nil
	p.replace([]cluster.Pod{one})
	same, _ := p.find("a")
	one.Labels = map[string]string{"app": "y"}
	p.replace([]cluster.Pod{one})
	after, _ := p.find("a")
	if before.subject != same.subject || same.subject == after.subject {
		t.Errorf("got the same subject %v and %v, want true and false", before.subject == same.subject, same.subject == after.subject)
	}
}

func TestPodThatTheClusterTellsOfInAMomentIsAwaited(t *testing.T) {
	p := newPods()
	found := make(chan bool)
	go func() {
		_, ok := p.await(t.Context(), "late")
		found <- ok
	}()
	p.replace([]cluster.Pod{{UID: "other"}})
	p.replace([]cluster.Pod{{UID: "late"}})
	if !<-found {
		t.Error("got no pod, want the one that came late")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := p.await(ended, "never"); ok {
		t.Error("got a pod that nobody told of, want none")
	}
}

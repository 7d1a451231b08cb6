package redirect

import (
	"errors"
	"testing"

	"postern.dev/postern/testenv"
)

// TestNodeKeepsWhatAnotherKnowsAnew: in an upgrade two processes see a pod's sandbox
// end, the one when the other knows the next sandbox already.
func TestNodeKeepsWhatAnotherKnowsAnew(t *testing.T) {
	w := newBareNodeWorld(t)
	p := w.newPod(t, "guarded")
	first, old, anew := w.node, testenv.NewNetns(t), testenv.NewNetns(t)
	w.classify(t, p, ClassGuarded, old)
	second := w.open(t)
	if err := second.Forget(p.uid); err != nil {
		t.Fatal(err)
	}
	w.classify(t, p, ClassGuarded, anew)
	if err := first.Forget(p.uid); err != nil {
		t.Fatal(err)
	}
	if got, err := second.Class(p.uid); err != nil || got != ClassGuarded {
		t.Errorf("got class %d, %v, want %d", got, err, ClassGuarded)
	}
	if _, err := second.Counters(p.uid); err != nil {
		t.Errorf("got %v, want the counters", err)
	}
}

// TestNodeWritesOverWhatNobodyHas: keys of a pod whose record is gone.
func TestNodeWritesOverWhatNobodyHas(t *testing.T) {
	w := newBareNodeWorld(t)
	p, other := w.newPod(t, "guarded"), w.newPod(t, "other")
	netns := testenv.NewNetns(t)
	w.classify(t, p, ClassGuarded, netns)
	if err := w.node.maps.Members.Delete(w.node.pods[p.uid].pod.Index); err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.Counters(p.uid); !errors.Is(err, ErrUnknownPod) {
		t.Errorf("got %v, want %v", err, ErrUnknownPod)
	}
	w.classify(t, other, ClassPlain, testenv.NewNetns(t)) // it has the index now
	w.classify(t, p, ClassGuarded, netns)
	if got, err := w.node.Class(p.uid); err != nil || got != ClassGuarded {
		t.Errorf("got class %d, %v, want %d", got, err, ClassGuarded)
	}
	if got, err := w.node.Class(other.uid); err != nil || got != ClassPlain {
		t.Errorf("got class %d, %v of the other pod, want %d", got, err, ClassPlain)
	}
}

package sql

import (
	"container/list"
	"context"
	"sync"
)

// turns shares the workers among owners: whoever waits has his turn after one
// text of each other owner, however many texts those have waiting.
//
// Shape: a named owner never has all of several workers, so that another finds
// one free or about to be. The owner "" is everybody who has no name.
type turns struct {
	mu     sync.Mutex
	free   int
	each   int // workers that a named owner may have at once
	owners map[string]*owner
	ring   list.List // of *owner: who waits, next in front
}

// owner is one that works or waits.
type owner struct {
	name    string
	working int
	waiting []chan struct{}
	element *list.Element // in the ring; nil while nothing of him waits
}

func newTurns(workers int) *turns {
	return &turns{free: workers, each: max(1, workers-1), owners: make(map[string]*owner)}
}

// acquire waits for a worker; whoever has got one gives it back by release.
//
// Errors: the context's.
func (t *turns) acquire(ctx context.Context, name string) error {
	t.mu.Lock()
	o := t.owners[name]
	if o == nil {
		o = &owner{name: name}
		t.owners[name] = o
	}
	if t.free > 0 && t.may(o) { // nobody who waits may work: dispatch would have let him
		t.free--
		o.working++
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	o.waiting = append(o.waiting, turn)
	if o.element == nil {
		o.element = t.ring.PushBack(o)
	}
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	if t.leave(o, turn) {
		return ctx.Err()
	}
	t.release(name) // the turn came at the same moment
	return ctx.Err()
}

// leave takes a turn that has not come out of the line.
func (t *turns) leave(o *owner, turn chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, waiting := range o.waiting {
		if waiting != turn {
			continue
		}
		o.waiting = append(o.waiting[:i], o.waiting[i+1:]...)
		if len(o.waiting) == 0 {
			t.ring.Remove(o.element)
			o.element = nil
		}
		t.forget(o)
		return true
	}
	return false
}

func (t *turns) release(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.owners[name]
	o.working--
	t.free++
	t.dispatch()
	t.forget(o)
}

// dispatch gives free workers to those whose turn it is. The caller holds mu.
func (t *turns) dispatch() {
	for next := t.ring.Front(); next != nil && t.free > 0; {
		o := next.Value.(*owner)
		if !t.may(o) {
			next = next.Next()
			continue
		}
		t.free--
		o.working++
		close(o.waiting[0])
		o.waiting = o.waiting[1:]
		t.ring.Remove(next)
		o.element = nil
		if len(o.waiting) > 0 {
			o.element = t.ring.PushBack(o)
		}
		next = t.ring.Front()
	}
}

func (t *turns) may(o *owner) bool { return o.name == "" || o.working < t.each }

// forget drops an owner who neither works nor waits. The caller holds mu.
func (t *turns) forget(o *owner) {
	if o.working == 0 && len(o.waiting) == 0 {
		delete(t.owners, o.name)
	}
}

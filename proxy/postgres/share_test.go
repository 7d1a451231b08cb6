package postgres

import (
	"context"
	"errors"
	"testing"
)

func TestShareLetsSoManyOfEachIn(t *testing.T) {
	s := newShare(2)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var leave []func()
	for range 2 {
		out, err := s.enter(t.Context(), "greedy")
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, out)
	}
	if _, err := s.enter(ended, "greedy"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v for the third of one pod, want it to wait", err)
	}
	for _, other := range []string{"modest", "", "", ""} {
		out, err := s.enter(t.Context(), other)
		if err != nil {
			t.Errorf("got %v for %q, want it let in", err, other)
			continue
		}
		leave = append(leave, out)
	}
	for _, out := range leave {
		out()
	}
	if len(s.rooms) != 0 {
		t.Errorf("got %d rooms when all had left, want none", len(s.rooms))
	}
}

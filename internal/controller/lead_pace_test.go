package controller

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// paced counts how often pace works in a time, while changes come in that interval.
func paced(t *testing.T, during, interval time.Duration, work func() bool) (times int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), during)
		defer cancel()
		changed := make(chan struct{}, 1)
		var changes sync.WaitGroup
		defer changes.Wait()
		if interval > 0 {
			changes.Go(func() {
				for ctx.Err() == nil {
					time.Sleep(interval)
					select {
					case changed <- struct{}{}:
					default:
					}
				}
			})
		}
		pace(ctx, changed, func() bool { times++; return work() })
	})
	return times
}

func TestChangesWithoutEndDoNotPutStatusOff(t *testing.T) {
	if got := paced(t, 30*time.Second, settle/10, func() bool { return true }); got < 50 || got > 101 {
		t.Errorf("got %d times in 30 s, want some hundred at most, and not one", got)
	}
	slow := func() bool { time.Sleep(time.Second); return true }
	if got := paced(t, 30*time.Second, settle/10, slow); got < 5 || got > 7 {
		t.Errorf("got %d times in 30 s of work that takes one, want it to rest for four", got)
	}
}

func TestStatusIsWrittenOnceWithoutAChange(t *testing.T) {
	if got := paced(t, 10*time.Minute, 0, func() bool { return true }); got != 1 {
		t.Errorf("got %d times, want 1", got)
	}
}

func TestStatusThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	left := 3
	if got := paced(t, time.Minute, 0, func() bool { left--; return left < 0 }); got != 4 {
		t.Errorf("got %d times, want three that fail and one", got)
	}
}

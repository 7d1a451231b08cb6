package sql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

func TestOwnersHaveTheirTurnWhateverOthersHaveWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		if err := turns.acquire(t.Context(), "greedy"); err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 200)
		wait := func(owner string) {
			go func() {
				if err := turns.acquire(t.Context(), owner); err != nil {
					t.Error(err)
				}
				got <- owner
				turns.release(owner)
			}()
			synctest.Wait()
		}
		for range 100 {
			wait("greedy")
		}
		wait("modest")
		wait("third")
		turns.release("greedy")
		synctest.Wait()
		order := []string{<-got, <-got, <-got, <-got}
		if want := fmt.Sprint([]string{"greedy", "modest", "third", "greedy"}); fmt.Sprint(order) != want {
			t.Errorf("got %v, want %v", order, want)
		}
		for range 98 {
			<-got
		}
		if len(turns.owners) != 0 || turns.ring.Len() != 0 || turns.free != 1 {
			t.Errorf("got %d owners, %d waiting and %d workers free, want 0, 0 and 1", len(turns.owners), turns.ring.Len(), turns.free)
		}
	})
}

func TestNamedOwnerLeavesAWorkerToOthers(t *testing.T) {
	turns := newTurns(2)
	if err := turns.acquire(t.Context(), "greedy"); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := turns.acquire(ended, "greedy"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v for a second worker, want it to wait", err)
	}
	if err := turns.acquire(ended, "modest"); err != nil {
		t.Errorf("got %v for another owner, want a worker", err)
	}
	turns.release("greedy")
	turns.release("modest")
	if len(turns.owners) != 0 || turns.free != 2 {
		t.Errorf("got %d owners and %d workers free, want 0 and 2", len(turns.owners), turns.free)
	}
}

func TestOwnerWhoFillsTheCacheLosesHisOwn(t *testing.T) {
	c := newCache(10_000)
	keep := func(owner, text string) {
		_, e, mine := c.claim(owner, keyOf(text))
		if !mine {
			t.Fatalf("got %s claimed, want it free", text)
		}
		c.settle(e, new(Script), 1000)
	}
	for i := range 3 {
		keep("modest", fmt.Sprint("m", i))
	}
	for i := range 1000 {
		keep("greedy", fmt.Sprint("g", i))
	}
	for i := range 3 {
		if script, _, _ := c.claim("modest", keyOf(fmt.Sprint("m", i))); script == nil {
			t.Errorf("got text %d of another owner pushed out, want it kept", i)
		}
	}
	if c.bytes != 10_000 || len(c.entries) != 10 {
		t.Errorf("got %d bytes in %d entries, want 10,000 in 10", c.bytes, len(c.entries))
	}
}

func TestNobodyWaitsForAnotherOwnersText(t *testing.T) {
	c := newCache(10_000)
	_, first, _ := c.claim("greedy", keyOf("select 1"))
	_, second, mine := c.claim("modest", keyOf("select 1"))
	if !mine {
		t.Fatal("got another owner's text to wait for, want it parsed at once")
	}
	c.settle(second, new(Script), 1000)
	c.settle(first, new(Script), 1000)
	if c.bytes != 1000 || len(c.entries) != 1 || len(c.parsing) != 0 {
		t.Errorf("got %d bytes in %d entries and %d being parsed, want 1,000 in 1 and 0", c.bytes, len(c.entries), len(c.parsing))
	}
}

func TestLongTextIsNotLookedThroughBeforeItsTurn(t *testing.T) {
	p := New(Options{MaxBytes: 2 * longText})
	if err := p.workers.acquire(t.Context(), "greedy"); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.ParseFor(ended, "greedy", "SELECT '"+strings.Repeat("x", longText)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v for a long text that is no SQL, want it to wait for its turn", err)
	}
	if got, err := p.ParseFor(ended, "greedy", "SELECT 'x"); err != nil || got.Statements[0].Unknown == "" {
		t.Errorf("got %+v, %v for a short one, want it read at once", got, err)
	}
	got, err := p.ParseFor(ended, "greedy", strings.Repeat("x", 2*longText+1))
	if err != nil || got.Statements[0].Unknown != errLong.Error() || len(p.results.entries) != 1 {
		t.Errorf("got %+v, %v and %d results kept of one beyond the limit, want it refused at once and not kept", got, err, len(p.results.entries))
	}
}

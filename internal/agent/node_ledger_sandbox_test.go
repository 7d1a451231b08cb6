package agent

import (
	"testing"
	"time"

	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/redirect"
)

// inSandbox is a gate that is alone and shows one sandbox of pod a.
func inSandbox(number, redirected, accepted uint64) gate.Status {
	s := led("a", redirected, accepted, 0, time.Unix(1, 0))
	s.Pods[0].Sandbox = number
	return s
}

func rounds(l *ledger, n int, status gate.Status) {
	for range n {
		l.update(status)
		l.round()
	}
}

func TestSandboxThatReplacesAnotherIsReconciled(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 3)
	rounds(l, 2, inSandbox(1, 3, 3))
	l.end("a", 1, &redirect.Counters{Seen: 4, Redirected: 4}, 4)
	sessions(t, l, "a", 1)           // of the first, whose record came last
	rounds(l, 3, inSandbox(2, 2, 2)) // two of the second, and no record
	if got := l.missing("a"); got != 2 {
		t.Errorf("got %d missing (%v), want the two of the new sandbox", got, *told)
	}
}

func TestSandboxAfterAClosedBookHasABookOfItsOwn(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 1)
	rounds(l, 2, inSandbox(1, 1, 1))
	l.end("a", 1, &redirect.Counters{Redirected: 1}, 1)
	rounds(l, 2, gate.Status{Pods: []gate.PodStatus{{UID: "a", Class: "unknown"}}}) // between two sandboxes
	if len(l.books) != 0 || !l.over("a", 1) || l.over("a", 2) {
		t.Errorf("got %d books, closed %v, want the first sandbox closed and no other", len(l.books), l.closed)
	}
	sessions(t, l, "a", 1)
	rounds(l, 3, inSandbox(2, 2, 2))
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing (%v), want the one of the new sandbox", got, *told)
	}
	l.end("a", 2, &redirect.Counters{Redirected: 3}, 3) // one more is final
	l.round()
	if len(*told) != 2 {
		t.Errorf("got %v, want two Events", *told)
	}
}

func TestLastCountsOfASandboxMayComeLate(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 2)
	rounds(l, 2, inSandbox(1, 2, 2))
	rounds(l, 2, inSandbox(2, 0, 0))
	l.end("a", 1, &redirect.Counters{Redirected: 3}, 3) // one more than the last look saw
	rounds(l, 2, inSandbox(2, 0, 0))
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing (%v), want the one that came between", got, *told)
	}
	if b := l.books["a"]; b == nil || b.gone || b.total().kernel.Redirected != 3 {
		t.Errorf("got %+v, want the book of the new sandbox open, with three led here in all", b)
	}
}

func TestSandboxThatNobodyLookedAtCounts(t *testing.T) {
	l, _ := newBooks(t)
	rounds(l, 1, inSandbox(1, 0, 0))
	l.end("a", 1, &redirect.Counters{}, 0)
	l.end("a", 2, &redirect.Counters{Redirected: 5}, 5) // began and ended since
	sessions(t, l, "a", 4)
	rounds(l, 1, inSandbox(3, 0, 0))
	rounds(l, 1, inSandbox(3, 0, 0))
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing, want 1 of the second sandbox", got)
	}
}

func TestPodWhoseEndWasLostIsGone(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 1)
	rounds(l, 2, inSandbox(1, 2, 2))
	for range 3 {
		l.update(gate.Status{Alone: time.Unix(1, 0)})
		l.round()
	}
	if len(l.books) != 0 || len(*told) != 1 {
		t.Errorf("got %d books and %v, want none and one Event", len(l.books), *told)
	}
}

func TestGateThatIsNewNumbersSandboxesAnew(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 1)
	rounds(l, 2, inSandbox(7, 1, 1))
	l.end("a", 7, &redirect.Counters{Redirected: 1}, 1)
	l.round()
	l.part()
	l.begin(gate.Status{})
	sessions(t, l, "a", 1)
	rounds(l, 2, inSandbox(1, 2, 2))
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing (%v), want 1 of two", got, *told)
	}
}

package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/redirect"
)

// announced are the Events that a test raised.
type announced []string

func (a *announced) Event(uid string, reason cluster.Reason, message string) {
	*a = append(*a, uid+" "+string(reason)+" "+message)
}

// newBooks gives a ledger whose records go to a trail in a folder of the test's.
func newBooks(t *testing.T) (*ledger, *announced) {
	t.Helper()
	a, stop := newRecording(t, t.TempDir())
	t.Cleanup(stop)
	told := new(announced)
	m := metrics.New()
	l := newLedger(a.recorder, newPods(), m.Node(nil, nil), told, a.o.Log.(*logrus.Logger))
	l.begin(gate.Status{})
	return l, told
}

// counted is a gate that has been alone for long and accepted what the kernel led to it.
func counted(uid string, redirected uint64, inFlight int) gate.Status {
	return led(uid, redirected, redirected, inFlight, time.Unix(1, 0))
}

// led is a gate that accepted so many of the connections that the kernel led to the pod.
func led(uid string, redirected, accepted uint64, inFlight int, alone time.Time) gate.Status {
	return gate.Status{Alone: alone, Pods: []gate.PodStatus{{
		UID: uid, Sandbox: 1, Since: time.Unix(2, 0), InFlight: inFlight, Accepted: accepted, Counters: redirect.Counters{Seen: redirected, Redirected: redirected},
	}}}
}

// sessions records so many connections of a pod, from begin to end.
func sessions(t *testing.T, l *ledger, uid string, n int) {
	t.Helper()
	for range n {
		for _, kind := range []audit.Kind{audit.KindSessionOpen, audit.KindSessionClose} {
			if _, err := l.recorder.Append(&audit.Record{Kind: kind, Session: audit.NewID(), Workload: &audit.Workload{UID: uid}}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestConnectionThatNoRecordNamesIsFound(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 2)
	l.update(counted("a", 3, 0))
	l.round()
	if len(*told) != 0 {
		t.Errorf("got %v in the first round, want it to wait for what is under way", *told)
	}
	for range 3 {
		l.update(counted("a", 3, 0))
		l.round()
	}
	if len(*told) != 1 || !strings.Contains((*told)[0], "a Unaudited 1 connections") {
		t.Errorf("got %v, want one Event about one connection", *told)
	}
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing, want 1", got)
	}
}

func TestConnectionsUnderWayAreNotMissing(t *testing.T) {
	l, told := newBooks(t)
	l.pods.replace([]cluster.Pod{{UID: "a"}})
	l.pods.enter(t.Context(), "a") // logging in, for minutes
	sessions(t, l, "a", 2)
	for range 3 {
		l.update(counted("a", 4, 1)) // two recorded, one with the agent, one with the gate
		l.round()
	}
	if len(*told) != 0 {
		t.Errorf("got %v, want nothing missing", *told)
	}
}

func TestCountsOfEarlierAgentsAreNotThisOnes(t *testing.T) {
	l, told := newBooks(t)
	l.begin(counted("a", 100, 0))
	sessions(t, l, "a", 1)
	for range 2 {
		l.update(counted("a", 101, 0))
		l.round()
	}
	for range 2 {
		l.update(led("a", 0, 101, 0, time.Unix(1, 0))) // maps that were made anew
		l.round()
	}
	if len(*told) != 0 {
		t.Errorf("got %v, want nothing missing", *told)
	}
}

func TestConnectionsOfTheOtherAgentInAnUpgradeAreNotThisOnes(t *testing.T) {
	l, told := newBooks(t)
	rounds := func(when string, redirected, accepted uint64, alone time.Time, want int64) {
		t.Helper()
		for range 3 {
			l.update(led("a", redirected, accepted, 0, alone))
			l.round()
		}
		if got := l.missing("a"); got != want {
			t.Errorf("got %d missing %s (%v), want %d", got, when, *told, want)
		}
	}
	sessions(t, l, "a", 3)
	rounds("before the upgrade", 3, 3, time.Unix(1, 0), 0)
	rounds("beside the other agent", 20, 3, time.Time{}, 0)
	sessions(t, l, "a", 2)
	rounds("with connections of both", 30, 5, time.Time{}, 0)
	rounds("with one of its own without a record", 40, 6, time.Time{}, 1)
	rounds("alone again", 40, 6, time.Unix(9, 0), 1)
	rounds("with one that nobody accepted", 41, 6, time.Unix(9, 0), 2)
}

func TestAgentThatComesInAnUpgradeMissesNothing(t *testing.T) {
	l, told := newBooks(t)
	first := led("a", 100, 0, 0, time.Time{})
	first.Pods[0].Class, first.Pods[0].Sandbox = "unknown", 0 // its gate has not looked at the pod
	first.Pods[0].Counters = redirect.Counters{}
	l.begin(first)
	sessions(t, l, "a", 2)
	for range 3 {
		l.update(led("a", 150, 2, 0, time.Time{}))
		l.round()
	}
	for range 3 { // the other has gone
		l.update(led("a", 160, 2, 0, time.Unix(9, 0)))
		l.round()
	}
	if len(*told) != 0 {
		t.Errorf("got %v, want nothing missing", *told)
	}
}

func TestConnectionThatTheGateDidNotAcceptIsFound(t *testing.T) {
	l, told := newBooks(t)
	alone := time.Unix(1, 0)
	earlier := func(redirected, accepted uint64, inFlight int) {
		s := led("a", redirected, accepted, inFlight, alone)
		s.Pods[0].Earlier = 7
		l.update(s)
		l.round()
	}
	sessions(t, l, "a", 1)
	for range 3 {
		earlier(8+gate.MaxInFlight+5, 1+gate.MaxInFlight, gate.MaxInFlight) // five wait in the listener
	}
	if len(*told) != 0 {
		t.Errorf("got %v, want nothing missing of what waits", *told)
	}
	sessions(t, l, "a", gate.MaxInFlight+4)
	for range 2 { // one of the five was not accepted
		earlier(8+gate.MaxInFlight+5, 1+gate.MaxInFlight+4, 0)
	}
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing, want 1", got)
	}
}

func TestClientThatGaveUpIsNotMissing(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 1)
	for gone := range 4 {
		s := led("a", uint64(3+gone), 1, 0, time.Unix(1, 0))
		s.Pods[0].GivenUp = uint64(1 + gone) // beside one that nobody accounts for
		l.update(s)
		l.round()
	}
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing (%v), want the one that did not give up", got, *told)
	}
}

func TestBooksBeginAgainWithAGateThatIsNew(t *testing.T) {
	l, _ := newBooks(t)
	sessions(t, l, "a", 5)
	l.update(counted("a", 5, 0))
	l.part()
	l.begin(gate.Status{}) // it has not looked at the pod
	sessions(t, l, "a", 1)
	for range 2 {
		l.update(led("a", 7, 2, 0, time.Time{}))
		l.round()
	}
	if got := l.missing("a"); got != 1 {
		t.Errorf("got %d missing of two, one of them recorded, want 1", got)
	}
}

func TestBookOfAPodThatIsGoneIsClosedOnce(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 2)
	l.end("a", 1, &redirect.Counters{Redirected: 3}, 3)
	for range 3 { // the gate still shows it
		l.round()
		l.update(counted("a", 3, 0))
	}
	if len(*told) != 1 || !strings.Contains((*told)[0], "1 connections") {
		t.Errorf("got %v, want one Event about one connection", *told)
	}
	l.update(gate.Status{})
	if len(l.books) != 0 || len(l.closed) != 0 {
		t.Errorf("got %d books and %d closed ones, want none", len(l.books), len(l.closed))
	}
}

func TestKernelRefusalsOfAPodAreRecordedUpToAShare(t *testing.T) {
	l, _ := newBooks(t)
	recorded := 0
	for range 10 * maxKernelRefusals {
		if l.mayRecord("a", false) {
			recorded++
		}
	}
	if recorded != maxKernelRefusals {
		t.Errorf("got %d recorded, want %d", recorded, maxKernelRefusals)
	}
	if !l.mayRecord("b", true) || l.mayRecord("b", true) || !l.mayRecord("b", false) {
		t.Error("got another pod's refusals kept out, or more than one datagram, want its own share")
	}
	l.round()
	if !l.mayRecord("a", false) {
		t.Error("got none recorded in the next round, want a new share")
	}
}

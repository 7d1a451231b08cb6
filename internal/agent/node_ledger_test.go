package agent

import (
	"strings"
	"testing"

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
	return newLedger(a.recorder, newPods(), m.Node(nil, nil), told, a.o.Log.(*logrus.Logger)), told
}

func counted(uid string, redirected uint64, inFlight int) []gate.PodStatus {
	return []gate.PodStatus{{UID: uid, InFlight: inFlight, Counters: redirect.Counters{Seen: redirected, Redirected: redirected}}}
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
	if _, _, err := l.pods.enter(t.Context(), "a"); err != nil { // logging in, for minutes
		t.Fatal(err)
	}
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
	l.update(counted("a", 0, 0)) // maps that were made anew
	l.round()
	if len(*told) != 0 {
		t.Errorf("got %v, want nothing missing", *told)
	}
}

func TestBookOfAPodThatIsGoneIsClosedOnce(t *testing.T) {
	l, told := newBooks(t)
	sessions(t, l, "a", 2)
	l.end("a", &redirect.Counters{Redirected: 3})
	for range 3 { // the gate still shows it
		l.round()
		l.update(counted("a", 3, 0))
	}
	if len(*told) != 1 || !strings.Contains((*told)[0], "1 connections") {
		t.Errorf("got %v, want one Event about one connection", *told)
	}
	l.update(nil)
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

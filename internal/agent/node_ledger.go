package agent

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/redirect"
)

// ledger compares, pod by pod, two pairs of numbers:
//
// What this agent's gate accepted, and what left a record. The gate counts by
// itself and next to the kernel, so that whatever happens to a connection in the
// agent, a flaw, a lost record or a fault, shows here: it is accepted and no record
// names it. This holds too while another agent and its gate serve the same pods, as
// in an upgrade, and a connection that one of them accepted is its own to record.
//
// What the kernel led to the pod's listeners, and what the gate accepted. This
// finds what somebody else accepted, or the gate closed without knowing whose it
// was; a client that gave up before it was accepted is nobody's. The kernel counts
// for all gates together, so that it is compared for as long as the gate is alone,
// and not while connections wait in the listener since the pod has its share
// already. What waits there when a pod ends is reset and nobody's.
//
// A pod may have one sandbox after the other, and what both count begins with each:
// the book sums them up, since what an earlier one had accepted may leave its record
// when there is a new one.
//
// A connection is under way for moments: one counts as missing only when it is
// still a round later. It is under way, too, until it is logged in; one that is
// served without a record is found when it ends, or its pod.
type ledger struct {
	recorder *recorder
	pods     *pods
	metrics  *metrics.Node
	announce announcer
	log      logrus.FieldLogger

	mu     sync.Mutex
	met    bool              // the counts of the gate that there is are begun with
	books  map[string]*book  // by the pod's UID
	closed map[string]uint64 // the last sandbox of pods whose book is closed, for as long as the gate still shows them
}

// announcer raises Events on pods.
type announcer interface {
	Event(podUID string, reason cluster.Reason, message string)
}

// book is what is known of one pod.
type book struct {
	name     audit.Workload    // who it is, also when the pod is gone
	now      counts            // of the sandbox that there is
	before   counts            // of the one before it, whose last counts may come late
	past     counts            // of all that were: its number is none's
	entered  redirect.Counters // of the last record
	base     int64             // accepted and not this agent's to record
	inFlight int               // accepted, and not taken yet
	recorded difference
	strays   strays
	reported int64 // that a record, a metric and an Event have told of
	gone     bool  // no more counters will come, but for those of another sandbox
	absent   bool  // the gate did not show it in the last round
	refusals refusalBook
}

// counts are those of one sandbox.
type counts struct {
	sandbox  uint64            // its number, 0: there is none yet
	kernel   redirect.Counters // newest
	accepted int64             // by the gate, newest
}

// add adds what newer counts say beyond older ones.
func (c *counts) add(newer, older counts) {
	c.accepted += newer.accepted - older.accepted
	c.kernel.Seen += newer.kernel.Seen - older.kernel.Seen
	c.kernel.Redirected += newer.kernel.Redirected - older.kernel.Redirected
	c.kernel.Refused += newer.kernel.Refused - older.kernel.Refused
	c.kernel.Dropped += newer.kernel.Dropped - older.kernel.Dropped
}

// total is what all sandboxes have counted.
func (b *book) total() counts {
	sum := b.past
	sum.add(b.now, counts{})
	return sum
}

// difference is how many connections are in one count and not in the other.
type difference struct {
	last int64 // of the last round
	told int64 // that was told of
}

// find takes a round's difference, and tells what is new of it and lasts. Of one
// that is final nothing is under way any more.
func (d *difference) find(now int64, final bool) int64 {
	lasting := min(now, d.last)
	if final {
		lasting = now
	}
	d.last = now
	found := max(0, lasting-d.told)
	d.told += found
	return found
}

// strays are what the kernel led to a pod's listeners and its gate did not accept.
type strays struct {
	difference

	known   bool      // there was a look before
	alone   time.Time // since when the gate is, as of the last look
	offset  int64     // what was between the two counts at the start
	between int64     // now
	exact   bool      // the two can be compared now
}

// look takes newer counts; last is the kernel's as of the look before.
func (s *strays) look(p gate.PodStatus, alone time.Time, last uint64) {
	led := p.Counters.Redirected
	s.between = int64(led) - int64(p.Accepted) - int64(p.GivenUp)
	switch {
	case !s.known && !alone.IsZero() && !p.Since.Before(alone): // it saw all but what was there before
		s.offset = int64(p.Earlier)
	case !s.known, !alone.Equal(s.alone), led < last: // smaller ones are of maps that were made anew
		s.offset, s.difference = s.between, difference{}
	default: // what waited in the listener at the start came
		s.offset = min(s.offset, s.between)
	}
	s.known, s.alone = true, alone
	s.exact = !alone.IsZero() && p.InFlight < gate.MaxInFlight
}

// round tells how many are new.
func (s *strays) round() int64 {
	if !s.exact {
		s.last = 0 // two looks after this one count
		return 0
	}
	return s.find(s.between-s.offset, false)
}

// refusalBook bounds the records of what the kernel refused to one pod.
type refusalBook struct {
	recorded, left uint64
	datagram       bool // one of a socket that is not TCP's is recorded
}

// maxKernelRefusals is how many of a pod's are recorded between two rounds. A
// process that tries again and again would fill the trail with the same line.
const maxKernelRefusals = 60

func newLedger(r *recorder, p *pods, m *metrics.Node, a announcer, log logrus.FieldLogger) *ledger {
	return &ledger{recorder: r, pods: p, metrics: m, announce: a, log: log, books: make(map[string]*book), closed: make(map[string]uint64)}
}

// part ends the counts of a gate that is gone.
func (l *ledger) part() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.met = false
}

// begin takes the counts that are there when this agent meets its gate: what was
// accepted before, and has left no record here, is somebody else's to account for.
func (l *ledger) begin(status gate.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meet(status)
}

// meet is begin. The caller holds mu.
func (l *ledger) meet(status gate.Status) {
	l.met = true
	l.closeGone()
	clear(l.closed)             // a gate that is new numbers sandboxes anew
	for _, b := range l.books { // and has accepted nothing
		b.now, b.before, b.past, b.inFlight = counts{}, counts{}, counts{}, 0
		b.strays, b.recorded, b.reported = strays{}, difference{}, 0
	}
	for _, p := range status.Pods {
		b := l.book(p.UID, p.Namespace, p.Name)
		b.take(p, status.Alone)
		b.entered = b.total().kernel
	}
	for uid, b := range l.books {
		b.base = b.now.accepted - int64(l.recorder.of(uid).all.Load()) - max(0, l.pending(uid)) - int64(b.inFlight)
	}
}

// update takes newer counters. A pod that the gate does not show any more, for two
// rounds, is gone: the word of it may have found no room.
func (l *ledger) update(status gate.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.met {
		l.meet(status)
		return
	}
	still, shown := make(map[string]uint64), make(map[string]bool, len(status.Pods))
	for _, p := range status.Pods {
		shown[p.UID] = true
		if last, over := l.closed[p.UID]; over && p.Sandbox <= last {
			still[p.UID] = last
			continue
		}
		b := l.book(p.UID, p.Namespace, p.Name)
		b.take(p, status.Alone)
	}
	l.closed = still
	for uid, b := range l.books {
		b.gone = b.gone || b.absent && !shown[uid]
		b.absent = !shown[uid]
	}
}

// end takes the last counts of a pod's sandbox. The next round closes the pod's
// book, unless there is another sandbox by then.
func (l *ledger) end(uid string, sandbox uint64, kernel *redirect.Counters, accepted uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, over := l.closed[uid]; over && sandbox <= last {
		return
	}
	b := l.book(uid, "", "")
	switch {
	case sandbox > b.now.sandbox:
		b.replace(sandbox) // it began and ended since the last look
	case sandbox == b.before.sandbox:
		last := b.before
		b.before.end(kernel, accepted)
		b.past.add(b.before, last)
		return
	case sandbox < b.now.sandbox:
		return // its counts are as of the last look
	}
	b.now.end(kernel, accepted)
	b.inFlight, b.gone = 0, true
}

func (c *counts) end(kernel *redirect.Counters, accepted uint64) {
	if kernel != nil {
		c.kernel = *kernel
	}
	c.accepted = int64(accepted)
}

// replace begins the counts of another sandbox.
func (b *book) replace(sandbox uint64) {
	b.past.add(b.now, counts{})
	b.before, b.now = b.now, counts{sandbox: sandbox}
	b.strays, b.gone = strays{}, false
}

// book gives a pod's. The caller holds mu.
func (l *ledger) book(uid, namespace, name string) *book {
	b, ok := l.books[uid]
	if !ok {
		b = &book{name: audit.Workload{UID: uid, Namespace: namespace, Pod: name}}
		l.books[uid] = b
	}
	if one, known := l.pods.find(uid); known {
		b.name.Namespace, b.name.Pod, b.name.ServiceAccount = one.Namespace, one.Name, one.ServiceAccount
	}
	return b
}

// take replaces the newest counts. There are none of a pod that has no sandbox.
func (b *book) take(p gate.PodStatus, alone time.Time) {
	if p.Sandbox == 0 || p.Sandbox < b.now.sandbox || p.Sandbox == b.now.sandbox && b.gone {
		return // or they are older than what is known
	}
	if p.Sandbox > b.now.sandbox {
		b.replace(p.Sandbox)
	}
	b.now.accepted, b.inFlight = int64(p.Accepted), p.InFlight
	b.strays.look(p, alone, b.now.kernel.Redirected)
	b.now.kernel = p.Counters
}

// pending is how many connections of a pod the agent has that left no record yet.
func (l *ledger) pending(uid string) int64 {
	return int64(l.pods.open(uid)) - l.recorder.of(uid).open.Load()
}

// over tells whether a pod's book was closed, and no other sandbox has begun.
func (l *ledger) over(uid string, sandbox uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, over := l.closed[uid]
	return over && sandbox <= last
}

// missing is how many connections of a pod no record names.
func (l *ledger) missing(uid string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.books[uid]; ok {
		return b.reported
	}
	return 0
}

// round compares, and writes a record of each pod for which something changed.
func (l *ledger) round() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, b := range l.books {
		if !b.gone {
			l.compare(uid, b)
		}
	}
	l.closeGone()
}

// closeGone closes the books of pods that are gone. The caller holds mu.
func (l *ledger) closeGone() {
	for uid, b := range l.books {
		if b.gone {
			l.compare(uid, b)
			delete(l.books, uid)
			l.closed[uid] = b.now.sandbox
			l.recorder.pods.Delete(uid)
		}
	}
}

// compare closes one pod's book for this round. The caller holds mu.
func (l *ledger) compare(uid string, b *book) {
	recorded := l.recorder.of(uid).all.Load()
	total := b.total()
	accepted := total.accepted - b.base
	found := b.recorded.find(accepted-int64(recorded)-max(0, l.pending(uid))-int64(b.inFlight), b.gone)
	if !b.gone {
		found += b.strays.round()
	}
	b.reported += found
	if total.kernel != b.entered || found > 0 {
		b.entered = total.kernel
		workload := b.name
		l.recorder.put(&audit.Record{Kind: audit.KindLedger, Workload: &workload, Ledger: &audit.Ledger{
			Seen: total.kernel.Seen, Redirected: uint64(max(0, accepted)), Refused: total.kernel.Refused, Dropped: total.kernel.Dropped,
			Sessions: recorded, Missing: b.reported,
		}})
	}
	if found > 0 {
		l.metrics.Missing(found)
		l.log.WithField("pod", uid).WithField("connections", found).Error("Kernel led connections here that no record names")
		l.announce.Event(uid, cluster.Unaudited, fmt.Sprintf("%d connections were led to Postern and no record names them", found))
	}
	if b.refusals.left > 0 {
		l.recorder.note(audit.KindAgentDegraded, "kernel-refusals-not-recorded", map[string]string{
			"uid": uid, "refusals": strconv.FormatUint(b.refusals.left, 10),
		})
	}
	b.refusals = refusalBook{}
}

// mayRecord tells whether another refusal of a pod's is recorded; those that are
// not are counted, but for datagrams' beyond the first.
func (l *ledger) mayRecord(uid string, datagram bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.book(uid, "", "")
	if datagram {
		first := !b.refusals.datagram
		b.refusals.datagram = true
		return first
	}
	if b.refusals.recorded >= maxKernelRefusals {
		b.refusals.left++
		return false
	}
	b.refusals.recorded++
	return true
}

package agent

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/redirect"
)

// ledger compares, pod by pod, the connections that the kernel led to this agent
// with those that left a record.
//
// A connection is counted by the kernel a moment before the gate has it, by the
// agent a moment later, and by the recorder when it is logged in. What is under way
// is no difference, so one counts only when it is still there a round later.
type ledger struct {
	recorder *recorder
	pods     *pods
	metrics  *metrics.Node
	announce announcer
	log      logrus.FieldLogger

	mu     sync.Mutex
	books  map[string]*book // by the pod's UID
	closed map[string]bool  // of pods that are gone, for as long as the gate still shows their counters
}

// announcer raises Events on pods.
type announcer interface {
	Event(podUID string, reason cluster.Reason, message string)
}

// book is what is known of one pod.
type book struct {
	name     audit.Workload    // who it is, also when the pod is gone
	base     redirect.Counters // of the time before this agent's first look
	last     redirect.Counters // newest
	entered  redirect.Counters // of the last record
	missing  int64             // of the last round
	reported int64             // that a record, a metric and an Event have told of
	gone     bool              // no more counters will come
	inFlight int               // accepted by the gate, and not taken yet
	refusals refusalBook
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
	return &ledger{recorder: r, pods: p, metrics: m, announce: a, log: log, books: make(map[string]*book), closed: make(map[string]bool)}
}

// begin takes the counters that are there when this agent meets its gate: what was
// counted before is somebody else's to account for.
func (l *ledger) begin(pods []gate.PodStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range pods {
		b := l.book(p.UID, p.Namespace, p.Name)
		b.base, b.last, b.entered = p.Counters, p.Counters, p.Counters
		ours := l.recorder.of(p.UID).all.Load() + uint64(max(0, l.pending(p.UID)))
		b.base.Redirected -= min(ours, b.base.Redirected)
		b.missing, b.reported = 0, 0
	}
}

// update takes newer counters.
func (l *ledger) update(pods []gate.PodStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	still := make(map[string]bool)
	for _, p := range pods {
		if l.closed[p.UID] {
			still[p.UID] = true
			continue
		}
		b := l.book(p.UID, p.Namespace, p.Name)
		b.take(p.Counters)
		b.inFlight = p.InFlight
	}
	l.closed = still
}

// end takes the last counters of a pod. The next round closes its book.
func (l *ledger) end(uid string, counters *redirect.Counters) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed[uid] {
		return
	}
	b := l.book(uid, "", "")
	if counters != nil {
		b.take(*counters)
	}
	b.gone, b.inFlight = true, 0
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

// take replaces the newest counters. Smaller ones are of maps that were made anew.
func (b *book) take(c redirect.Counters) {
	if c.Redirected < b.last.Redirected {
		b.base = redirect.Counters{}
		b.entered = redirect.Counters{}
	}
	b.last = c
}

// pending is how many connections of a pod the agent has that left no record yet.
func (l *ledger) pending(uid string) int64 {
	return int64(l.pods.open(uid)) - l.recorder.of(uid).open.Load()
}

// over tells whether a pod's book was closed.
func (l *ledger) over(uid string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed[uid]
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
		l.compare(uid, b)
		if b.gone {
			delete(l.books, uid)
			l.closed[uid] = true
			l.recorder.pods.Delete(uid)
		}
	}
}

// compare closes one pod's book for this round. The caller holds mu.
func (l *ledger) compare(uid string, b *book) {
	recorded := l.recorder.of(uid).all.Load()
	led := b.last.Redirected - min(b.base.Redirected, b.last.Redirected)
	missing := int64(led) - int64(recorded) - max(0, l.pending(uid)) - int64(b.inFlight)
	lasting := min(missing, b.missing)
	if b.gone {
		lasting = missing // nothing of it is under way any more
	}
	b.missing = missing
	found := max(0, lasting-b.reported)
	if b.last != b.entered || found > 0 {
		b.entered = b.last
		workload := b.name
		l.recorder.put(&audit.Record{Kind: audit.KindLedger, Workload: &workload, Ledger: &audit.Ledger{
			Seen: b.last.Seen, Redirected: led, Refused: b.last.Refused, Dropped: b.last.Dropped,
			Sessions: recorded, Missing: max(0, lasting),
		}})
	}
	if found > 0 {
		b.reported += found
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

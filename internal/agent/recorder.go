package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
)

// recorder counts what goes into the trail.
type recorder struct {
	trail   *audit.Log
	metrics *metrics.Metrics
	log     logrus.FieldLogger
	denied  func(*audit.Record)  // hears of what was refused, once it is written; may be nil
	stale   func() time.Duration // for how long nobody has confirmed what decides; nil: it is the node's own

	refused  atomic.Uint64
	lost     atomic.Uint64 // records that the trail did not take
	sessions atomic.Uint64 // connections that left a record
	open     sync.Map      // IDs of the sessions among them that are logged in
	pods     sync.Map      // by UID: *tally
}

// tally counts the connections of one pod that left a record.
type tally struct {
	all  atomic.Uint64
	open atomic.Int64 // logged in now
}

// Append is [proxy.Recorder]'s.
func (r *recorder) Append(record *audit.Record) (int64, error) {
	if r.stale != nil {
		if stale := r.stale(); stale > noticed {
			record.StaleUS = stale.Microseconds()
		}
	}
	index, err := r.trail.Append(record)
	r.metrics.AuditWritable(err == nil)
	if err != nil {
		r.lost.Add(1)
		if record.Kind == audit.KindSessionClose { // it is over all the same, and no connection is under way for it
			r.count(record)
		}
		return 0, err
	}
	r.count(record)
	r.metrics.AuditRecord(string(record.Kind))
	if record.Kind == audit.KindRefusal || record.Decision != nil && record.Decision.Action == "deny" {
		r.refused.Add(1)
		if r.denied != nil {
			r.denied(record)
		}
	}
	return index, nil
}

// Count is [proxy.Recorder]'s.
func (r *recorder) Count(record *audit.Record) {
	r.count(record)
	r.refused.Add(1)
}

// put writes a record of the agent's own life. One that cannot be written
// is logged and no more: the sessions, which depend on the trail, are refused.
func (r *recorder) put(record *audit.Record) {
	if _, err := r.Append(record); err != nil {
		r.log.WithError(err).WithField("kind", record.Kind).Error("Record not written")
	}
}

func (r *recorder) note(kind audit.Kind, reason string, detail map[string]string) {
	r.put(&audit.Record{Kind: kind, Event: &audit.Event{Reason: reason, Detail: detail}})
}

// count counts a connection at the first of its records that was written.
//
// Shape: a connection is logged in, refused, or a cancel request, whose record
// has the ID of the session that it cancels.
func (r *recorder) count(record *audit.Record) {
	switch record.Kind {
	case audit.KindSessionOpen:
		r.open.Store(record.Session, nil)
		r.add(record.Workload)
		r.tally(record.Workload).open.Add(1)
	case audit.KindSessionClose:
		r.open.Delete(record.Session)
		r.tally(record.Workload).open.Add(-1)
	case audit.KindCancel:
		r.add(record.Workload)
	case audit.KindRefusal:
		// Nobody can tell whether the kernel led it here, which makes it none of those that it counted.
		// One without a session was refused by the kernel, and never arrived.
		unknown := record.Session == "" || record.Refusal != nil && record.Refusal.Reason == string(metrics.NoOrigin)
		if _, counted := r.open.Load(record.Session); !counted && !unknown {
			r.add(record.Workload)
		}
	}
}

// add counts a connection of a workload.
func (r *recorder) add(workload *audit.Workload) {
	r.sessions.Add(1)
	r.tally(workload).all.Add(1)
}

// tally gives the count of a workload's pod; those of no pod have one together.
func (r *recorder) tally(workload *audit.Workload) *tally {
	if workload == nil {
		return r.of("")
	}
	return r.of(workload.UID)
}

// of gives the count of a pod.
func (r *recorder) of(podUID string) *tally {
	t, ok := r.pods.Load(podUID)
	if !ok {
		t, _ = r.pods.LoadOrStore(podUID, new(tally))
	}
	return t.(*tally)
}

// Wait is [proxy.Recorder]'s.
func (r *recorder) Wait(ctx context.Context, index int64) error {
	start := time.Now()
	err := r.trail.Wait(ctx, index)
	r.metrics.AuditWaited(time.Since(start))
	return err
}

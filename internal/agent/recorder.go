package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
)

// recorder counts what goes into the trail.
type recorder struct {
	trail   *audit.Log
	metrics *metrics.Metrics

	refused  atomic.Uint64
	lost     atomic.Uint64 // records that the trail did not take
	sessions atomic.Uint64 // connections that left a record
	open     sync.Map      // IDs of the sessions among them that are logged in
}

// Append is [proxy.Recorder]'s.
func (r *recorder) Append(record *audit.Record) (int64, error) {
	index, err := r.trail.Append(record)
	r.metrics.AuditWritable(err == nil)
	if err != nil {
		r.lost.Add(1)
		return 0, err
	}
	r.count(record)
	r.metrics.AuditRecord(string(record.Kind))
	if record.Kind == audit.KindRefusal || record.Decision != nil && record.Decision.Action == "deny" {
		r.refused.Add(1)
	}
	return index, nil
}

// count counts a connection at the first of its records that was written.
//
// Shape: a connection is logged in, refused, or a cancel request, whose record
// has the ID of the session that it cancels.
func (r *recorder) count(record *audit.Record) {
	switch record.Kind {
	case audit.KindSessionOpen:
		r.open.Store(record.Session, nil)
		r.sessions.Add(1)
	case audit.KindSessionClose:
		r.open.Delete(record.Session)
	case audit.KindCancel:
		r.sessions.Add(1)
	case audit.KindRefusal:
		// Nobody can tell whether the kernel led it here, which makes it none of those that it counted.
		unknown := record.Refusal != nil && record.Refusal.Reason == string(metrics.NoOrigin)
		if _, counted := r.open.Load(record.Session); !counted && !unknown {
			r.sessions.Add(1)
		}
	}
}

// Wait is [proxy.Recorder]'s.
func (r *recorder) Wait(ctx context.Context, index int64) error {
	start := time.Now()
	err := r.trail.Wait(ctx, index)
	r.metrics.AuditWaited(time.Since(start))
	return err
}

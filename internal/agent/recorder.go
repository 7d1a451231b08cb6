package agent

import (
	"context"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
)

// recorder counts what goes into the trail.
type recorder struct {
	trail   *audit.Log
	metrics *metrics.Metrics

	refused atomic.Uint64
}

// Append is [proxy.Recorder]'s.
func (r *recorder) Append(record *audit.Record) (int64, error) {
	index, err := r.trail.Append(record)
	r.metrics.AuditWritable(err == nil)
	if err != nil {
		return 0, err
	}
	r.metrics.AuditRecord(string(record.Kind))
	if record.Kind == audit.KindRefusal || record.Decision != nil && record.Decision.Action == "deny" {
		r.refused.Add(1)
	}
	return index, nil
}

// Wait is [proxy.Recorder]'s.
func (r *recorder) Wait(ctx context.Context, index int64) error {
	start := time.Now()
	err := r.trail.Wait(ctx, index)
	r.metrics.AuditWaited(time.Since(start))
	return err
}

package audit

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// BenchmarkAppend measures records that are durable before the session goes
// on, by the number of sessions that wait at once.
func BenchmarkAppend(b *testing.B) {
	for _, kind := range []string{"outcome", "request"} {
		for _, sessions := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/%d", kind, sessions), func(b *testing.B) { benchmarkAppend(b, kind, sessions) })
		}
	}
}

func benchmarkAppend(b *testing.B, kind string, sessions int) {
	f := newFixture(b)
	l, err := Open(f.o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var g errgroup.Group
	g.Go(func() error { return l.Run(ctx) })

	var mu sync.Mutex
	var waits []time.Duration
	var work errgroup.Group
	b.ReportAllocs()
	b.ResetTimer()
	for n := range sessions {
		share := b.N / sessions
		if n < b.N%sessions {
			share++
		}
		work.Go(func() error {
			own := make([]time.Duration, 0, share)
			for range share {
				begun := time.Now()
				index, err := l.Append(benchRecord(kind))
				if err == nil {
					err = l.Wait(ctx, index)
				}
				if err != nil {
					return err
				}
				own = append(own, time.Since(begun))
			}
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, own...)
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	slices.Sort(waits)
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rec/s")
	cancel()
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

func benchRecord(kind string) *Record {
	r := &Record{
		Kind: KindOutcome, Session: "0190c1f0-0000-7000-8000-000000000000", Seq: 3,
		RequestID: "0190c1f0-0000-7000-8000-000000000001",
		Outcome:   &Outcome{Status: StatusOK, Code: "00000", Rows: 12, Bytes: 840, DurationUS: 913},
	}
	if kind == "request" {
		r.Kind, r.RequestID, r.Outcome = KindRequest, "", nil
		r.Workload = &Workload{PID: 4312, Process: "psql", LinuxUID: 1000, User: "linux:ada", Verified: "kernel"}
		r.Target = &Target{Name: "orders-db", Protocol: "postgres", Address: "10.8.0.5:5432", TLS: "verify-full"}
		r.Request = &Request{Operations: []string{"SELECT"}, Relations: []string{"public.users"},
			Text: "SELECT abalance FROM pgbench_accounts WHERE aid = $1", Parameters: []string{"4711"}}
		r.Decision = &Decision{Action: "allow", Policy: "report-agents", Rule: "reads", Hash: "sha256:00"}
	}
	return r
}

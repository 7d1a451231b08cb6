package redirect

import (
	"fmt"

	"postern.dev/postern/bpf"
)

// Counters count since the run began.
type Counters struct {
	Seen       uint64 // connects to guarded destinations
	Redirected uint64 // of these, arrived at the listener
	Refused    uint64 // connects, binds and datagrams refused
	Dropped    uint64 // packets that went around connect
	Others     uint64 // refused to other processes
}

// Counters tell what the programs did so far.
func (r *Run) Counters() (Counters, error) {
	var c Counters
	for counter, sum := range map[bpf.RedirectCounter]*uint64{
		bpf.RedirectCounterSEEN:       &c.Seen,
		bpf.RedirectCounterREDIRECTED: &c.Redirected,
		bpf.RedirectCounterREFUSED:    &c.Refused,
		bpf.RedirectCounterDROPPED:    &c.Dropped,
		bpf.RedirectCounterOTHERS:     &c.Others,
	} {
		var perCPU []uint64
		if err := r.maps.Counters.Lookup(counter, &perCPU); err != nil {
			return Counters{}, fmt.Errorf("read counters: %w", err)
		}
		for _, n := range perCPU {
			*sum += n
		}
	}
	return c, nil
}

package redirect

import (
	"fmt"

	"github.com/cilium/ebpf"

	"postern.dev/postern/bpf"
)

// Counters count since the run began, or since the pod was known.
type Counters struct {
	Seen       uint64 // connects to guarded destinations
	Redirected uint64 // of these, arrived at the listener
	Refused    uint64 // connects, binds and datagrams refused
	Dropped    uint64 // packets that went around connect
	Others     uint64 // refused to other processes
	Untold     uint64 // refusals that no [KernelRefusal] tells of
}

// Counters tell what the programs did so far.
func (r *Run) Counters() (Counters, error) { return readCounters(r.maps.Counters, 0) }

// Counters tell what the programs did so far with a pod's connections; with an
// empty uid, with those of pods that nobody knew.
//
// Errors: [ErrUnknownPod].
func (n *Node) Counters(uid string) (Counters, error) {
	if uid == "" {
		return readCounters(n.maps.Counters, 0)
	}
	n.mu.Lock()
	m, err := n.still(uid)
	n.mu.Unlock()
	if err != nil {
		return Counters{}, err
	}
	if m == nil {
		return Counters{}, fmt.Errorf("pod %s: %w", uid, ErrUnknownPod)
	}
	return readCounters(n.maps.Counters, m.pod.Index)
}

func readCounters(m *ebpf.Map, pod uint32) (Counters, error) {
	var c Counters
	for counter, sum := range map[bpf.RedirectCounter]*uint64{
		bpf.RedirectCounterSEEN:       &c.Seen,
		bpf.RedirectCounterREDIRECTED: &c.Redirected,
		bpf.RedirectCounterREFUSED:    &c.Refused,
		bpf.RedirectCounterDROPPED:    &c.Dropped,
		bpf.RedirectCounterOTHERS:     &c.Others,
		bpf.RedirectCounterUNTOLD:     &c.Untold,
	} {
		var perCPU []uint64
		if err := m.Lookup(counterKey(pod, counter), &perCPU); err != nil {
			return Counters{}, fmt.Errorf("read counters: %w", err)
		}
		for _, n := range perCPU {
			*sum += n
		}
	}
	return c, nil
}

func counterKey(pod uint32, counter bpf.RedirectCounter) uint32 {
	return pod*uint32(bpf.RedirectCounterCOUNTERS) + uint32(counter)
}

// resetCounters is for a pod that gets the index of one that is gone.
func (n *Node) resetCounters(pod uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	zeros := make([]uint64, cpus)
	for counter := range bpf.RedirectCounterCOUNTERS {
		if err := n.maps.Counters.Put(counterKey(pod, counter), zeros); err != nil {
			return fmt.Errorf("write counters: %w", err)
		}
	}
	if err := n.maps.Held.Put(pod, uint64(0)); err != nil {
		return fmt.Errorf("write held: %w", err)
	}
	return nil
}

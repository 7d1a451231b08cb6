package agent

import (
	"slices"
	"strings"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/policy"
)

// maxLeakRecords is how often in a round it is told of one pod why its guard cannot
// be enforced. A pod that may make links changes that as often as it likes; what it
// comes to is told at the round's end.
const maxLeakRecords = 4

// leaks are the guarded pods that can go around their guard.
type leaks struct {
	why  map[string][]string // by UID
	told map[string]int      // in this round
	owed map[string]bool     // the newest was not told
}

func newLeaks() leaks {
	return leaks{why: make(map[string][]string), told: make(map[string]int), owed: make(map[string]bool)}
}

// unenforced notes that a pod can go around its guard, and tells whether that is to be told.
func (v *view) unenforced(uid string, reasons []string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := &v.leaky
	if slices.Equal(l.why[uid], reasons) {
		return false
	}
	l.why[uid], v.changed = slices.Clone(reasons), true
	l.owed[uid] = l.told[uid] >= maxLeakRecords
	if l.owed[uid] {
		return false
	}
	l.told[uid]++
	return true
}

// enforced notes that a pod is held, or gone.
func (v *view) enforced(uid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changed = true
	delete(v.leaky.why, uid)
	delete(v.leaky.owed, uid)
}

// leaks are why a pod can go around its guard; none: it cannot.
func (v *view) leaks(uid string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.leaky.why[uid]
}

// owed ends a round: it gives what is to be told of the pods that changed too often.
// A pod that the cluster does not know any more is forgotten: the gate's word of its
// end may have found no room.
func (v *view) owed(known func(uid string) bool) map[string][]string {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := &v.leaky
	all := make(map[string][]string)
	for uid, reasons := range l.why {
		switch {
		case !known(uid):
			delete(l.why, uid)
			v.changed = true
		case l.owed[uid]:
			all[uid] = reasons
		}
	}
	clear(l.told)
	clear(l.owed)
	return all
}

func (n *node) hearNotEnforced(e gate.Event) {
	switch {
	case len(e.Reasons) == 0: // none is left
		n.view.enforced(e.PodUID)
	case n.view.unenforced(e.PodUID, e.Reasons):
		n.tellLeaks(e.PodUID, e.Reasons)
	}
}

// guards tells whether a pod's guard is for what this version guards.
func guards(p cluster.Pod) bool {
	return p.Guarded && (len(p.Protocols) == 0 || slices.Contains(p.Protocols, string(policy.Postgres)))
}

// notGuardedYet is why a guard for other protocols alone is none.
const notGuardedYet = "its guard names protocols that are not guarded yet, and not postgres: label it true"

// noticeProtocols tells of the pods whose guard is for nothing: their labels look as
// if they were guarded.
func (n *node) noticeProtocols(list []cluster.Pod) {
	why := []string{notGuardedYet}
	for _, p := range list {
		switch {
		case p.Guarded && !guards(p):
			if n.view.unenforced(p.UID, why) {
				n.tellLeaks(p.UID, why)
			}
		case slices.Equal(n.view.leaks(p.UID), why):
			n.view.enforced(p.UID)
		}
	}
}

// tellOwed tells at a round's end what was too much for it.
func (n *node) tellOwed() {
	known := func(uid string) bool { _, ok := n.pods.find(uid); return ok }
	for uid, reasons := range n.view.owed(known) {
		n.tellLeaks(uid, reasons)
	}
}

// tellLeaks raises an Event and writes a record: this pod can go around its guard.
func (n *node) tellLeaks(uid string, list []string) {
	reasons := strings.Join(list, "; ")
	message := "This pod can go around its guard: " + reasons
	if n.o.StrictPods == StrictRefuse {
		message = "This pod is refused the Targets, as it can go around its guard: " + reasons
	}
	n.announce.Event(uid, cluster.NotEnforceable, message)
	workload := audit.Workload{UID: uid}
	n.witness.describe(&workload, "")
	n.recorder.put(&audit.Record{Kind: audit.KindAgentDegraded, Workload: &workload, Event: &audit.Event{
		Reason: "not-enforceable", Detail: map[string]string{"reasons": reasons},
	}})
}

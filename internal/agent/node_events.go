package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
)

// listen hears what happens on the node until the gate is gone.
func (n *node) listen(events <-chan gate.Event) {
	for e := range events {
		if e.Lost > 0 {
			n.gauges.EventsLost(e.Lost)
			n.o.Log.WithField("events", e.Lost).Warn("Events of the gate found no room")
		}
		switch e.Kind {
		case gate.Guarded:
			n.hearGuarded(e)
		case gate.NotEnforced:
			n.hearNotEnforced(e)
		case gate.KernelRefused:
			n.hearRefusal(e)
		case gate.Gone:
			n.ledger.end(e.PodUID, e.Sandbox, e.Counters, e.Accepted)
			n.view.enforced(e.PodUID)
		}
	}
}

// hearGuarded hears of a guard that is complete: one that can be gone around may be,
// and is told of before.
func (n *node) hearGuarded(e gate.Event) {
	n.gauges.Guarded(e.Took)
	message := "Connections to Targets go through Postern"
	if e.Destroyed > 0 {
		message += fmt.Sprintf("; %d earlier ones were ended", e.Destroyed)
	}
	if mesh := n.pods.mesh(e.PodUID); mesh != "" {
		message += "; it is in a mesh (" + mesh + "), so that Postern dials from the node where a Target names no source"
	}
	n.announce.Event(e.PodUID, cluster.Guarded, message)
	n.o.Log.WithField("pod", e.PodUID).WithField("took", e.Took).Debug("Pod guarded")
}

// notTCP is how the kernel's side says that a socket which is not TCP's was refused.
// Every getaddrinfo connects such sockets to sort what it found (RFC 6724 §2), and
// sends nothing: one a round is recorded, and none is told.
const notTCP = "not TCP"

// byKernel begins what records and Events say of a refusal of the kernel's.
const byKernel = "refused by the kernel: "

// hearRefusal records what the kernel refused: the connection never came here.
func (n *node) hearRefusal(e gate.Event) {
	n.gauges.KernelRefused()
	if e.Refusal == nil || !n.ledger.mayRecord(e.PodUID, e.Refusal.Why == notTCP) {
		return
	}
	facts := e.Refusal.Facts
	workload := audit.Workload{
		UID: e.PodUID, PID: facts.PID, Process: facts.Process, Exe: facts.Exe, LinuxUID: facts.UID, Cgroup: facts.Cgroup,
		Verified: identity.Kernel,
	}
	n.witness.describe(&workload, e.Refusal.ContainerID)
	r := &audit.Record{ID: audit.NewID(), Kind: audit.KindRefusal, Workload: &workload, Refusal: &audit.Refusal{
		Reason: string(metrics.Kernel), Message: byKernel + e.Refusal.Why,
	}}
	if e.Refusal.Dialled.IsValid() {
		r.Target = n.targets.describe(e.Refusal.Dialled)
	}
	n.metrics.Refused(metrics.Kernel)
	n.recorder.put(r) // which tells the pod
}

// tellDenied raises an Event for what the proxy or the kernel refused.
//
// Shape: it names no values: the words are Postern's and the policy's.
func (n *node) tellDenied(r *audit.Record) {
	if r.Workload == nil || r.Workload.UID == "" || r.Refusal != nil && r.Refusal.Message == byKernel+notTCP {
		return
	}
	var message string
	switch {
	case r.Refusal != nil:
		message = strings.TrimPrefix(r.Refusal.Message, "postern: ")
		if r.Target != nil && r.Target.Address != "" {
			message = "Connection to " + r.Target.Address + ": " + message
		}
	case r.Decision != nil && r.Request != nil:
		message = fmt.Sprintf("%s denied by policy %s, rule %s", strings.Join(r.Request.Operations, ", "), r.Decision.Policy, r.Decision.Rule)
		if r.Decision.Policy == "" {
			message = strings.Join(r.Request.Operations, ", ") + " denied: no rule allows it"
		}
		if r.Decision.Reason != "" {
			message += ": " + r.Decision.Reason
		}
	default:
		return
	}
	n.announce.Event(r.Workload.UID, cluster.Refused, message+" (record "+r.ID+")")
}

// describe is a dialled address as records name it, with its Target where it has one.
func (t *targets) describe(dialled netip.AddrPort) *audit.Target {
	target := &audit.Target{Address: dialled.String()}
	if found := t.find(dialled); len(found) == 1 {
		target.Name, target.Host, target.Protocol = found[0].Target.Name(), found[0].Host, string(found[0].Target.Spec.Protocol)
	}
	return target
}

// gateStatus asks the gate, for as long as that may take.
func (n *node) gateStatus(ctx context.Context) (gate.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return n.link.Status(ctx)
}

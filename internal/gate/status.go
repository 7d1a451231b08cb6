package gate

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// status is what the gate has done so far.
func (g *gate) status() Status {
	s := Status{NRI: g.nri.Load(), Since: g.started, Programs: g.kernel.State()}
	g.mu.Lock()
	s.GuardedNamespaces = slices.Clone(g.namespaces)
	if g.armed != nil {
		s.Armed, s.Unarmed = g.armed.At, g.armed.Unarmed
	}
	g.mu.Unlock()
	strangers, err := g.kernel.Counters("")
	if err != nil {
		g.log.WithError(err).Warn("The node's counters cannot be read")
	}
	s.Counters = &strangers
	if s.Alone, err = g.company.since(); err != nil {
		g.log.WithError(err).Warn("Nobody knows whether there is another gate")
	}
	pods := g.all()
	sandboxes := make([]*sandbox, len(pods))
	for i, p := range pods {
		var of PodStatus
		of, sandboxes[i] = g.statusOf(p)
		s.Pods = append(s.Pods, of)
	}
	// What the kernel has counted by now is accepted by now, but for what comes
	// between the two: it was counted first.
	for i, p := range pods {
		if sandboxes[i] != nil {
			s.Pods[i].Accepted = sandboxes[i].accepted.Load()
			s.Pods[i].Lost, s.Pods[i].GivenUp = sandboxes[i].lost.Load(), sandboxes[i].givenUp.Load()
		}
		s.Pods[i].Listeners, s.Pods[i].InFlight = p.doors.addresses()
	}
	slices.SortFunc(s.Pods, func(a, b PodStatus) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return s
}

func (g *gate) statusOf(p *pod) (PodStatus, *sandbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	counters := g.countersOf(p)
	w, target := g.wishOf(p)
	s := PodStatus{
		UID: p.uid, Namespace: w.sandbox.Namespace, Name: w.sandbox.Name, Known: w.known,
		Class: p.class.String(), Since: p.since, Took: p.took,
		Counters: counters, Earlier: p.earlier, Uncovered: p.uncovered, Reasons: p.whyNot(w, target),
		Refused: p.class == guarded && p.isRefused(w),
	}
	if p.sandbox != nil {
		s.Sandbox = p.sandbox.number
	}
	if w.known {
		s.Namespace, s.Name = w.api.Namespace, w.api.Name
	}
	return s, p.sandbox
}

// countersOf reads a pod's counters. A pod that the kernel does not know any more
// was forgotten by another gate, which in an upgrade sees the end of a sandbox
// later than this one: it is found again. The caller holds the pod's mu.
func (g *gate) countersOf(p *pod) redirect.Counters {
	if p.class == unknown {
		return redirect.Counters{}
	}
	counters, err := g.kernel.Counters(p.uid)
	switch {
	case errors.Is(err, redirect.ErrUnknownPod):
		p.release(g)
	case err != nil:
		g.log.WithField("pod", p.uid).WithError(err).Warn("The pod's counters cannot be read")
	}
	return counters
}

// refusals tells the agent what the kernel refuses, until ctx ends.
func (g *gate) refusals(ctx context.Context) error {
	err := g.kernel.Refusals(ctx, func(r redirect.KernelRefusal) {
		refusal := &Refusal{
			Dialled: r.Dialled, Why: r.Why,
			Facts: workload.Facts{PID: uint32(r.PID), Process: strings.ToValidUTF8(r.Comm, "\uFFFD"), UID: r.LinuxID, Cgroup: r.Cgroup},
		}
		g.mu.Lock()
		p := g.pods[r.UID]
		g.mu.Unlock()
		if p != nil {
			refusal.ContainerID = g.containerOf(p, r.Cgroup)
		}
		g.tell(Event{Kind: KernelRefused, PodUID: r.UID, Refusal: refusal})
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

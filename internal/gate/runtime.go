package gate

import (
	"context"
	"slices"
	"time"

	"postern.dev/postern/internal/workload"
)

// sandboxes takes the container runtime's word for pods: [workload.Sandboxes].
type sandboxes struct{ gate *gate }

// Present is what there is when the runtime comes: of a pod whose sandbox was
// replaced the old one too, which has no process, until the kubelet removes it.
func (r sandboxes) Present(ctx context.Context, all []workload.Sandbox) {
	slices.SortStableFunc(all, func(a, b workload.Sandbox) int { return min(a.PID, 1) - min(b.PID, 1) }) // the last one counts
	for _, s := range all {
		r.gate.learn(s)
	}
	if err := r.gate.look(); err != nil {
		r.gate.log.WithError(err).Warn("The pods' cgroups cannot be read")
		return
	}
	if err := r.gate.settleAll(ctx, true); err != nil {
		r.gate.log.WithError(err).Warn("Pods are not settled")
	}
}

// hearAgent is how long a pod is held of which the agent has not heard. The
// kubelet and the agent hear of pods at the same time, and the kubelet has made
// the pod's network by now; while one pod is held, so are all others of the node.
const hearAgent = 250 * time.Millisecond

// Started returns when the pod is classified, or ctx ends. A pod of which the
// agent has not heard is waited for: what guards it may be its namespace.
func (r sandboxes) Started(ctx context.Context, s workload.Sandbox) {
	g := r.gate
	ctx, cancel := context.WithTimeout(ctx, hearAgent)
	defer cancel()
	p := g.learn(s)
	if p == nil {
		return
	}
	for {
		g.mu.Lock()
		told := g.told
		g.mu.Unlock()
		if err := g.look(); err != nil {
			g.log.WithError(err).Warn("The pods' cgroups cannot be read")
			return
		}
		g.settle(ctx, p, true)
		w, target := g.wishOf(p)
		if target != unknown || g.session() == nil {
			if target == guarded {
				g.log.WithField("pod", p.uid).WithField("took", time.Since(w.first)).Debug("Guarded before it starts")
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-told:
		}
	}
}

// hears notes whether there is a runtime that tells of pods. One that is gone tells of
// no sandbox that follows one that has ended: these are looked for again.
func (g *gate) hears(yes bool) {
	g.nri.Store(yes)
	if yes {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.pods {
		p.wish.stopped = false
	}
}

// Stopped lets the pod's network namespace go.
func (r sandboxes) Stopped(s workload.Sandbox) {
	g := r.gate
	g.mu.Lock()
	p := g.pods[s.UID]
	current := p != nil && p.wish.sandbox.ID == s.ID
	if current {
		p.wish.stopped = true
	}
	g.mu.Unlock()
	if !current {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(g)
}

// learn notes what the runtime says of a sandbox. One without process and without
// namespace has ended.
func (g *gate) learn(s workload.Sandbox) *pod {
	if !uidPattern.MatchString(s.UID) || s.PID == 0 && s.Netns == "" {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pods[s.UID]
	if p == nil {
		p = newPod(s.UID, time.Now())
		g.pods[s.UID] = p
	}
	p.wish.sandbox, p.wish.stopped, p.wish.spared = s, false, g.spares(s.Namespace)
	g.stick(p)
	return p
}

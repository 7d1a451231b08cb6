package gate

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// maxUncovered is how many links of a pod are named that are not covered. A pod
// that may make links can make them without end, and each is in a frame to the
// agent.
const maxUncovered = 8

// guard completes the guard of a pod that the kernel takes for guarded. Of a strict
// one its listeners are last, when nothing is left by which it could be gone around;
// of others they are first, so that nobody is refused meanwhile. The programs at the
// links know the listeners' port: where it is new, the links are covered again.
func (g *gate) guard(ctx context.Context, p *pod, w wish) {
	steps := []func(context.Context, *pod, wish) bool{g.letIn, g.cover, g.endEarlier}
	if w.api.Strict {
		steps = []func(context.Context, *pod, wish) bool{g.cover, g.endEarlier, g.letIn, g.cover}
	}
	for _, step := range steps {
		if !step(ctx, p, w) {
			break
		}
	}
	if p.isRefused(w) {
		p.doors.close()
	}
}

// isRefused tells whether the pod reaches no Target, because it could go around its
// guard.
func (p *pod) isRefused(w wish) bool {
	return w.api.Strict && (!p.covered || !p.complete || len(p.whyNot(w, guarded)) > 0)
}

// letIn opens the pod's listeners, if there is an agent that has told of the pods:
// before, it may not be ready to serve, while one beside it is. One that fails ends
// none of the other steps, which close ways.
func (g *gate) letIn(_ context.Context, p *pod, w wish) bool {
	s := g.session()
	if s == nil || !s.told.Load() || p.isRefused(w) {
		return true
	}
	opened, err := g.open(p, s)
	if err != nil {
		p.fail(g, "listen", err, w)
	}
	if opened {
		p.covered = false // the programs there know another port
	}
	return true
}

// endEarlier ends the connections that there were before the guard.
func (g *gate) endEarlier(ctx context.Context, p *pod, w wish) bool {
	if p.complete {
		return true
	}
	n, err := g.kernel.Destroy(ctx, p.uid)
	if err != nil {
		p.fail(g, "end earlier connections", err, w)
		return false
	}
	p.complete = true
	if !w.told {
		g.tell(Event{Kind: Guarded, PodUID: p.uid, Sandbox: p.sandbox.number, Took: time.Since(w.first), Destroyed: n})
	}
	return true
}

// cover puts programs at the node's ends of the pod's links, and watches for
// more links. On the node's network the hooks at the cgroup are all that there is.
func (g *gate) cover(ctx context.Context, p *pod, w wish) bool {
	if p.covered || p.place.Netns == nil {
		p.covered = true
		return true
	}
	if p.unwatch == nil {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // until it is released
		p.unwatch = cancel
		g.group.Go(func() error {
			err := g.kernel.WatchLinks(ctx, p.uid, func() { g.coverAgain(ctx, p) })
			if err == nil || ctx.Err() != nil {
				return nil
			}
			g.log.WithField("pod", p.uid).WithError(err).Warn("The pod's links are not watched")
			p.mu.Lock()
			defer p.mu.Unlock()
			if ctx.Err() == nil { // settle begins again
				cancel()
				p.unwatch, p.covered, p.retry = nil, false, time.Now().Add(retryAfter)
			}
			return nil
		})
	}
	if err := g.coverNow(p); err != nil {
		p.fail(g, "cover", err, w)
		return false
	}
	return true
}

func (g *gate) coverNow(p *pod) (err error) {
	p.uncovered, err = g.kernel.Cover(p.uid)
	p.covered = err == nil
	if more := len(p.uncovered) - maxUncovered; more > 0 {
		p.uncovered = append(slices.Clone(p.uncovered[:maxUncovered]), fmt.Sprintf("and %d more", more))
	}
	return err
}

// coverAgain covers links that have come since.
func (g *gate) coverAgain(ctx context.Context, p *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil || p.class != guarded {
		return
	}
	w, target := g.wishOf(p)
	if err := g.coverNow(p); err != nil {
		p.fail(g, "cover", err, w) // settle tries again
	}
	if p.isRefused(w) {
		p.doors.close()
	}
	g.tellReasons(p, w, target)
}

// whyNot lists why the pod is not known, or its guard can be gone around.
func (p *pod) whyNot(w wish, target class) []string {
	reasons := slices.Clone(p.failed)
	if target != guarded {
		return reasons
	}
	reasons = append(reasons, w.api.Privileges...)
	if w.api.NoRaw {
		return reasons
	}
	if p.place != nil && p.place.Netns == nil {
		reasons = append(reasons, "it is on the node's network and may make raw packets")
	}
	for _, link := range p.uncovered {
		reasons = append(reasons, fmt.Sprintf("it may make raw packets, and a link has no program at the node's end: %s", link))
	}
	return reasons
}

// tellReasons tells the agent, if there is one, when they have changed.
func (g *gate) tellReasons(p *pod, w wish, target class) {
	if g.session() == nil || !p.failing.IsZero() && time.Since(p.failing) < sayAfter {
		return
	}
	reasons := p.whyNot(w, target)
	if slices.Equal(reasons, p.reasons) {
		return
	}
	p.reasons = reasons
	g.tell(Event{Kind: NotEnforced, PodUID: p.uid, Reasons: reasons})
}

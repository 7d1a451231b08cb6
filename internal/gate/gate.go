package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

const (
	// tick is how often the pods' cgroups are looked at: a runtime without NRI
	// tells of nothing, and a sandbox may be replaced.
	tick = 200 * time.Millisecond
	// settling is how many pods are settled at once.
	settling = 8
	// forgetAfter is when a pod that is gone is forgotten with no agent to say that
	// it will not come back.
	forgetAfter = 10 * time.Minute
)

// gate is one gate.
type gate struct {
	o       Options
	log     logrus.FieldLogger
	kernel  kernel
	finder  finder
	podsDir string                                   // folder of the pods' cgroup
	ownUID  string                                   // of this gate's own pod; empty: it is in none
	beside  func(pid int) (cgroup string, err error) // of an agent; refuses what is not of this gate's pod
	company *company
	group   errgroup.Group
	started time.Time
	nri     atomic.Bool
	numbers atomic.Uint64 // of sandboxes, given so far
	save    chan struct{} // something of state has changed
	writing sync.Mutex    // held while state is written

	nodeSockets *bucket // sockets in the node's own namespace: the share of all pods with source node

	mu         sync.Mutex
	pods       map[string]*pod               // by UID
	owners     map[workload.Namespace]string // the UID of the pod whose each is
	namespaces []string                      // guarded ones, sorted
	guarded    redirect.Guarded              // the agent's word
	fed        bool
	armed      *armed // nil: Targets are not guarded yet
	current    *session
	toldAt     time.Time     // of the agent's last list of pods
	told       chan struct{} // closed when the next has come
}

func newGate(o Options, k kernel) *gate {
	return &gate{
		o: o, log: o.Log, kernel: k, started: time.Now(),
		save: make(chan struct{}, 1),

		nodeSockets: newBucket(4000, 2000),
		pods:        make(map[string]*pod),
		owners:      make(map[workload.Namespace]string),
		told:        make(chan struct{}),
	}
}

// wishOf is what is known of a pod, and what it is to be taken for.
func (g *gate) wishOf(p *pod) (wish, class) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return p.wish, p.wish.target(g.namespaces)
}

// session is the agent that is served; nil: none.
func (g *gate) session() *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current
}

// tell sends an event to the agent, if there is one.
func (g *gate) tell(e Event) {
	e.Time = time.Now()
	if s := g.session(); s != nil {
		s.tell(e)
	}
}

// own notes whose a network namespace is.
func (g *gate) own(place workload.Place, uid string) error {
	if place.Netns == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if owner, ok := g.owners[place.ID]; ok && owner != uid {
		return fmt.Errorf("its network namespace is that of pod %s", owner)
	}
	g.owners[place.ID] = uid
	return nil
}

func (g *gate) disown(place workload.Place, uid string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if place.Netns != nil && g.owners[place.ID] == uid {
		delete(g.owners, place.ID)
	}
}

// stick remembers that a pod is to be guarded, if it is: from here on it is so
// until it is gone. It is called with mu held.
func (g *gate) stick(p *pod) {
	if !p.wish.sticky && p.wish.target(g.namespaces) == guarded {
		p.wish.sticky = true
		g.changed()
	}
}

// changed makes the state be written.
func (g *gate) changed() {
	select {
	case g.save <- struct{}{}:
	default:
	}
}

// snapshot is what is to outlive the gate.
func (g *gate) snapshot() state {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := state{Version: stateVersion, Fed: g.fed, Guarded: g.guarded, GuardedNamespaces: g.namespaces, PodsCgroup: g.o.Pods, Armed: g.armed}
	for uid, p := range g.pods {
		if p.wish.sticky {
			s.GuardedPods = append(s.GuardedPods, uid)
		}
	}
	slices.Sort(s.GuardedPods)
	return s
}

// restore begins with what an earlier gate knew: by what it wrote down, and by what
// the kernel knows, which is more if it could not write any more.
func (g *gate) restore(s state) error {
	inherited, err := g.kernel.Pods()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.guarded, g.fed, g.namespaces, g.armed = s.Guarded, s.Fed, s.GuardedNamespaces, s.Armed
	sticky := slices.Clone(s.GuardedPods)
	for _, uid := range inherited {
		g.pods[uid] = newPod(uid, g.started)
		g.pods[uid].inherited = true
		is, err := g.kernel.Class(uid)
		if err != nil && !errors.Is(err, redirect.ErrUnknownPod) {
			return err
		}
		if is == redirect.ClassGuarded {
			sticky = append(sticky, uid)
		}
	}
	for _, uid := range sticky {
		if g.pods[uid] == nil {
			g.pods[uid] = newPod(uid, g.started)
		}
		g.pods[uid].wish.sticky, g.pods[uid].wish.told = true, true
	}
	return nil
}

// setGuarded replaces what is guarded.
func (g *gate) setGuarded(ctx context.Context, to redirect.Guarded) error {
	if err := g.arm(to); err != nil {
		return err
	}
	g.mu.Lock()
	before, has := setOf(g.guarded.Guards), setOf(to.Guards)
	more, fewer := missing(before, to.Guards), missing(has, g.guarded.Guards)
	g.guarded, g.fed = to, true
	g.changed()
	g.mu.Unlock()
	widened := more > 0
	if more+fewer > 0 { // said here too, where the agent cannot take it back
		g.log.WithField("guards", len(to.Guards)).WithField("more", more).WithField("fewer", fewer).Info("What is guarded has changed")
	}
	if !widened {
		return nil
	}
	return g.each(func(p *pod) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.class != guarded {
			return nil
		}
		_, err := g.kernel.Destroy(ctx, p.uid)
		return err
	})
}

func setOf(guards []redirect.Guard) map[redirect.Guard]bool {
	set := make(map[redirect.Guard]bool, len(guards))
	for _, guard := range guards {
		set[guard] = true
	}
	return set
}

// missing counts the guards that are not in a set.
func missing(set map[redirect.Guard]bool, guards []redirect.Guard) (n int) {
	for _, guard := range guards {
		if !set[guard] {
			n++
		}
	}
	return n
}

// arm says what is guarded, and notes when that was first said since the boot. It is
// noted first: a gate that dies in between leaves the programs without Targets, and
// the next one does not believe the note then.
func (g *gate) arm(to redirect.Guarded) error {
	g.mu.Lock()
	unarmed := g.armed == nil
	g.mu.Unlock()
	if !unarmed {
		return g.kernel.Set(to)
	}
	now, err := armNow(g.podsDir, g.ownUID)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.armed = &now
	g.mu.Unlock()
	g.write()
	if err := g.kernel.Set(to); err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.armed = nil
		return err
	}
	return nil
}

// setPods takes the agent's word for what pods there are.
func (g *gate) setPods(ctx context.Context, pods []Pod, namespaces []string) error {
	slices.Sort(namespaces)
	g.mu.Lock()
	listed := make(map[string]bool, len(pods))
	now := time.Now()
	if !slices.Equal(g.namespaces, namespaces) {
		g.changed()
	}
	for _, api := range pods {
		listed[api.UID] = true
		p := g.pods[api.UID]
		if p == nil {
			p = newPod(api.UID, now)
			g.pods[api.UID] = p
		}
		before := p.wish.target(g.namespaces)
		p.wish.api, p.wish.known = api, true
		if p.wish.target(namespaces) != before && before != unknown {
			p.wish.first = now // how long the guard takes counts from here
		}
	}
	for uid, p := range g.pods {
		if !listed[uid] {
			p.wish.known = false
		}
	}
	g.namespaces = namespaces
	for _, p := range g.pods {
		g.stick(p)
	}
	g.toldAt = now
	if g.current != nil {
		g.current.told.Store(true)
	}
	close(g.told)
	g.told = make(chan struct{})
	g.mu.Unlock()
	if err := g.look(); err != nil {
		return err
	}
	if err := g.settleAll(ctx, true); err != nil {
		return err
	}
	g.prune()
	return g.kernel.Activate()
}

// look finds the pods' cgroups.
func (g *gate) look() error {
	dirs, err := workload.PodCgroups(g.podsDir)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid, p := range g.pods {
		p.wish.cgroup = dirs[uid]
	}
	return nil
}

// all are the pods that are known.
func (g *gate) all() []*pod {
	g.mu.Lock()
	defer g.mu.Unlock()
	pods := make([]*pod, 0, len(g.pods))
	for _, p := range g.pods {
		pods = append(pods, p)
	}
	return pods
}

// each does something about every pod, about several at once.
func (g *gate) each(do func(*pod) error) error {
	var group errgroup.Group
	group.SetLimit(settling)
	for _, p := range g.all() {
		group.Go(func() error { return do(p) })
	}
	return group.Wait()
}

func (g *gate) settleAll(ctx context.Context, now bool) error {
	return g.each(func(p *pod) error { g.settle(ctx, p, now); return nil })
}

// watch looks at the pods' cgroups until ctx ends.
func (g *gate) watch(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := g.look(); err != nil {
			g.log.WithError(err).Warn("The pods' cgroups cannot be read")
			continue
		}
		if err := g.settleAll(ctx, false); err != nil {
			return err
		}
		g.prune()
	}
}

// prune forgets the pods that are gone: their cgroup, and in the API server's
// eyes too.
func (g *gate) prune() {
	for _, p := range g.all() {
		p.mu.Lock()
		g.mu.Lock()
		w := p.wish
		dead := w.cgroup == "" && !w.known && p.place == nil && p.class == unknown
		// A list that is older than the pod says nothing about it.
		denied := g.current != nil && g.toldAt.After(w.first)
		if dead && (denied || time.Since(w.first) > forgetAfter && !w.sticky) {
			delete(g.pods, p.uid)
			g.changed()
		}
		g.mu.Unlock()
		p.mu.Unlock()
	}
}

// saver writes the state when it has changed.
func (g *gate) saver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.save:
		}
		g.write()
	}
}

// write writes the state down.
func (g *gate) write() {
	g.writing.Lock()
	defer g.writing.Unlock()
	if err := g.snapshot().write(g.o.State); err != nil {
		g.log.WithError(err).Error("What is guarded is not written down: after a reboot it is what was written last")
	}
}

// releaseAll lets go of all, and leaves the kernel as it is.
func (g *gate) releaseAll() {
	for _, p := range g.all() {
		p.doors.close()
		p.mu.Lock()
		if p.unwatch != nil {
			p.unwatch()
			p.unwatch = nil
		}
		if p.place != nil {
			if err := p.place.Close(); err != nil {
				g.log.WithField("pod", p.uid).WithError(err).Warn("A namespace is not let go")
			}
			p.place = nil
		}
		p.mu.Unlock()
	}
}

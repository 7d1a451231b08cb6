package gate

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// class is what the gate takes a pod for. The zero value is the closed one.
type class int

const (
	unknown class = iota // refused Targets by the kernel
	plain
	guarded
)

func (c class) String() string { return [...]string{"unknown", "plain", "guarded"}[c] }

const (
	// MaxInFlight is how many connections of one pod may be handed over and not
	// yet taken by the agent: its share of the agent's queue. More wait in the
	// pod's own listener.
	MaxInFlight = 64
	// notFoundAfter is when a pod that should be there and has no process is
	// reported: its containers are no processes of this node's kernel, or are not
	// in cgroup v2.
	notFoundAfter = 30 * time.Second
	// sayAfter is how long a step fails before that is told: a pod that is being
	// made is not complete for moments.
	sayAfter = 5 * time.Second
	// retryAfter is how long a step that failed is not tried again.
	retryAfter = time.Second
)

// pod is one pod of the node.
type pod struct {
	uid string

	wish wish // what is known of it; held under gate.mu

	mu        sync.Mutex // held while something is done about the pod
	inherited bool       // the kernel knows it of an earlier gate
	place     *workload.Place
	foundBy   string   // the runtime's word for the sandbox, when the place was found
	sandbox   *sandbox // nil: its class is unknown
	class     class
	since     time.Time
	took      time.Duration
	earlier   uint64   // connections that the kernel led here before this gate knew the pod
	covered   bool     // programs are at the node's ends of its links
	uncovered []string // but at these
	complete  bool     // and earlier connections are ended
	unwatch   func()
	failed    []string  // steps that did not work
	failing   time.Time // since when some do not; zero: all do
	retry     time.Time
	reasons   []string // as they were last told

	doors doors

	sockets, tokens, walks *bucket

	cgroups struct { // which container each of the pod's cgroups belongs to
		sync.Mutex
		containers map[uint64]string
	}
}

// wish is what is known of a pod, and by that what is to be done about it.
type wish struct {
	api     Pod
	known   bool             // the agent lists it
	sandbox workload.Sandbox // what the runtime told
	stopped bool             // and that it has ended
	spared  bool             // and that it is of a namespace that is never refused for being unknown
	cgroup  string           // its folder; empty: it has none
	sticky  bool             // it was guarded once
	told    bool             // Guarded was an event of an earlier gate
	first   time.Time        // somebody told of it
}

// doors are a pod's listeners. They close at once when the agent goes, whatever
// else is being done about the pod.
type doors struct {
	sync.Mutex
	session   *session // whom they serve
	listeners []net.Listener
	slots     chan struct{} // one for each connection that the agent has not taken
}

// sandbox is one of a pod's, after which another may come: the counts are its own.
type sandbox struct {
	number   uint64        // see PodStatus
	accepted atomic.Uint64 // of those that the kernel led here
	lost     atomic.Uint64 // accepted without a record, and closed
	givenUp  atomic.Uint64 // the same, by clients that had gone before
}

func (g *gate) newSandbox() *sandbox { return &sandbox{number: g.numbers.Add(1)} }

func newPod(uid string, now time.Time) *pod {
	return &pod{
		uid:     uid,
		wish:    wish{first: now},
		sockets: newBucket(1000, 500),
		tokens:  newBucket(50, 20),
		walks:   newBucket(5, 1), // each may be long
	}
}

// target is what a pod is to be taken for.
func (w wish) target(guardedNamespaces []string) class {
	namespace := w.sandbox.Namespace
	if w.known {
		namespace = w.api.Namespace
	}
	switch {
	case w.sticky, w.known && w.api.Guarded, isGuarded(w.sandbox.Labels), slices.Contains(guardedNamespaces, namespace):
		return guarded
	case w.known, w.spared:
		return plain
	}
	return unknown // the runtime does not know all that guards a pod
}

// systemNamespace is where the cluster itself runs.
const systemNamespace = "kube-system"

// spares tells whether a pod of a namespace is plain until the agent speaks of it,
// unless what is known says that it is guarded: without these pods there is no
// cluster, and no agent that speaks. The namespace is the runtime's word: without it
// such a pod is unknown, as all are, until the agent has listed it.
func (g *gate) spares(namespace string) bool {
	return namespace == systemNamespace || namespace != "" && namespace == g.o.Namespace
}

// guardLabel is internal/cluster's; its value matters here only so far.
const guardLabel = "postern.dev/guard"

func isGuarded(labels map[string]string) bool {
	value, ok := labels[guardLabel]
	return ok && value != "false"
}

// hostNetwork tells whether the pod is on the node's network; the API server's
// word counts more.
func (w wish) hostNetwork() bool {
	if w.known {
		return w.api.HostNetwork
	}
	return w.sandbox.HostNetwork
}

// wanted is what there is to find the pod by.
func (w wish) wanted(uid string) workload.Wanted {
	return workload.Wanted{
		UID: uid, Cgroup: w.cgroup, HostNetwork: w.hostNetwork(), Sandbox: w.sandbox,
		// Of a sandbox that was replaced, the runtime knows the addresses first.
		IPs: slices.Concat(w.api.IPs, w.sandbox.IPs),
	}
}

// settle makes the pod what it is to be, as far as that can be done now. It is
// called whenever something has changed, and again until all is done; what failed
// is left alone for a moment, unless it is to be done now.
func (g *gate) settle(ctx context.Context, p *pod, now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, target := g.wishOf(p)
	p.leave(g, w)
	if w.cgroup == "" || w.stopped || target == unknown || !now && time.Now().Before(p.retry) {
		return
	}
	p.failed, p.retry = nil, time.Time{}
	err := g.classify(p, w, target)
	if err != nil {
		p.fail(g, "", err, w)
	} else if p.class == guarded {
		g.guard(ctx, p, w)
	}
	if len(p.failed) == 0 {
		p.failing = time.Time{}
	}
	g.tellReasons(p, w, target)
}

// fail notes a step that did not work.
func (p *pod) fail(g *gate, step string, err error, w wish) {
	if errors.Is(err, workload.ErrNotStarted) { // it will be soon
		if w.known && time.Since(w.first) > notFoundAfter {
			p.failed = append(p.failed, "no process of it is found on the node")
		}
		return
	}
	p.retry = time.Now().Add(retryAfter)
	if p.failing.IsZero() {
		p.failing = time.Now()
	}
	g.log.WithField("pod", p.uid).WithError(err).Debug("A pod is not complete yet")
	text := err.Error()
	if step != "" {
		text = step + ": " + text
	}
	p.failed = append(p.failed, text)
}

// leave lets go of a place that the pod has left: its cgroup is gone, or its
// sandbox is another one.
func (p *pod) leave(g *gate, w wish) {
	if p.inherited && p.place == nil && w.cgroup == "" {
		p.release(g)
		return
	}
	same := w.sandbox.ID == "" || p.place != nil && (p.place.Sandbox == "" || w.sandbox.ID == p.place.Sandbox || w.sandbox.ID == p.foundBy)
	if p.place == nil || w.cgroup == p.place.Cgroup && (p.place.Netns == nil || same && p.place.IsThere()) {
		return // the cgroup is all that a pod on the node's network is known by
	}
	p.release(g)
}

// release forgets what the kernel knows of the pod, so that its network
// namespace can go. Its class is remembered by gate and state.
func (p *pod) release(g *gate) {
	p.doors.close()
	if p.unwatch != nil {
		p.unwatch()
		p.unwatch = nil
	}
	if p.class != unknown || p.inherited {
		g.part(p)
	}
	if p.place != nil {
		g.disown(*p.place, p.uid)
		if err := p.place.Close(); err != nil {
			g.log.WithField("pod", p.uid).WithError(err).Warn("A namespace is not let go")
		}
	}
	p.inherited = false
	p.place, p.sandbox, p.class, p.covered, p.uncovered, p.complete = nil, nil, unknown, false, nil, false
	p.since, p.took, p.earlier = time.Time{}, 0, 0
	p.failed, p.failing, p.retry = nil, time.Time{}, time.Time{}
}

// part ends a pod's sandbox, with its last counts. What cannot be read any more
// another gate has forgotten.
func (g *gate) part(p *pod) {
	if p.sandbox == nil {
		p.sandbox = g.newSandbox() // an earlier gate's
	}
	e := Event{Kind: Gone, PodUID: p.uid, Sandbox: p.sandbox.number, Accepted: p.sandbox.accepted.Load()}
	counters, err := g.kernel.Counters(p.uid)
	if err == nil {
		e.Counters = &counters
	}
	if !errors.Is(err, redirect.ErrUnknownPod) { // else it may know the pod again by now
		err = errors.Join(err, g.kernel.Forget(p.uid))
		if err != nil {
			g.log.WithField("pod", p.uid).WithError(err).Warn("A pod that is gone is not forgotten")
		}
	}
	g.tell(e)
}

// classify finds the pod and tells the kernel whose its namespace is.
func (g *gate) classify(p *pod, w wish, target class) error {
	if p.place == nil {
		place, err := g.finder.Find(w.wanted(p.uid))
		if err != nil {
			return err
		}
		if err := g.own(place, p.uid); err != nil {
			return errors.Join(err, place.Close())
		}
		p.place, p.foundBy = &place, w.sandbox.ID
	}
	if err := p.place.Prove(w.wanted(p.uid).IPs); err != nil {
		p.release(g)
		return err
	}
	if p.class == target {
		return nil
	}
	is := redirect.ClassPlain
	if target == guarded {
		is = redirect.ClassGuarded
	}
	err := g.kernel.Classify(redirect.Pod{UID: p.uid, Class: is, Netns: p.place.Netns, Cgroup: p.place.Cgroup})
	if err != nil {
		return err
	}
	begins := p.class == unknown
	p.class, p.since = target, time.Now()
	p.took = p.since.Sub(w.first)
	if !begins {
		return nil
	}
	p.sandbox = g.newSandbox()
	before, err := g.kernel.Counters(p.uid)
	p.earlier = before.Redirected
	return err
}

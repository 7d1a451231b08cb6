package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/redirect"
)

const (
	lookInterval = time.Second // at what only time changes
	retryPause   = time.Second // before the gate is told once more
)

// feed takes what the cluster says into force, and tells the gate, until ctx is done.
func (n *node) feed(ctx context.Context) error {
	tick := time.NewTicker(resolveInterval)
	defer tick.Stop()
	retry := time.NewTimer(0)
	if !retry.Stop() {
		<-retry.C
	}
	f := &feeder{node: n}
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-n.watcher.Snapshots():
			if f.take(s) {
				notify(n.look)
			}
		case <-tick.C:
			notify(n.look)
			continue
		case <-n.looked:
		case <-n.wake:
			f.forget() // another gate, perhaps
		case <-retry.C:
		}
		if err := f.tell(ctx); err != nil && ctx.Err() == nil {
			n.o.Log.WithError(err).Error("Gate not told what is guarded")
			if n.failed.Add(1) == 1 {
				n.recorder.note(audit.KindAgentDegraded, "guard", nil)
			}
			retry.Reset(retryPause)
		}
	}
}

// lookUp asks the name server when it is told to. One that does not answer must
// not keep a new pod from its guard.
func (n *node) lookUp(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.look:
			n.targets.refresh(ctx)
			notify(n.looked)
		}
	}
}

// notify leaves word in a channel that holds one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// feeder is what was told to the gate last. It belongs to one goroutine.
type feeder struct {
	*node
	snapshot   *cluster.Snapshot
	objects    []policy.Document
	guarded    *redirect.Guarded
	pods       []gate.Pod
	namespaces []string
}

func (f *feeder) forget() { f.guarded, f.pods = nil, nil }

// take puts a Snapshot into force and tells whether host names are to be looked up.
func (f *feeder) take(s *cluster.Snapshot) (look bool) {
	first := f.snapshot == nil
	for _, gone := range f.node.pods.replace(s.Pods) {
		f.handler.Forget(gone.UID)
		f.shares.Forget(gone.UID)
	}
	f.snapshot = s
	f.noticeProtocols(s.Pods)
	if first || !sameObjects(f.objects, s.Objects) {
		f.objects = s.Objects
		look = f.takeObjects(s.Objects)
	}
	f.targets.use(f.policy.Load().Targets(), s.Services)
	if first {
		close(f.known)
		f.o.Log.WithField("pods", len(s.Pods)).WithField("policy", f.policy.Load().Hash()).Info("Cluster is known")
	}
	return look
}

// takeObjects puts policy objects into force, each in its last good version.
func (f *feeder) takeObjects(docs []policy.Document) bool {
	set, rejected, err := f.node.objects.compile(docs)
	if errors.Is(err, errNotKept) {
		f.o.Log.WithError(err).Warn("Objects not kept, a restart would not know the last good ones")
		err = nil
	}
	f.metrics.PolicyLoaded(err == nil && len(rejected) == 0)
	if err != nil {
		f.o.Log.WithError(err).Error("Policies not compiled, the old ones stay in force")
		f.recorder.note(audit.KindAgentDegraded, "policy", nil)
		return false
	}
	f.gauges.Rejected(len(rejected))
	f.view.rejected(rejected)
	for _, name := range slices.Sorted(maps.Keys(rejected)) {
		f.o.Log.WithError(rejected[name]).WithField("object", name).Warn("Object not accepted, its last good version counts")
		f.recorder.note(audit.KindAgentDegraded, "object", map[string]string{"object": name, "why": rejected[name].Error()})
	}
	if set.Hash() == f.policy.Load().Hash() {
		return false
	}
	f.policy.Store(set)
	p := policies{}
	p.use(set)
	f.recorder.put(p.record())
	f.o.Log.WithField("hash", set.Hash()).Info("Policy in force")
	return true
}

// tell tells the gate what changed: first what is guarded, then who.
func (f *feeder) tell(ctx context.Context) error {
	client := f.link.client.Load()
	if client == nil || f.snapshot == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, feedTimeout)
	defer cancel()
	if guarded := f.targets.guarded(); f.guarded == nil || !reflect.DeepEqual(*f.guarded, guarded) {
		f.fed.Store(false)
		if err := client.Guard(ctx, guarded); err != nil {
			return fmt.Errorf("tell what is guarded: %w", err)
		}
		f.guarded = &guarded
		f.shortOf("guards", f.targets.coarse())
	}
	pods := f.node.gatePods(f.snapshot.Pods)
	if f.pods == nil || !reflect.DeepEqual(f.pods, pods) || !slices.Equal(f.namespaces, f.snapshot.GuardedNamespaces) {
		err := client.Pods(ctx, pods, f.snapshot.GuardedNamespaces)
		left := new(gate.LeftOut)
		if err != nil && !errors.As(err, &left) {
			return fmt.Errorf("tell who is guarded: %w", err)
		}
		f.shortOf("pods", left.What)
		f.pods, f.namespaces = pods, f.snapshot.GuardedNamespaces
	}
	f.fed.Store(true)
	f.failed.Store(0)
	return nil
}

// maxGatePods is how many pods the gate takes. A kubelet runs some hundred; whoever
// may create pods can bind any number to a node, each for as long as it takes the
// kubelet to turn it away.
const maxGatePods = 2048

// gatePods are the pods as the gate has to know them: of too many the guarded ones,
// since a pod that it does not know is refused the Targets anyway.
func (n *node) gatePods(list []cluster.Pod) []gate.Pod {
	pods := make([]gate.Pod, 0, len(list))
	for _, p := range list {
		guarded := guards(p)
		pods = append(pods, gate.Pod{
			UID: p.UID, Namespace: p.Namespace, Name: p.Name, Guarded: guarded, HostNetwork: p.HostNetwork, IPs: p.IPs,
			Strict: guarded && n.o.StrictPods == StrictRefuse, NoRaw: p.NoRaw, Privileges: p.Privileges,
		})
	}
	if len(pods) > maxGatePods {
		n.o.Log.WithField("pods", len(pods)).Warn("More pods are bound to this node than the gate takes, those that are not guarded are left out")
		slices.SortStableFunc(pods, func(a, b gate.Pod) int {
			switch {
			case a.Guarded == b.Guarded:
				return 0
			case a.Guarded:
				return -1
			}
			return 1
		})
		pods = pods[:maxGatePods]
	}
	return pods
}

func sameObjects(a, b []policy.Document) bool {
	return slices.EqualFunc(a, b, func(x, y policy.Document) bool { return x.Name == y.Name && string(x.JSON) == string(y.JSON) })
}

// keepBooks closes the books of each round, and says what the node's state is.
func (n *node) keepBooks(ctx context.Context) error {
	round, look := time.NewTicker(roundInterval), time.NewTicker(lookInterval)
	defer round.Stop()
	defer look.Stop()
	age := &age{node: n}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			age.look(n.watcher.Stale())
			n.view.publish(ctx)
		case <-round.C:
			if status, err := n.gateStatus(ctx); err == nil {
				n.ledger.update(status)
			}
			n.ledger.round()
			n.tellShares()
			n.tellOwed()
		}
	}
}

// age says when what the agent knows of the cluster gets old, and too old.
type age struct {
	node  *node
	state string
}

// noticed is when silence of the API server is worth a record, and a word in every other.
const noticed = time.Minute

func (a *age) look(stale time.Duration) {
	state := "fresh"
	switch {
	case stale > a.node.o.MaxStale:
		state = "too-stale"
	case stale > noticed:
		state = "stale"
	}
	if state == a.state || state == "fresh" && a.state == "" {
		return
	}
	a.state = state
	log := a.node.o.Log.WithField("stale", stale.Truncate(time.Second))
	switch state {
	case "fresh":
		log.Info("API server answers again")
		a.node.recorder.note(audit.KindAgentReload, "api-server", nil)
		return
	case "stale":
		log.Warn("API server is away, last good objects count")
	default:
		log.Error("API server is away for too long, new sessions are refused")
	}
	a.node.recorder.note(audit.KindAgentDegraded, "api-"+state, map[string]string{"stale": stale.Truncate(time.Second).String()})
}

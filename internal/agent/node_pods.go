package agent

import (
	"context"
	"errors"
	"maps"
	"sync"

	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/policy"
)

var errPodGone = errors.New("the pod is gone")

// pods are the pods of this node as the cluster knows them, with their connections.
type pods struct {
	mu      sync.Mutex
	known   map[string]*pod // by UID
	changed chan struct{}   // closed when known is replaced
}

// pod is one pod. What it points to is never changed.
type pod struct {
	cluster.Pod
	subject *policy.PodSubject
	visits  map[*visit]bool // shared by all versions of the pod
}

// visit is a connection of a pod.
type visit struct{ end context.CancelCauseFunc }

func newPods() *pods { return &pods{known: make(map[string]*pod), changed: make(chan struct{})} }

// replace takes the cluster's newest word. The connections of a pod that is not
// there any more end.
func (p *pods) replace(list []cluster.Pod) (gone []cluster.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.known
	p.known = make(map[string]*pod, len(list))
	for _, one := range list {
		subject := &policy.PodSubject{Namespace: one.Namespace, Name: one.Name, ServiceAccount: one.ServiceAccount, Labels: one.Labels}
		visits := make(map[*visit]bool)
		if old, ok := before[one.UID]; ok {
			visits = old.visits
			if old.subject.ServiceAccount == subject.ServiceAccount && maps.Equal(old.subject.Labels, subject.Labels) {
				subject = old.subject // its pointer tells that nothing changed
			}
			delete(before, one.UID)
		}
		p.known[one.UID] = &pod{Pod: one, subject: subject, visits: visits}
	}
	for _, old := range before {
		gone = append(gone, old.Pod)
		for v := range old.visits {
			v.end(errPodGone)
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return gone
}

func (p *pods) find(uid string) (*pod, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, ok := p.known[uid]
	return one, ok
}

// mesh names the mesh that a pod is in, empty for none.
func (p *pods) mesh(uid string) string {
	one, ok := p.find(uid)
	if !ok {
		return ""
	}
	return one.Mesh
}

// await finds a pod of which the cluster may tell in a moment: its first process
// can be faster than the API server.
func (p *pods) await(ctx context.Context, uid string) (*pod, bool) {
	for {
		p.mu.Lock()
		one, ok := p.known[uid]
		changed := p.changed
		p.mu.Unlock()
		if ok {
			return one, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// enter begins a connection of a pod; it ends with the pod. How many there may be is
// [proxy.Limits]'. One of a pod that nobody knows will not be served.
func (p *pods) enter(ctx context.Context, uid string) (context.Context, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, ok := p.known[uid]
	if !ok {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	v := &visit{end: end}
	visits := one.visits
	visits[v] = true
	return ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(visits, v)
		end(nil)
	}
}

// list is every pod that is known.
func (p *pods) list() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*pod, 0, len(p.known))
	for _, one := range p.known {
		all = append(all, one)
	}
	return all
}

// open is how many connections a pod has.
func (p *pods) open(uid string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one, ok := p.known[uid]; ok {
		return len(one.visits)
	}
	return 0
}

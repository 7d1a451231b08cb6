package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/proxy"
)

const (
	resolveInterval = 30 * time.Second
	resolveTimeout  = 5 * time.Second
	// A workload that dials addresses nobody knows must not make the agent flood the name server.
	resolveOnMiss = time.Second
	// maxEver is how many addresses of one name stay guarded; those that it had last.
	maxEver = 512
)

var errNoAddress = errors.New("the name server gave none")

// resolver answers with the addresses of a host name.
type resolver func(ctx context.Context, network, host string) ([]netip.Addr, error)

// targets are the Targets of the policy in force, with the addresses of their
// host names as they were last answered, and in a cluster those of Services.
type targets struct {
	resolve resolver
	log     logrus.FieldLogger

	mu       sync.Mutex
	list     []*policy.Target
	services *cluster.Services // nil outside of a cluster
	routes   []route           // one for each of list, in a cluster
	crowded  bool              // more was to be guarded than the kernel takes
	names    map[string][]netip.Addr
	ever     map[string][]netip.Addr // all that a name had during the run: guarded, not dialled
	resolved time.Time
}

// mustResolve refuses Targets that would be open. With unknownHosts: pass a
// name is guarded at its addresses alone, which have to be known before the
// command, or the policy, has any effect.
func (t *targets) mustResolve(ctx context.Context, list []*policy.Target) error {
	var errs []error
	for _, target := range list {
		if target.Spec.UnknownHosts != policy.Pass {
			continue
		}
		for _, name := range target.HostNames() {
			addrs, err := t.lookUp(ctx, name)
			if t.remember(name, addrs) {
				continue
			}
			if err == nil {
				err = errNoAddress
			}
			errs = append(errs, fmt.Errorf("guard target %s: host %s has no address, and unknownHosts: pass would let connections to it go around Postern; make the name resolve, list its addresses in hosts, or remove unknownHosts: %w",
				target.Name(), name, err))
		}
	}
	return errors.Join(errs...)
}

// remember adds to the addresses of a name and tells whether there are any.
func (t *targets) remember(name string, addrs []netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ever == nil {
		t.ever = make(map[string][]netip.Addr)
	}
	for _, addr := range addrs {
		if !slices.Contains(t.ever[name], addr) {
			t.ever[name] = append(t.ever[name], addr)
		}
	}
	for i := 0; i < len(t.ever[name]) && len(t.ever[name]) > maxEver; {
		if slices.Contains(addrs, t.ever[name][i]) {
			i++
		} else {
			t.ever[name] = slices.Delete(t.ever[name], i, i+1)
		}
	}
	return len(t.ever[name]) > 0
}

// replace takes the Targets of a new policy and looks their names up.
func (t *targets) replace(ctx context.Context, list []*policy.Target) {
	t.use(list, nil)
	t.refresh(ctx)
}

// use takes new Targets and Services; it asks no name server.
func (t *targets) use(list []*policy.Target, services *cluster.Services) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if services != nil && services == t.services && slices.Equal(list, t.list) {
		return // a pod has changed, which leads nowhere
	}
	t.list, t.services = list, services
	t.reroute()
}

// refresh looks every name up. One that gets no answer keeps its addresses; one
// that gets another answer stays guarded at those it had: a server behind
// several addresses is often told with some of them at a time.
func (t *targets) refresh(ctx context.Context) {
	t.mu.Lock()
	t.resolved = time.Now()
	asked, known := t.hostNames(), t.names
	t.mu.Unlock()
	fresh := make(map[string][]netip.Addr)
	for _, name := range asked {
		fresh[name] = known[name]
		if addrs, err := t.lookUp(ctx, name); err == nil {
			fresh[name] = addrs
			t.remember(name, addrs)
		} else {
			t.log.WithError(err).WithField("host", name).Warn("Host name has no address")
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names = fresh
	t.reroute()
}

// hostNames lists each name that is looked up once. The caller holds mu.
func (t *targets) hostNames() []string {
	var names []string
	for _, target := range t.list {
		names = append(names, target.HostNames()...)
	}
	for _, r := range t.routes {
		for _, balancer := range r.balancers {
			names = append(names, balancer.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (t *targets) lookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := t.resolve(ctx, "ip", name)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// Lookup tells which Target an address belongs to. An address of no Target is
// looked for once more after its names were looked up again: a server may have
// moved a moment ago.
//
// Errors: an address of several Targets belongs to none: what holds for the
// one must not be had through the other.
func (t *targets) Lookup(ctx context.Context, dialled netip.AddrPort) (proxy.Destination, bool) {
	found := t.find(dialled)
	if len(found) == 0 && t.stale(resolveOnMiss) {
		t.refresh(ctx)
		found = t.find(dialled)
	}
	if len(found) > 1 {
		t.log.WithField("address", dialled).Warn("Address belongs to several Targets")
	}
	if len(found) != 1 {
		return proxy.Destination{}, false
	}
	return found[0], true
}

func (t *targets) stale(after time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.resolved) >= after
}

func (t *targets) find(dialled netip.AddrPort) []proxy.Destination {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found []proxy.Destination
	for _, target := range t.list {
		if !slices.Contains(target.Ports(), dialled.Port()) {
			continue
		}
		if host, ok := t.host(target, dialled.Addr()); ok {
			found = append(found, proxy.Destination{Target: target, Host: host, Address: dialled})
		}
	}
	if t.services != nil {
		return t.findRoute(dialled, found)
	}
	return found
}

// host is what a Target calls an address: the name that led to it, else the
// address itself. The caller holds mu.
func (t *targets) host(target *policy.Target, addr netip.Addr) (string, bool) {
	for _, name := range target.HostNames() {
		if slices.Contains(t.names[name], addr) {
			return name, true
		}
	}
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if slices.Contains(target.Addrs(), addr) || slices.ContainsFunc(target.Prefixes(), contains) {
		return addr.String(), true
	}
	return "", false
}

// guarded is what the kernel has to know: every address that a client might
// use to reach a Target.
func (t *targets) guarded() redirect.Guarded {
	t.mu.Lock()
	defer t.mu.Unlock()
	var g redirect.Guarded
	for _, target := range t.list {
		g.Sockets = append(g.Sockets, target.Spec.Sockets...)
		own := t.prefixes(target)
		for _, port := range target.Ports() {
			for _, prefix := range own {
				g.Guards = append(g.Guards, redirect.Guard{Prefix: prefix, Port: port, Target: true, Exclusive: target.Spec.Exclusive})
			}
			if target.Spec.UnknownHosts != policy.Pass {
				// The port means the protocol, on whatever address: a name that
				// resolves to another address tomorrow is guarded today.
				g.Guards = append(g.Guards,
					redirect.Guard{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Port: port},
					redirect.Guard{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Port: port})
			}
		}
		if target.Spec.OtherPorts == policy.Refuse {
			for _, prefix := range own {
				g.Guards = append(g.Guards, redirect.Guard{Prefix: prefix, Refuse: true})
			}
		}
	}
	own, others := t.guardedRoutes()
	own = append(g.Guards, own...)
	t.crowded = len(own)+len(others) > maxGuards
	g.Guards = bounded(own, others)
	return g
}

// prefixes are all addresses that a Target has, or had during the run. The caller holds mu.
func (t *targets) prefixes(target *policy.Target) []netip.Prefix {
	own := slices.Clone(target.Prefixes())
	addrs := slices.Clone(target.Addrs())
	for _, name := range target.HostNames() {
		addrs = append(addrs, t.ever[name]...)
	}
	for _, addr := range addrs {
		own = append(own, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return own
}

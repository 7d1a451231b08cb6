package agent

import (
	"net/netip"
	"slices"

	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/proxy"
)

// route is how clients reach one Target in a cluster, and how Postern does.
//
// Shape: what clients may dial and what Postern dials are never mixed. A Service
// that anybody may create leads clients to the Target; Postern dials the hosts and
// Services that the Target's author wrote.
type route struct {
	target    *policy.Target
	guarded   map[netip.AddrPort]bool
	ports     []uint16 // of addresses that are too many to list: guarded on every address, and dialled by nobody
	dials     []cluster.Dial
	missing   map[cluster.ServiceName]string // Services that give nothing to dial, and why
	balancers []cluster.NamePort
}

// reroute finds every Target's addresses anew. The caller holds mu.
func (t *targets) reroute() {
	t.routes = nil
	if t.services == nil {
		return
	}
	for _, target := range t.list {
		t.routes = append(t.routes, t.route(target))
	}
}

func (t *targets) route(target *policy.Target) route {
	reach := cluster.Reach{Hosts: slices.Clone(target.Addrs()), Prefixes: target.Prefixes(), Ports: target.Ports()}
	for _, name := range target.HostNames() {
		reach.Hosts = append(reach.Hosts, t.ever[name]...)
	}
	for _, s := range target.Spec.Services {
		reach.Services = append(reach.Services, cluster.ServiceName{Namespace: s.Namespace, Name: s.Name})
	}
	addresses := t.services.Guarded(reach)
	r := route{
		target: target, guarded: make(map[netip.AddrPort]bool, len(addresses.Addrs)), ports: addresses.Ports, balancers: addresses.Names,
	}
	for _, addr := range addresses.Addrs {
		r.guarded[addr] = true
	}
	for _, balancer := range r.balancers {
		for _, addr := range t.ever[balancer.Name] {
			r.guarded[netip.AddrPortFrom(addr, balancer.Port)] = true
		}
	}
	r.dials, r.missing = t.services.Dialled(reach)
	return r
}

// findRoute tells whose address a client dialled: a Target that was written with it
// (written, or a Service's that it names), else every Target to which it leads.
// The caller holds mu.
func (t *targets) findRoute(dialled netip.AddrPort, written []proxy.Destination) []proxy.Destination {
	var aliases []proxy.Destination
	for _, r := range t.routes {
		if slices.ContainsFunc(written, func(d proxy.Destination) bool { return d.Target == r.target }) {
			continue
		}
		own := slices.IndexFunc(r.dials, func(d cluster.Dial) bool { return d.Addr == dialled })
		if own >= 0 {
			written = append(written, proxy.Destination{Target: r.target, Host: hostOf(r.dials[own].Service), Address: dialled})
			continue
		}
		if to, ok := t.instead(r, dialled); ok && r.guarded[dialled] {
			aliases = append(aliases, to)
		}
	}
	if len(written) > 0 {
		return written
	}
	return aliases
}

// instead is where Postern dials for a client that dialled an alias: a Service of
// the Target, else a host, of the client's address family where there is one. The
// caller holds mu.
func (t *targets) instead(r route, dialled netip.AddrPort) (proxy.Destination, bool) {
	var found []proxy.Destination
	for _, dial := range r.dials {
		found = append(found, proxy.Destination{Target: r.target, Host: hostOf(dial.Service), Address: dial.Addr})
	}
	port := r.target.Ports()[0]
	for _, addr := range r.target.Addrs() {
		found = append(found, proxy.Destination{Target: r.target, Host: addr.String(), Address: netip.AddrPortFrom(addr, port)})
	}
	for _, name := range r.target.HostNames() {
		for _, addr := range t.names[name] {
			found = append(found, proxy.Destination{Target: r.target, Host: name, Address: netip.AddrPortFrom(addr, port)})
		}
	}
	if len(found) == 0 {
		return proxy.Destination{}, false
	}
	same := slices.IndexFunc(found, func(d proxy.Destination) bool { return d.Address.Addr().Is4() == dialled.Addr().Is4() })
	return found[max(same, 0)], true
}

// hostOf is the name by which a Service is called in records and certificates.
func hostOf(s cluster.ServiceName) string { return s.Name + "." + s.Namespace + ".svc" }

// guardedRoutes are the guards of all routes: those of the Targets' own Services, and
// those of the others that lead to them. The caller holds mu.
func (t *targets) guardedRoutes() (own, others []redirect.Guard) {
	for _, r := range t.routes {
		of := func(addr netip.AddrPort) redirect.Guard {
			return redirect.Guard{
				Prefix: netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen()), Port: addr.Port(),
				Target: true, Exclusive: r.target.Spec.Exclusive,
			}
		}
		dialled := make(map[netip.AddrPort]bool, len(r.dials))
		for _, dial := range r.dials {
			dialled[dial.Addr] = true
			own = append(own, of(dial.Addr))
			if r.target.Spec.OtherPorts == policy.Refuse { // not of a node's address, on which everything else is too
				own = append(own, redirect.Guard{Prefix: netip.PrefixFrom(dial.Addr.Addr(), dial.Addr.Addr().BitLen()), Refuse: true})
			}
		}
		for addr := range r.guarded {
			if !dialled[addr] {
				others = append(others, of(addr))
			}
		}
		for _, port := range r.ports {
			others = append(others, redirect.Guard{Prefix: everywhere, Port: port, Target: true})
		}
	}
	for _, guards := range [][]redirect.Guard{own, others} {
		slices.SortFunc(guards, func(a, b redirect.Guard) int {
			if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
				return c
			}
			return int(a.Port) - int(b.Port)
		})
	}
	return own, others
}

// missing says, for each Target, which of its Services give nothing to dial, and why.
func (t *targets) missing() map[string][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[string][]string)
	for _, r := range t.routes {
		for service, why := range r.missing {
			all[r.target.Name()] = append(all[r.target.Name()], "service "+service.Namespace+"/"+service.Name+" "+why)
		}
		slices.Sort(all[r.target.Name()])
	}
	return all
}

// addresses are those at which each Target is guarded, for people to read.
func (t *targets) addresses() map[string][]netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[string][]netip.AddrPort, len(t.routes))
	for _, r := range t.routes {
		for addr := range r.guarded {
			all[r.target.Name()] = append(all[r.target.Name()], addr)
		}
		for _, port := range r.ports {
			all[r.target.Name()] = append(all[r.target.Name()], netip.AddrPortFrom(everywhere.Addr(), port))
		}
		slices.SortFunc(all[r.target.Name()], netip.AddrPort.Compare)
	}
	return all
}

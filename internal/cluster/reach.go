package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Reach says where a Target is, as its author wrote it.
type Reach struct {
	Hosts    []netip.Addr   // addresses, and those that names were resolved to
	Prefixes []netip.Prefix // CIDRs
	Services []ServiceName
	Ports    []uint16 // on which the servers listen: for a Service its endpoints' ports
}

// Addresses are all those under which clients reach a Target.
type Addresses struct {
	// Addrs holds each once, sorted. The prefixes of the Reach are not repeated.
	Addrs []netip.AddrPort
	// Names are load balancers of its Services that are known by name only.
	Names []NamePort
}

// NamePort is a port of a host name.
type NamePort struct {
	Name string
	Port uint16
}

// Dial is one place to dial.
type Dial struct {
	Service ServiceName
	Addr    netip.AddrPort
}

// Guarded lists every address that a client might use to reach the Target: its
// hosts, and for its Services the cluster, external and load-balancer addresses,
// the node port on every node, and the endpoints, ready or not. A host that is the
// address of a Service, as the API server or the load balancer gave it, counts as
// that Service. Every other Service that has one of these as an endpoint leads to
// the Target too: its own addresses are guarded, its other endpoints never are, so
// that a Service that mixes endpoints guards nobody else's pod.
//
// Shape: a Service counts by those of its ports that lead to a port of the Reach.
// One whose target port has a name, and no endpoint that would tell its number, is
// taken to lead there. Not known are a server pod's hostPort on another node, and
// what forwards connections without being a Service.
func (s *Services) Guarded(r Reach) Addresses {
	g := guarding{services: s, reach: r, addrs: make(map[netip.AddrPort]bool), seen: make(map[*ServicePort]bool), names: make(map[NamePort]bool)}
	for _, host := range r.Hosts {
		for _, port := range r.Ports {
			g.written(netip.AddrPortFrom(host.Unmap(), port))
		}
	}
	for _, name := range r.Services {
		service := s.byName[name]
		for i := range service.ports() {
			if port := &service.Ports[i]; port.leadsTo(r.Ports) || port.unknown() {
				g.own(service, port)
			}
		}
	}
	if len(r.Prefixes) > 0 {
		for addr := range s.byEndpoint {
			if g.inPrefix(addr) {
				g.pending = append(g.pending, addr)
			}
		}
	}
	g.follow()
	return g.addresses()
}

// guarding is the state of one [Services.Guarded].
type guarding struct {
	services *Services
	reach    Reach
	addrs    map[netip.AddrPort]bool
	names    map[NamePort]bool
	seen     map[*ServicePort]bool // whose own addresses are in
	pending  []netip.AddrPort      // that lead to the Target: who has them as endpoints is looked for
}

func (g *guarding) inPrefix(addr netip.AddrPort) bool {
	return slices.Contains(g.reach.Ports, addr.Port()) &&
		slices.ContainsFunc(g.reach.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr.Addr()) })
}

// written takes an address that the Target's author wrote.
func (g *guarding) written(addr netip.AddrPort) {
	g.addrs[addr] = true
	g.pending = append(g.pending, addr)
	for _, at := range g.services.byAddress[addr] {
		g.own(at.service, at.port)
	}
	if _, isNode := g.services.nodeOf[addr.Addr()]; isNode {
		for _, at := range g.services.byNodePort[addr.Port()] {
			g.own(at.service, at.port)
		}
	}
}

// own takes a port of a Service that is the Target's: its addresses and its endpoints.
func (g *guarding) own(service *Service, port *ServicePort) {
	if g.seen[port] {
		return
	}
	g.pending = append(g.pending, g.front(service, port)...)
	for _, endpoint := range port.Endpoints {
		ports := []uint16{endpoint.Addr.Port()}
		if ports[0] == 0 {
			ports = g.reach.Ports
		}
		for _, number := range ports {
			for _, addr := range g.services.same(endpoint.Addr.Addr()) {
				to := netip.AddrPortFrom(addr, number)
				g.addrs[to] = true
				g.pending = append(g.pending, to)
			}
		}
	}
}

// front takes a Service's own addresses for a port and returns them.
func (g *guarding) front(service *Service, port *ServicePort) []netip.AddrPort {
	g.seen[port] = true
	if port.Port == 0 {
		return nil // headless
	}
	var all []netip.AddrPort
	for _, addr := range slices.Concat(service.ClusterIPs, service.Balancers, service.ExternalIPs) {
		all = append(all, netip.AddrPortFrom(addr, port.Port))
	}
	for _, name := range service.BalancerNames {
		g.names[NamePort{name, port.Port}] = true
	}
	all = append(all, g.nodePorts(port)...)
	for _, addr := range all {
		g.addrs[addr] = true
	}
	return all
}

func (g *guarding) nodePorts(port *ServicePort) []netip.AddrPort {
	if port.NodePort == 0 {
		return nil
	}
	all := make([]netip.AddrPort, 0, len(g.services.nodeOf)+2)
	for addr := range g.services.nodeOf {
		all = append(all, netip.AddrPortFrom(addr, port.NodePort))
	}
	// kube-proxy's iptables mode and Cilium serve it on the loopback of the host
	// network too. In a pod's own network nothing uses that range of ports.
	return append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port.NodePort),
		netip.AddrPortFrom(netip.IPv6Loopback(), port.NodePort))
}

// follow adds the own addresses of every Service that has one of the pending
// addresses as an endpoint. Only its node ports are followed on: a Service whose
// endpoint is node:nodePort is forwarded twice, by two nodes. Its external
// addresses are not, because whoever may create a Service can write any.
func (g *guarding) follow() {
	for len(g.pending) > 0 {
		addr := g.pending[len(g.pending)-1]
		g.pending = g.pending[:len(g.pending)-1]
		for _, at := range g.services.byEndpoint[addr] {
			if !g.seen[at.port] {
				g.front(at.service, at.port)
				g.pending = append(g.pending, g.nodePorts(at.port)...)
			}
		}
	}
}

func (g *guarding) addresses() Addresses {
	var out Addresses
	for addr := range g.addrs {
		out.Addrs = append(out.Addrs, addr)
	}
	slices.SortFunc(out.Addrs, netip.AddrPort.Compare)
	for name := range g.names {
		out.Names = append(out.Names, name)
	}
	slices.SortFunc(out.Names, func(a, b NamePort) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	return out
}

// Dialled lists where the Target's Services are dialled: their cluster addresses,
// or the ready endpoints of a headless one. Nothing else is ever dialled for them,
// and hosts are dialled as they are written.
//
// Shape: in the order of the Reach's Services, then of their ports and addresses.
// Errors: unknown says, for each Service that gives nothing to dial, why.
func (s *Services) Dialled(r Reach) (dials []Dial, unknown map[ServiceName]string) {
	unknown = make(map[ServiceName]string)
	for _, name := range r.Services {
		service, ok := s.byName[name]
		if !ok {
			unknown[name] = "does not exist"
			continue
		}
		before := len(dials)
		for i := range service.Ports {
			for _, addr := range service.dialled(&service.Ports[i], r.Ports) {
				dials = append(dials, Dial{name, addr})
			}
		}
		if len(dials) == before {
			unknown[name] = service.whyNot(r.Ports)
		}
	}
	return dials, unknown
}

// dialled lists where one port of a Service is dialled.
func (s *Service) dialled(port *ServicePort, wanted []uint16) []netip.AddrPort {
	if !port.leadsTo(wanted) {
		return nil
	}
	var all []netip.AddrPort
	for _, addr := range s.ClusterIPs {
		all = append(all, netip.AddrPortFrom(addr, port.Port))
	}
	if len(s.ClusterIPs) > 0 {
		return all
	}
	for _, endpoint := range port.Endpoints {
		switch number := endpoint.Addr.Port(); {
		case !endpoint.Ready:
		case number == 0:
			for _, w := range wanted {
				all = append(all, netip.AddrPortFrom(endpoint.Addr.Addr(), w))
			}
		case slices.Contains(wanted, number):
			all = append(all, endpoint.Addr)
		}
	}
	return all
}

// whyNot says why a Service gives nothing to dial.
func (s *Service) whyNot(wanted []uint16) string {
	if s.ExternalName != "" {
		return fmt.Sprintf("is an ExternalName; write %s in hosts", s.ExternalName)
	}
	var have []uint16
	for _, port := range s.Ports {
		if port.leadsTo(wanted) || port.unknown() {
			return "has no ready endpoint"
		}
		have = append(have, port.numbers()...)
	}
	if len(have) == 0 {
		return "has no TCP port"
	}
	slices.Sort(have)
	return fmt.Sprintf("has endpoints on %s, not on %s; write the endpoints' port in ports", join(slices.Compact(have)), join(wanted))
}

func join(ports []uint16) string {
	text := make([]string, len(ports))
	for i, port := range ports {
		text[i] = fmt.Sprint(port)
	}
	return strings.Join(text, ", ")
}

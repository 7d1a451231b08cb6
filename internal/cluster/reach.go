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
	// Addrs holds each once, sorted, at most maxAddresses. The prefixes of the Reach
	// are not repeated.
	Addrs []netip.AddrPort
	// Ports are those of more addresses than are listed, sorted: on every address they
	// are taken to lead to the Target.
	Ports []uint16
	// Names are load balancers of its Services that are known by name only.
	Names []NamePort
}

// maxAddresses is how many addresses of one Target are listed. A database has some
// hundred in a big cluster; whoever may write a Service that shares its endpoints can
// give it ten thousands of external addresses, each on a thousand ports.
const maxAddresses = 4096

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
	g := guarding{
		services: s, reach: r, addrs: make(map[netip.AddrPort]bool), ports: make(map[uint16]bool), wide: make(map[uint16]bool),
		seen: make(map[*ServicePort]bool), names: make(map[NamePort]bool),
	}
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
	ports    map[uint16]bool // of addresses for which addrs has no room
	wide     map[uint16]bool // of these, those whose addresses are not pending one by one but lead there
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
	g.take(addr)
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
	g.front(service, port, true)
	for _, endpoint := range port.Endpoints {
		ports := []uint16{endpoint.Addr.Port()}
		if ports[0] == 0 {
			ports = g.reach.Ports
		}
		for _, number := range ports {
			for _, addr := range g.services.same(endpoint.Addr.Addr()) {
				to := netip.AddrPortFrom(addr, number)
				g.take(to)
				g.pending = append(g.pending, to)
			}
		}
	}
}

// take notes an address: by itself, or where that is one too many its port.
func (g *guarding) take(addr netip.AddrPort) {
	if len(g.addrs) < maxAddresses || g.addrs[addr] {
		g.addrs[addr] = true
		return
	}
	g.ports[addr.Port()] = true
}

// front takes a Service's own addresses for a port. Those of its node port lead on,
// the others if follow says so. Where there are more than there is room for, they are
// not even gone through.
func (g *guarding) front(service *Service, port *ServicePort, follow bool) {
	g.seen[port] = true
	if port.Port == 0 {
		return // headless
	}
	for _, name := range service.BalancerNames {
		g.names[NamePort{name, port.Port}] = true
	}
	g.nodePorts(port)
	lists := [][]netip.Addr{service.ClusterIPs, service.Balancers, service.ExternalIPs}
	if len(g.addrs)+len(lists[0])+len(lists[1])+len(lists[2]) > maxAddresses {
		g.ports[port.Port] = true
		g.wide[port.Port] = g.wide[port.Port] || follow
		return
	}
	for _, addr := range slices.Concat(lists...) {
		to := netip.AddrPortFrom(addr, port.Port)
		g.take(to)
		if follow {
			g.pending = append(g.pending, to)
		}
	}
}

// nodePorts takes a port on every node, which leads on.
func (g *guarding) nodePorts(port *ServicePort) {
	if port.NodePort == 0 {
		return
	}
	if len(g.addrs)+len(g.services.nodeOf)+2 > maxAddresses {
		g.ports[port.NodePort], g.wide[port.NodePort] = true, true
		return
	}
	// kube-proxy's iptables mode and Cilium serve it on the loopback of the host
	// network too. In a pod's own network nothing uses that range of ports.
	all := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for addr := range g.services.nodeOf {
		all = append(all, addr)
	}
	for _, addr := range all {
		to := netip.AddrPortFrom(addr, port.NodePort)
		g.take(to)
		g.pending = append(g.pending, to)
	}
}

// follow adds the own addresses of every Service that has one of the pending
// addresses as an endpoint. Only its node ports are followed on: a Service whose
// endpoint is node:nodePort is forwarded twice, by two nodes. Its external
// addresses are not, because whoever may create a Service can write any.
func (g *guarding) follow() {
	for scanned := 0; ; {
		for len(g.pending) > 0 {
			addr := g.pending[len(g.pending)-1]
			g.pending = g.pending[:len(g.pending)-1]
			for _, at := range g.services.byEndpoint[addr] {
				if !g.seen[at.port] {
					g.front(at.service, at.port, false)
				}
			}
		}
		if scanned == len(g.wide) {
			return
		}
		scanned = len(g.wide)
		for addr := range g.services.byEndpoint {
			if g.wide[addr.Port()] {
				g.pending = append(g.pending, addr)
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
	for port := range g.ports {
		out.Ports = append(out.Ports, port)
	}
	slices.Sort(out.Ports)
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

package cluster

import (
	"encoding/json"
	"net/netip"
	"slices"
)

// ServiceName names a Service.
type ServiceName struct {
	Namespace, Name string
}

// Service is a Service with its endpoints, as far as TCP goes.
type Service struct {
	Name          ServiceName
	ClusterIPs    []netip.Addr  `json:",omitempty"` // one or two; none: headless
	ExternalIPs   []netip.Addr  `json:",omitempty"` // chosen by whoever wrote the Service
	Balancers     []netip.Addr  `json:",omitempty"` // given by the load balancer
	BalancerNames []string      `json:",omitempty"` // where it gives names
	ExternalName  string        `json:",omitempty"` // a Service that is a name alone
	Ports         []ServicePort `json:",omitempty"`
}

// ServicePort is one port of a Service, and where it leads.
type ServicePort struct {
	Port      uint16     // 0: a headless Service without ports, which stands for all
	NodePort  uint16     `json:",omitempty"` // 0: none
	Target    uint16     `json:",omitempty"` // 0: it has a name, which its endpoints resolve
	Endpoints []Endpoint `json:",omitempty"` // port 0: any
}

// Endpoint is an address to which a Service leads.
type Endpoint struct {
	Addr  netip.AddrPort
	Ready bool
}

// Node is a node's own addresses: those that it reports, and its side of its pods' network.
type Node struct {
	Name  string
	Addrs []netip.Addr
}

// Services are the cluster's Services with their endpoints, and its nodes. The
// value is never changed. The zero value has none.
type Services struct {
	list  []Service
	nodes []Node

	byName     map[ServiceName]*Service
	byEndpoint map[netip.AddrPort][]place
	byAddress  map[netip.AddrPort][]place // cluster and load-balancer addresses
	byNodePort map[uint16][]place
	nodeOf     map[netip.Addr]*Node
}

// place is a port of a Service.
type place struct {
	service *Service
	port    *ServicePort
}

// NewServices indexes Services and nodes, which must not be changed any more.
func NewServices(list []Service, nodes []Node) *Services {
	s := &Services{
		list: list, nodes: nodes,
		byName:     make(map[ServiceName]*Service, len(list)),
		byEndpoint: make(map[netip.AddrPort][]place),
		byAddress:  make(map[netip.AddrPort][]place, len(list)),
		byNodePort: make(map[uint16][]place),
		nodeOf:     make(map[netip.Addr]*Node),
	}
	for i := range list {
		service := &list[i]
		s.byName[service.Name] = service
		for j := range service.Ports {
			at := place{service, &service.Ports[j]}
			for _, endpoint := range at.port.Endpoints {
				s.byEndpoint[endpoint.Addr] = append(s.byEndpoint[endpoint.Addr], at)
			}
			for _, addr := range slices.Concat(service.ClusterIPs, service.Balancers) {
				to := netip.AddrPortFrom(addr, at.port.Port)
				s.byAddress[to] = append(s.byAddress[to], at)
			}
			if at.port.NodePort != 0 {
				s.byNodePort[at.port.NodePort] = append(s.byNodePort[at.port.NodePort], at)
			}
		}
	}
	for i := range nodes {
		for _, addr := range nodes[i].Addrs {
			s.nodeOf[addr] = &nodes[i]
		}
	}
	return s
}

// same lists the addresses of the node that has this one, else the address alone:
// a server on the host network listens on all of them.
func (s *Services) same(addr netip.Addr) []netip.Addr {
	if node, ok := s.nodeOf[addr]; ok {
		return node.Addrs
	}
	return []netip.Addr{addr}
}

// ports is Ports of a Service that may not exist.
func (s *Service) ports() []ServicePort {
	if s == nil {
		return nil
	}
	return s.Ports
}

// leadsTo tells whether the port leads to one of the wanted ones of its endpoints;
// without endpoints the target port tells.
func (p *ServicePort) leadsTo(wanted []uint16) bool {
	return slices.ContainsFunc(p.numbers(), func(number uint16) bool { return number == 0 || slices.Contains(wanted, number) })
}

// unknown tells whether nothing tells yet where the port leads.
func (p *ServicePort) unknown() bool { return len(p.numbers()) == 0 }

// numbers are the ports of the endpoints; 0 stands for any.
func (p *ServicePort) numbers() []uint16 {
	var all []uint16
	for _, endpoint := range p.Endpoints {
		if !slices.Contains(all, endpoint.Addr.Port()) {
			all = append(all, endpoint.Addr.Port())
		}
	}
	if len(all) == 0 && p.Target != 0 {
		all = append(all, p.Target)
	}
	return all
}

// stored is how Services lie in a file.
type stored struct {
	Services []Service
	Nodes    []Node
}

// MarshalJSON writes what [NewServices] was given.
func (s *Services) MarshalJSON() ([]byte, error) { return json.Marshal(stored{s.list, s.nodes}) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Services) UnmarshalJSON(data []byte) error {
	var from stored
	if err := json.Unmarshal(data, &from); err != nil {
		return err
	}
	*s = *NewServices(from.Services, from.Nodes)
	return nil
}

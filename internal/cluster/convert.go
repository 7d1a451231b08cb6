package cluster

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// servicesOf joins Services, EndpointSlices and nodes.
//
// Shape: ordered by name, so that the same objects make the same value.
func servicesOf(services []*corev1.Service, slicesOf map[ServiceName][]*discoveryv1.EndpointSlice, nodes []*corev1.Node) *Services {
	list := make([]Service, 0, len(services))
	for _, s := range services {
		name := ServiceName{s.Namespace, s.Name}
		list = append(list, serviceOf(s, slicesOf[name]))
	}
	slices.SortFunc(list, func(a, b Service) int {
		if c := strings.Compare(a.Name.Namespace, b.Name.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Name.Name, b.Name.Name)
	})
	all := make([]Node, 0, len(nodes))
	for _, n := range nodes {
		all = append(all, nodeOf(n))
	}
	slices.SortFunc(all, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return NewServices(list, all)
}

func serviceOf(s *corev1.Service, of []*discoveryv1.EndpointSlice) Service {
	out := Service{Name: ServiceName{s.Namespace, s.Name}, ExternalIPs: addrs(s.Spec.ExternalIPs)}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		out.ExternalName = s.Spec.ExternalName
		return out
	}
	out.ClusterIPs = addrs(s.Spec.ClusterIPs) // "None" is no address
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		out.Balancers = append(out.Balancers, addrs([]string{ingress.IP})...)
		if ingress.Hostname != "" {
			out.BalancerNames = append(out.BalancerNames, strings.ToLower(ingress.Hostname))
		}
	}
	for _, port := range s.Spec.Ports {
		if port.Protocol != corev1.ProtocolTCP && port.Protocol != "" {
			continue
		}
		number := uint16(port.Port)
		target := uint16(port.TargetPort.IntVal) // 0 for a name
		if target == 0 && port.TargetPort.StrVal == "" {
			target = number
		}
		out.Ports = append(out.Ports, ServicePort{
			Port: number, NodePort: uint16(port.NodePort), Target: target, Endpoints: endpointsOf(of, port.Name),
		})
	}
	if len(s.Spec.Ports) == 0 {
		out.Ports = []ServicePort{{Endpoints: endpointsOf(of, "")}}
	}
	return out
}

// endpointsOf collects the endpoints of the Service's port of this name.
//
// Source: EndpointSlice, discovery.k8s.io/v1: a port's name is that of the Service's
// port; no ports at all means every port; ready that is absent means ready.
func endpointsOf(of []*discoveryv1.EndpointSlice, name string) []Endpoint {
	ready := make(map[netip.AddrPort]bool)
	for _, slice := range of {
		for _, number := range numbersOf(slice.Ports, name) {
			for _, endpoint := range slice.Endpoints {
				for _, addr := range addrs(endpoint.Addresses) { // none of a slice of names
					to := netip.AddrPortFrom(addr, number)
					ready[to] = ready[to] || endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
				}
			}
		}
	}
	out := make([]Endpoint, 0, len(ready))
	for addr, isReady := range ready {
		out = append(out, Endpoint{addr, isReady})
	}
	slices.SortFunc(out, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	return out
}

func numbersOf(ports []discoveryv1.EndpointPort, name string) []uint16 {
	if len(ports) == 0 {
		return []uint16{0}
	}
	var numbers []uint16
	for _, port := range ports {
		isTCP := port.Protocol == nil || *port.Protocol == corev1.ProtocolTCP
		isNamed := port.Name != nil && *port.Name == name || port.Name == nil && name == ""
		if isTCP && isNamed {
			number := uint16(0)
			if port.Port != nil {
				number = uint16(*port.Port)
			}
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// nodeOf lists the addresses under which a node's ports are reached. Beside those
// that it reports, the first of each range of its pods is its own: the bridge that
// is their gateway, with the usual CNI plugins.
func nodeOf(n *corev1.Node) Node {
	out := Node{Name: n.Name}
	for _, address := range n.Status.Addresses {
		if address.Type == corev1.NodeInternalIP || address.Type == corev1.NodeExternalIP {
			out.Addrs = append(out.Addrs, addrs([]string{address.Address})...)
		}
	}
	for _, cidr := range n.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			out.Addrs = append(out.Addrs, prefix.Masked().Addr().Next())
		}
	}
	slices.SortFunc(out.Addrs, netip.Addr.Compare)
	out.Addrs = slices.Compact(out.Addrs)
	return out
}

// addrs parses what is an address and leaves out what is not.
func addrs(texts []string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			all = append(all, addr.Unmap().WithZone(""))
		}
	}
	return all
}

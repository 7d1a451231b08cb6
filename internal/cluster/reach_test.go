package cluster

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// world is a cluster of two nodes: one Service of a database, and what others make of it.
func world(more ...Service) *Services {
	orders := Service{
		Name:       ServiceName{"data", "orders"},
		ClusterIPs: ips("10.96.0.10 fd00:96::10"),
		Ports: []ServicePort{
			{Port: 5432, Target: 5432, Endpoints: ends("10.244.1.5:5432 [fd00:244::5]:5432 !10.244.2.6:5432")},
			{Port: 9187, Target: 9187, Endpoints: ends("10.244.1.5:9187")}, // its metrics
		},
	}
	nodes := []Node{
		{"n1", ips("10.244.1.1 192.168.0.1")},
		{"n2", ips("10.244.2.1 192.168.0.2 2001:db8::2")},
	}
	return NewServices(append([]Service{orders}, more...), nodes)
}

// ordersOwn are the addresses of the Service in world.
const ordersOwn = "10.96.0.10:5432 [fd00:96::10]:5432 10.244.1.5:5432 [fd00:244::5]:5432 10.244.2.6:5432"

// allNodes are the addresses of its nodes with a port.
const allNodes = "10.244.1.1:P 192.168.0.1:P 10.244.2.1:P 192.168.0.2:P [2001:db8::2]:P 127.0.0.1:P [::1]:P"

func TestGuardedHoldsEveryWayToTheTarget(t *testing.T) {
	named := Reach{Services: []ServiceName{{"data", "orders"}}, Ports: []uint16{5432}}
	for _, row := range []struct {
		name  string
		more  []Service
		reach Reach
		want  string
	}{
		{"a Service: both cluster addresses, endpoints ready or not, not its other port", nil, named, ordersOwn},
		{"nothing is asked for", nil, Reach{Ports: []uint16{5432}}, ""},
		{"a Service that is not there", nil, Reach{Services: []ServiceName{{"data", "gone"}}, Ports: []uint16{5432}}, ""},
		{"hosts on every port", nil, Reach{Hosts: ips("10.8.0.5 ::ffff:10.8.0.6"), Ports: []uint16{5432, 6432}},
			"10.8.0.5:5432 10.8.0.5:6432 10.8.0.6:5432 10.8.0.6:6432"},
		{"another port number on the cluster address", []Service{
			service("data", "pooled", "10.96.0.11", port(6000, 0, "10.244.1.7:5432")),
		}, Reach{Services: []ServiceName{{"data", "pooled"}}, Ports: []uint16{5432}}, "10.96.0.11:6000 10.244.1.7:5432"},
		{"a Service's port number is not its endpoints'", []Service{
			service("data", "web", "10.96.0.12", port(5432, 0, "10.244.1.8:8080")),
		}, Reach{Services: []ServiceName{{"data", "web"}}, Ports: []uint16{5432}}, ""},
		{"a node port on every node and loopback", []Service{
			service("data", "outside", "10.96.0.13", port(5432, 30432, "10.244.1.9:5432")),
		}, Reach{Services: []ServiceName{{"data", "outside"}}, Ports: []uint16{5432}},
			"10.96.0.13:5432 10.244.1.9:5432 " + strings.ReplaceAll(allNodes, "P", "30432")},
		{"external and load-balancer addresses", []Service{{
			Name: ServiceName{"data", "lb"}, ClusterIPs: ips("10.96.0.14"),
			ExternalIPs: ips("203.0.113.7"), Balancers: ips("198.51.100.9 2001:db8::9"), BalancerNames: []string{"lb.example"},
			Ports: []ServicePort{port(15432, 0, "10.244.1.9:5432")},
		}}, Reach{Services: []ServiceName{{"data", "lb"}}, Ports: []uint16{5432}},
			"10.96.0.14:15432 203.0.113.7:15432 198.51.100.9:15432 [2001:db8::9]:15432 10.244.1.9:5432 lb.example:15432"},
		{"a headless Service", []Service{service("data", "bare", "", port(5432, 0, "10.244.1.9:5432 !10.244.1.10:5432"))},
			Reach{Services: []ServiceName{{"data", "bare"}}, Ports: []uint16{5432}}, "10.244.1.9:5432 10.244.1.10:5432"},
		{"a headless Service without ports", []Service{service("data", "bare", "", port(0, 0, "10.244.1.9:0"))},
			Reach{Services: []ServiceName{{"data", "bare"}}, Ports: []uint16{5432, 5433}}, "10.244.1.9:5432 10.244.1.9:5433"},
		{"a named port without endpoints may lead there", []Service{service("data", "down", "10.96.0.15", port(5432, 0, ""))},
			Reach{Services: []ServiceName{{"data", "down"}}, Ports: []uint16{5432}}, "10.96.0.15:5432"},
		{"a server on the host network, at each address of its node", []Service{
			service("data", "host", "10.96.0.16", port(5432, 0, "192.168.0.2:5432")),
		}, Reach{Services: []ServiceName{{"data", "host"}}, Ports: []uint16{5432}},
			"10.96.0.16:5432 10.244.2.1:5432 192.168.0.2:5432 [2001:db8::2]:5432"},
		{"another Service with the same endpoint", []Service{
			service("apps", "alias", "10.96.1.1", port(7000, 0, "10.244.1.5:5432")),
		}, named, ordersOwn + " 10.96.1.1:7000"},
		{"an alias with a node port", []Service{
			service("apps", "alias", "10.96.1.1", port(7000, 31000, "10.244.1.5:5432")),
		}, named, ordersOwn + " 10.96.1.1:7000 " + strings.ReplaceAll(allNodes, "P", "31000")},
		{"an alias of an alias's node port", []Service{
			service("apps", "alias", "10.96.1.1", port(7000, 31000, "10.244.1.5:5432")),
			service("apps", "twice", "10.96.1.2", port(7001, 0, "192.168.0.2:31000")),
		}, named, ordersOwn + " 10.96.1.1:7000 10.96.1.2:7001 " + strings.ReplaceAll(allNodes, "P", "31000")},
		{"the same address with another port is no alias", []Service{
			service("apps", "metrics", "10.96.1.3", port(80, 0, "10.244.1.5:9187")),
		}, named, ordersOwn},
		{"a hostile Service that mixes endpoints widens nothing but itself", []Service{
			service("evil", "mix", "10.96.6.6", port(443, 0, "10.244.1.5:5432 10.244.9.9:8443"), port(80, 30080, "10.244.9.9:8080")),
			service("apps", "victim", "10.96.7.7", port(443, 0, "10.244.9.9:8443")),
		}, named, ordersOwn + " 10.96.6.6:443"},
		{"an address that a hostile Service claims leads nowhere further", []Service{
			{Name: ServiceName{"evil", "claim"}, ClusterIPs: ips("10.96.6.7"), ExternalIPs: ips("203.0.113.50"),
				Ports: []ServicePort{port(443, 0, "10.244.1.5:5432")}},
			service("apps", "proxied", "10.96.7.8", port(443, 0, "203.0.113.50:443")),
		}, named, ordersOwn + " 10.96.6.7:443 203.0.113.50:443"},
		{"a hostile Service that claims the Target's host does not make its endpoints the Target's", []Service{
			{Name: ServiceName{"evil", "claim"}, ClusterIPs: ips("10.96.6.7"), ExternalIPs: ips("10.8.0.5"),
				Ports: []ServicePort{port(5432, 0, "10.244.9.9:8443")}},
		}, Reach{Hosts: ips("10.8.0.5"), Ports: []uint16{5432}}, "10.8.0.5:5432"},
		{"a host that is a Service's cluster address counts as the Service", nil,
			Reach{Hosts: ips("10.96.0.10"), Ports: []uint16{5432}}, ordersOwn},
		{"a host that is a node, with a node port", []Service{
			service("data", "outside", "10.96.0.13", port(5432, 30432, "10.244.1.9:5432")),
		}, Reach{Hosts: ips("192.168.0.1"), Ports: []uint16{30432}},
			"10.96.0.13:5432 10.244.1.9:5432 " + strings.ReplaceAll(allNodes, "P", "30432")},
		{"a Service in front of a host outside the cluster", []Service{
			service("apps", "legacy", "10.96.1.4", port(5000, 0, "10.8.0.5:5432")),
		}, Reach{Hosts: ips("10.8.0.5"), Ports: []uint16{5432}}, "10.8.0.5:5432 10.96.1.4:5000"},
		{"a Service in front of a CIDR", []Service{
			service("apps", "legacy", "10.96.1.4", port(5000, 0, "10.8.0.5:5432")),
			service("apps", "other", "10.96.1.5", port(5000, 0, "10.9.0.5:5432 10.8.0.5:22")),
		}, Reach{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/28")}, Ports: []uint16{5432}}, "10.96.1.4:5000"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := text(world(row.more...).Guarded(row.reach))
			want := strings.Fields(row.want)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestDialledHoldsServicesAsWrittenAlone(t *testing.T) {
	s := world(
		service("data", "bare", "", port(5432, 0, "10.244.1.9:5432 !10.244.1.10:5432 10.244.1.11:9000")),
		service("data", "portless", "", port(0, 0, "10.244.1.12:0")),
		service("data", "down", "", port(5432, 0, "!10.244.1.9:5432")),
		service("data", "named", "10.96.0.20", port(5432, 0, "")),
		service("data", "other", "10.96.0.21", port(5432, 0, "10.244.1.13:6432 10.244.1.13:6433")),
		service("data", "udp", "10.96.0.22"),
		Service{Name: ServiceName{"data", "cname"}, ExternalName: "db.example"},
		service("apps", "alias", "10.96.1.1", port(7000, 31000, "10.244.1.5:5432")),
	)
	for _, row := range []struct{ service, want, unknown string }{
		{"orders", "10.96.0.10:5432 [fd00:96::10]:5432", ""},
		{"bare", "10.244.1.9:5432", ""},
		{"portless", "10.244.1.12:5432", ""},
		{"down", "", "has no ready endpoint"},
		{"named", "", "has no ready endpoint"},
		{"other", "", "has endpoints on 6432, 6433, not on 5432; write the endpoints' port in ports"},
		{"udp", "", "has no TCP port"},
		{"cname", "", "is an ExternalName; write db.example in hosts"},
		{"gone", "", "does not exist"},
	} {
		t.Run(row.service, func(t *testing.T) {
			name := ServiceName{"data", row.service}
			dials, unknown := s.Dialled(Reach{Hosts: ips("10.8.0.5"), Services: []ServiceName{name}, Ports: []uint16{5432}})
			var got []string
			for _, d := range dials {
				if d.Service != name {
					t.Errorf("got a dial of %v, want of %v", d.Service, name)
				}
				got = append(got, d.Addr.String())
			}
			if want := strings.Fields(row.want); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if unknown[name] != row.unknown {
				t.Errorf("got reason %q, want %q", unknown[name], row.unknown)
			}
		})
	}
}

func TestServicesAreTheSameOutOfAFile(t *testing.T) {
	before := world(service("apps", "alias", "10.96.1.1", port(7000, 31000, "10.244.1.5:5432")))
	data, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	var after Services
	if err := json.Unmarshal(data, &after); err != nil {
		t.Fatal(err)
	}
	reach := Reach{Services: []ServiceName{{"data", "orders"}}, Ports: []uint16{5432}}
	if got, want := text(after.Guarded(reach)), text(before.Guarded(reach)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestZeroServicesKnowHostsAlone(t *testing.T) {
	var none Services
	got := text(none.Guarded(Reach{Hosts: ips("10.8.0.5"), Services: []ServiceName{{"a", "b"}}, Ports: []uint16{5432}}))
	if want := []string{"10.8.0.5:5432"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func text(a Addresses) []string {
	all := make(map[string]bool)
	for _, addr := range a.Addrs {
		all[addr.String()] = true
	}
	for _, name := range a.Names {
		all[name.Name+":"+join([]uint16{name.Port})] = true
	}
	return slices.Sorted(maps.Keys(all))
}

func service(namespace, name, cluster string, ports ...ServicePort) Service {
	return Service{Name: ServiceName{namespace, name}, ClusterIPs: ips(cluster), Ports: ports}
}

func port(number, nodePort uint16, endpoints string) ServicePort {
	return ServicePort{Port: number, NodePort: nodePort, Endpoints: ends(endpoints)}
}

// ends parses endpoints; one with ! is not ready.
func ends(text string) []Endpoint {
	var all []Endpoint
	for one := range strings.FieldsSeq(text) {
		addr, isDown := strings.CutPrefix(one, "!")
		all = append(all, Endpoint{netip.MustParseAddrPort(addr), !isDown})
	}
	return all
}

func ips(text string) []netip.Addr { return addrs(strings.Fields(text)) }

package cluster

import (
	"net/netip"
	"slices"
	"testing"
)

// manyAddrs are addresses that nobody else has in a test.
func manyAddrs(n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i] = netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	return all
}

func TestServiceOfCountlessAddressesOpensNoWay(t *testing.T) {
	hostile := Service{Name: ServiceName{"tenant", "hostile"}, ClusterIPs: ips("10.96.0.66"), ExternalIPs: manyAddrs(60_000)}
	for i := range 2000 {
		hostile.Ports = append(hostile.Ports, ServicePort{Port: uint16(10_000 + i), Target: 5432, Endpoints: ends("10.244.1.5:5432")})
	}
	small := service("tenant", "small", "10.96.0.67", port(7000, 0, "10.244.1.5:5432"))
	got := world(hostile, small).Guarded(Reach{Services: []ServiceName{{"data", "orders"}}, Ports: []uint16{5432}})
	if len(got.Addrs) > maxAddresses {
		t.Errorf("got %d addresses, want at most %d", len(got.Addrs), maxAddresses)
	}
	for _, want := range ends(ordersOwn) {
		if !slices.Contains(got.Addrs, want.Addr) {
			t.Errorf("got no %v among the addresses, want the Target's own", want.Addr)
		}
	}
	for _, p := range hostile.Ports {
		for _, addr := range []netip.Addr{hostile.ClusterIPs[0], hostile.ExternalIPs[0], hostile.ExternalIPs[59_999]} {
			if to := netip.AddrPortFrom(addr, p.Port); !slices.Contains(got.Ports, p.Port) && !slices.Contains(got.Addrs, to) {
				t.Fatalf("got %v open, want it guarded by itself or by its port", to)
			}
		}
	}
	if to := netip.MustParseAddrPort("10.96.0.67:7000"); !slices.Contains(got.Addrs, to) && !slices.Contains(got.Ports, 7000) {
		t.Errorf("got %v open, want it guarded beside the hostile one", to)
	}
}

func TestNodePortOfManyNodesIsGuardedOnEveryAddress(t *testing.T) {
	outside := service("data", "outside", "10.96.0.13", port(5432, 30432, "10.244.1.9:5432"))
	twice := service("data", "twice", "10.96.0.14", port(6000, 0, "100.0.19.135:30432")) // forwarded by a node first
	services := NewServices([]Service{outside, twice}, []Node{{"all", manyAddrs(5000)}})
	got := services.Guarded(Reach{Services: []ServiceName{{"data", "outside"}}, Ports: []uint16{5432}})
	if !slices.Equal(got.Ports, []uint16{30432}) {
		t.Errorf("got ports %v, want the node port", got.Ports)
	}
	if want := netip.MustParseAddrPort("10.96.0.14:6000"); !slices.Contains(got.Addrs, want) {
		t.Errorf("got %v, want %v among them", got.Addrs, want)
	}
}

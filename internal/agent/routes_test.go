package agent

import (
	"io"
	"net/netip"
	"testing"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/policy"
)

func TestClientsAliasesLeadToWhatTheTargetsAuthorWrote(t *testing.T) {
	addr, at := netip.MustParseAddr, netip.MustParseAddrPort
	service := func(name, ip string, nodePort uint16, endpoints ...string) cluster.Service {
		s := cluster.Service{
			Name: cluster.ServiceName{Namespace: "data", Name: name}, ClusterIPs: []netip.Addr{addr(ip)},
			Ports: []cluster.ServicePort{{Port: 5432, NodePort: nodePort, Target: 5432}},
		}
		for _, e := range endpoints {
			s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, cluster.Endpoint{Addr: at(e), Ready: true})
		}
		return s
	}
	services := cluster.NewServices([]cluster.Service{
		service("orders", "10.96.0.1", 30001, "10.244.0.5:5432"),
		service("stock", "10.96.0.2", 0, "10.244.0.6:5432"),
		service("alias", "10.96.0.3", 0, "10.244.0.5:5432"),
		service("hostile", "10.96.0.4", 0, "10.244.0.5:5432", "10.244.0.6:5432", "10.244.0.99:5432"),
	}, []cluster.Node{{Name: "n1", Addrs: []netip.Addr{addr("10.200.0.2")}}})
	var docs []policy.Document
	for _, name := range []string{"orders", "stock"} {
		docs = append(docs, policy.Document{Name: "Target/" + name, JSON: []byte(
			`{"apiVersion":"postern.dev/v1alpha1","kind":"Target","metadata":{"name":"` + name + `"},"spec":{"protocol":"postgres",
			"services":[{"namespace":"data","name":"` + name + `"}],"credential":{"secret":"login"}}}`)})
	}
	set, rejected, err := policy.Compile(docs)
	if err != nil || len(rejected) > 0 {
		t.Fatal(err, rejected)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	all := &targets{resolve: (&names{}).resolve, log: log}
	all.use(set.Targets(), services)
	for _, row := range []struct{ dialled, target, dial string }{
		{"10.96.0.1:5432", "orders", "10.96.0.1:5432"},
		{"10.200.0.2:30001", "orders", "10.96.0.1:5432"}, // its node port
		{"10.244.0.5:5432", "orders", "10.96.0.1:5432"},  // its endpoint
		{"10.96.0.3:5432", "orders", "10.96.0.1:5432"},   // another Service with that endpoint
		{"10.96.0.2:5432", "stock", "10.96.0.2:5432"},
		{"10.96.0.4:5432", "", ""},   // leads to both
		{"10.244.0.99:5432", "", ""}, // the hostile Service's own pod is nobody's
		{"10.96.0.1:5433", "", ""},   // another port
		{"10.200.0.2:30002", "", ""}, // somebody else's node port
	} {
		got, ok := all.Lookup(t.Context(), at(row.dialled))
		if ok != (row.target != "") || ok && (got.Target.Name() != row.target || got.Address.String() != row.dial) {
			t.Errorf("got %v to %v for %s, want %s by %s", ok, got.Address, row.dialled, row.target, row.dial)
		}
	}
	for _, g := range all.guarded().Guards {
		if g.Target && g.Prefix.Addr() == addr("10.244.0.99") {
			t.Error("got the pod of a hostile Service guarded, want it left alone")
		}
	}
}

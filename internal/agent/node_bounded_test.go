package agent

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/redirect"
)

// holds tells whether one of the guards holds a destination, as a Target.
func holds(guards []redirect.Guard, to netip.AddrPort) bool {
	return slices.ContainsFunc(guards, func(g redirect.Guard) bool {
		return g.Target && (g.Port == 0 || g.Port == to.Port()) && (g.Prefix == everywhere || g.Prefix.Contains(to.Addr()))
	})
}

// guardsOf are guards of count addresses on each of these ports.
func guardsOf(count int, ports ...uint16) (guards []redirect.Guard) {
	for _, port := range ports {
		for i := range count {
			addr := netip.AddrFrom4([4]byte{10, byte(port), byte(i >> 8), byte(i)})
			guards = append(guards, redirect.Guard{Prefix: netip.PrefixFrom(addr, 32), Port: port, Target: true})
		}
	}
	return guards
}

func TestTooManyGuardsGuardMore(t *testing.T) {
	every := make([]uint16, 0, maxGuards+1)
	for i := range cap(every) {
		every = append(every, uint16(i+1))
	}
	refused := redirect.Guard{Prefix: netip.MustParsePrefix("10.8.0.5/32"), Refuse: true}
	for name, row := range map[string]struct {
		guards []redirect.Guard
		want   int
		kept   redirect.Guard
	}{
		"as many as there may be":  {guardsOf(maxGuards, 5432), maxGuards, guardsOf(1, 5432)[0]},
		"one port of too many":     {append(guardsOf(maxGuards, 7000), guardsOf(9, 5432)...), 1 + 9, guardsOf(1, 5432)[0]},
		"a refusal of other ports": {append(guardsOf(maxGuards, 7000), refused), 2, refused},
		"too many ports":           {guardsOf(1, every...), 1, redirect.Guard{Prefix: everywhere, Refuse: true, Target: true}},
	} {
		got := bounded(nil, slices.Clone(row.guards))
		if len(got) != row.want || !slices.Contains(got, row.kept) {
			t.Errorf("got %d guards of %s, want %d with %v", len(got), name, row.want, row.kept)
		}
		for _, g := range row.guards {
			if g.Target && !holds(got, netip.AddrPortFrom(g.Prefix.Addr(), g.Port)) {
				t.Fatalf("got %v open of %s, want it guarded", g, name)
			}
		}
	}
}

func TestWhoMakesServicesTakesNoPortFromPlainPods(t *testing.T) {
	own, others := guardsOf(2, 443), guardsOf(maxGuards, 443, 7001)
	for _, guards := range [][]redirect.Guard{own, others} {
		for i := range guards {
			guards[i].Exclusive = true
		}
	}
	got := bounded(own, others)
	for _, g := range own {
		if !slices.Contains(got, g) {
			t.Errorf("got no %+v, want what the Target's author wrote as it is", g)
		}
	}
	for _, g := range got {
		if g.Prefix == everywhere && g.Exclusive {
			t.Errorf("got %+v, want nothing refused everywhere to pods that are not guarded", g)
		}
	}
}

func TestCountlessServicesOfATargetAreGuardedAndSaid(t *testing.T) {
	at := netip.MustParseAddrPort
	service := func(i int) cluster.Service {
		return cluster.Service{
			Name:       cluster.ServiceName{Namespace: "tenant", Name: fmt.Sprint("s", i)},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})},
			Ports:      []cluster.ServicePort{{Port: 9000, Target: 5432, Endpoints: []cluster.Endpoint{{Addr: at("10.8.0.5:5432"), Ready: true}}}},
		}
	}
	var list []cluster.Service
	for i := range 20_000 {
		list = append(list, service(i))
	}
	set, rejected, err := policy.Compile([]policy.Document{{Name: "Target/orders", JSON: []byte(
		`{"apiVersion":"postern.dev/v1alpha1","kind":"Target","metadata":{"name":"orders"},"spec":{"protocol":"postgres",
		"hosts":["10.8.0.5"],"unknownHosts":"pass","credential":{"secret":"login"}}}`)}})
	if err != nil || len(rejected) > 0 {
		t.Fatal(err, rejected)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	all := &targets{resolve: (&names{}).resolve, log: log}
	all.use(set.Targets(), cluster.NewServices(list[:10], nil))
	if got := all.coarse(); len(got) != 0 {
		t.Errorf("got %q of ten Services, want nothing to say", got)
	}
	all.use(set.Targets(), cluster.NewServices(list, nil))
	guards := all.guarded().Guards
	if len(guards) > maxGuards {
		t.Errorf("got %d guards, want at most %d", len(guards), maxGuards)
	}
	for _, s := range list {
		if to := netip.AddrPortFrom(s.ClusterIPs[0], 9000); !holds(guards, to) {
			t.Fatalf("got %v open, want it guarded", to)
		}
	}
	all.use(append(set.Targets(), set.Targets()...), cluster.NewServices(list, nil))
	if guards := all.guarded().Guards; len(guards) > maxGuards || len(all.coarse()) != 3 {
		t.Errorf("got %d guards of two Targets, %q, want at most %d, and it said of all", len(guards), all.coarse(), maxGuards)
	}
	all.use(set.Targets(), cluster.NewServices(list, nil))
	all.guarded()
	if got := all.coarse(); len(got) != 1 || !strings.Contains(got[0], "target orders") {
		t.Errorf("got %q, want it said of target orders", got)
	}
	for to, want := range map[string]bool{"10.8.0.5:5432": true, "203.0.113.9:9000": false} {
		if _, ok := all.Lookup(t.Context(), at(to)); ok != want {
			t.Errorf("got %v for %s, want %v: an address of nobody leads nowhere", ok, to, want)
		}
	}
}

func TestShortfallIsSaidOnceWhileItLasts(t *testing.T) {
	var s shortfalls
	for i, row := range []struct {
		said []string
		news bool
	}{{nil, false}, {[]string{"a"}, true}, {[]string{"a", "b"}, false}, {nil, false}, {[]string{"c"}, true}} {
		if got := s.replace("pods", row.said); got != row.news {
			t.Errorf("got news %v in step %d, want %v", got, i, row.news)
		}
		if got := s.list(); len(got) != len(row.said) {
			t.Errorf("got %q in step %d, want %q", got, i, row.said)
		}
	}
}

package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/proxy"
)

// namespaces notes from where something was dialled.
type namespaces []string

func (n *namespaces) Dial(_ context.Context, podUID string, _ netip.AddrPort) (net.Conn, error) {
	*n = append(*n, podUID)
	return nil, errNoGate
}

func TestPodOfAMeshIsDialledForFromTheNode(t *testing.T) {
	set, rejected, err := policy.Compile([]policy.Document{target("db", "10.0.0.1")})
	if err != nil || len(rejected) > 0 {
		t.Fatal(err, rejected)
	}
	p := newPods()
	p.replace([]cluster.Pod{{UID: "plain"}, {UID: "meshed", Mesh: "istio"}})
	for uid, want := range map[string]string{"plain": "plain", "meshed": "", "unknown": "unknown"} {
		var from namespaces
		origin := proxy.Origin{Workload: audit.Workload{UID: uid}}
		_, err := dial(t.Context(), &from, origin, p.mesh(uid) != "", proxy.Destination{Target: set.Targets()[0]})
		if !errors.Is(err, errNoGate) || len(from) != 1 || from[0] != want {
			t.Errorf("got %q and %v for pod %s, want it dialled for from %q", from, err, uid, want)
		}
	}
}

package proxy

import (
	"context"
	"net"
	"net/netip"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
)

// Origin is where a connection wanted to go, and the process that opened it, as
// the kernel recorded both.
type Origin struct {
	Dialled  netip.AddrPort // never a v4-mapped address
	Workload audit.Workload // not proven beyond what the kernel saw
}

// Origins tells the origin of an accepted connection.
type Origins interface {
	// Owner is what is known of who opened the connection without asking anybody:
	// the pod in whose share it counts, by its UID. It is empty outside of a cluster.
	Owner(net.Conn) audit.Workload
	// Origin fails for a connection that no program led here; it must be closed.
	Origin(net.Conn) (Origin, error)
}

// Identifier proves who opened a connection.
type Identifier interface {
	// Identify fails with an [*identity.Error], whose message may be shown, or
	// with a [*Refused].
	Identify(context.Context, Origin) (identity.Identity, error)
	// Pod is the pod that opened it, as the cluster knows it now: the same pointer
	// until that changes. It is nil outside of a cluster, and of a pod that is gone.
	Pod(Origin) *policy.PodSubject
}

// Refused is why a connection is turned away before its identity is asked for, or
// for exceeding the share of its workload at any time.
//
// Shape: Message may be shown.
type Refused struct {
	Reason  metrics.Refusal
	Share   string // the one that is exceeded, as [Limits] names it
	Message string
}

func (r *Refused) Error() string { return r.Message }

// Destination is the server that a connection goes to.
type Destination struct {
	Target  *policy.Target
	Host    string         // the name that the Target gives it, or the address
	Address netip.AddrPort // the one to dial
}

// Targets tells which Target an address belongs to.
type Targets interface {
	// Lookup answers false for an address that belongs to no Target.
	Lookup(context.Context, netip.AddrPort) (Destination, bool)
}

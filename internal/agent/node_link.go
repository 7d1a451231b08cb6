package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"

	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/proxy"
)

// errNoGate is what needs the gate while it is away.
var errNoGate = errors.New("the gate is away")

// link is the gate, as long as there is one.
type link struct{ client atomic.Pointer[gate.Client] }

// Dial opens a connection from a pod's network namespace, or from the node's.
func (l *link) Dial(ctx context.Context, podUID string, to netip.AddrPort) (net.Conn, error) {
	client := l.client.Load()
	if client == nil {
		return nil, errNoGate
	}
	return client.Dial(ctx, podUID, to)
}

// Token opens a pod's token.
func (l *link) Token(ctx context.Context, podUID, volume, file string) (*os.File, error) {
	client := l.client.Load()
	if client == nil {
		return nil, errNoGate
	}
	return client.Token(ctx, podUID, volume, file)
}

// Status asks what the gate has done.
func (l *link) Status(ctx context.Context) (gate.Status, error) {
	client := l.client.Load()
	if client == nil {
		return gate.Status{}, errNoGate
	}
	return client.Status(ctx)
}

// dialler opens connections in a network namespace; podUID is empty for the node's.
type dialler interface {
	Dial(ctx context.Context, podUID string, to netip.AddrPort) (net.Conn, error)
}

// dial is [postgres.Dial]: from where the Target says, for a pod that may be meshed.
func dial(ctx context.Context, from dialler, origin proxy.Origin, meshed bool, to proxy.Destination) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	uid := ""
	if to.Target.DialsFrom(meshed) == policy.SourcePod {
		uid = origin.Workload.UID
	}
	return from.Dial(ctx, uid, to.Address)
}

// arrivals are the connections that a gate hands over, as a listener has them.
type arrivals struct {
	client *gate.Client
}

// Accept gives the next connection of a pod.
func (a arrivals) Accept() (net.Conn, error) {
	conn, err := a.client.Accept()
	if err != nil {
		return nil, err // not a nil *gate.Conn as a net.Conn
	}
	return conn, nil
}

// Close ends the connection to the gate, which then closes the pods' listeners.
func (a arrivals) Close() error { return a.client.Close() }

// Addr is nowhere: the pods' listeners are in their own namespaces.
func (a arrivals) Addr() net.Addr { return &net.UnixAddr{Name: "gate", Net: "unix"} }

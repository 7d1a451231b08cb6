package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// listenTries bounds the search for a port that is free in both families.
const listenTries = 16

// Listen opens the listeners that guarded connections arrive at: 127.0.0.1
// first, then ::1 on the same port where the machine has IPv6. It is called once,
// in the network namespace that the command will be in.
func (r *Run) Listen() ([]net.Listener, error) {
	listeners, err := listenBoth()
	if err != nil {
		return nil, err
	}
	netns, err := netnsCookie(listeners[0])
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.state.Pod.Netns = netns
		r.state.Pod.Port = networkOrder(portOf(listeners[0]))
		err = r.writeState()
	}
	if err != nil {
		for _, l := range listeners {
			l.Close()
		}
		return nil, err
	}
	return listeners, nil
}

func listenBoth() ([]net.Listener, error) {
	for range listenTries {
		v4, err := listen("tcp4", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
		if err != nil {
			return nil, err
		}
		v6, err := listen("tcp6", netip.IPv6Loopback(), portOf(v4))
		switch {
		case err == nil:
			return []net.Listener{v4, v6}, nil
		case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
			return []net.Listener{v4}, nil // a machine without IPv6
		}
		v4.Close()
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("listen: no port is free on both 127.0.0.1 and ::1 in %d tries", listenTries)
}

func listen(network string, addr netip.Addr, port uint16) (net.Listener, error) {
	var lc net.ListenConfig
	// The record lies with the subflow of a multipath connection, where a
	// descriptor does not lead.
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), network, netip.AddrPortFrom(addr, port).String())
}

func portOf(l net.Listener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }

func netnsCookie(l net.Listener) (cookie uint64, err error) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return 0, err
	}
	var opt error
	err = raw.Control(func(fd uintptr) {
		cookie, opt = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	if err := errors.Join(err, opt); err != nil {
		return 0, fmt.Errorf("getsockopt SO_NETNS_COOKIE: %w", err)
	}
	return cookie, nil
}

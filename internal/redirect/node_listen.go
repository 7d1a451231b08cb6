package redirect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Ports for listeners: above those that clients get of the kernel by default, and
// that servers like to have.
const (
	firstPort = 61000
	lastPort  = 65535
)

// Listen opens a pod's listeners in its network namespace: 127.0.0.1 and ::1 on
// one port, or the one of them that the namespace has. The port is that of an
// earlier process's listeners, beside which these may be; else a new one. Only
// a process in a cgroup that is exempt may listen (see [Node.Exempt]).
//
// Errors: [ErrUnknownPod].
func (n *Node) Listen(uid string) ([]net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := n.located(uid)
	if err != nil {
		return nil, err
	}
	if m.pod.Port, err = n.portOf(m); err != nil {
		return nil, err
	}
	for range listenTries {
		if m.pod.Port == 0 {
			if err := n.givePort(m); err != nil {
				return nil, fmt.Errorf("listen for pod %s: %w", uid, err)
			}
		}
		listeners, err := n.listenIn(m)
		if err == nil {
			return listeners, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("listen for pod %s: %w", uid, err)
		}
		// Somebody took it while nobody listened: listen(2) chooses ports that
		// bind(2) is refused.
		if err := n.dropPort(m); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("listen for pod %s: no port is free in %d tries", uid, listenTries)
}

// located is a pod whose network namespace is at hand.
func (n *Node) located(uid string) (*member, error) {
	m, err := n.find(uid)
	if err != nil {
		return nil, err
	}
	if m == nil || m.netns == nil {
		return nil, fmt.Errorf("pod %s: %w", uid, ErrUnknownPod)
	}
	return m, nil
}

// givePort finds a free port and makes it the pod's. Until the programs keep it, it
// is held by sockets that share it with nobody, so that no other one is there.
func (n *Node) givePort(m *member) error {
	return inNetns(m.netns, func() error {
		low, high := localPorts()
		for tries := range listenTries {
			port := uint16(firstPort + rand.IntN(lastPort-firstPort+1))
			if port >= low && port <= high && tries < listenTries/2 {
				continue // listen(2) chooses from these, and no program is asked
			}
			held, err := holdPort(port)
			if errors.Is(err, unix.EADDRINUSE) {
				continue
			}
			if err != nil {
				return err
			}
			err = n.keepPort(m, networkOrder(port))
			for _, fd := range held {
				unix.Close(fd)
			}
			if !errors.Is(err, ebpf.ErrKeyExist) {
				return err
			}
		}
		return fmt.Errorf("no port is free in %d tries", listenTries)
	})
}

// localPorts are those that the kernel chooses from, in the namespace of this
// thread; none if that cannot be read.
func localPorts() (low, high uint16) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0
	}
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		return 0, 0
	}
	return low, high
}

// holdPort binds a port of both loopback addresses, or of the one there is.
func holdPort(port uint16) (held []int, err error) {
	for _, addr := range loopbacks {
		fd, err := holdOne(netip.AddrPortFrom(addr, port))
		if isNoFamily(err) {
			continue
		}
		if err != nil {
			for _, fd := range held {
				unix.Close(fd)
			}
			return nil, err
		}
		held = append(held, fd)
	}
	return held, nil
}

func holdOne(at netip.AddrPort) (int, error) {
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port()), Addr: loopbacks[0].As4()})
	if at.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = freeBind(fd, family)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// isNoFamily tells that the namespace does not have the address' family.
func isNoFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// freeBind lets a socket be bound before the loopback interface is up.
func freeBind(fd, family int) error {
	if family == unix.AF_INET {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
}

// keepPort lets nobody else bind the port from now on, and redirects to it.
func (n *Node) keepPort(m *member, port uint16) error {
	if m.host {
		if err := n.maps.HostPorts.Update(port, m.pod.Index, ebpf.UpdateNoExist); err != nil {
			return err
		}
	}
	m.pod.Port = port
	return n.writePod(m)
}

func (n *Node) dropPort(m *member) error {
	port := m.pod.Port
	m.pod.Port = 0
	if err := n.writePod(m); err != nil {
		return err
	}
	if !m.host {
		return nil
	}
	return deleteKey(n.maps.HostPorts, port)
}

// loopbacks are where listeners are.
var loopbacks = [...]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// listenIn listens at the pod's port.
//
// Errors: EADDRINUSE also if another process listens there too, as one of the same
// user can.
func (n *Node) listenIn(m *member) (listeners []net.Listener, err error) {
	port := networkOrder(m.pod.Port)
	err = inNetns(m.netns, func() error {
		for i, addr := range loopbacks {
			l, err := listenShared([...]string{"tcp4", "tcp6"}[i], netip.AddrPortFrom(addr, port))
			if isNoFamily(err) {
				continue
			}
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		if len(listeners) == 0 {
			return unix.EADDRNOTAVAIL
		}
		return n.checkAlone(port)
	})
	if err != nil {
		for _, l := range listeners {
			l.Close()
		}
		return nil, err
	}
	return listeners, nil
}

// checkAlone finds out whether all that listen at a port, in the namespace of this
// thread, are Postern's.
func (n *Node) checkAlone(port uint16) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := listSockets(family, listening)
		if errors.Is(err, unix.ENOENT) {
			continue // the kernel cannot tell (no inet_diag)
		}
		if err != nil {
			return fmt.Errorf("list listeners: %w", err)
		}
		for _, s := range sockets {
			if s.port != port {
				continue
			}
			var one uint8
			err := n.maps.Agents.Lookup(s.cgroup, &one)
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("another process listens at port %d: %w", port, unix.EADDRINUSE)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// listenShared listens beside an earlier process's listener. That nobody else
// does, see bpf/hooks.h, on_bind.
func listenShared(network string, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var opt error
		err := c.Control(func(fd uintptr) {
			family := unix.AF_INET
			if network == "tcp6" {
				family = unix.AF_INET6
			}
			opt = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
				freeBind(int(fd), family))
		})
		return errors.Join(err, opt)
	}}
	lc.SetMultipathTCP(false) // see listen
	return lc.Listen(context.Background(), network, at.String())
}

// Origin tells where a connection accepted by a pod's listener wanted to go and
// who opened it.
//
// Shape: c was accepted by a listener of [Node.Listen], of whatever process.
// Errors: [ErrNoOrigin] when no program led it here for this pod, of these [ErrGone];
// [ErrUnknownPod].
// Source: bpf/origin.h, accepted.
func (n *Node) Origin(uid string, c net.Conn) (Origin, error) {
	n.mu.Lock()
	m, err := n.find(uid)
	n.mu.Unlock()
	if err != nil {
		return Origin{}, err
	}
	if m == nil {
		return Origin{}, fmt.Errorf("pod %s: %w", uid, ErrUnknownPod)
	}
	record, err := readOrigin(n.maps.Accepted, c)
	if err != nil {
		return Origin{}, err
	}
	netns := m.pod.Netns
	if m.host {
		netns = n.state.Netns
	}
	if record.Netns != netns {
		return Origin{}, fmt.Errorf("connected in another network namespace: %w", ErrNoOrigin)
	}
	if record.Pod != m.pod.Index {
		return Origin{}, fmt.Errorf("connected for another pod: %w", ErrNoOrigin)
	}
	if record.Owner != 0 && m.cgroup != 0 && record.Owner != m.cgroup {
		return Origin{}, fmt.Errorf("connected by another pod: %w", ErrNoOrigin)
	}
	return originOf(record), nil
}

// Socket makes a non-blocking TCP socket that is not connected, in a pod's network
// namespace; with an empty uid in the node's.
//
// Shape: network is tcp4 or tcp6.
// Errors: [ErrUnknownPod].
func (n *Node) Socket(uid, network string) (*os.File, error) {
	family, ok := map[string]int{"tcp4": unix.AF_INET, "tcp6": unix.AF_INET6}[network]
	if !ok {
		return nil, fmt.Errorf("socket: unknown network %q", network)
	}
	n.mu.Lock()
	defer n.mu.Unlock() // the namespace is not closed meanwhile
	ns := n.host
	if uid != "" {
		m, err := n.located(uid)
		if err != nil {
			return nil, err
		}
		ns = m.netns
	}
	var fd int
	err := inNetns(ns, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", network, err)
	}
	return os.NewFile(uintptr(fd), network), nil
}

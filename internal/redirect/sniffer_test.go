package redirect

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// markPort is where the test sends a datagram that the sniffer has to see after
// all that was sent before.
const markPort = 9

// sniffer counts packets to the database's machine that are TCP, UDP or
// fragments: crafted ones, which no server answers, among them.
type sniffer struct {
	packets atomic.Int64
	marks   chan struct{}
}

func newSniffer(t *testing.T, w *world) *sniffer {
	t.Helper()
	var fd int
	err := w.db.Do(func() (err error) {
		all := int(networkOrder(unix.ETH_P_ALL))
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		return err
	})
	if err != nil {
		t.Fatalf("open packet socket: %v", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		t.Fatal(err)
	}
	s := &sniffer{marks: make(chan struct{}, 1)}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s.read(fd, stop)
	}()
	t.Cleanup(func() { close(stop); <-stopped; unix.Close(fd) })
	return s
}

func (s *sniffer) read(fd int, stop <-chan struct{}) {
	buf := make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		ll := from.(*unix.SockaddrLinklayer)
		if ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		s.see(untagged(networkOrder(ll.Protocol), buf[:n]))
	}
}

// untagged takes off what tags for a VLAN the kernel has left, as the database's
// machine does.
func untagged(kind uint16, packet []byte) []byte {
	for kind == unix.ETH_P_8021Q && len(packet) > 4 {
		kind, packet = binary.BigEndian.Uint16(packet[2:]), packet[4:]
	}
	return packet
}

func (s *sniffer) see(packet []byte) {
	dst, protocol, rest := readIP(packet)
	if !slices.Contains([]netip.Addr{db4.Addr(), db6.Addr(), quiet4.Addr(), quiet6.Addr()}, dst) {
		return
	}
	switch protocol {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return
	case unix.IPPROTO_UDP:
		if len(rest) >= 4 && binary.BigEndian.Uint16(rest[2:]) == markPort {
			s.marks <- struct{}{}
			return
		}
	case unix.IPPROTO_TCP:
		// A reset is the kernel's own answer to the database's machine.
		const rst = 1 << 2
		if len(rest) >= 20 && rest[13]&rst != 0 {
			return
		}
	}
	s.packets.Add(1)
}

func readIP(p []byte) (dst netip.Addr, protocol int, rest []byte) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		dst, _ = netip.AddrFromSlice(p[16:20])
		protocol, rest = int(p[9]), p[min(len(p), int(p[0]&15)*4):]
	case len(p) >= 40 && p[0]>>4 == 6:
		dst, _ = netip.AddrFromSlice(p[24:40])
		protocol, rest = int(p[6]), p[40:]
	}
	return dst, protocol, rest
}

// reached answers how many packets have arrived since the last call.
func (w *world) reached(t *testing.T) int64 {
	t.Helper()
	err := w.here.Do(func() error {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(db4.Addr(), markPort)))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("mark"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	<-w.sniffer.marks
	return w.sniffer.packets.Swap(0)
}

package redirect

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// tcpSYN is a TCP header that asks for a connection; its checksum is not filled
// in, as the sniffer counts packets and no server has to take them.
func tcpSYN(port uint16) []byte {
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h[0:], 12345)
	binary.BigEndian.PutUint16(h[2:], port)
	h[12] = 5 << 4
	h[13] = 1 << 1
	binary.BigEndian.PutUint16(h[14:], 65535)
	return h
}

func ipv4Header(to netip.Addr, fragment uint16, options, payload []byte) []byte {
	p := make([]byte, 20, 20+len(options)+len(payload))
	p[0] = 4<<4 | byte(5+len(options)/4)
	binary.BigEndian.PutUint16(p[2:], uint16(cap(p)))
	binary.BigEndian.PutUint16(p[4:], 1)
	binary.BigEndian.PutUint16(p[6:], fragment)
	p[8] = 64
	p[9] = unix.IPPROTO_TCP
	src, dst := here4.As4(), to.As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	return append(append(p, options...), payload...)
}

func rawSYN4(to netip.AddrPort) []byte { return ipv4Header(to.Addr(), 0, nil, tcpSYN(to.Port())) }

// rawFragment is a piece of a SYN: from an offset in bytes, with more to come
// or not.
func rawFragment(to netip.AddrPort, offset int, more bool) []byte {
	syn := append(tcpSYN(to.Port()), make([]byte, 24)...)
	if more {
		return ipv4Header(to.Addr(), 1<<13|uint16(offset/8), nil, syn[offset:offset+24])
	}
	return ipv4Header(to.Addr(), uint16(offset/8), nil, syn[offset:])
}

// rawShort ends before the ports do.
func rawShort(to netip.AddrPort) []byte {
	return ipv4Header(to.Addr(), 0, nil, tcpSYN(to.Port())[:3])
}

// looseSourceRoute is RFC 791's option 131 with one hop, padded.
func looseSourceRoute(hop netip.Addr) []byte {
	h := hop.As4()
	return []byte{131, 7, 4, h[0], h[1], h[2], h[3], 0}
}

// rawSourceRoute goes to a machine that is to pass it on to the database.
func rawSourceRoute(via netip.AddrPort) []byte {
	return ipv4Header(via.Addr(), 0, looseSourceRoute(db4.Addr()), tcpSYN(lonePort))
}

func sendRaw4(packet []byte) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return "socket: " + word(err)
	}
	dst, _, _ := readIP(packet)
	if err := unix.Sendto(fd, packet, 0, sockaddr(netip.AddrPortFrom(dst, 0))); err != nil {
		return word(err)
	}
	return "sent"
}

// tcpRST is the end of a connection that a process makes up.
func tcpRST(port uint16) []byte {
	h := tcpSYN(port)
	h[13] = 1 << 2
	return h
}

// sendRawTCP leaves it to the kernel what is before the header.
func sendRawTCP(family int, to netip.Addr, header []byte) string {
	fd, err := socket(family, unix.SOCK_RAW, unix.IPPROTO_TCP)
	if err != nil {
		return "socket: " + word(err)
	}
	if err := unix.Sendto(fd, header, 0, sockaddr(netip.AddrPortFrom(to, 0))); err != nil {
		return word(err)
	}
	return "sent"
}

func ipv6Header(to netip.Addr, next byte, payload []byte) []byte {
	p := make([]byte, 40, 40+len(payload))
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	p[6] = next
	p[7] = 64
	src, dst := here6.As16(), to.As16()
	copy(p[8:], src[:])
	copy(p[24:], dst[:])
	return append(p, payload...)
}

func rawFragment6(to netip.AddrPort) []byte {
	header := []byte{unix.IPPROTO_TCP, 0, 0, 1, 0, 0, 0, 1} // first, more to come
	return ipv6Header(to.Addr(), unix.IPPROTO_FRAGMENT, append(header, tcpSYN(to.Port())...))
}

// rawExtensions6 hides a SYN behind n destination options.
func rawExtensions6(to netip.AddrPort, n int) []byte {
	var payload []byte
	for i := range n {
		next := byte(unix.IPPROTO_DSTOPTS)
		if i == n-1 {
			next = unix.IPPROTO_TCP
		}
		payload = append(payload, next, 0, 1, 4, 0, 0, 0, 0) // PadN
	}
	return ipv6Header(to.Addr(), unix.IPPROTO_DSTOPTS, append(payload, tcpSYN(to.Port())...))
}

// rawRouting6 is what rawSourceRoute is.
func rawRouting6(via netip.AddrPort) []byte {
	last := db6.Addr().As16()
	header := append([]byte{unix.IPPROTO_TCP, 2, 0, 1, 0, 0, 0, 0}, last[:]...)
	return ipv6Header(via.Addr(), unix.IPPROTO_ROUTING, append(header, tcpSYN(lonePort)...))
}

func sendRaw6(packet []byte) string {
	fd, err := socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return "socket: " + word(err)
	}
	dst, _, _ := readIP(packet)
	if err := unix.Sendto(fd, packet, 0, sockaddr(netip.AddrPortFrom(dst, 0))); err != nil {
		return word(err)
	}
	return "sent"
}

// sendFrame writes to the device itself.
func sendFrame(bypass bool) string {
	fd, err := socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(networkOrder(unix.ETH_P_IP)))
	if err != nil {
		return "socket: " + word(err)
	}
	if bypass {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return word(err)
		}
	}
	device, err := net.InterfaceByName("veth0")
	if err != nil {
		return err.Error()
	}
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: device.Index, Halen: 6}
	copy(to.Addr[:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	if err := unix.Sendto(fd, rawSYN4(db4), 0, to); err != nil {
		return word(err)
	}
	return "sent"
}

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// setting is what a workload is told.
type setting struct {
	listener uint16 // the port of the agent's listeners
}

func readSetting() setting {
	port, err := strconv.ParseUint(os.Getenv("POSTERN_TEST_LISTENER"), 10, 16)
	if err != nil {
		panic(err)
	}
	return setting{listener: uint16(port)}
}

// workloads are what the test binary does as the guarded command. Each tries
// something and answers in a word what came of it.
var workloads = map[string]func(setting) string{
	"plain4":  func(setting) string { return dial(unix.AF_INET, db4) },
	"plain6":  func(setting) string { return dial(unix.AF_INET6, db6) },
	"mapped6": func(setting) string { return dial(unix.AF_INET6, mapped(db4)) },
}

func mapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// socket makes a socket whose calls give up after a second.
func socket(family, kind, protocol int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, err
	}
	limit := unix.Timeval{Sec: 1}
	return fd, errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
}

func dial(family int, to netip.AddrPort) string {
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	return connect(fd, to)
}

func connect(fd int, to netip.AddrPort) string {
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return word(err)
	}
	return verdict(fd, to)
}

// verdict reads who answers a connection, and compares what the client sees and
// what the agent saw with where the client wanted to go.
func verdict(fd int, to netip.AddrPort) string {
	reply, err := readAll(fd)
	if err != nil {
		return word(err)
	}
	rest, proxied := strings.CutPrefix(reply, proxiedReply)
	if !proxied {
		return reply
	}
	want := fmt.Sprintf("%v %d %d", netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), os.Getpid(), os.Getuid())
	if rest != want {
		return "proxied, origin: got " + rest + ", want " + want
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return word(err)
	}
	if got := addrPort(peer); got != to {
		return fmt.Sprintf("proxied, peer %v", got)
	}
	return "proxied"
}

func readAll(fd int) (string, error) {
	var reply []byte
	buf := make([]byte, 512)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		reply = append(reply, buf[:n]...)
	}
	if len(reply) == 0 {
		return "closed", nil
	}
	return string(reply), nil
}

func word(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	switch errno {
	case unix.EINPROGRESS, unix.EAGAIN, unix.ETIMEDOUT:
		return "timeout"
	case unix.ECONNREFUSED:
		return "refused"
	case unix.ECONNRESET:
		return "closed"
	}
	return unix.ErrnoName(errno)
}

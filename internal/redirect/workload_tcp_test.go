package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialZero4: 0.0.0.0 is the loopback address, and is shown as such.
func dialZero4(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(db4.Port())}); err != nil {
		return word(err)
	}
	return verdict(fd, loopback(db4.Port()))
}

func dialZero6(setting) string {
	fd, err := socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(db6.Port())}); err != nil {
		return word(err)
	}
	return verdict(fd, netip.AddrPortFrom(netip.IPv6Loopback(), db6.Port()))
}

// dialBound connects from the address that leads to the database.
func dialBound(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(here4, 0))); err != nil {
		return word(err)
	}
	return connect(fd, db4)
}

func fastOpenSendto(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, sockaddr(db4)); err != nil {
		return word(err)
	}
	return verdict(fd, db4)
}

func fastOpenSendmsg(setting) string {
	fd, err := socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Sendmsg(fd, []byte("x"), nil, sockaddr(db6), unix.MSG_FASTOPEN); err != nil {
		return word(err)
	}
	return verdict(fd, db6)
}

func fastOpenConnect(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, sockaddr(db4)); err != nil {
		return word(err)
	}
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		return word(err)
	}
	return verdict(fd, db4)
}

func dialMultipath(family int, to netip.AddrPort) string {
	fd, err := socket(family, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		return word(err)
	}
	return connect(fd, to)
}

func fastOpenMultipath(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		return word(err)
	}
	if err := unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, sockaddr(db4)); err != nil {
		return word(err)
	}
	return verdict(fd, db4)
}

func dialProtocol(protocol int) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, protocol)
	if err != nil {
		return word(err)
	}
	return connect(fd, db4)
}

func udpConnect(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, sockaddr(db4)); err != nil {
		return word(err)
	}
	return "connected"
}

func udpSendto(family int, to netip.AddrPort) string {
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(to)); err != nil {
		return word(err)
	}
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return word(err)
	}
	return string(buf[:n])
}

// disconnect is connect(2) to AF_UNSPEC.
func disconnect(fd int) error {
	sa := unix.RawSockaddrAny{}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), pointer(&sa), unix.SizeofSockaddrAny)
	if errno != 0 {
		return errno
	}
	return nil
}

func unspecFirst(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := disconnect(fd); err != nil {
		return word(err)
	}
	return connect(fd, db4)
}

// unspecAgain uses a socket first for what is not guarded.
func unspecAgain(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if got := connect(fd, other4); got != directReply {
		return "unguarded: " + got
	}
	if err := disconnect(fd); err != nil {
		return word(err)
	}
	return connect(fd, db4)
}

// reuseSocket uses a socket first for what is guarded: its record must not stay
// with the next connection, to a server that has the listener's port.
func reuseSocket(s setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if got := connect(fd, db4); got != "proxied" {
		return "guarded: " + got
	}
	if err := disconnect(fd); err != nil {
		return word(err)
	}
	next := netip.AddrPortFrom(other4.Addr(), s.listener)
	if err := unix.Connect(fd, sockaddr(next)); err != nil {
		return word(err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return word(err)
	}
	if got := addrPort(peer); got != next {
		return fmt.Sprintf("peer %v", got)
	}
	return "unguarded"
}

func dialAndDup(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, sockaddr(db4)); err != nil {
		return word(err)
	}
	other, err := unix.Dup(fd)
	if err != nil {
		return word(err)
	}
	unix.Close(fd)
	return verdict(other, db4)
}

// dialMarked sets the mark that exempts proxies elsewhere, if it may.
func dialMarked(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x539)
	return connect(fd, db4)
}

func dialSourceRouted(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(looseSourceRoute(quiet4.Addr()))); err != nil {
		return "setsockopt: " + word(err)
	}
	return connect(fd, db4)
}

// simultaneousOpen connects from a port that the database's machine connects to
// at the same time.
func simultaneousOpen(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 7000}); err != nil {
		return word(err)
	}
	return connect(fd, quiet4)
}

// repairConnect makes a connection without a handshake, which needs
// CAP_NET_ADMIN.
func repairConnect(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		return "setsockopt: " + word(err)
	}
	if err := unix.Connect(fd, sockaddr(db4)); err != nil {
		return word(err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0); err != nil {
		return word(err)
	}
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		return word(err)
	}
	reply, err := readAll(fd)
	if err != nil {
		return word(err)
	}
	return reply
}

// listenFor accepts one connection from the database's machine.
func listenFor(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 7000}); err != nil {
		return word(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		return word(err)
	}
	if _, _, err := unix.Accept(fd); err != nil {
		return word(err)
	}
	return "accepted"
}

func proxyPort6(s setting) string {
	return dial(unix.AF_INET6, netip.AddrPortFrom(netip.IPv6Loopback(), s.listener)) + " " +
		dial(unix.AF_INET6, mapped(loopback(s.listener)))
}

func proxyPortZero(s setting) string {
	return dial(unix.AF_INET, netip.AddrPortFrom(netip.IPv4Unspecified(), s.listener)) + " " +
		dial(unix.AF_INET6, netip.AddrPortFrom(netip.IPv6Unspecified(), s.listener))
}

func proxyPort127(s setting) string {
	return dial(unix.AF_INET, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 9, 9, 9}), s.listener))
}

func proxyPortOwn(s setting) string {
	return dial(unix.AF_INET, netip.AddrPortFrom(here4, s.listener))
}

// stealPort tries to share the listener's port.
func stealPort(s setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return word(err)
	}
	if err := unix.Bind(fd, sockaddr(loopback(s.listener))); err != nil {
		return word(err)
	}
	return "bound"
}

// bindPort tries all ways to name the listener's port.
func bindPort(s setting) string {
	var got []string
	for _, a := range []netip.Addr{loopback(0).Addr(), netip.IPv4Unspecified(), netip.IPv6Loopback(), netip.IPv6Unspecified()} {
		family := unix.AF_INET
		if a.Is6() {
			family = unix.AF_INET6
		}
		fd, err := socket(family, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, s.listener)))
		}
		if err == nil {
			return fmt.Sprintf("bound %v", a)
		}
		got = append(got, word(err))
	}
	return strings.Join(got, " ")
}

// squatAutobind makes listen(2) choose the port, from a range of one, which no
// bind hook sees.
func squatAutobind(s setting) string {
	const ipLocalPortRange = 51 // include/uapi/linux/in.h
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	only := int(s.listener)<<16 | int(s.listener)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, only); err != nil {
		return "setsockopt: " + word(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		return word(err)
	}
	return "listening"
}

// squat makes listen(2) choose the listener's port, to be shared with whoever of the
// same user wants to, and keeps it.
func squat(s setting) string {
	const ipLocalPortRange = 51 // include/uapi/linux/in.h
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	only := int(s.listener)<<16 | int(s.listener)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, only),
		unix.Listen(fd, 1))
	if err != nil {
		return word(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return word(err)
	}
	fmt.Println(addrPort(at).Port())
	waitForEnd()
	return "ended"
}

// inUserns runs a workload in namespaces where it has every capability.
func inUserns(name string, flags uintptr, files ...*os.File) string {
	cmd := exec.Command("/proc/self/exe")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, asWorkload+"=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, asWorkload+"="+name)
	cmd.ExtraFiles = files
	uid := []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, UidMappings: uid}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func usernsWithSocket(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return inUserns("connect-fd", syscall.CLONE_NEWUSER|syscall.CLONE_NEWNET, f)
}

// give makes a socket, opens it if told to, and hands it over.
func give(family int, open bool) string {
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if open {
		if err := unix.Connect(fd, sockaddr(db4)); err != nil {
			return word(err)
		}
	}
	if err := unix.Sendmsg(passedFD, []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
		return word(err)
	}
	return "given"
}

// giveEnded hands a socket over whose connection was refused or is over.
func giveEnded(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if got := connect(fd, db4); got != "proxied" && got != "refused" {
		return got
	}
	if err := disconnect(fd); err != nil {
		return word(err)
	}
	if err := unix.Sendmsg(passedFD, []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
		return word(err)
	}
	return "given"
}

// taken is the socket that give hands over.
func taken() (int, error) { return takenFrom(passedFD) }

func takenFrom(end int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(end, make([]byte, 1), oob, 0)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

func take(setting) string {
	fd, err := taken()
	if err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, sockaddr(db4)); err != nil && err != unix.EISCONN {
		return word(err)
	}
	return verdict(fd, db4)
}

func takeUnix(s setting) string {
	fd, err := taken()
	if err != nil {
		return word(err)
	}
	return connectUnix(fd, s.argument)
}

// moveOut tries to leave the guarded cgroup.
func moveOut(s setting) string {
	if err := enter(s.argument); err != nil {
		return word(err)
	}
	return dial(unix.AF_INET, db4)
}

func moveWithSocket(s setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := enter(s.argument); err != nil {
		return word(err)
	}
	return connect(fd, db4)
}

func dialUnix(path string) string {
	fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	return connectUnix(fd, path)
}

func connectUnix(fd int, path string) string {
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return word(err)
	}
	reply, err := readAll(fd)
	if err != nil {
		return word(err)
	}
	return reply
}

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setting is what a workload is told.
type setting struct {
	listener uint16 // the port of the agent's listeners
	argument string
}

func readSetting() setting {
	port, err := strconv.ParseUint(os.Getenv("POSTERN_TEST_LISTENER"), 10, 16)
	if err != nil {
		panic(err)
	}
	return setting{listener: uint16(port), argument: os.Getenv("POSTERN_TEST_ARGUMENT")}
}

// passedFD is the first descriptor of exec.Cmd.ExtraFiles.
const passedFD = 3

// workloads are what the test binary does as the guarded command. Each tries
// something and answers in a word what came of it.
var workloads = map[string]func(setting) string{
	"plain4":         func(setting) string { return dial(unix.AF_INET, db4) },
	"plain6":         func(setting) string { return dial(unix.AF_INET6, db6) },
	"bound4":         dialBound,
	"mapped6":        func(setting) string { return dial(unix.AF_INET6, mapped(db4)) },
	"unguarded":      func(setting) string { return dial(unix.AF_INET, other4) },
	"cluster-ip":     func(setting) string { return dial(unix.AF_INET, cluster4) },
	"decoy":          func(setting) string { return dial(unix.AF_INET, decoy4) },
	"quiet4":         func(setting) string { return dial(unix.AF_INET, quiet4) },
	"loopback":       func(setting) string { return dial(unix.AF_INET, loopback(db4.Port())) },
	"zero4":          dialZero4,
	"zero6":          dialZero6,
	"sa4-on-sock6":   func(setting) string { return dial(unix.AF_INET6, db4) },
	"tfo-sendto4":    fastOpenSendto,
	"tfo-sendmsg6":   fastOpenSendmsg,
	"tfo-connect":    fastOpenConnect,
	"uring":          func(setting) string { return uringDial(0) },
	"uring-sqpoll":   func(setting) string { return uringDial(setupSQPoll) },
	"mptcp4":         func(setting) string { return dialMultipath(unix.AF_INET, db4) },
	"mptcp6":         func(setting) string { return dialMultipath(unix.AF_INET6, db6) },
	"mptcp-tfo":      fastOpenMultipath,
	"sctp":           func(setting) string { return dialProtocol(unix.IPPROTO_SCTP) },
	"udp-connect":    udpConnect,
	"udp-sendto4":    func(setting) string { return udpSendto(unix.AF_INET, db4) },
	"udp-sendto6":    func(setting) string { return udpSendto(unix.AF_INET6, db6) },
	"udp-mapped6":    func(setting) string { return udpSendto(unix.AF_INET6, mapped(db4)) },
	"udp-unguarded":  func(setting) string { return udpSendto(unix.AF_INET, other4) },
	"unspec":         unspecFirst,
	"unspec-again":   unspecAgain,
	"reuse-socket":   reuseSocket,
	"dup":            dialAndDup,
	"so-mark":        dialMarked,
	"ipopt-lsrr":     dialSourceRouted,
	"simopen":        simultaneousOpen,
	"repair":         repairConnect,
	"listen":         listenFor,
	"proxyport4":     func(s setting) string { return dial(unix.AF_INET, loopback(s.listener)) },
	"proxyport6":     proxyPort6,
	"proxyport-zero": proxyPortZero,
	"proxyport-127":  proxyPort127,
	"proxyport-own":  proxyPortOwn,
	"steal":          stealPort,
	"bind":           bindPort,
	"squat-autobind": squatAutobind,
	"squat":          squat,
	"userns":         func(setting) string { return inUserns("plain4", syscall.CLONE_NEWUSER) },
	"userns-netns":   func(setting) string { return inUserns("plain4", syscall.CLONE_NEWUSER|syscall.CLONE_NEWNET) },
	"userns-presock": usernsWithSocket,
	"connect-fd":     func(setting) string { return connect(passedFD, db4) },
	"talk-fd":        func(setting) string { return verdict(passedFD, db4) },
	"give":           func(setting) string { return give(unix.AF_INET, false) },
	"give-open":      func(setting) string { return give(unix.AF_INET, true) },
	"give-ended":     giveEnded,
	"give-unix":      func(setting) string { return give(unix.AF_UNIX, false) },
	"take":           take,
	"take-unix":      takeUnix,
	"move":           moveOut,
	"move-presock":   moveWithSocket,
	"raw4":           func(setting) string { return sendRaw4(rawSYN4(db4)) },
	"raw4-tcp":       func(setting) string { return sendRawTCP(unix.AF_INET, db4.Addr(), tcpSYN(db4.Port())) },
	"raw6-tcp":       func(setting) string { return sendRawTCP(unix.AF_INET6, db6.Addr(), tcpSYN(db6.Port())) },
	"raw4-reset":     func(setting) string { return sendRawTCP(unix.AF_INET, db4.Addr(), tcpRST(db4.Port())) },
	"raw6-reset":     func(setting) string { return sendRawTCP(unix.AF_INET6, db6.Addr(), tcpRST(db6.Port())) },
	"raw4-first":     func(setting) string { return sendRaw4(rawFragment(db4, 0, true)) },
	"raw4-later":     func(setting) string { return sendRaw4(rawFragment(db4, 8, false)) },
	"raw4-short":     func(setting) string { return sendRaw4(rawShort(db4)) },
	"raw4-lsrr":      func(setting) string { return sendRaw4(rawSourceRoute(quiet4)) },
	"raw4-proxyport": func(s setting) string { return sendRaw4(rawSYN4(loopback(s.listener))) },
	"raw6-fragment":  func(setting) string { return sendRaw6(rawFragment6(db6)) },
	"raw6-many":      func(setting) string { return sendRaw6(rawExtensions6(db6, 9)) },
	"raw6-few":       func(setting) string { return sendRaw6(rawExtensions6(db6, 2)) },
	"raw6-route":     func(setting) string { return sendRaw6(rawRouting6(quiet6)) },
	"packet":         func(setting) string { return sendFrame(false) },
	"packet-bypass":  func(setting) string { return sendFrame(true) },
	"packet-pieces":  packetPieces,
	"packet-tagged":  packetTagged,
	"packet-xdp":     packetXDP,
	"away":           func(setting) string { return dial(unix.AF_INET, away4) },
	"upload":         upload,
	"udp-large":      udpLarge,
	"unix":           func(s setting) string { return dialUnix(s.argument) },
	"idle":           func(setting) string { waitForEnd(); return "ended" },
	"hold":           hold,
	"refused-from":   refusedFrom,
	"flood":          flood,
	"hoard":          hoard,
	"same-port":      samePort,
	"origins":        dialMany,
	"load":           load,
	"agent":          agent,
	"keeper":         keeper,
}

func mapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
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

// patience is after what time a workload's call gives up. An emulated machine
// needs more of it.
func patience() time.Duration {
	if told, err := time.ParseDuration(os.Getenv("POSTERN_TEST_PATIENCE")); err == nil {
		return told
	}
	return time.Second
}

// socket makes a socket whose calls give up when patience ends.
func socket(family, kind, protocol int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(patience().Nanoseconds())
	return fd, errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
}

func dial(family int, to netip.AddrPort) string {
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
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
		return fmt.Sprintf("proxied, peer: got %v, want %v", got, to)
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

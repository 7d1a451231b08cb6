package gate

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to an address from a pod's network namespace, or from the
// node's when podUID is empty. This process connects: the gate only makes the
// socket.
func (c *Client) Dial(ctx context.Context, podUID string, to netip.AddrPort) (net.Conn, error) {
	network := "tcp6"
	if to.Addr().Unmap().Is4() {
		network = "tcp4"
	}
	socket, err := c.Socket(ctx, podUID, network)
	if err != nil {
		return nil, err
	}
	defer socket.Close() // the connection has a descriptor of its own
	if err := connect(ctx, socket, to); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return net.FileConn(socket)
}

// connect connects a socket that does not block, and waits for it.
func connect(ctx context.Context, socket *os.File, to netip.AddrPort) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var began error
	if err := raw.Control(func(fd uintptr) { began = unix.Connect(int(fd), sockaddr(to)) }); err != nil {
		return err
	}
	// EINTR too: the kernel goes on connecting; connect(2).
	if began != nil && !errors.Is(began, unix.EINPROGRESS) && !errors.Is(began, unix.EINTR) {
		return os.NewSyscallError("connect", began)
	}
	defer context.AfterFunc(ctx, func() { socket.SetWriteDeadline(time.Unix(1, 0)) })()
	var ended error
	err = raw.Write(func(fd uintptr) bool {
		var connected bool
		connected, ended = outcome(int(fd))
		return connected || ended != nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, ended)
}

// outcome tells whether a connect has ended well, badly, or not yet.
func outcome(fd int) (bool, error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return false, os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return false, os.NewSyscallError("connect", unix.Errno(code))
	}
	// A fresh socket is reported as writable before it is connected.
	switch _, err := unix.Getpeername(fd); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOTCONN):
		return false, nil
	default:
		return false, os.NewSyscallError("getpeername", err)
	}
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	addr := to.Addr().Unmap()
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: addr.As16()}
}

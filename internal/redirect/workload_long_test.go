package redirect

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// held4 is a server of the database's machine that keeps connections open.
var held4 = netip.MustParseAddrPort("10.78.0.2:6543")

// waitForEnd waits until the test closes standard input.
func waitForEnd() { _, _ = io.Copy(io.Discard, os.Stdin) }

// hold keeps a connection open and tells how it ended.
func hold(setting) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, sockaddr(held4)); err != nil {
		return word(err)
	}
	fmt.Println("held")
	reply, err := readAll(fd)
	if err != nil {
		return word(err)
	}
	return reply
}

// refusedFrom connects from a given port.
func refusedFrom(s setting) string {
	port, err := strconv.Atoi(s.argument)
	if err != nil {
		return err.Error()
	}
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return word(err)
	}
	return connect(fd, db4)
}

// flood opens connections that nobody accepts and keeps them under way.
func flood(setting) string {
	pending, refused := 0, 0
	for range 64 {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return word(err)
		}
		switch err := unix.Connect(fd, sockaddr(db4)); {
		case err == nil, errors.Is(err, unix.EINPROGRESS):
			pending++
		case errors.Is(err, unix.ECONNREFUSED):
			refused++
		default:
			return word(err)
		}
	}
	fmt.Printf("pending %d refused %d\n", pending, refused)
	waitForEnd()
	return "ended"
}

// hoarded is how many sockets hoard keeps.
const hoarded = 64

// hoard keeps a connection, and sockets whose connects fail, as its local port is
// taken, before the kernel knows of a connection.
func hoard(setting) string {
	for i := range hoarded {
		fd, err := fromPort(41000, 0)
		if err != nil {
			return word(err)
		}
		err = unix.Connect(fd, sockaddr(db4))
		if i > 0 && errors.Is(err, unix.EADDRNOTAVAIL) {
			continue
		}
		if i > 0 || err != nil {
			return fmt.Sprintf("socket %d: %v", i, err)
		}
	}
	fmt.Println("hoarded")
	waitForEnd()
	return "ended"
}

// samePort has a connect under way and opens a connection to a server of its own
// from the same local port.
func samePort(setting) string {
	var pending, own int
	for _, step := range []func() error{
		func() (err error) { pending, err = fromPort(41000, unix.SOCK_NONBLOCK); return err },
		func() (err error) { own, err = fromPort(41000, 0); return err },
		func() error {
			if err := unix.Connect(pending, sockaddr(db4)); !errors.Is(err, unix.EINPROGRESS) {
				return err
			}
			return nil
		},
		func() error { return unix.Connect(own, sockaddr(loopback(8000))) },
	} {
		if err := step(); err != nil {
			return word(err)
		}
	}
	fmt.Println("connected")
	waitForEnd()
	return "ended"
}

// fromPort makes a socket that shares a local port.
func fromPort(port, flags int) (int, error) {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|flags, 0)
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, sockaddr(netip.AddrPortFrom(loopback(0).Addr(), uint16(port)))))
}

// Many connects over many destinations.
const (
	manyConnects = 80_000
	fewConnects  = 4_000
	manyWorkers  = 8
)

// destinations are 64, of all three kinds.
func destinations() (list []netip.AddrPort) {
	for i := range 32 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 99, 0, byte(i)}), db4.Port())
		list = append(list, a)
		if i%2 == 0 {
			list = append(list, mapped(a))
			continue
		}
		v6 := netip.MustParseAddr("fd99::").As16()
		v6[15] = byte(i)
		list = append(list, netip.AddrPortFrom(netip.AddrFrom16(v6), db6.Port()))
	}
	return list
}

// dialMany writes into every connection where it wanted to go.
func dialMany(s setting) string {
	connects, err := strconv.ParseInt(s.argument, 10, 64)
	if err != nil {
		return err.Error()
	}
	var next, failed atomic.Int64
	var first atomic.Value
	list := destinations()
	var workers sync.WaitGroup
	for range manyWorkers {
		workers.Go(func() {
			for {
				i := next.Add(1)
				if i > connects {
					return
				}
				if err := claim(list[int(i)%len(list)]); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, err.Error())
				}
			}
		})
	}
	workers.Wait()
	return fmt.Sprintf("failed %d %v", failed.Load(), first.Load())
}

func claim(to netip.AddrPort) error {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Closed by a reset: the port is free at once, and used again soon.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	want := netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if _, err := unix.Write(fd, []byte(want.String()+"\n")); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	n, err := unix.Read(fd, make([]byte, 1))
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		return errors.New("closed")
	}
	return nil
}

// loadWorkers is how many connections the load has at once.
const loadWorkers = 4

// load connects until the test ends it, and counts what came of it.
func load(setting) string {
	var ended atomic.Bool
	go func() { waitForEnd(); ended.Store(true) }()
	var mu sync.Mutex
	counts := make(map[string]int)
	var workers sync.WaitGroup
	for range loadWorkers {
		workers.Go(func() {
			for !ended.Load() {
				got := dial(unix.AF_INET, db4)
				mu.Lock()
				counts[got]++
				if counts[got] == 1 {
					fmt.Println("first", got)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	var list []string
	for got, n := range counts {
		list = append(list, fmt.Sprintf("%s=%d", got, n))
	}
	return strings.Join(list, "; ")
}

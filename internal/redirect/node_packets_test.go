package redirect

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// TestKernelsResetsLeaveAPod: what belongs to no socket the kernel answers itself,
// through a raw socket of its own. A server that holds a connection of which the
// pod knows nothing any more would wait for hours without it.
func TestKernelsResetsLeaveAPod(t *testing.T) {
	w := newNodeWorld(t)
	for name, row := range map[string]struct {
		server netip.AddrPort
		pod    netip.Addr
	}{
		"v4": {quiet4, here4},
		"v6": {quiet6, here6},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.db.Do(func() error {
				d := net.Dialer{
					LocalAddr: net.TCPAddrFromAddrPort(row.server), Timeout: 5 * patience(), Control: reuseAddr,
				}
				c, err := d.Dial("tcp", netip.AddrPortFrom(row.pod, 7001).String())
				if err == nil {
					c.Close()
				}
				return err
			})
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("got %v, want %v", err, unix.ECONNREFUSED)
			}
		})
	}
}

// TestClosedConnectionsOfTheAgentEnd: Postern dials in the pod's namespace. Once it
// has closed its end, no socket of its own but the kernel acknowledges the other one.
func TestClosedConnectionsOfTheAgentEnd(t *testing.T) {
	w, _ := newCoveredNodeWorld(t)
	w.nodesCover(t)
	for name, server := range map[string]netip.AddrPort{"v4": quiet4, "v6": quiet6} {
		t.Run(name, func(t *testing.T) {
			var l net.Listener
			if err := w.db.Do(func() (err error) { l, err = net.Listen("tcp", server.String()); return err }); err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var upstream net.Conn
			err := w.here.Do(func() (err error) {
				upstream, err = net.DialTimeout("tcp", server.String(), 5*patience())
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			served, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer served.Close()
			upstream.Close()
			if n, err := served.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("got %d bytes and %v, want the end", n, err)
			}
			w.awaitAcknowledged(t)
			if err := served.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(5 * patience()); stateOf(t, served) != tcpClose; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the server waits for an acknowledgment, want its end acknowledged")
				}
			}
		})
	}
	if c, err := w.node.Counters(w.guarded.uid); err != nil || c.Dropped != 0 {
		t.Errorf("got %+v and %v, want nothing dropped", c, err)
	}
}

// awaitAcknowledged waits until no connection of the pod's namespace waits for its own
// end to be acknowledged. What is left of one then is no socket any more.
func (w *nodeWorld) awaitAcknowledged(t *testing.T) {
	t.Helper()
	const finWait1 = "04" // include/net/tcp_states.h
	waiting := func() (waits bool, err error) {
		err = w.here.Do(func() error {
			for _, table := range []string{"tcp", "tcp6"} {
				text, err := os.ReadFile("/proc/thread-self/net/" + table)
				if err != nil {
					return err
				}
				for line := range strings.Lines(string(text)) {
					fields := strings.Fields(line)
					waits = waits || len(fields) > 3 && fields[3] == finWait1
				}
			}
			return nil
		})
		return waits, err
	}
	for end := time.Now().Add(5 * patience()); ; time.Sleep(time.Millisecond) {
		switch waits, err := waiting(); {
		case err != nil:
			t.Fatal(err)
		case !waits:
			return
		case time.Now().After(end):
			t.Fatal("the end of a connection is not acknowledged, want it acknowledged")
		}
	}
}

// tcpClose is the state of a connection both of whose ends are acknowledged.
//
// Source: include/net/tcp_states.h.
const tcpClose = 7

func stateOf(t *testing.T, c net.Conn) (state uint8) {
	t.Helper()
	control(t, c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			state = info.State
		}
		return err
	})
	return state
}

func control(t *testing.T, c net.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
}

// TestPacketsWithoutTheirNamespace: kernels that do not tell a packet's namespace
// know it by the cgroup of the socket's maker, and with it the pod's own packets
// alone. What a process from elsewhere sends in the pod's namespace is left to the
// program at the node's end.
func TestPacketsWithoutTheirNamespace(t *testing.T) {
	told := !runningRelease(t).olderThan(release{6, 15})
	for name, row := range map[string]struct{ without, seen bool }{
		"as this kernel has it": {false, told},
		"without":               {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNodelessWorld(t)
			w.without = func(f *features) { f.packetNetns = f.packetNetns && !row.without }
			w.open(t)
			if err := w.node.Set(postgresGuards()); err != nil {
				t.Fatal(err)
			}
			w.guarded = w.newPod(t, "guarded")
			w.classify(t, w.guarded, ClassGuarded, w.here)
			w.listen(t, w.guarded)
			w.serve(t)
			if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
				t.Errorf("plain4: got %q, want proxied", got)
			}
			for _, workload := range []string{"raw4", "raw6-tcp", "raw4-later", "raw4-proxyport"} {
				if got := w.play(t, w.workload(w.guarded.container, workload, containers)); got != "EPERM" {
					t.Errorf("%s: got %q, want EPERM", workload, got)
				}
			}
			w.nothingReached(t)
			says, packets := "sent", int64(1)
			if row.seen {
				says, packets = "EPERM", 0
			}
			if got := w.play(t, w.workload(testenv.NewCgroup(t), "raw4", containers)); got != says {
				t.Errorf("raw4 by a process from elsewhere: got %q, want %q", got, says)
			}
			if got := w.reached(t); got != packets {
				t.Errorf("raw4 by a process from elsewhere: %d packets reached the database, want %d", got, packets)
			}
		})
	}
}

// TestRefusedWithoutAnErrorOfItsOwn: a kernel on which a program cannot say which
// error a connect gets gives EPERM where others say that nobody listens.
func TestRefusedWithoutAnErrorOfItsOwn(t *testing.T) {
	told := !runningRelease(t).olderThan(release{5, 18})
	for name, row := range map[string]struct{ without, told bool }{
		"as this kernel has it": {false, told},
		"without":               {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNodelessWorld(t)
			w.without = func(f *features) { f.setRetval = f.setRetval && !row.without }
			w.open(t)
			guarded := postgresGuards()
			for i := range guarded.Guards {
				guarded.Guards[i].Refuse = true
			}
			if err := w.node.Set(guarded); err != nil {
				t.Fatal(err)
			}
			pod := w.newPod(t, "pod")
			w.classify(t, pod, ClassGuarded, w.here)
			w.listen(t, pod)
			w.serve(t)
			want := "EPERM"
			if row.told {
				want = "refused"
			}
			for _, workload := range []string{"plain4", "plain6"} {
				if got := w.from(t, pod, workload); got != want {
					t.Errorf("%s: got %q, want %q", workload, got, want)
				}
			}
			w.nothingReached(t)
		})
	}
}

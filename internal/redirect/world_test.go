package redirect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/testenv"
)

// user is whom commands run as: not one of the machine's, so that no other run
// has refused it anything.
const user = 61234

// The world's addresses: the command's side of the veth pair, the database's,
// one of the database's machine where nothing listens on the port, and one with
// a server that is not guarded.
var (
	here4  = netip.MustParseAddr("10.78.0.1")
	here6  = netip.MustParseAddr("fd78::1")
	db4    = netip.MustParseAddrPort("10.78.0.2:5432")
	db6    = netip.MustParseAddrPort("[fd78::2]:5432")
	other4 = netip.MustParseAddrPort("10.78.0.4:7777")
	quiet4 = netip.MustParseAddrPort("10.78.0.3:5432")
	quiet6 = netip.MustParseAddrPort("[fd78::3]:5432")
)

// lonePort of the database is guarded there and nowhere else.
const lonePort = 6544

// Replies of the two servers.
const (
	directReply  = "direct"
	proxiedReply = "proxied "
)

// world is a guarded command's surroundings: a namespace where it and the
// listener live, and one with a database, joined by a veth pair.
type world struct {
	run       *Run
	origin    func(net.Conn) (Origin, error)
	id        string
	command   *testenv.Cgroup
	here, db  *testenv.Netns
	listeners []net.Listener
	asking    *sync.WaitGroup // of the last serve: who may still ask for an origin
	direct    atomic.Int64    // connections and datagrams that reached the database
	noOrigin  atomic.Int64    // connections at the listener without a record
	ended     chan error      // how connections to held4 ended, as the database saw it
	sniffer   *sniffer
}

var runs atomic.Int64

func newRunID() string { return fmt.Sprintf("test-%d-%d", os.Getpid(), runs.Add(1)) }

func quietLog() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// postgresGuards are what `postern run` guards for one PostgreSQL Target: its
// addresses, and the port everywhere.
func postgresGuards() Guarded {
	return Guarded{Guards: []Guard{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: db4.Port()},
		{Prefix: netip.MustParsePrefix("::/0"), Port: db6.Port()},
		{Prefix: netip.PrefixFrom(db4.Addr(), 32), Port: db4.Port(), Target: true},
		{Prefix: netip.PrefixFrom(db6.Addr(), 128), Port: db6.Port(), Target: true},
		{Prefix: netip.PrefixFrom(db4.Addr(), 32), Port: lonePort, Target: true},
		{Prefix: netip.PrefixFrom(db6.Addr(), 128), Port: lonePort, Target: true},
	}}
}

// newWorld makes a world and guards a command in it.
func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	w := newUnguardedWorld(t)
	w.guard(t, o)
	if err := w.run.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	w.serve(t)
	return w
}

func newUnguardedWorld(t *testing.T) *world {
	t.Helper()
	w := &world{here: testenv.NewNetns(t), db: testenv.NewNetns(t), ended: make(chan error, 8)}
	w.here.Connect(t, w.db,
		[]netip.Prefix{netip.PrefixFrom(here4, 24), netip.PrefixFrom(here6, 64)},
		[]netip.Prefix{
			netip.PrefixFrom(db4.Addr(), 24), netip.PrefixFrom(quiet4.Addr(), 24), netip.PrefixFrom(other4.Addr(), 24),
			netip.PrefixFrom(db6.Addr(), 64), netip.PrefixFrom(quiet6.Addr(), 64),
		})
	w.serveDatabase(t)
	return w
}

// guard starts a run and opens its listeners in the world.
func (w *world) guard(t *testing.T, o Options) {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root")
	w.id = newRunID()
	o.ID, o.UID, o.Log = w.id, user, quietLog()
	run, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.run, w.origin = run, run.Origin
	t.Cleanup(func() { w.release(t) })
	w.command = testenv.OpenCgroup(t, run.place.command)
	if err := w.here.Do(func() error { w.listeners, err = run.Listen(); return err }); err != nil {
		t.Fatal(err)
	}
}

func (w *world) release(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(w.run.Close(), Release(ctx, "", w.id)); err != nil {
		t.Errorf("release: %v", err)
	}
}

// serve answers at the listeners with where the connection wanted to go. Whoever
// ends what tells origins closes the listeners and waits for w.asking before.
func (w *world) serve(t *testing.T) {
	origin, asking, listeners := w.origin, new(sync.WaitGroup), w.listeners
	w.asking = asking
	t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		asking.Wait()
	})
	for _, l := range listeners {
		asking.Go(func() {
			each(l, func(c net.Conn) {
				if err := w.answer(c, origin); err != nil {
					t.Errorf("origin: %v", err)
				}
			})
		})
	}
}

func (w *world) serveWith(t *testing.T, answer func(net.Conn)) {
	for _, l := range w.listeners {
		t.Cleanup(func() { l.Close() })
		go accept(l, answer)
	}
}

// beside is a second guarded command in the same namespaces.
func (w *world) beside(t *testing.T, o Options) *world {
	t.Helper()
	second := &world{here: w.here, db: w.db, sniffer: w.sniffer}
	second.guard(t, o)
	if err := second.run.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	return second
}

// answer tells a connection its origin, or closes it if it has none. The origin is
// asked for before answer returns.
func (w *world) answer(c net.Conn, origin func(net.Conn) (Origin, error)) error {
	o, err := origin(c)
	if errors.Is(err, ErrNoOrigin) {
		w.noOrigin.Add(1)
		return c.Close()
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	go reply(c, fmt.Sprintf("%s%v %d %d", proxiedReply, o.Dialled, o.PID, o.UID))
	return nil
}

// reply answers and waits until the other end has closed too, so that no reset
// overtakes the answer.
func reply(c net.Conn, text string) {
	defer c.Close()
	io.WriteString(c, text)
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
}

// serveDatabase counts and answers what arrives at the real addresses.
func (w *world) serveDatabase(t *testing.T) {
	t.Helper()
	err := w.db.Do(func() error {
		for _, a := range []netip.AddrPort{db4, db6, other4} {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go accept(l, func(c net.Conn) {
				if a != other4 {
					w.direct.Add(1)
				}
				reply(c, directReply)
			})
			u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
			if err != nil {
				return err
			}
			t.Cleanup(func() { u.Close() })
			go w.echo(u, a)
		}
		// Without keep-alive: what ends a connection has to be told to it.
		lc := net.ListenConfig{KeepAlive: -1}
		l, err := lc.Listen(t.Context(), "tcp", held4.String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go accept(l, func(c net.Conn) {
			_, err := io.Copy(io.Discard, c)
			w.ended <- err
			c.Close()
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.sniffer = newSniffer(t, w)
}

func (w *world) echo(u *net.UDPConn, at netip.AddrPort) {
	buf := make([]byte, 512)
	for {
		_, from, err := u.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if at != other4 {
			w.direct.Add(1)
		}
		u.WriteToUDPAddrPort([]byte(directReply), from)
	}
}

func accept(l net.Listener, serve func(net.Conn)) {
	each(l, func(c net.Conn) { go serve(c) })
}

// each does something with one connection after the other, until the listener is
// closed.
func each(l net.Listener, do func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		do(c)
	}
}

// capabilities of a workload, beside their uid.
type capabilities struct {
	name string
	caps []uintptr
}

// workload is a command that runs one of [workloads] in a cgroup.
func (w *world) workload(cgroup *testenv.Cgroup, name string, c capabilities) *exec.Cmd {
	cmd := cgroup.Command("/proc/self/exe")
	cmd.Env = []string{
		asWorkload + "=" + name,
		"POSTERN_TEST_LISTENER=" + strconv.Itoa(int(portOf(w.listeners[0]))),
		"POSTERN_TEST_PATIENCE=" + patience().String(),
		// The runtime's own signals interrupt calls that have a timeout (signal(7)).
		"GODEBUG=asyncpreemptoff=1",
	}
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user, Gid: user}
	cmd.SysProcAttr.AmbientCaps = c.caps
	return cmd
}

func withArgument(cmd *exec.Cmd, argument string) *exec.Cmd {
	cmd.Env = append(cmd.Env, "POSTERN_TEST_ARGUMENT="+argument)
	return cmd
}

// begin starts a workload that goes on until the answered function ends it; it
// answers the lines that it prints meanwhile, and the last one.
func (w *world) begin(t *testing.T, cmd *exec.Cmd) (next func() string, end func() string) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := w.here.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	next = func() string {
		if !lines.Scan() {
			t.Fatalf("workload ended: %v", lines.Err())
		}
		return lines.Text()
	}
	return next, func() string {
		in.Close()
		last := ""
		for lines.Scan() {
			last = lines.Text()
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("workload: %v", err)
		}
		return last
	}
}

// dial is a workload that dials the database once, as the command.
func (w *world) dial(t *testing.T) string {
	t.Helper()
	return w.play(t, w.workload(w.command, "plain4", none))
}

// play runs a workload to its end and answers what it printed.
func (w *world) play(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.here.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("workload: %v: %s", err, out.String())
	}
	return strings.TrimSpace(out.String())
}

package redirect

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
	"postern.dev/postern/testenv"
)

// tuplesLeft counts connections that the kernel thinks are on their way.
func (w *world) tuplesLeft(t *testing.T) int {
	t.Helper()
	var key bpf.RedirectTuple
	var value bpf.RedirectOrigin
	n := 0
	all := w.run.maps.Tuples.Iterate()
	for all.Next(&key, &value) {
		n++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestOriginsAreRightUnderPortReuse compares what the kernel recorded with what
// the client wrote into the connection. A short run has fewer connections, but
// uses a port as often.
func TestOriginsAreRightUnderPortReuse(t *testing.T) {
	connects := int64(manyConnects)
	if testing.Short() {
		connects = fewConnects
	}
	w := newUnguardedWorld(t)
	w.here.Sysctl(t, "ipv4/ip_local_port_range", fmt.Sprintf("40000 %d", 40000+connects/80-1))
	w.guard(t, Options{})
	if err := w.run.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	var right, wrong, missing atomic.Int64
	w.serveWith(t, func(c net.Conn) {
		defer c.Close()
		o, err := w.run.Origin(c)
		if err != nil {
			missing.Add(1)
			return
		}
		claimed, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return
		}
		if strings.TrimSpace(claimed) == o.Dialled.String() {
			right.Add(1)
		} else {
			wrong.Add(1)
		}
		c.Write([]byte{'k'})
	})
	dials := withArgument(w.workload(w.command, "origins", none), fmt.Sprint(connects))
	if got, want := w.play(t, dials), "failed 0 <nil>"; got != want {
		t.Errorf("workload: got %q, want %q", got, want)
	}
	if right.Load() != connects || wrong.Load() != 0 || missing.Load() != 0 {
		t.Errorf("got %d right, %d wrong, %d missing, want %d, 0, 0", right.Load(), wrong.Load(), missing.Load(), connects)
	}
	if got := w.tuplesLeft(t); got != 0 {
		t.Errorf("got %d tuples left, want 0", got)
	}
	c, err := w.run.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Counters{Seen: uint64(connects), Redirected: uint64(connects)}); c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// TestOriginTellsWhoConnected compares the record with what the process table
// says of the workload.
func TestOriginTellsWhoConnected(t *testing.T) {
	w := newUnguardedWorld(t)
	w.guard(t, Options{})
	if err := w.run.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	origins := make(chan Origin, 1)
	w.serveWith(t, func(c net.Conn) {
		o, err := w.run.Origin(c)
		if err != nil {
			t.Error(err)
		}
		origins <- o
		reply(c, "")
	})
	cmd := w.workload(w.command, "plain4", none)
	w.play(t, cmd)
	got := <-origins
	var exe unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &exe); err != nil {
		t.Fatal(err)
	}
	if got.Started <= 0 || got.Cookie == 0 || got.TID == 0 {
		t.Errorf("got started %v, cookie %d, thread %d, want all set", got.Started, got.Cookie, got.TID)
	}
	want := Origin{
		Dialled: db4, PID: cmd.Process.Pid, UID: user, GID: user, Comm: "exe", ExeInode: exe.Ino, ExeDev: exe.Dev,
		Cgroup: w.run.state.Command, Netns: w.run.state.Pod.Netns,
		TID: got.TID, Started: got.Started, Cookie: got.Cookie,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestNoOriginForOthers: who was not led to the listener has no origin there,
// whatever the command left behind.
func TestNoOriginForOthers(t *testing.T) {
	w := newWorld(t, Options{})
	// outside dials the listener, resets the connection if told to, and answers
	// what its origin is.
	outside := func(t *testing.T, from netip.AddrPort, reset bool) (got error) {
		t.Helper()
		l := w.relisten(t)
		defer l.Close()
		err := w.here.Do(func() error {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Control: reuseAddr}
			client, err := d.Dial("tcp4", l.Addr().String())
			if err != nil {
				return err
			}
			defer client.Close()
			if reset {
				err := client.(*net.TCPConn).SetLinger(0)
				if err := errors.Join(err, client.Close()); err != nil {
					return err
				}
			}
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			_, got = w.run.Origin(c)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	t.Run("the kernel refuses whoever was not led there", func(t *testing.T) {
		err := w.here.Do(func() error {
			_, err := net.Dial("tcp4", w.listeners[0].Addr().String())
			return err
		})
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("got %v, want %v", err, unix.EPERM)
		}
	})
	// What follows must hold without that hook.
	if err := detachRoot(w.run.place); err != nil {
		t.Fatal(err)
	}
	t.Run("straight to the port", func(t *testing.T) {
		if got := outside(t, loopback(0), false); !errors.Is(got, ErrNoOrigin) || errors.Is(got, ErrGone) {
			t.Errorf("got %v, want %v", got, ErrNoOrigin)
		}
	})
	t.Run("and gone before it was accepted", func(t *testing.T) {
		if got := outside(t, loopback(0), true); !errors.Is(got, ErrGone) || !errors.Is(got, ErrNoOrigin) {
			t.Errorf("got %v, want %v", got, ErrGone)
		}
	})
	t.Run("from the port of a refused connect", func(t *testing.T) {
		w.listeners[0].Close() // the command finds nobody there
		got := w.play(t, withArgument(w.workload(w.command, "refused-from", none), "41000"))
		if got != "refused" {
			t.Fatalf("workload: got %q, want refused", got)
		}
		if got := w.tuplesLeft(t); got != 0 {
			t.Errorf("got %d tuples left, want 0", got)
		}
		if got := outside(t, loopback(41000), false); !errors.Is(got, ErrNoOrigin) {
			t.Errorf("got %v, want %v", got, ErrNoOrigin)
		}
	})
}

// TestRecordGoesWithItsConnection: a command may keep its sockets when their
// connections are over, and many of them; their records it may not keep.
func TestRecordGoesWithItsConnection(t *testing.T) {
	w := newWorld(t, Options{})
	for _, row := range []struct {
		workload, listener string
		want               error
	}{
		{"give-open", "there", nil},
		{"give-ended", "there", ebpf.ErrKeyNotExist},
		{"give-ended", "closed", ebpf.ErrKeyNotExist},
	} {
		if row.listener == "closed" {
			stop(t, w.listeners)
		}
		socket := w.socketOf(t, w.workload(w.command, row.workload, none))
		var record bpf.RedirectOrigin
		err := w.run.maps.Client.Lookup(uint32(socket.Fd()), &record)
		if !errors.Is(err, row.want) {
			t.Errorf("%s, listener %s: got record %+v, %v, want %v", row.workload, row.listener, record, err, row.want)
		}
	}
}

// socketOf plays a workload that hands a socket over.
func (w *world) socketOf(t *testing.T, giver *exec.Cmd) *os.File {
	t.Helper()
	var taker exec.Cmd
	handOver(t, giver, &taker)
	if got := w.play(t, giver); got != "given" {
		t.Fatalf("giver: got %q, want given", got)
	}
	fd, err := takenFrom(int(taker.ExtraFiles[0].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

// TestOtherServersTakeNoRecord: a connection to another server from the local port
// of a connect under way leaves that one's record alone.
func TestOtherServersTakeNoRecord(t *testing.T) {
	w := newUnguardedWorld(t)
	w.here.Sysctl(t, "core/somaxconn", "1")
	w.guard(t, Options{})
	if err := w.run.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	err := w.here.Do(func() error {
		l, err := listen("tcp4", loopback(0).Addr(), 8000) // in the agent's cgroup, as the listener is
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	next, _ := w.begin(t, w.workload(w.command, "flood", none)) // fills the backlog
	next()
	before := w.tuplesLeft(t)
	next, _ = w.begin(t, w.workload(w.command, "same-port", none))
	if got := next(); got != "connected" {
		t.Fatalf("workload: got %q, want connected", got)
	}
	if got := w.tuplesLeft(t); got != before+1 {
		t.Errorf("got %d tuples, want %d", got, before+1)
	}
}

// relisten takes the listener's port, with the old listener closed.
func (w *world) relisten(t *testing.T) net.Listener {
	t.Helper()
	port := portOf(w.listeners[0])
	w.listeners[0].Close()
	var l net.Listener
	err := w.here.Do(func() (err error) {
		l, err = listen("tcp4", loopback(0).Addr(), port)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestSocketHandedOut: a socket of the command that a process outside connects
// is led to the listener, and is not taken for the command's there.
func TestSocketHandedOut(t *testing.T) {
	w := newWorld(t, Options{})
	giver := w.workload(w.command, "give", none)
	taker := w.workload(testenv.NewCgroup(t), "take", none)
	handOver(t, giver, taker)
	if got := w.play(t, giver); got != "given" {
		t.Fatalf("giver: got %q, want given", got)
	}
	if got := w.play(t, taker); got != "closed" {
		t.Errorf("taker: got %q, want closed", got)
	}
	if got := w.noOrigin.Load(); got != 1 {
		t.Errorf("got %d connections without origin, want 1", got)
	}
	if got := w.reached(t) + w.direct.Load(); got != 0 {
		t.Errorf("got %d packets and connections at the database, want 0", got)
	}
}

// TestOtherProcessesOfTheUser: outside the run's cgroups the Targets are refused,
// and nothing else; other users are left alone.
func TestOtherProcessesOfTheUser(t *testing.T) {
	w := newWorld(t, Options{})
	outside := testenv.NewCgroup(t)
	for _, row := range []struct {
		workload, want string
		uid            uint32
	}{
		{"plain4", "EPERM", user},
		{"plain6", "EPERM", user},
		{"mapped6", "EPERM", user},
		{"udp-sendto4", "EPERM", user},
		{"tfo-sendto4", "EPERM", user},
		{"uring-sqpoll", "EPERM", user},
		{"loopback", "refused", user}, // by nobody listening: not a Target
		{"unguarded", directReply, user},
		{"plain4", directReply, user + 1},
	} {
		cmd := w.workload(outside, row.workload, none)
		cmd.SysProcAttr.Credential.Uid = row.uid
		if got := w.play(t, cmd); got != row.want {
			t.Errorf("%s as %d: got %q, want %q", row.workload, row.uid, got, row.want)
		}
	}
	c, err := w.run.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Counters{Others: 6}); c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

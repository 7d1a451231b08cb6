package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// What a workload may have beside their uid. `postern run` gives a command none;
// containers is what container runtimes give by default.
var (
	none       = capabilities{name: "none"}
	containers = capabilities{"default", []uintptr{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
		unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT, unix.CAP_MKNOD, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP,
	}}
	netAdmin = capabilities{"net_admin", []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}}
)

// vector is one way to the database and what comes of it.
type vector struct {
	workload string
	caps     capabilities
	want     string
	real     bool    // reaches the database when nothing guards it
	since    release // of Linux: there is no such way before
	before   string  // what the workload says there
	// uncovered says why the database is reached in spite of the guard. Empty:
	// it is not.
	uncovered string
	arrange   func(*testing.T, *world, *exec.Cmd)
}

const hostSide = "frames pass no hook of a cgroup: only one on the host's side of a veth pair sees them"

var vectors = []vector{
	{workload: "plain4", real: true, want: "proxied"},
	{workload: "plain6", real: true, want: "proxied"},
	{workload: "mapped6", real: true, want: "proxied"},
	{workload: "bound4", real: true, want: "proxied"},
	{workload: "plain4", caps: containers, real: true, want: "proxied"},
	{workload: "plain6", caps: containers, real: true, want: "proxied"},
	{workload: "unguarded", want: directReply},
	{workload: "loopback", want: "proxied"},
	{workload: "zero4", want: "proxied"},
	{workload: "zero6", want: "proxied"},
	{workload: "sa4-on-sock6", want: "EINVAL"},
	{workload: "tfo-sendto4", real: true, want: "proxied"},
	{workload: "tfo-sendmsg6", real: true, want: "proxied"},
	{workload: "tfo-connect", real: true, want: "proxied"},
	{workload: "uring", real: true, want: "proxied"},
	{workload: "uring-sqpoll", real: true, want: "proxied"},
	{workload: "mptcp4", real: true, want: "proxied, peer: got 127.0.0.1:P, want 10.78.0.2:5432"},
	{workload: "mptcp6", real: true, want: "proxied, peer: got [::1]:P, want [fd78::2]:5432"},
	{workload: "mptcp-tfo", real: true, want: "proxied, peer: got 127.0.0.1:P, want 10.78.0.2:5432",
		since: release{6, 2}, before: "ENOTSUP"},
	{workload: "sctp", want: "EPROTONOSUPPORT"},
	{workload: "udp-connect", want: "EPERM"},
	{workload: "udp-sendto4", real: true, want: "EPERM"},
	{workload: "udp-sendto6", real: true, want: "EPERM"},
	{workload: "udp-mapped6", real: true, want: "EPERM"},
	{workload: "udp-unguarded", want: directReply},
	{workload: "unspec", real: true, want: "proxied"},
	{workload: "unspec-again", real: true, want: "proxied"},
	{workload: "reuse-socket", want: "unguarded", arrange: listenerElsewhere},
	{workload: "dup", real: true, want: "proxied"},
	{workload: "so-mark", real: true, want: "proxied"},
	{workload: "so-mark", caps: containers, real: true, want: "proxied"},
	{workload: "ipopt-lsrr", want: "setsockopt: EPERM"},
	{workload: "ipopt-lsrr", caps: containers, real: true, want: "timeout"},
	{workload: "simopen", real: true, want: "proxied", arrange: databaseDials(50 * time.Millisecond)},
	{workload: "listen", real: true, want: "timeout", arrange: databaseDials(time.Minute)},
	{workload: "repair", want: "setsockopt: EPERM"},
	{workload: "repair", caps: netAdmin, real: true, want: "closed"},
	{workload: "proxyport4", want: "EPERM"},
	{workload: "proxyport6", want: "EPERM EPERM"},
	{workload: "proxyport-zero", want: "EPERM EPERM"},
	{workload: "proxyport-127", want: "EPERM"},
	{workload: "proxyport-own", want: "refused"},
	{workload: "steal", want: "EPERM"},
	{workload: "steal", caps: containers, want: "EPERM"},
	{workload: "bind", want: "EPERM EPERM EPERM EPERM"},
	{workload: "squat-autobind", want: "EADDRINUSE"},
	{workload: "userns", real: true, want: "proxied"},
	{workload: "userns-netns", want: "refused"},
	{workload: "userns-presock", real: true, want: "proxied"},
	{workload: "move", want: "EACCES", arrange: toRoot},
	{workload: "move", caps: containers, real: true, want: "EPERM", arrange: toRoot},
	{workload: "move-presock", caps: containers, real: true, want: "closed", arrange: toRoot},
	{workload: "raw4", want: "socket: EPERM"},
	{workload: "raw4", caps: containers, real: true, want: "EPERM"},
	{workload: "raw4-tcp", caps: containers, real: true, want: "EPERM"},
	{workload: "raw6-tcp", caps: containers, real: true, want: "EPERM"},
	{workload: "raw4-reset", caps: containers, want: "EPERM"},
	{workload: "raw6-reset", caps: containers, want: "EPERM"},
	{workload: "raw4-first", caps: containers, real: true, want: "EPERM"},
	{workload: "raw4-later", caps: containers, real: true, want: "EPERM"},
	{workload: "raw4-short", caps: containers, real: true, want: "EPERM"},
	{workload: "raw4-lsrr", caps: containers, real: true, want: "EPERM"},
	{workload: "raw4-proxyport", caps: containers, want: "EPERM"},
	{workload: "raw6-fragment", caps: containers, real: true, want: "EPERM"},
	{workload: "raw6-many", caps: containers, real: true, want: "EPERM"},
	{workload: "raw6-few", caps: containers, real: true, want: "EPERM"},
	{workload: "raw6-route", caps: containers, real: true, want: "EPERM"},
	{workload: "packet", want: "socket: EPERM"},
	{workload: "packet-bypass", want: "socket: EPERM"},
	{workload: "packet", caps: containers, real: true, want: "sent", uncovered: hostSide},
	{workload: "packet-bypass", caps: containers, real: true, want: "sent", uncovered: hostSide},
	{workload: "take", real: true, want: "EPERM", arrange: takeFrom("give", user)},
	{workload: "take", real: true, want: directReply, arrange: takeFrom("give-open", 0),
		uncovered: "a process of another user opened the connection and handed it over: a relay"},
}

func (v vector) name() string {
	if v.caps.name == "" {
		return v.workload + "/none"
	}
	return v.workload + "/" + v.caps.name
}

// says is what the workload is to say on a kernel, with the listener at a port.
func (v vector) says(running release, port string) string {
	if running.olderThan(v.since) {
		return v.before
	}
	return strings.ReplaceAll(v.want, ":P,", ":"+port+",")
}

// try plays the vector in a cgroup; it answers what the workload said and how
// many packets and connections reached the database.
func (v vector) try(t *testing.T, w *world, in *testenv.Cgroup) (said string, reached int64) {
	t.Helper()
	direct := w.direct.Load()
	cmd := w.workload(in, v.workload, v.caps)
	if v.arrange != nil {
		v.arrange(t, w, cmd)
	}
	said = w.play(t, cmd)
	return said, w.reached(t) + w.direct.Load() - direct
}

// TestEveryWayToTheDatabase plays every vector. None reaches the database but
// those that say why they are not covered.
func TestEveryWayToTheDatabase(t *testing.T) {
	w := newWorld(t, Options{})
	running := runningRelease(t)
	port := fmt.Sprint(portOf(w.listeners[0]))
	for _, v := range vectors {
		t.Run(v.name(), func(t *testing.T) {
			got, reached := v.try(t, w, w.command)
			if want := v.says(running, port); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if v.uncovered == "" && reached != 0 {
				t.Errorf("%d packets and connections reached the database, want 0", reached)
			}
			if v.uncovered != "" && reached == 0 {
				t.Errorf("the database was not reached, want it: the table says %q", v.uncovered)
			}
			if v.uncovered != "" {
				t.Logf("known not to be covered: %s", v.uncovered)
			}
		})
	}
}

// TestVectorsAreReal plays the vectors without a guard: those that claim to be a
// way to the database are one, from the kernel on that brought it.
func TestVectorsAreReal(t *testing.T) {
	w := newUnguardedWorld(t)
	running := runningRelease(t)
	err := w.here.Do(func() (err error) { w.listeners, err = listenBoth(); return err })
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range w.listeners {
		defer l.Close()
	}
	cgroup := testenv.NewCgroup(t)
	for _, v := range vectors {
		if !v.real {
			continue
		}
		t.Run(v.name(), func(t *testing.T) {
			said, reached := v.try(t, w, cgroup)
			if isThere := !running.olderThan(v.since); (reached != 0) != isThere {
				t.Errorf("%d packets and connections reached the database (the workload said %q), want any: %v", reached, said, isThere)
			}
		})
	}
}

// TestFastOpenListener: data in the SYN makes the accepted socket before the
// handshake is over.
func TestFastOpenListener(t *testing.T) {
	w := newUnguardedWorld(t)
	// Documentation/networking/ip-sysctl.rst: client, server, without cookies,
	// for every listener.
	w.here.Sysctl(t, "ipv4/tcp_fastopen", "1543")
	w.guard(t, Options{})
	if err := w.run.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	w.serve(t)
	for _, workload := range []string{"tfo-sendto4", "tfo-sendmsg6", "tfo-connect", "plain4"} {
		if got := w.play(t, w.workload(w.command, workload, none)); got != "proxied" {
			t.Errorf("%s: got %q, want proxied", workload, got)
		}
	}
	if got := w.tuplesLeft(t); got != 0 {
		t.Errorf("got %d tuples left, want 0", got)
	}
}

// databaseDials lets the database's machine dial the command from the guarded
// port while it runs, again and again: after a refusal, and when an attempt has
// lasted for the patience. A new attempt while a listener still knows the one
// before makes the kernel acknowledge through its own socket, which is under no
// cgroup (tcp_check_req, seen on 6.1 and 6.12): nothing that a command can use,
// but a packet.
func databaseDials(patience time.Duration) func(*testing.T, *world, *exec.Cmd) {
	return func(t *testing.T, w *world, _ *exec.Cmd) {
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			_ = w.db.Do(func() error {
				for ctx.Err() == nil {
					d := net.Dialer{
						LocalAddr: net.TCPAddrFromAddrPort(quiet4),
						Timeout:   patience,
						Control:   reuseAddr,
					}
					c, err := d.DialContext(ctx, "tcp4", here4.String()+":7000")
					if err == nil {
						c.Close()
					}
				}
				return nil
			})
		}()
		t.Cleanup(func() { stop(); <-stopped })
	}
}

// listenerElsewhere listens on the database's machine at the listener's port.
func listenerElsewhere(t *testing.T, w *world, _ *exec.Cmd) {
	at := netip.AddrPortFrom(other4.Addr(), portOf(w.listeners[0]))
	err := w.db.Do(func() error {
		l, err := net.Listen("tcp4", at.String())
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func reuseAddr(_, _ string, c syscall.RawConn) (err error) {
	control := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, control)
}

// toRoot tells the workload where the root of the hierarchy is.
func toRoot(t *testing.T, _ *world, cmd *exec.Cmd) {
	root, err := findRoot("")
	if err != nil {
		t.Fatal(err)
	}
	withArgument(cmd, root)
}

// takeFrom lets a process outside the run make the socket that the workload uses.
func takeFrom(giver string, uid uint32) func(*testing.T, *world, *exec.Cmd) {
	return func(t *testing.T, w *world, taker *exec.Cmd) {
		from := w.workload(testenv.NewCgroup(t), giver, none)
		from.SysProcAttr.Credential.Uid = uid
		handOver(t, from, taker)
		if got := w.play(t, from); got != "given" {
			t.Fatalf("giver: got %q, want given", got)
		}
	}
}

// handOver gives two commands the two ends of a unix socket.
func handOver(t *testing.T, a, b *exec.Cmd) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, cmd := range []*exec.Cmd{a, b} {
		f := os.NewFile(uintptr(ends[i]), "end")
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = []*os.File{f}
	}
}

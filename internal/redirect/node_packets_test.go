package redirect

import (
	"errors"
	"net"
	"net/netip"
	"testing"

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

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"postern.dev/postern/testenv"
)

// fromPods are what vectors come to in a pod, where it is not what they come to
// for a command: the guard is in the network namespace, not in the cgroup alone.
var fromPods = map[string]string{
	"squat-autobind/none":  "listening", // elsewhere: the listener's port is none to choose from
	"move/default":         "proxied",
	"move-presock/default": "proxied",
	"take/none":            "proxied",
}

// TestEveryWayFromAGuardedPod plays every vector of a command in a guarded pod,
// with each set of capabilities: nothing but frames reaches the database.
func TestEveryWayFromAGuardedPod(t *testing.T) {
	w := newNodeWorld(t)
	running := runningRelease(t)
	port := fmt.Sprint(portOf(w.listeners[0]))
	played := make(map[string]bool)
	for _, v := range vectors {
		own := v.caps
		for _, v.caps = range []capabilities{own, none, containers, netAdmin} {
			if played[v.name()] && v.caps.name != own.name {
				continue
			}
			played[v.name()] = true
			t.Run(v.name(), func(t *testing.T) {
				got, reached := v.try(t, w.world, w.guarded.container)
				isFrame := strings.HasPrefix(v.workload, "packet")
				if !isFrame && reached != 0 {
					t.Errorf("%d packets and connections reached the database (the workload said %q), want 0", reached, got)
				}
				want, differs := fromPods[v.name()]
				if !differs {
					want = v.says(running, port)
				}
				if strings.HasPrefix(got, "proxied, origin:") {
					got = "proxied" // opened by another process, which the record names
				}
				if sameCaps := v.caps.name == own.name || v.caps.name == "none" && own.name == ""; sameCaps && got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
	if left := w.tuplesOf(t, w.guarded); left != 0 {
		t.Errorf("got %d tuples left, want 0", left)
	}
}

// TestWaysAcrossPodsAndTheNode plays the vectors that need more than one pod.
func TestWaysAcrossPodsAndTheNode(t *testing.T) {
	w := newNodeWorld(t)
	other := w.newPod(t, "other")
	w.classify(t, other, ClassGuarded, testenv.NewNetns(t))
	plain := w.newPod(t, "plain")
	w.classify(t, plain, ClassPlain, testenv.NewNetns(t))
	second := testenv.OpenCgroup(t, makeCgroup(t, w.guarded.dir+"/second"))
	daemon := testenv.NewCgroup(t)
	start := func(cgroup *testenv.Cgroup, workload string) *exec.Cmd {
		cmd := w.workload(cgroup, workload, none)
		cmd.SysProcAttr.Credential.Uid = 0
		return cmd
	}
	for _, row := range []struct {
		name  string
		giver *testenv.Cgroup // makes the socket, in the guarded pod's namespace
		taker *testenv.Cgroup // connects it
		say   string
	}{
		{name: "another container", taker: second, say: "proxied"},
		{name: "a process of the node in the pod's namespace", taker: daemon, say: "proxied"},
		{name: "a process of another guarded pod in the pod's namespace", taker: other.container, say: "refused"},
		{name: "a process of a plain pod in the pod's namespace", taker: plain.container, say: "refused"},
		{name: "the node's socket", giver: daemon, taker: w.guarded.container, say: "proxied"},
		{name: "another pod's socket", giver: other.container, taker: w.guarded.container, say: "proxied"},
		{name: "a socket for another guarded pod", giver: w.guarded.container, taker: other.container, say: "refused"},
		{name: "a socket for a plain pod", giver: w.guarded.container, taker: plain.container, say: "refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.giver == nil {
				if got := w.play(t, start(row.taker, "plain4")); got != row.say {
					t.Errorf("got %q, want %q", got, row.say)
				}
				return
			}
			giver, taker := start(row.giver, "give"), start(row.taker, "take")
			handOver(t, giver, taker)
			if got := w.play(t, giver); got != "given" {
				t.Fatalf("giver: got %q, want given", got)
			}
			if got := w.play(t, taker); got != row.say {
				t.Errorf("got %q, want %q", got, row.say)
			}
		})
	}
	w.nothingReached(t)
}

// TestSocketOfAnotherNamespace: a guarded pod's process with a socket of a
// namespace that is not the pod's is refused what is guarded there, whoever's it
// is, and nothing else.
func TestSocketOfAnotherNamespace(t *testing.T) {
	w := newBareNodeWorld(t)
	guarded, plain := w.newPod(t, "guarded"), w.newPod(t, "plain")
	w.classify(t, guarded, ClassGuarded, testenv.NewNetns(t))
	w.listen(t, guarded)
	at := netip.AddrPortFrom(loopback(0).Addr(), portOf(w.listeners[0]))
	err := w.here.Do(func() error { // there, it is another's
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		if err == nil {
			t.Cleanup(func() { l.Close() })
			go accept(l, func(c net.Conn) { reply(c, "stolen") })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for workload, want := range map[string]string{
		"plain4": "refused", "plain6": "refused", "mapped6": "refused", "udp-sendto4": "EPERM", "unguarded": directReply,
		"raw4": "EPERM",
	} {
		for name, as := range map[string]func(){
			"nobody's": func() {
				if err := w.node.Forget(plain.uid); err != nil {
					t.Fatal(err)
				}
			},
			"a plain pod's": func() { w.classify(t, plain, ClassPlain, w.here) },
		} {
			if workload == "raw4" && name != "nobody's" {
				continue // to make one there, its process must be the node's master
			}
			t.Run(workload+" in "+name, func(t *testing.T) {
				as()
				cmd := w.workloadAt(guarded.container, workload, 1)
				cmd.SysProcAttr.AmbientCaps = containers.caps
				if got := w.play(t, cmd); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
	w.nothingReached(t)
}

// TestListenerIsForItsPodAlone: a record is no other pod's, also of one that has
// the same network namespace.
func TestListenerIsForItsPodAlone(t *testing.T) {
	for name, onHost := range map[string]bool{"in its own namespace": false, "on the node's network": true} {
		t.Run(name, func(t *testing.T) {
			w := newNodelessWorld(t)
			in, elsewhere := w.here, testenv.NewNetns(t)
			if onHost {
				w.host, in, elsewhere = w.here, nil, nil
			}
			w.open(t)
			if err := w.node.Set(postgresGuards()); err != nil {
				t.Fatal(err)
			}
			guarded, other := w.newPod(t, "guarded"), w.newPod(t, "other")
			w.classify(t, guarded, ClassGuarded, in)
			w.classify(t, other, ClassGuarded, elsewhere)
			w.listen(t, guarded)
			own, others := make(chan error, 1), make(chan error, 1)
			w.serveWith(t, func(c net.Conn) {
				_, err := w.node.Origin(guarded.uid, c)
				own <- err
				_, err = w.node.Origin(other.uid, c)
				others <- err
				c.Close()
			})
			w.from(t, guarded, "plain4")
			if got := <-own; got != nil {
				t.Errorf("its own: got %v, want no error", got)
			}
			if got := <-others; !errors.Is(got, ErrNoOrigin) {
				t.Errorf("another's: got %v, want %v", got, ErrNoOrigin)
			}
		})
	}
}

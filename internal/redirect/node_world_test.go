package redirect

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"postern.dev/postern/bpf"
	"postern.dev/postern/testenv"
)

// nodeWorld is a node with pods in a world: in its namespace is the pod named
// guarded, and a process of the gate's cgroup, which is this one, listens for it.
type nodeWorld struct {
	*world
	node    *Node
	options NodeOptions
	without func(*features) // takes from what the kernel has
	flags   uint32          // to attach with
	top     string          // cgroup of all below, in the place of the root's children
	host    *testenv.Netns  // the node's own namespace
	guarded *nodePod
}

// nodePod is a pod's cgroups.
type nodePod struct {
	uid       string
	dir       string          // of the pod
	container *testenv.Cgroup // in it
}

// newNodeWorld makes a world whose namespace is that of a guarded pod.
func newNodeWorld(t *testing.T) *nodeWorld {
	t.Helper()
	w := newBareNodeWorld(t)
	w.guarded = w.newPod(t, "guarded")
	w.classify(t, w.guarded, ClassGuarded, w.here)
	w.listen(t, w.guarded)
	w.serve(t)
	return w
}

// newBareNodeWorld makes a world and a node with guards, on which no pod is known.
func newBareNodeWorld(t *testing.T) *nodeWorld {
	t.Helper()
	w := newNodelessWorld(t)
	w.open(t)
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	return w
}

// newNodelessWorld makes a world, and the cgroups of a node, whose programs are
// detached in the end.
func newNodelessWorld(t *testing.T) *nodeWorld {
	t.Helper()
	w := &nodeWorld{world: newUnguardedWorld(t), host: testenv.NewNetns(t), flags: allowMulti | preorder}
	w.arrangeCgroups(t)
	return w
}

func (w *nodeWorld) arrangeCgroups(t *testing.T) {
	t.Helper()
	w.top = testenv.NewCgroup(t).Path
	root := filepath.Dir(w.top)
	gate := makeCgroup(t, filepath.Join(w.top, "gate"))
	pods := makeCgroup(t, filepath.Join(w.top, "kubepods"))
	if err := enter(gate); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := enter(root); err != nil {
			t.Error(err)
		}
	})
	path, err := filepath.Rel(root, pods)
	if err != nil {
		t.Fatal(err)
	}
	w.options = NodeOptions{Pods: path, Log: quietLog()}
	t.Cleanup(func() {
		if err := Uninstall(w.options); err != nil {
			t.Errorf("uninstall: %v", err)
		}
	})
}

// makeCgroup makes a cgroup below one that is killed in the end.
func makeCgroup(t *testing.T, path string) string {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := kill(ctx, path); err != nil {
			t.Error(err)
		}
		if err := remove(path); err != nil {
			t.Errorf("remove %s: %v", path, err)
		}
	})
	return path
}

// open opens the node, in the place of the one before, from the gate's cgroup.
func (w *nodeWorld) open(t *testing.T) *Node {
	t.Helper()
	o := w.options
	err := w.host.Do(func() (err error) {
		if o.Host == nil {
			if o.Host, err = openOwn(); err != nil {
				return err
			}
			defer o.Host.Close()
		}
		has, err := probe()
		if err != nil {
			return err
		}
		if w.without != nil {
			w.without(&has)
		}
		w.node, err = openNode(o, has, w.flags)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := w.node
	t.Cleanup(func() { n.Close() })
	if err := n.Exempt(filepath.Join(w.top, "gate")); err != nil {
		t.Fatal(err)
	}
	return n
}

// newPod makes the cgroups of a pod.
func (w *nodeWorld) newPod(t *testing.T, uid string) *nodePod {
	t.Helper()
	p := &nodePod{uid: uid, dir: makeCgroup(t, filepath.Join(w.top, "kubepods", "pod"+uid))}
	p.container = testenv.OpenCgroup(t, makeCgroup(t, filepath.Join(p.dir, "container")))
	return p
}

func (w *nodeWorld) classify(t *testing.T, p *nodePod, class Class, in *testenv.Netns) {
	t.Helper()
	var netns *os.File
	if in != nil {
		netns = w.open1(t, in)
		defer netns.Close()
	}
	if err := w.node.Classify(Pod{UID: p.uid, Class: class, Netns: netns, Cgroup: p.dir}); err != nil {
		t.Fatal(err)
	}
}

// open1 opens a namespace.
func (w *nodeWorld) open1(t *testing.T, ns *testenv.Netns) (f *os.File) {
	t.Helper()
	if err := ns.Do(func() (err error) { f, err = openOwn(); return err }); err != nil {
		t.Fatal(err)
	}
	return f
}

// listen opens the world's listeners for a pod.
func (w *nodeWorld) listen(t *testing.T, p *nodePod) {
	t.Helper()
	var err error
	if w.listeners, err = w.node.Listen(p.uid); err != nil {
		t.Fatal(err)
	}
	node := w.node
	w.origin = func(c net.Conn) (Origin, error) { return node.Origin(p.uid, c) }
}

// from plays a workload in a pod.
func (w *nodeWorld) from(t *testing.T, p *nodePod, workload string) string {
	t.Helper()
	return w.play(t, w.workload(p.container, workload, none))
}

// playIn plays a workload in another namespace than the world's.
func (w *nodeWorld) playIn(t *testing.T, ns *testenv.Netns, cmd *exec.Cmd) string {
	t.Helper()
	in := &world{here: ns}
	return in.play(t, cmd)
}

// nothingReached fails if the database saw something.
func (w *nodeWorld) nothingReached(t *testing.T) {
	t.Helper()
	if got := w.reached(t) + w.direct.Swap(0); got != 0 {
		t.Errorf("%d packets and connections reached the database, want 0", got)
	}
}

func TestNodeLeadsAGuardedPodToItsListener(t *testing.T) {
	w := newNodeWorld(t)
	for _, workload := range []string{"plain4", "plain6", "mapped6"} {
		if got := w.from(t, w.guarded, workload); got != "proxied" {
			t.Errorf("%s: got %q, want proxied", workload, got)
		}
	}
	if got := w.from(t, w.guarded, "unguarded"); got != directReply {
		t.Errorf("unguarded: got %q, want %q", got, directReply)
	}
	w.nothingReached(t)
	c, err := w.node.Counters(w.guarded.uid)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Counters{Seen: 3, Redirected: 3}); c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// workloadAt is a workload that knows of a listener's port without there being one.
func (w *nodeWorld) workloadAt(cgroup *testenv.Cgroup, name string, port uint16) *exec.Cmd {
	w.listeners = []net.Listener{elsewhere(port)}
	return w.workload(cgroup, name, none)
}

// tuplesOf counts the pod's connections that the kernel thinks are on their way.
func (w *nodeWorld) tuplesOf(t *testing.T, p *nodePod) (left int) {
	t.Helper()
	index := w.indexOf(t, p)
	var tuples *ebpf.Map
	if err := w.node.maps.Tuples.Lookup(index, &tuples); err != nil {
		t.Fatal(err)
	}
	defer tuples.Close()
	var key bpf.RedirectTuple
	var value bpf.RedirectOrigin
	all := tuples.Iterate()
	for all.Next(&key, &value) {
		left++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return left
}

func (w *nodeWorld) indexOf(t *testing.T, p *nodePod) uint32 {
	t.Helper()
	w.node.mu.Lock()
	defer w.node.mu.Unlock()
	m, err := w.node.find(p.uid)
	if err != nil || m == nil {
		t.Fatalf("pod %s: got %v, %v, want it known", p.uid, m, err)
	}
	return m.pod.Index
}

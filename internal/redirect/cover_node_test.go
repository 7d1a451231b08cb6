package redirect

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// newCoveredNodeWorld is a node with the guarded pod of a [coverWorld] on it.
func newCoveredNodeWorld(t *testing.T) (*nodeWorld, *coverWorld) {
	t.Helper()
	link := newCoverWorld(t)
	w := &nodeWorld{world: link.world, host: link.node, flags: allowMulti | preorder}
	w.arrangeCgroups(t)
	w.options.Host = link.nodeFile
	w.open(t)
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	w.guarded = w.newPod(t, "guarded")
	w.classify(t, w.guarded, ClassGuarded, w.here)
	w.listen(t, w.guarded)
	w.serve(t)
	return w, link
}

// nodesCover covers the guarded pod and wants no link left.
func (w *nodeWorld) nodesCover(t *testing.T) {
	t.Helper()
	uncovered, err := w.node.Cover(w.guarded.uid)
	if err != nil {
		t.Fatal(err)
	}
	if len(uncovered) != 0 {
		t.Errorf("got uncovered links %q, want none", uncovered)
	}
}

// TestNodeCoversAGuardedPod: what no hook of a cgroup sees reaches the database
// until the pod is covered; what is led to the listeners, and what the gate dials
// in the pod's namespace, goes on.
func TestNodeCoversAGuardedPod(t *testing.T) {
	w, link := newCoveredNodeWorld(t)
	frames := []string{"packet", "packet-bypass", "packet-pieces", "packet-tagged", "packet-xdp"}
	try := func(when string, reaches bool) {
		t.Helper()
		for _, workload := range frames {
			w.reached(t)
			if got := w.play(t, w.workload(w.guarded.container, workload, containers)); got != "sent" {
				t.Errorf("%s, %s: got %q, want sent", when, workload, got)
			}
			if got := w.reached(t); (got != 0) != reaches {
				t.Errorf("%s, %s: %d packets reached the database, want some: %v", when, workload, got, reaches)
			}
		}
		if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
			t.Errorf("%s: got %q, want proxied", when, got)
		}
		if got := w.dialsUpstream(t); got != directReply {
			t.Errorf("%s, the gate's socket: got %q, want %q", when, got, directReply)
		}
	}
	try("before", true)
	w.nodesCover(t)
	try("covered", false)
	c, err := w.node.Counters(w.guarded.uid)
	if err != nil {
		t.Fatal(err)
	}
	if c.Dropped < uint64(len(frames)) {
		t.Errorf("got %d packets counted as dropped, want %d or more", c.Dropped, len(frames))
	}
	w.open(t)
	w.classify(t, w.guarded, ClassGuarded, w.here)
	w.listen(t, w.guarded)
	w.serve(t)
	try("another process, not covered yet", false)
	w.nodesCover(t)
	try("another process", false)
	if err := w.node.Forget(w.guarded.uid); err != nil {
		t.Fatal(err)
	}
	if got := link.oursAt(podEnd); len(got) != 0 {
		t.Errorf("forgotten: got %d programs at the node's end, want 0", len(got))
	}
}

// dialsUpstream dials the database as the gate does for the proxy.
func (w *nodeWorld) dialsUpstream(t *testing.T) string {
	t.Helper()
	file, err := w.node.Socket(w.guarded.uid, "tcp4")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.SetNonblock(int(file.Fd()), false); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(int(file.Fd()), sockaddr(db4)); err != nil {
		return word(err)
	}
	c, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	reply, err := io.ReadAll(c)
	if err != nil {
		return word(err)
	}
	return string(reply)
}

func TestCoverRefuses(t *testing.T) {
	w, _ := newCoveredNodeWorld(t)
	if _, err := w.node.Cover("nobody"); !errors.Is(err, ErrUnknownPod) {
		t.Errorf("got %v, want %v", err, ErrUnknownPod)
	}
	plain := w.newPod(t, "plain")
	w.classify(t, plain, ClassPlain, testenv.NewNetns(t))
	if _, err := w.node.Cover(plain.uid); err == nil {
		t.Error("got no error for a plain pod, want one: the program takes every pod for guarded")
	}
	onHost := w.newPod(t, "host")
	w.classify(t, onHost, ClassGuarded, nil)
	uncovered, err := w.node.Cover(onHost.uid)
	if err != nil || len(uncovered) != 1 {
		t.Errorf("got %q, %v for a pod on the node's network, want its links named", uncovered, err)
	}
}

func TestUninstallUncovers(t *testing.T) {
	w, link := newCoveredNodeWorld(t)
	w.nodesCover(t)
	others := w.options
	others.Pods += "-of-another-node"
	for _, o := range []NodeOptions{others, w.options} {
		if err := Uninstall(o); err != nil {
			t.Fatal(err)
		}
		want := 0
		if o.Pods == others.Pods {
			want = 1
		}
		if got := link.oursAt(podEnd); len(got) != want {
			t.Errorf("got %d programs at the node's end after uninstalling %s, want %d", len(got), o.Pods, want)
		}
	}
}

// TestRefusedPacketsAreTold: with the pod, and where they were going.
func TestRefusedPacketsAreTold(t *testing.T) {
	w, _ := newCoveredNodeWorld(t)
	w.nodesCover(t)
	told := make(chan KernelRefusal, 64)
	done := make(chan error, 1)
	ctx, cancel := testContext(t)
	go func() { done <- w.node.Refusals(ctx, func(r KernelRefusal) { told <- r }) }()
	w.play(t, w.workload(w.guarded.container, "packet", containers))
	if got := <-told; got.UID != w.guarded.uid || got.Dialled != db4 {
		t.Errorf("got a refusal of pod %q to %v, want %q to %v", got.UID, got.Dialled, w.guarded.uid, db4)
	}
	cancel()
	if err := <-done; err != nil && !errors.Is(err, ctx.Err()) {
		t.Error(err)
	}
}

// TestCoverLeavesNothing: descriptors and map entries of links that come and go.
func TestCoverLeavesNothing(t *testing.T) {
	w, link := newCoveredNodeWorld(t)
	w.nodesCover(t)
	before := descriptors(t)
	for range 20 {
		link.addLink("net1", "extra")
		w.nodesCover(t)
		link.removeLink("extra")
		w.nodesCover(t)
	}
	if got := descriptors(t); got > before {
		t.Errorf("got %d descriptors, want %d", got, before)
	}
	var index uint32
	var value [24]byte
	var left []uint32
	all := w.node.cover.objects.Links.Iterate()
	for all.Next(&index, &value) {
		left = append(left, index)
	}
	if want := []uint32{uint32(link.index(podEnd))}; !slices.Equal(left, want) {
		t.Errorf("got entries of links %d, want %d", left, want)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

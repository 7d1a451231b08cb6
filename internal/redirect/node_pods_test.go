package redirect

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// TestUnknownPodsAreRefusedTargetsAlone: neither what has a Target's port
// elsewhere, nor anything to a process of the node that is in no pod.
func TestUnknownPodsAreRefusedTargetsAlone(t *testing.T) {
	w := newBareNodeWorld(t)
	unknown := w.newPod(t, "unknown")
	for workload, want := range map[string]string{
		"plain4": "refused", "plain6": "refused", "mapped6": "refused", "udp-sendto4": "EPERM", "udp-connect": "EPERM",
		"loopback": "refused", "unguarded": directReply, "udp-unguarded": directReply,
	} {
		if got := w.play(t, w.workloadAt(unknown.container, workload, 1)); got != want {
			t.Errorf("%s: got %q, want %q", workload, got, want)
		}
	}
	w.nothingReached(t)
	if got := w.play(t, w.workloadAt(testenv.NewCgroup(t), "plain4", 1)); got != directReply {
		t.Errorf("a process of the node: got %q, want %q", got, directReply)
	}
	c, err := w.node.Counters("")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Counters{Seen: 4, Refused: 5}); c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// TestPlainPodsAreUntouched, but for what is exclusive.
func TestPlainPodsAreUntouched(t *testing.T) {
	w := newBareNodeWorld(t)
	plain := w.newPod(t, "plain")
	w.classify(t, plain, ClassPlain, w.here)
	play := func(workload string, caps capabilities) string {
		cmd := w.workloadAt(plain.container, workload, 1)
		cmd.SysProcAttr.AmbientCaps = caps.caps
		return w.play(t, cmd)
	}
	for _, row := range []struct{ workload, want string }{
		{"plain4", directReply}, {"plain6", directReply}, {"udp-sendto4", directReply}, {"raw4", "sent"}, {"raw4-later", "sent"},
	} {
		if got := play(row.workload, containers); got != row.want {
			t.Errorf("%s: got %q, want %q", row.workload, got, row.want)
		}
	}
	if c, err := w.node.Counters(plain.uid); err != nil || c != (Counters{}) {
		t.Errorf("got %+v, %v, want nothing counted", c, err)
	}
	w.reached(t)
	w.direct.Store(0)

	exclusive := postgresGuards()
	for i := range exclusive.Guards {
		exclusive.Guards[i].Exclusive = exclusive.Guards[i].Target
	}
	if err := w.node.Set(exclusive); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ workload, want string }{
		{"plain4", "refused"}, {"plain6", "refused"}, {"mapped6", "refused"}, {"udp-sendto4", "EPERM"}, {"raw4", "EPERM"},
		{"loopback", "refused"}, // by nobody listening
		{"unguarded", directReply},
	} {
		if got := play(row.workload, containers); got != row.want {
			t.Errorf("exclusive, %s: got %q, want %q", row.workload, got, row.want)
		}
	}
	w.nothingReached(t)
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	if got := play("plain4", none); got != directReply {
		t.Errorf("exclusive no more: got %q, want %q", got, directReply)
	}
}

// TestRelayByAPlainPod: what a plain pod's process opens and hands over is the one
// way left, and exclusive closes it.
func TestRelayByAPlainPod(t *testing.T) {
	for name, exclusive := range map[string]bool{"": false, "exclusive": true} {
		t.Run(name, func(t *testing.T) {
			w := newBareNodeWorld(t)
			guarded := postgresGuards()
			for i := range guarded.Guards {
				guarded.Guards[i].Exclusive = exclusive
			}
			if err := w.node.Set(guarded); err != nil {
				t.Fatal(err)
			}
			plain, pod := w.newPod(t, "plain"), w.newPod(t, "guarded")
			w.classify(t, plain, ClassPlain, w.here)
			w.classify(t, pod, ClassGuarded, testenv.NewNetns(t))
			giver, taker := w.workloadAt(plain.container, "give-open", 1), w.workloadAt(pod.container, "take", 1)
			handOver(t, giver, taker)
			want := map[bool]string{false: "given", true: "refused"}[exclusive]
			if got := w.play(t, giver); got != want {
				t.Fatalf("giver: got %q, want %q", got, want)
			}
			if exclusive {
				w.nothingReached(t)
				return
			}
			if got := w.play(t, taker); got != directReply {
				t.Errorf("taker, known not to be covered: got %q, want %q", got, directReply)
			}
		})
	}
}

// TestPodsOnTheNodesNetwork are known by their cgroup: a guarded one has listeners
// of its own there, and no other process of the node is touched.
func TestPodsOnTheNodesNetwork(t *testing.T) {
	w := newNodelessWorld(t)
	w.host = w.here
	w.open(t)
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	guarded, second, plain, unknown := w.newPod(t, "guarded"), w.newPod(t, "second"), w.newPod(t, "plain"), w.newPod(t, "unknown")
	w.classify(t, guarded, ClassGuarded, nil)
	w.classify(t, second, ClassGuarded, w.here) // its namespace is given, and is the node's
	w.classify(t, plain, ClassPlain, nil)
	w.listen(t, second)
	w.serve(t)
	if got := w.from(t, second, "plain6"); got != "proxied" {
		t.Errorf("a second guarded pod: got %q, want proxied", got)
	}
	secondPort := portOf(w.listeners[0])
	w.listen(t, guarded)
	w.serve(t)
	for _, workload := range []string{"plain4", "plain6", "mapped6"} {
		if got := w.from(t, guarded, workload); got != "proxied" {
			t.Errorf("%s: got %q, want proxied", workload, got)
		}
	}
	for _, row := range []struct {
		workload, want string
		caps           capabilities
	}{
		{"udp-sendto4", "EPERM", none},
		{"raw4", "EPERM", containers},
		{"raw4-proxyport", "EPERM", containers},
		{"proxyport4", "EPERM", none},
		{"proxyport6", "EPERM EPERM", none},
		{"bind", "EPERM EPERM EPERM EPERM", containers},
		{"steal", "EPERM", containers},
		{"unguarded", directReply, none},
	} {
		if got := w.play(t, w.workload(guarded.container, row.workload, row.caps)); got != row.want {
			t.Errorf("%s: got %q, want %q", row.workload, got, row.want)
		}
	}
	w.nothingReached(t)
	daemon := testenv.NewCgroup(t)
	for name, row := range map[string]struct {
		cgroup         *testenv.Cgroup
		workload, want string
	}{
		"a plain pod":                            {plain.container, "plain4", directReply},
		"a process of the node":                  {daemon, "plain4", directReply},
		"an unknown pod":                         {unknown.container, "plain4", "refused"},
		"a process of the node, to the listener": {daemon, "proxyport4", "EPERM"},
		"a process of the node, in its place":    {daemon, "steal", "EPERM"},
		"a plain pod, to the listener":           {plain.container, "proxyport6", "EPERM EPERM"},
		"another guarded pod, to the listener":   {second.container, "proxyport4", "EPERM"},
	} {
		if got := w.play(t, w.workload(row.cgroup, row.workload, none)); got != row.want {
			t.Errorf("%s: got %q, want %q", name, got, row.want)
		}
	}
	if err := w.node.Forget(second.uid); err != nil {
		t.Fatal(err)
	}
	var index uint32
	if err := w.node.maps.HostPorts.Lookup(networkOrder(secondPort), &index); err == nil {
		t.Errorf("got port %d kept for pod %d, want it free", secondPort, index)
	}
}

// TestSticky: a pod that was guarded stays so, whoever says otherwise, until it is
// forgotten; in a new namespace too.
func TestSticky(t *testing.T) {
	w := newNodeWorld(t)
	w.classify(t, w.guarded, ClassPlain, w.here)
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("said to be plain: got %q, want proxied", got)
	}
	w.open(t)
	w.classify(t, w.guarded, ClassPlain, w.here)
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("said to be plain to another process: got %q, want proxied", got)
	}
	w.classify(t, w.guarded, ClassPlain, testenv.NewNetns(t))
	if got := w.from(t, w.guarded, "plain4"); got != "refused" {
		t.Errorf("in another namespace: got %q, want refused", got)
	}
	if err := w.node.Forget(w.guarded.uid); err != nil {
		t.Fatal(err)
	}
	w.classify(t, w.guarded, ClassPlain, w.here)
	if got := w.from(t, w.guarded, "plain4"); got != directReply {
		t.Errorf("forgotten: got %q, want %q", got, directReply)
	}
}

// TestTwoProcessesKnowTheSamePods: what one forgets, the other does not bring back
// in the place of a third pod.
func TestTwoProcessesKnowTheSamePods(t *testing.T) {
	w := newNodeWorld(t)
	first, other := w.node, w.newPod(t, "other")
	second := w.open(t)
	w.classify(t, w.guarded, ClassGuarded, w.here)
	if err := second.Forget(w.guarded.uid); err != nil {
		t.Fatal(err)
	}
	w.classify(t, other, ClassGuarded, testenv.NewNetns(t)) // with the index of the first
	w.node = first
	w.classify(t, w.guarded, ClassGuarded, w.here)
	for _, n := range []*Node{first, second} {
		pods, err := n.Pods()
		if want := []string{w.guarded.uid, other.uid}; err != nil || !slices.Equal(pods, want) {
			t.Errorf("got %v, %v, want %v", pods, err, want)
		}
	}
	if a, b := w.indexOf(t, w.guarded), w.indexOf(t, other); a == b {
		t.Errorf("got index %d for both pods, want two", a)
	}
	w.listen(t, w.guarded)
	w.serve(t)
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("got %q, want proxied", got)
	}
}

// TestClassifyRefuses what would leave a pod open, or take another's place.
func TestClassifyRefuses(t *testing.T) {
	w := newNodeWorld(t)
	ns := w.open1(t, w.here)
	defer ns.Close()
	other := w.newPod(t, "other")
	for name, p := range map[string]Pod{
		"no class":              {UID: "x", Netns: ns},
		"no UID":                {Class: ClassPlain, Netns: ns},
		"a long UID":            {UID: string(make([]byte, 64)), Class: ClassPlain, Netns: ns},
		"no key":                {UID: "x", Class: ClassPlain},
		"another's namespace":   {UID: other.uid, Class: ClassPlain, Netns: ns, Cgroup: other.dir},
		"another's cgroup":      {UID: "x", Class: ClassPlain, Cgroup: w.guarded.dir},
		"a container's cgroup":  {UID: "x", Class: ClassPlain, Cgroup: w.guarded.container.Path + "/x"},
		"the pods' cgroup":      {UID: "x", Class: ClassPlain, Cgroup: w.top + "/kubepods"},
		"a cgroup beside it":    {UID: "x", Class: ClassPlain, Cgroup: w.top + "/gate"},
		"a cgroup of many pods": {UID: "x", Class: ClassPlain, Cgroup: w.top + "/kubepods/burstable"},
		"a cgroup that is not":  {UID: "x", Class: ClassPlain, Cgroup: w.top + "/kubepods/podx"},
	} {
		if err := w.node.Classify(p); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
	pods, err := w.node.Pods()
	if want := []string{w.guarded.uid}; err != nil || !slices.Equal(pods, want) {
		t.Errorf("got %v, %v, want %v", pods, err, want)
	}
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("the pod that was there: got %q, want proxied", got)
	}
	if _, err := w.node.Listen("nobody"); !errors.Is(err, ErrUnknownPod) {
		t.Errorf("listen: got %v, want %v", err, ErrUnknownPod)
	}
	if _, err := w.node.Socket("nobody", "tcp4"); !errors.Is(err, ErrUnknownPod) {
		t.Errorf("socket: got %v, want %v", err, ErrUnknownPod)
	}
}

// TestNodeClosedUntilSet: nobody has said what is guarded.
func TestNodeClosedUntilSet(t *testing.T) {
	w := newNodelessWorld(t)
	w.open(t)
	guarded, plain := w.newPod(t, "guarded"), w.newPod(t, "plain")
	w.classify(t, guarded, ClassGuarded, w.here)
	w.classify(t, plain, ClassPlain, testenv.NewNetns(t))
	for workload, want := range map[string]string{"plain4": "refused", "unguarded": "refused", "udp-sendto4": "refused"} {
		if got := w.play(t, w.workloadAt(guarded.container, workload, 1)); got != want {
			t.Errorf("%s: got %q, want %q", workload, got, want)
		}
	}
	if got := w.play(t, w.workloadAt(testenv.NewCgroup(t), "unguarded", 1)); got != "refused" {
		t.Errorf("a process of the node in its namespace: got %q, want refused", got)
	}
	w.nothingReached(t)
}

// TestFloodRefusesThatPodAlone: a pod with more connects under way than its share is
// refused; another is not.
func TestFloodRefusesThatPodAlone(t *testing.T) {
	const share = 8
	w := newNodelessWorld(t)
	w.here.Sysctl(t, "core/somaxconn", "1")
	w.options.Connecting = share
	w.open(t)
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	flooding, other := w.newPod(t, "flooding"), w.newPod(t, "other")
	w.classify(t, flooding, ClassGuarded, w.here)
	w.listen(t, flooding)
	next, end := w.begin(t, w.workload(flooding.container, "flood", none))
	if got, want := next(), "pending 10 refused 54"; got != want {
		t.Errorf("flood: got %q, want %q", got, want)
	}
	if got := w.from(t, flooding, "plain4"); got != "refused" {
		t.Errorf("the flooding pod: got %q, want refused", got)
	}
	quiet := testenv.NewNetns(t)
	w.classify(t, other, ClassGuarded, quiet)
	w.listen(t, other)
	w.serve(t)
	cmd := w.workload(other.container, "plain4", none)
	if got := w.playIn(t, quiet, cmd); got != "proxied" {
		t.Errorf("the other pod: got %q, want proxied", got)
	}
	if got := end(); got != "ended" {
		t.Errorf("flood: got %q, want ended", got)
	}
	if got := w.tuplesOf(t, flooding); got != 0 {
		t.Errorf("after the flood: got %d tuples, want 0", got)
	}
	w.nothingReached(t)
}

// TestEarlierConnectionsOfAPodAreEnded: the pod's to what is guarded; neither the
// agent's from the same namespace nor anybody else's.
func TestEarlierConnectionsOfAPodAreEnded(t *testing.T) {
	for name, byNetlink := range map[string]bool{"by program": false, "by netlink": true} {
		for network, onHost := range map[string]bool{"its own": false, "the node's": true} {
			t.Run(name+" on "+network, func(t *testing.T) { testEnded(t, byNetlink, onHost) })
		}
	}
}

func testEnded(t *testing.T, byNetlink, onHost bool) {
	w := newNodelessWorld(t)
	in := w.here
	if onHost {
		w.host, in = w.here, nil
	}
	w.without = func(f *features) { f.sockDestroy = f.sockDestroy && !byNetlink }
	w.open(t)
	if err := w.node.Set(Guarded{}); err != nil {
		t.Fatal(err)
	}
	pod := w.newPod(t, "pod")
	w.classify(t, pod, ClassPlain, in)
	daemon := testenv.NewCgroup(t)
	inside, _ := w.begin(t, w.workloadAt(pod.container, "hold", 1))
	elsewhere, _ := w.begin(t, w.workloadAt(daemon, "hold", 1))
	for _, next := range []func() string{inside, elsewhere} {
		if got := next(); got != "held" {
			t.Fatalf("got %q, want held", got)
		}
	}
	own := w.dialHeld(t, pod.uid)
	defer own.Close()
	guards := Guarded{Guards: []Guard{{Prefix: netip.PrefixFrom(held4.Addr(), 32), Port: held4.Port(), Target: true}}}
	if err := w.node.Set(guards); err != nil {
		t.Fatal(err)
	}
	w.ends(t, pod, 0) // it is plain
	w.classify(t, pod, ClassGuarded, in)
	want := 2 // a process of the node in the pod's namespace counts as the pod's
	if onHost {
		want = 1
	}
	w.ends(t, pod, want)
	if got := inside(); got != "ECONNABORTED" {
		t.Errorf("got %q, want ECONNABORTED", got)
	}
	if _, err := own.Write([]byte("x")); err != nil {
		t.Errorf("the agent's own: got %v, want no error", err)
	}
	w.ends(t, pod, 0)
}

// dialHeld connects as Postern itself, from the pod's namespace.
func (w *nodeWorld) dialHeld(t *testing.T, uid string) net.Conn {
	t.Helper()
	f, err := w.node.Socket(uid, "tcp4")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := errors.Join(unix.SetNonblock(fd, false), unix.Connect(fd, sockaddr(held4))); err != nil {
		t.Fatal(err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *nodeWorld) ends(t *testing.T, p *nodePod, want int) {
	t.Helper()
	got, err := w.node.Destroy(t.Context(), p.uid)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %d connections ended, want %d", got, want)
	}
}

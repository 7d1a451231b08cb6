package redirect

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"postern.dev/postern/testenv"
)

// TestGateGone: without listeners a guarded pod is refused in both families, and
// nobody takes their place.
func TestGateGone(t *testing.T) {
	w := newNodeWorld(t)
	for _, l := range w.listeners {
		l.Close()
	}
	if err := w.node.Close(); err != nil {
		t.Fatal(err)
	}
	for workload, want := range map[string]string{
		"plain4": "refused", "plain6": "refused", "mapped6": "refused", "udp-sendto4": "EPERM",
		"bind": "EPERM EPERM EPERM EPERM", "steal": "EPERM", "squat-autobind": "listening", "unguarded": directReply,
	} {
		if got := w.play(t, w.workload(w.guarded.container, workload, containers)); got != want {
			t.Errorf("%s: got %q, want %q", workload, got, want)
		}
	}
	for _, workload := range []string{"plain4", "plain6"} {
		if got := w.from(t, w.guarded, workload); got != "refused" {
			t.Errorf("after all that, %s: got %q, want refused", workload, got)
		}
	}
	w.nothingReached(t)
}

// TestPortTakenWhileTheGateWasAway: listen(2) chooses a port that bind(2) is
// refused, where the kernel chooses from all of them; the listeners then get
// another one.
func TestPortTakenWhileTheGateWasAway(t *testing.T) {
	w := newNodeWorld(t)
	old := portOf(w.listeners[0])
	for _, l := range w.listeners {
		l.Close()
	}
	w.here.Sysctl(t, "ipv4/ip_local_port_range", "1024 65535")
	squatter := w.workload(w.guarded.container, "squat", none)
	squatter.SysProcAttr.Credential.Uid = 0 // as the gate
	next, end := w.begin(t, squatter)
	if got, want := next(), fmt.Sprint(old); got != want {
		t.Fatalf("squatter: got port %q, want %q", got, want)
	}
	w.listen(t, w.guarded)
	w.serve(t)
	if got := portOf(w.listeners[0]); got == old {
		t.Errorf("got port %d again, want another one", got)
	}
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("got %q, want proxied", got)
	}
	end()
}

// TestRestartUnderLoad: one process takes over from another while a pod connects.
// No connect goes to the database; none is refused while one of them listens.
func TestRestartUnderLoad(t *testing.T) {
	t.Run("side by side", func(t *testing.T) { testRestart(t, true) })
	t.Run("one after the other", func(t *testing.T) { testRestart(t, false) })
}

func testRestart(t *testing.T, sideBySide bool) {
	times := 3
	if testing.Short() {
		times = 2
	}
	w := newNodeWorld(t)
	next, end := w.begin(t, patient(w.workload(w.guarded.container, "load", none)))
	if got := next(); got != "first proxied" {
		t.Fatalf("load: got %q, want first proxied", got)
	}
	port := portOf(w.listeners[0])
	for range times {
		w.replace(t, sideBySide)
		if got := portOf(w.listeners[0]); got != port {
			t.Errorf("got port %d, want that of before: %d", got, port)
		}
		if got := w.play(t, patient(w.workload(w.guarded.container, "plain4", none))); got != "proxied" {
			t.Errorf("after a restart: got %q, want proxied", got)
		}
	}
	said := counts(t, end())
	t.Log(said)
	// What was in the backlog of a listener when it closed is reset: of each worker
	// one connection.
	if got, most := said["closed"], loadWorkers*times; got > most {
		t.Errorf("got %d connections closed, want at most %d", got, most)
	}
	delete(said, "closed")
	if !sideBySide {
		delete(said, "refused")
	}
	delete(said, "proxied")
	if len(said) > 0 {
		t.Errorf("got also %v, want none of it", said)
	}
	w.nothingReached(t)
	if got := w.noOrigin.Load(); got != 0 {
		t.Errorf("got %d connections without origin, want 0", got)
	}
	if got := w.programs(t); got != w.hooks() {
		t.Errorf("got %d programs attached, want %d", got, w.hooks())
	}
}

// replace lets another process take the place of the one that serves the guarded
// pod. As a gate does, the latter ends when it knows all that it accepted.
func (w *nodeWorld) replace(t *testing.T, sideBySide bool) {
	t.Helper()
	before, old, asking := w.node, w.listeners, w.asking
	if !sideBySide {
		stop(t, old)
	}
	w.open(t)
	w.classify(t, w.guarded, ClassGuarded, w.here)
	w.listen(t, w.guarded)
	w.serve(t)
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	if sideBySide {
		stop(t, old)
	}
	asking.Wait()
	if err := before.Close(); err != nil {
		t.Error(err)
	}
}

// patient lets a workload wait for what a busy machine is late with. A listener
// that closes while it is handed a SYN drops it (net/ipv4/tcp_input.c,
// tcp_rcv_state_process), and the client sends it again a second later.
func patient(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "POSTERN_TEST_PATIENCE=30s")
	return cmd
}

// counts reads what the load says in the end.
func counts(t *testing.T, said string) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for part := range strings.SplitSeq(said, "; ") {
		result, number, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("load: got %q, want results and their numbers", said)
		}
		counts[result] = n
	}
	return counts
}

// stop closes listeners. What they have not handed out is reset.
func stop(t *testing.T, listeners []net.Listener) {
	t.Helper()
	for _, l := range listeners {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// programs counts the node's attached programs.
func (w *nodeWorld) programs(t *testing.T) int {
	t.Helper()
	e, err := findEarlier(w.node.root, w.node.podsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	return len(e.root) + len(e.pods)
}

// hooks is how many programs there are for this kernel.
func (w *nodeWorld) hooks() int {
	if !w.node.has.unixConnect {
		return len(nodeHooks()) - 1
	}
	return len(nodeHooks())
}

// TestAnotherABI: programs whose maps look otherwise stay in force until the new
// maps are filled.
func TestAnotherABI(t *testing.T) {
	w := newNodeWorld(t)
	first := w.node
	first.mu.Lock()
	first.state.Abi = nodeABI + 1
	err := first.writeState()
	first.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	old := w.listeners
	w.open(t)
	if pods, err := w.node.Pods(); err != nil || len(pods) != 0 {
		t.Errorf("got pods %v, %v, want none of another version's", pods, err)
	}
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("before anything is said: got %q, want proxied", got)
	}
	if err := w.node.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	w.classify(t, w.guarded, ClassGuarded, w.here)
	if err := first.Exempt(filepath.Join(w.top, "gate")); err != nil {
		t.Fatal(err)
	}
	w.listen(t, w.guarded)
	w.serve(t)
	if err := w.node.Activate(); err != nil {
		t.Fatal(err)
	}
	stop(t, old)
	for _, workload := range []string{"plain4", "plain6"} {
		if got := w.from(t, w.guarded, workload); got != "proxied" {
			t.Errorf("%s: got %q, want proxied", workload, got)
		}
	}
	if got := w.programs(t); got != w.hooks() {
		t.Errorf("got %d programs attached, want %d", got, w.hooks())
	}
	w.nothingReached(t)
}

// TestUninstallLeavesNothing: no program, and no map of this node.
func TestUninstallLeavesNothing(t *testing.T) {
	w := newNodeWorld(t)
	second := newNodelessWorld(t)
	second.open(t)
	ids := nodeMaps(t, w.node)
	stop(t, w.listeners)
	if err := w.node.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Uninstall(w.options); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.programs(t); got != 0 {
		t.Errorf("got %d programs attached, want 0", got)
	}
	if got := w.from(t, w.guarded, "plain4"); got != directReply {
		t.Errorf("got %q, want %q", got, directReply)
	}
	for _, id := range ids {
		gone := false
		for range 200 {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				gone = true
				break
			}
			m.Close()
			time.Sleep(5 * time.Millisecond)
		}
		if !gone {
			t.Errorf("got map %d still there, want it gone", id)
		}
	}
	if got := second.programs(t); got != second.hooks() {
		t.Errorf("another node: got %d programs attached, want %d", got, w.hooks())
	}
}

func nodeMaps(t *testing.T, n *Node) (ids []ebpf.MapID) {
	t.Helper()
	for _, m := range []*ebpf.Map{
		n.maps.PosternNode, n.maps.Pods, n.maps.HostPods, n.maps.HostPorts, n.maps.Members, n.maps.Agents, n.maps.Guards,
		n.maps.Sockets, n.maps.Tuples, n.maps.Client, n.maps.Accepted, n.maps.Counters, n.maps.Refusals, n.maps.Tellings,
	} {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, ok := info.ID()
		if !ok {
			t.Fatalf("%v has no id", m)
		}
		ids = append(ids, id)
	}
	return ids
}

// TestChurnLeavesNothing: namespaces' worth of pods come and go.
func TestChurnLeavesNothing(t *testing.T) {
	times := 500
	if testing.Short() {
		times = 50
	}
	w := newBareNodeWorld(t)
	p := w.newPod(t, "churning")
	round := func(t *testing.T, uid string) {
		pod := &nodePod{uid: uid, dir: p.dir}
		w.classify(t, pod, ClassGuarded, testenv.NewNetns(t))
		listeners, err := w.node.Listen(uid)
		if err != nil {
			t.Fatal(err)
		}
		stop(t, listeners)
		if err := w.node.Forget(uid); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("first", func(t *testing.T) { round(t, "first") })
	descriptors, entries, goroutines := openDescriptors(t), mapEntries(t, w.node), runtime.NumGoroutine()
	for i := range times {
		t.Run(fmt.Sprint(i), func(t *testing.T) { round(t, fmt.Sprint(i)) }) // closes its namespace
	}
	for range 200 { // those of tests that ended are about to end
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("got %d goroutines, want %d", got, goroutines)
	}
	if got := openDescriptors(t); got > descriptors {
		t.Errorf("got %d open descriptors, want %d", got, descriptors)
	}
	if got := mapEntries(t, w.node); got != entries {
		t.Errorf("got %d map entries, want %d", got, entries)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// mapEntries counts what is in the maps whose keys come and go.
func mapEntries(t *testing.T, n *Node) (count int) {
	t.Helper()
	for _, m := range []*ebpf.Map{n.maps.Pods, n.maps.HostPods, n.maps.HostPorts, n.maps.Members, n.maps.Tuples} {
		var key, next []byte
		for {
			var err error
			if key == nil {
				next, err = m.NextKeyBytes(nil)
			} else {
				next, err = m.NextKeyBytes(key)
			}
			if err != nil {
				t.Fatal(err)
			}
			if next == nil {
				break
			}
			if m.Type() != ebpf.ArrayOfMaps {
				count++
			} else if value, err := m.LookupBytes(next); err == nil && value != nil {
				count++
			}
			key = next
		}
	}
	return count
}

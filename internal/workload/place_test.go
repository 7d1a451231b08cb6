package workload

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// home is a pod of a test: a cgroup and a network namespace.
type home struct {
	cgroup *testenv.Cgroup
	netns  *testenv.Netns
	finder Finder
}

var (
	homeAddr   = netip.MustParseAddr("10.81.0.1")
	containerB = strings.Repeat("b", 64)
)

func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{cgroup: testenv.NewCgroup(t), netns: testenv.NewNetns(t)}
	h.netns.Connect(t, testenv.NewNetns(t), []netip.Prefix{netip.PrefixFrom(homeAddr, 24)}, nil)
	own, err := os.Open("/proc/thread-self/ns/net") // the main thread may have been to another
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	id, err := NamespaceOf(own)
	if err != nil {
		t.Fatal(err)
	}
	h.finder = Finder{Parent: os.Getpid(), Node: id}
	return h
}

// start starts a command in a container of the pod.
func (h *home) start(t *testing.T, container string, start func(*exec.Cmd) error, cmd ...string) *exec.Cmd {
	t.Helper()
	dir := filepath.Join(h.cgroup.Path, container)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	t.Cleanup(func() { empty(t, dir) })
	c := testenv.OpenCgroup(t, dir).Command(cmd[0], cmd[1:]...)
	if err := start(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

// startAlone starts a command that leaves for a network namespace of its own, as
// a process without privileges can.
func (h *home) startAlone(t *testing.T, container string) {
	t.Helper()
	h.start(t, container, func(c *exec.Cmd) error {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: 61235, Gid: 61235}
		c.Dir = "/"
		out, err := c.StdoutPipe()
		if err != nil {
			return err
		}
		if err := h.netns.Start(c); err != nil {
			return err
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || line != "alone\n" {
			return fmt.Errorf("got %q, %w, want a process in a namespace of its own", line, err)
		}
		return nil
	}, "unshare", "--user", "--net", "sh", "-c", "echo alone; exec sleep 60")
}

func empty(t *testing.T, dir string) {
	t.Helper()
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	for range 1000 {
		if err = os.Remove(dir); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("remove %s: %v", dir, err)
	}
}

// tick waits until the clock of /proc shows another time.
func nextTick() { time.Sleep(30 * time.Millisecond) }

func (h *home) want(change func(*Wanted)) Wanted {
	w := Wanted{UID: uidA, Cgroup: h.cgroup.Path}
	if change != nil {
		change(&w)
	}
	return w
}

// expect finds the pod and compares what was found with its namespace.
func (h *home) expect(t *testing.T, w Wanted, sandbox string) {
	t.Helper()
	place, err := h.finder.Find(w)
	if err != nil {
		t.Fatalf("got %v, want the pod's namespace", err)
	}
	defer place.Close()
	if place.ID != h.id(t) {
		t.Errorf("got namespace %v, want %v", place.ID, h.id(t))
	}
	if place.Sandbox != sandbox {
		t.Errorf("got sandbox %.4s, want %.4s", place.Sandbox, sandbox)
	}
}

func (h *home) refuse(t *testing.T, w Wanted, want error) {
	t.Helper()
	place, err := h.finder.Find(w)
	if !errors.Is(err, want) {
		t.Errorf("got %v, %v, want %v", place, err, want)
	}
}

func (h *home) id(t *testing.T) Namespace {
	t.Helper()
	var id Namespace
	err := h.netns.Do(func() error {
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer f.Close()
		id, err = NamespaceOf(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestPodIsFoundByItsOldestProcess(t *testing.T) {
	h := newHome(t)
	h.refuse(t, h.want(nil), ErrNotStarted)
	h.start(t, containerB, h.netns.Start, "sleep", "60")
	nextTick()
	// A later one that is somewhere else, in a folder that comes first.
	h.start(t, containerA, testenv.NewNetns(t).Start, "sleep", "60")
	h.expect(t, h.want(nil), containerB)
	h.expect(t, h.want(func(w *Wanted) { w.IPs = []netip.Addr{homeAddr} }), containerB)
}

func TestMonitorOfTheRuntimeIsNotThePod(t *testing.T) {
	h := newHome(t)
	h.start(t, "crio-conmon-"+containerA, (*exec.Cmd).Start, "sleep", "60") // in the node's namespace
	nextTick()
	h.start(t, "crio-"+containerB, h.netns.Start, "sleep", "60")
	h.expect(t, h.want(nil), containerB)
}

func TestNamespaceThatIsNotThePodsIsRefused(t *testing.T) {
	t.Run("it has none of the pod's addresses", func(t *testing.T) {
		h := newHome(t)
		h.start(t, containerA, h.netns.Start, "sleep", "60")
		h.refuse(t, h.want(func(w *Wanted) { w.IPs = []netip.Addr{netip.MustParseAddr("10.81.0.9")} }), ErrNotItsOwn)
	})
	t.Run("it is the node's", func(t *testing.T) {
		h := newHome(t)
		h.start(t, containerA, (*exec.Cmd).Start, "sleep", "60")
		h.refuse(t, h.want(nil), ErrNotItsOwn)
	})
	t.Run("a process without privileges made it", func(t *testing.T) {
		h := newHome(t)
		h.startAlone(t, containerA)
		h.refuse(t, h.want(nil), ErrNotItsOwn)
	})
	t.Run("a pod on the node's network that is not there", func(t *testing.T) {
		h := newHome(t)
		h.start(t, containerA, h.netns.Start, "sleep", "60")
		h.refuse(t, h.want(func(w *Wanted) { w.HostNetwork = true }), ErrNotItsOwn)
	})
}

func TestProcessThatLeavesItsNamespaceDoesNotTakeThePodAlong(t *testing.T) {
	h := newHome(t)
	h.start(t, containerB, h.netns.Start, "sleep", "60") // the sandbox
	nextTick()
	h.startAlone(t, containerA)
	h.expect(t, h.want(nil), containerB)
}

func TestPodOnTheNodesNetworkHasNoNamespace(t *testing.T) {
	h := newHome(t)
	h.start(t, containerA, (*exec.Cmd).Start, "sleep", "60")
	place, err := h.finder.Find(h.want(func(w *Wanted) { w.HostNetwork = true }))
	if err != nil || place.Netns != nil {
		t.Errorf("got %+v, %v, want a pod without a namespace of its own", place, err)
	}
}

func TestRuntimesWordIsTaken(t *testing.T) {
	h := newHome(t)
	other := testenv.NewNetns(t)
	h.start(t, containerA, other.Start, "sleep", "60") // the oldest
	nextTick()
	sandbox := h.start(t, containerB, h.netns.Start, "sleep", "60")
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, told := range map[string]Sandbox{
		"process":                   {ID: containerB, PID: sandbox.Process.Pid},
		"path":                      {ID: containerB, Netns: "/proc/" + strconv.Itoa(sandbox.Process.Pid) + "/ns/net", PID: sandbox.Process.Pid},
		"path that is no namespace": {ID: containerB, Netns: path, PID: sandbox.Process.Pid},
		"path that is not there":    {ID: containerB, Netns: path + "/gone", PID: sandbox.Process.Pid},
	} {
		t.Run(name, func(t *testing.T) { h.expect(t, h.want(func(w *Wanted) { w.Sandbox = told }), containerB) })
	}
	mount := func() error {
		return h.netns.Do(func() error { return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "") })
	}
	if err := mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Run("mounted path, without a process", func(t *testing.T) {
		h.expect(t, h.want(func(w *Wanted) { w.Sandbox = Sandbox{ID: containerB, Netns: path} }), containerB)
	})
	t.Run("process of another pod", func(t *testing.T) {
		stranger := newHome(t)
		p := stranger.start(t, containerA, stranger.netns.Start, "sleep", "60")
		h.expectOther(t, h.want(func(w *Wanted) { w.Sandbox = Sandbox{ID: containerB, PID: p.Process.Pid} }), stranger.id(t))
	})
}

// expectOther finds the pod, and not where another is.
func (h *home) expectOther(t *testing.T, w Wanted, not Namespace) {
	t.Helper()
	place, err := h.finder.Find(w)
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	if place.ID == not {
		t.Errorf("got another pod's namespace %v, want one of this pod", place.ID)
	}
}

func TestPathsOnTheNodeAreTheNodesOwn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil { // absolute, as /var/run is
		t.Fatal(err)
	}
	f, err := OpenOnNode(os.Getpid(), filepath.Join(dir, "link", "there"))
	if err != nil {
		t.Fatalf("got %v, want a file", err)
	}
	f.Close()
	if f, err := OpenOnNode(os.Getpid(), "/proc/self/root/etc/passwd"); err == nil {
		f.Close()
		t.Error("got a file by way of a magic link, want none")
	}
}

func TestFirstStartIsTheOldestProcessOfAllPods(t *testing.T) {
	pods := testenv.NewCgroup(t)
	if _, found, err := FirstStart(pods.Path, ""); err != nil || found {
		t.Fatalf("got one (%v, %v), want none", found, err)
	}
	dir := filepath.Join(pods.Path, "pod"+uidA)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { empty(t, dir) })
	cmd := testenv.OpenCgroup(t, dir).Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	got, found, err := FirstStart(pods.Path, "")
	want, _ := started(cmd.Process.Pid)
	if err != nil || !found || ticksOf(got) != want {
		t.Errorf("got %v (%v, %v), want %d ticks", got, found, err, want)
	}
	if got, found, err := FirstStart(pods.Path, uidA); err != nil || found {
		t.Errorf("got %v (%v, %v) but for that pod, want none", got, found, err)
	}
}

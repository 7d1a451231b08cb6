package redirect

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// TestPosternItselfPasses: what its containers' processes connect, with sockets
// of the pod's namespace or of the node's.
func TestPosternItselfPasses(t *testing.T) {
	w := newNodeWorld(t)
	for _, network := range []string{"tcp4", "tcp6"} {
		f, err := w.node.Socket(w.guarded.uid, network)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		to := db4
		if network == "tcp6" {
			to = db6
		}
		fd := int(f.Fd())
		if err := unix.SetNonblock(fd, false); err != nil {
			t.Fatal(err)
		}
		if got := connect(fd, to); got != directReply {
			t.Errorf("%s: got %q, want %q", network, got, directReply)
		}
	}
	gate := testenv.OpenCgroup(t, filepath.Join(w.top, "gate"))
	if got := w.play(t, w.workload(gate, "plain4", none)); got != directReply {
		t.Errorf("another process of the gate: got %q, want %q", got, directReply)
	}
	f, err := w.node.Socket("", "tcp4")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cookie, err := unix.GetsockoptUint64(int(f.Fd()), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	if want := w.node.state.Netns; cookie != want {
		t.Errorf("the node's: got namespace %d, want %d", cookie, want)
	}
}

// TestOthersAreNotTakenForPostern, whatever they have of it.
func TestOthersAreNotTakenForPostern(t *testing.T) {
	w := newNodeWorld(t)
	gate := filepath.Join(w.top, "gate")
	t.Run("a socket made in the gate's cgroup", func(t *testing.T) {
		giver, taker := w.workload(testenv.OpenCgroup(t, gate), "give", none), w.workload(w.guarded.container, "take", none)
		handOver(t, giver, taker)
		if got := w.play(t, giver); got != "given" {
			t.Fatalf("giver: got %q, want given", got)
		}
		if got := w.play(t, taker); got != "proxied" {
			t.Errorf("got %q, want proxied", got)
		}
	})
	t.Run("a socket made before its process was moved into the pod", func(t *testing.T) {
		cmd := withArgument(w.workload(testenv.OpenCgroup(t, gate), "move-presock", none), w.guarded.container.Path)
		cmd.SysProcAttr.Credential.Uid = 0
		if got := w.play(t, cmd); got != "proxied" {
			t.Errorf("got %q, want proxied", got)
		}
	})
	t.Run("a cgroup below the gate's", func(t *testing.T) {
		below := testenv.OpenCgroup(t, makeCgroup(t, filepath.Join(gate, "gate")))
		if got := w.play(t, w.workload(below, "plain4", none)); got != "proxied" {
			t.Errorf("got %q, want proxied", got)
		}
	})
	t.Run("a cgroup of the same name", func(t *testing.T) {
		again := makeCgroup(t, filepath.Join(w.top, "again"))
		if err := w.node.Exempt(again); err != nil {
			t.Fatal(err)
		}
		if err := remove(again); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(again, 0o755); err != nil {
			t.Fatal(err)
		}
		if got := w.play(t, w.workload(testenv.OpenCgroup(t, again), "plain4", none)); got != "proxied" {
			t.Errorf("got %q, want proxied", got)
		}
	})
	t.Run("a cgroup that was the gate's", func(t *testing.T) {
		old := testenv.OpenCgroup(t, makeCgroup(t, filepath.Join(w.top, "old")))
		for _, step := range []struct {
			do   func(string) error
			want string
		}{{w.node.Exempt, directReply}, {w.node.Unexempt, "proxied"}, {w.node.Unexempt, "proxied"}} {
			if err := step.do(old.Path); err != nil {
				t.Fatal(err)
			}
			if got := w.play(t, w.workload(old, "plain4", none)); got != step.want {
				t.Errorf("got %q, want %q", got, step.want)
			}
		}
	})
	for name, dir := range map[string]string{
		"the root": filepath.Dir(w.top), "no cgroup": t.TempDir(), "nothing": filepath.Join(w.top, "nothing"),
	} {
		if err := w.node.Exempt(dir); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
	if err := w.node.Unexempt(filepath.Join(w.top, "nothing")); err != nil {
		t.Errorf("unexempt what is gone: got %v, want no error", err)
	}
}

// TestCgroupsThatAreGoneAreExemptNoMore: each restart of a container has a new one.
func TestCgroupsThatAreGoneAreExemptNoMore(t *testing.T) {
	w := newBareNodeWorld(t)
	gone := makeCgroup(t, filepath.Join(w.top, "gone"))
	if err := w.node.Exempt(gone); err != nil {
		t.Fatal(err)
	}
	id, err := cgroupID(gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := remove(gone); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	var one uint8
	if err := w.node.maps.Agents.Lookup(id, &one); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("got %v, want %v", err, ebpf.ErrKeyNotExist)
	}
	stays, err := cgroupID(filepath.Join(w.top, "gate"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.node.maps.Agents.Lookup(stays, &one); err != nil {
		t.Errorf("the gate's: got %v, want no error", err)
	}
}

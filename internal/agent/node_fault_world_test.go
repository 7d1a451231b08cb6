package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/gate"
	"postern.dev/postern/testenv"
)

func TestConnectionServedWithoutARecordIsFoundOnARealNode(t *testing.T) {
	n := newFaultNode(t)
	round := func() told {
		t.Helper()
		return n.tell(t, "round")
	}
	n.connect(t)
	round()
	if got := round(); got.Served != 1 || got.Missing != 0 || len(got.Events) != 1 || !strings.Contains(got.Events[0], "Guarded") {
		t.Fatalf("got %+v after a sound connection, want it served and nothing missing", got)
	}
	n.tell(t, "fault")
	n.connect(t)
	n.tell(t, "sound")
	n.connect(t)
	round()
	got := round()
	if got.Served != 3 || got.Missing != 1 {
		t.Errorf("got %d served and %d missing, want 3 and 1", got.Served, got.Missing)
	}
	if last := got.Events[len(got.Events)-1]; !strings.Contains(last, podUID+" Unaudited 1 connections") {
		t.Errorf("got %q as last Event, want one about the connection", last)
	}
	if !strings.Contains(got.Records, `"redirected":3`) || !strings.Contains(got.Records, `"missing":1`) {
		t.Errorf("got the records\n%s\nwant three connections, one of them missing", got.Records)
	}
}

func newFaultNode(t *testing.T) *faultNode {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root")
	n := &faultNode{cgroup: testenv.NewCgroup(t), netns: testenv.NewNetns(t)}
	for _, dir := range []string{"pods", "pods/besteffort", "pods/burstable", filepath.Dir(podCgroup), podCgroup,
		"gate", "gate/gate", "gate/agent"} {
		n.mkdir(t, dir)
	}
	dir, err := os.MkdirTemp("/tmp", "agent") // the path of a socket has room for 107 bytes (unix(7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	trail := filepath.Join(dir, "trail")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(trail, 0o700), os.Chown(trail, agentID, agentID)); err != nil {
		t.Fatal(err)
	}
	o := gate.Options{
		Socket: filepath.Join(dir, "gate.sock"), AgentUID: agentID, State: filepath.Join(dir, "state"),
		Cgroups: filepath.Dir(n.cgroup.Path), Pods: filepath.Join(filepath.Base(n.cgroup.Path), "pods"), Kubelet: filepath.Join(dir, "kubelet"),
	}
	n.startGate(t, o)
	n.startPod(t)
	n.startAgent(t, agentSpec{Socket: o.Socket, Dir: trail})
	return n
}

func (n *faultNode) mkdir(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(n.cgroup.Path, dir)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var err error
		for range 1000 { // until the processes in it have ended
			if err = os.Remove(path); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("remove %s: %v", path, err)
	})
}

func (n *faultNode) startGate(t *testing.T, o gate.Options) {
	t.Helper()
	host := testenv.NewNetns(t)
	t.Cleanup(func() {
		a := gate.ArmOptions{State: o.State, Cgroups: o.Cgroups, Pods: o.Pods, Log: logrus.New()}
		if err := host.Do(func() error { return gate.Uninstall(a) }); err != nil {
			t.Errorf("uninstall: %v", err)
		}
	})
	spec, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.command(t, "gate/gate", "runtime", string(spec))
	cgroup, err := os.Open(filepath.Join(n.cgroup.Path, "gate/gate"))
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	cmd.ExtraFiles = []*os.File{cgroup}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("got a gate that ends with %v, want none", err)
		}
	})
	for range 1000 {
		if _, err := os.Stat(o.Socket); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("got no gate at its socket for 10 s")
}

// startPod starts what stays in the pod.
func (n *faultNode) startPod(t *testing.T) {
	t.Helper()
	cmd := testenv.OpenCgroup(t, filepath.Join(n.cgroup.Path, podCgroup)).Command("sleep", "600")
	if err := n.netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

func (n *faultNode) startAgent(t *testing.T, spec agentSpec) {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.command(t, "gate/agent", "agent", string(text))
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: agentID, Gid: agentID}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if n.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	n.out = json.NewDecoder(out)
	if err := n.out.Decode(new(told)); err != nil { // everything is told to the gate
		t.Fatalf("got no agent: %v", err)
	}
}

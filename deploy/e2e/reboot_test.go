package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// evict takes the agent from the node, as while a node boots and its agent is
// the last pod that comes; bring brings it back.
func evict(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { bring(t) })
	selector(t, `{"postern.dev/e2e":"never"}`)
	eventually(t, "the agent gone", func() bool {
		return kubectl(t, "get", "pod", "-n", system, "-l", "app.kubernetes.io/component=agent", "-o", "name") == ""
	})
}

func bring(t *testing.T) {
	t.Helper()
	selector(t, `{"postern.dev/e2e":null}`)
	ready(t)
}

func selector(t *testing.T, labels string) {
	t.Helper()
	kubectl(t, "patch", "daemonset", "-n", system, "postern-agent", "--type=merge", "-p",
		`{"spec":{"template":{"spec":{"nodeSelector":`+labels+`}}}}`)
}

// onNode is a command of the product on the node, where its state lies.
func onNode(words string) string {
	return fmt.Sprintf("%s agent %s --cgroup-root=%s", filepath.Join(cluster.root, "bin/postern"), words, cluster.cgroupRoot)
}

// powerOff is what a machine that lost its power has of Postern: what lies on its
// disk, of another boot, and no program. The cluster's node reboots without its kernel.
func powerOff() string {
	return "cp -a /var/lib/postern /var/lib/postern.kept && " + onNode("uninstall --bin-dir=/nowhere --unit-dir=/nowhere") +
		" && rm -rf /var/lib/postern && mv /var/lib/postern.kept /var/lib/postern" +
		` && sed -i 's/"boot":"[^"]*"/"boot":"earlier"/' /var/lib/postern/state.json`
}

// unarmed is how long pods of this boot ran before the node was armed, as the
// newest agent's trail has it.
func unarmed(t *testing.T) time.Duration {
	t.Helper()
	all := records(t, func(r record) bool { return r.Kind == "agent.arm" })
	if len(all) == 0 {
		t.Fatal("got no record of since when the node is armed, want one of each agent")
	}
	window, err := strconv.ParseInt(all[len(all)-1].Event.Detail["unarmed_us"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(window) * time.Microsecond
}

// lastDirect is when a client's last direct connection was, since its start.
func lastDirect(t *testing.T, said string) (last time.Duration) {
	t.Helper()
	for line := range strings.Lines(said) {
		if when, word, _ := strings.Cut(strings.TrimSpace(line), " "); word == directUser {
			at, err := time.ParseDuration(when + "s")
			if err != nil {
				t.Fatal(err)
			}
			last = at
		}
	}
	return last
}

// looping starts a guarded pod that connects again and again, whatever becomes of its
// node, and gives what it has said since its last start.
func (w *world) looping(t *testing.T) (said func() string) {
	t.Helper()
	w.start(t, pod{name: "client", labels: guardLabel, command: fmt.Sprintf("[python3, -c, %q, %q]", loadProgram, w.shop())})
	said = func() string {
		out, _ := kubectlRun("", "logs", "-n", w.namespace, "client")
		return out
	}
	eventually(t, "a guarded client", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
	return said
}

// reboot boots the node, which runs a command before the kubelet and gets its agent
// last, when the client has been heard of.
func (w *world) reboot(t *testing.T, hook string, heard func() bool, said func() string) {
	t.Helper()
	restarts := w.restarts(t, "client")
	evict(t)
	if err := command(cluster.program, "reboot", "--before-kubelet", hook); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client restarted", func() bool { return w.restarts(t, "client") != restarts })
	eventually(t, "a client without agent", heard)
	bring(t)
	eventually(t, "a guarded client", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
	verify(t)
}

// TestRebootedNode shows what a node without the boot layer is open to until its
// agent is there, and that the trail says for how long. TestChartInstallsWhatArmsANode
// is the same with the boot layer.
func TestRebootedNode(t *testing.T) {
	w := newWorld(t)
	said := w.looping(t)
	w.reboot(t, powerOff(), func() bool { return strings.Contains(said(), " "+directUser+"\n") }, said)
	window, last := unarmed(t), lastDirect(t, said())
	t.Logf("the trail says that pods ran unarmed for %s; the last direct connection was after %s", window, last)
	if window < last {
		t.Errorf("got %s without the guard in the trail, want at least %s", window, last)
	}
	_, after, _ := strings.Cut(said(), " "+loginUser+"\n")
	if strings.Contains(after, " "+directUser+"\n") {
		t.Errorf("got direct connections after guarded ones, want none:\n%s", said())
	}
}

// restarts is how often a pod's container was started again.
func (w *world) restarts(t *testing.T, name string) string {
	t.Helper()
	out, _ := kubectlRun("", "get", "pod", "-n", w.namespace, name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	return strings.TrimSpace(out)
}

func TestUninstallLeavesNoGuard(t *testing.T) {
	_, o := loaded(t)
	evict(t)
	o.more(t, " refused", 3)
	never(t, o)
	inNode(t, "sh", "-c", onNode("uninstall"))
	o.more(t, " "+directUser+"\n", 3)
	const folders = "/var/lib/postern /opt/postern /etc/systemd/system/postern-arm.service /etc/systemd/system/kubelet.service.wants"
	if out := inNode(t, "sh", "-c", "ls -Ad "+folders+" 2>/dev/null || true"); strings.TrimSpace(out) != "" {
		t.Errorf("got %q left on the node, want nothing", out)
	}
	verify(t)
}

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
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
// disk, and no program. The cluster's node reboots without its kernel.
func powerOff() string {
	return "cp -a /var/lib/postern /var/lib/postern.kept && " + onNode("uninstall") +
		" && rm -rf /var/lib/postern && mv /var/lib/postern.kept /var/lib/postern"
}

func TestRebootedNode(t *testing.T) {
	for _, row := range []struct {
		name, hook string
		armed      bool
	}{
		{"armed", powerOff() + " && " + onNode("arm"), true},
		{"unarmed", powerOff(), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			dsn := fmt.Sprintf("host=%s user=%s password=%s dbname=shop", w.host, directUser, directPassword)
			w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`, command: fmt.Sprintf("[python3, -c, %q, %q]", loadProgram, dsn)})
			said := func() string {
				out, _ := kubectlRun("", "logs", "-n", w.namespace, "client")
				return out
			}
			eventually(t, "a guarded client", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
			restarts := w.restarts(t, "client")
			evict(t)
			if err := command(cluster.program, "reboot", "--before-kubelet", row.hook); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the client restarted", func() bool { return w.restarts(t, "client") != restarts })
			if row.armed {
				eventually(t, "refused connections", func() bool { return strings.Count(said(), " refused") > 5 })
			} else {
				// What a node without the boot layer is open to until its agent is there.
				eventually(t, "direct connections", func() bool { return strings.Contains(said(), " "+directUser+"\n") })
			}
			bring(t)
			eventually(t, "a guarded client", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
			if row.armed && strings.Contains(said(), " "+directUser+"\n") {
				t.Errorf("got direct connections on an armed node, want none:\n%s", said())
			}
			_, after, _ := strings.Cut(said(), " "+loginUser+"\n")
			if strings.Contains(after, " "+directUser+"\n") {
				t.Errorf("got direct connections after guarded ones, want none:\n%s", said())
			}
		})
	}
}

// restarts is how often a pod's container was started again.
func (w *world) restarts(t *testing.T, name string) string {
	t.Helper()
	out, _ := kubectlRun("", "get", "pod", "-n", w.namespace, name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	return strings.TrimSpace(out)
}

func TestUninstallLeavesNoGuard(t *testing.T) {
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	evict(t)
	if got, err := w.whoami("client"); err == nil {
		t.Errorf("got %q without an agent, want the connection refused", got)
	}
	inNode(t, "sh", "-c", onNode("uninstall"))
	if got, err := w.whoami("client"); err != nil || got != directUser {
		t.Errorf("got %q, %v after uninstall, want a direct session", got, err)
	}
	if out := inNode(t, "sh", "-c", "ls -A /var/lib/postern 2>/dev/null || true"); strings.TrimSpace(out) != "" {
		t.Errorf("got %q left in the state folder, want nothing", out)
	}
}

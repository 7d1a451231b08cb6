package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestChartInstallsWhatArmsANode reboots a node whose unit the chart has written, and
// which is run as systemd would run it: before containerd and the kubelet.
func TestChartInstallsWhatArmsANode(t *testing.T) {
	w := newWorld(t)
	inNode(t, "mkdir", "-p", "/etc/systemd/system")
	boot(t, "true")
	t.Cleanup(func() { boot(t, "false") })
	unit := inNode(t, "cat", "/etc/systemd/system/postern-arm.service")
	_, arm, _ := strings.Cut(unit, "\nExecStart=")
	arm, _, _ = strings.Cut(arm, "\n")
	if want := "/opt/postern/postern agent arm --state-dir=/var/lib/postern --cgroup-root=" + cluster.cgroupRoot; arm != want {
		t.Fatalf("got the command %q, want %q in\n%s", arm, want, unit)
	}
	link := inNode(t, "readlink", "-f", "/etc/systemd/system/kubelet.service.wants/postern-arm.service")
	if got, want := strings.TrimSpace(link), "/etc/systemd/system/postern-arm.service"; got != want {
		t.Errorf("got %q wanted by the kubelet's unit, want %q", got, want)
	}

	dsn := fmt.Sprintf("host=%s user=%s password=%s dbname=shop", w.host, directUser, directPassword)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`, command: fmt.Sprintf("[python3, -c, %q, %q]", loadProgram, dsn)})
	said := func() string {
		out, _ := kubectlRun("", "logs", "-n", w.namespace, "client")
		return out
	}
	eventually(t, "a guarded client", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
	restarts := w.restarts(t, "client")
	evict(t)
	// What lies on the disk stays, the unit and its program too.
	off := strings.ReplaceAll(powerOff(), "agent uninstall", "agent uninstall --bin-dir=/nowhere --unit-dir=/nowhere")
	onBoot := fmt.Sprintf("unshare --mount sh -c 'umount /proc/sys/kernel/random/boot_id && %s'", arm)
	if err := command(cluster.program, "reboot", "--before-kubelet", off+" && "+onBoot); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client restarted", func() bool { return w.restarts(t, "client") != restarts })
	eventually(t, "refused connections", func() bool { return strings.Count(said(), " refused") > 5 })
	bring(t)
	eventually(t, "a guarded client", func() bool { return strings.Contains(said(), " "+loginUser+"\n") })
	if strings.Contains(said(), " "+directUser+"\n") {
		t.Errorf("got direct connections on an armed node, want none:\n%s", said())
	}

	boot(t, "false")
	evict(t)
	inNode(t, "sh", "-c", onNode("uninstall"))
	left := inNode(t, "sh", "-c", "ls -d /opt/postern /etc/systemd/system/postern-arm.service /etc/systemd/system/kubelet.service.wants 2>/dev/null || true")
	if strings.TrimSpace(left) != "" {
		t.Errorf("got %q after uninstall, want nothing of it", left)
	}
}

// boot installs the chart with or without what arms nodes.
func boot(t *testing.T, install string) {
	t.Helper()
	text, err := chart("--set", "boot.install="+install)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, text)
	ready(t)
}

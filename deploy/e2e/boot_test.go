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

	said := w.looping(t)
	// What lies on the disk stays, the unit and its program too.
	off := strings.ReplaceAll(powerOff(), "agent uninstall", "agent uninstall --bin-dir=/nowhere --unit-dir=/nowhere")
	// The boot that pods see is the machine's, so that it has to be the unit's, too.
	onBoot := fmt.Sprintf("unshare --mount sh -c 'umount /proc/sys/kernel/random/boot_id && %s'", arm)
	w.reboot(t, off+" && "+onBoot, func() bool { return strings.Count(said(), " refused") > 5 }, said)
	if strings.Contains(said(), " "+directUser+"\n") {
		t.Errorf("got direct connections on an armed node, want none:\n%s", said())
	}
	if window := unarmed(t); window != 0 {
		t.Errorf("got %s without the guard in the trail of an armed node, want none", window)
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

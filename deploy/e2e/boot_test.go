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
	// The boot that pods see is the machine's, so that it has to be the unit's, too.
	onBoot := fmt.Sprintf("unshare --mount sh -c 'umount /proc/sys/kernel/random/boot_id && %s'", arm)
	w.reboot(t, powerOff()+" && "+onBoot, func() bool { return strings.Count(said(), " refused") > 5 }, said)
	if strings.Contains(said(), " "+directUser+"\n") {
		t.Errorf("got direct connections on an armed node, want none:\n%s", said())
	}
	if window := unarmed(t); window != 0 {
		t.Errorf("got %s without the guard in the trail of an armed node, want none", window)
	}
}

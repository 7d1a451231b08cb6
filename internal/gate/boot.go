package gate

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// armed is since when Targets are guarded on this node, in this boot. It is found out
// once in a boot, by `agent arm` or else by the first gate that has anything to guard,
// and stays what it is under all gates that follow.
type armed struct {
	Boot    string        `json:"boot"` // the kernel's id of it
	At      time.Time     `json:"at"`
	Unarmed time.Duration `json:"unarmed"` // how long pods ran before: the eldest process that one of them still has
}

// boot forgets what the state says of another boot. Programs that have no Targets
// were not armed in this one, whatever was noted.
func (s *state) boot(at redirect.NodeState) error {
	id, err := bootID()
	if err != nil {
		return err
	}
	if s.Armed != nil && (!at.Fed || s.Armed.Boot != id) {
		s.Armed = nil
	}
	return nil
}

// bootID is the kernel's id of the running boot.
//
// Source: Documentation/admin-guide/sysctl/kernel.rst, random/boot_id.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

// armNow is the moment from which on Targets are guarded: pods that run now ran
// without.
//
// Shape: podsDir is the pods' cgroup; own is the UID of the gate's own pod, which does
// not count.
func armNow(podsDir, own string) (armed, error) {
	boot, err := bootID()
	if err != nil {
		return armed{}, err
	}
	a := armed{Boot: boot, At: time.Now()}
	first, found, err := workload.FirstStart(podsDir, own)
	if err != nil || !found {
		return a, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return armed{}, os.NewSyscallError("clock_gettime", err)
	}
	a.Unarmed = max(0, time.Duration(now.Nano())-first)
	return a, nil
}

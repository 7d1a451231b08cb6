package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/agent"
	"postern.dev/postern/internal/redirect"
)

// facts are what the doctor looked at. An error beside a fact says why it is not
// known.
type facts struct {
	kernel redirect.Inspection

	release string // of Linux
	version [2]int // its major and minor number

	hybrid    bool // cgroup version 1 is mounted too
	hybridErr error

	capabilities    uint64 // effective ones of this process
	capabilitiesErr error

	nri     string // path of the socket
	nriErr  error
	kubelet string
	podsErr error // of the kubelet's folder of pods

	lockdown    string // none, integrity or confidentiality; empty: the kernel has none
	lockdownErr error
	unprivBPF   string // kernel.unprivileged_bpf_disabled
	unprivErr   error
	apparmor    string // this process's profile; empty: none
	noLandlock  string // why there is none; empty: there is
	landlockErr error
	selinux     string // this process's type, where SELinux is in force; empty: it is not
	ownPIDs     bool   // process IDs here are not the kernel's
	ownPIDsErr  error

	units   string // folder of systemd units
	arms    bool   // one of them arms the node before it starts pods
	armsErr error

	synced    bool // the clock is
	clockErr  error
	logDir    string // or the nearest folder above it that is there
	freeBytes uint64
	freeErr   error
}

// gather looks at this machine.
func gather(o doctorOptions, kernel redirect.Inspection) facts {
	f := facts{kernel: kernel, nri: o.nri, kubelet: o.kubelet}
	f.release, f.version = runningKernel()
	f.hybrid, f.hybridErr = mountsVersion1()
	f.capabilities, f.capabilitiesErr = effectiveCapabilities()
	f.nriErr = isSocket(o.nri)
	_, f.podsErr = os.ReadDir(filepath.Join(o.kubelet, "pods"))
	f.lockdown, f.lockdownErr = lockdown("/sys/kernel/security/lockdown")
	f.unprivBPF, f.unprivErr = oneLine("/proc/sys/kernel/unprivileged_bpf_disabled")
	f.apparmor = confinedBy()
	_, f.noLandlock, f.landlockErr = agent.LandlockVersion()
	f.selinux = selinuxType("/sys/fs/selinux/enforce", "/proc/self/attr/current")
	f.units = o.units
	f.arms, f.armsErr = armsOnBoot(o.units)
	f.ownPIDs, f.ownPIDsErr = hasOwnPIDs()
	f.synced, f.clockErr = clockSynced()
	f.logDir, f.freeBytes, f.freeErr = room(o.logDir)
	return f
}

// runningKernel is the kernel's release, whole and its first two numbers; these
// are 0 where they cannot be read.
func runningKernel() (release string, version [2]int) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "of unknown release", version
	}
	release = unix.ByteSliceToString(name.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &version[0], &version[1]); err != nil {
		version = [2]int{}
	}
	return release, version
}

// mountsVersion1 tells whether a hierarchy of cgroup version 1 is mounted here.
//
// Source: proc_pid_mountinfo(5): the type follows " - ".
func mountsVersion1() (bool, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	return bytes.Contains(mounts, []byte(" - cgroup ")), err
}

// effectiveCapabilities is a set of bits, as capabilities(7) numbers them.
//
// Source: proc_pid_status(5), CapEff.
func effectiveCapabilities() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, found := strings.Cut(string(status), "\nCapEff:")
	if !found {
		return 0, errors.New("/proc/self/status has no CapEff")
	}
	line, _, _ := strings.Cut(after, "\n")
	return strconv.ParseUint(strings.TrimSpace(line), 16, 64)
}

func isSocket(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is no socket", path)
	}
	return nil
}

// lockdown is what the kernel is locked down to.
//
// Source: security/lockdown/lockdown.c, lockdown_read: the one in force is in
// brackets.
func lockdown(path string) (string, error) {
	text, err := oneLine(path)
	if err != nil {
		return "", err
	}
	_, after, _ := strings.Cut(text, "[")
	in, _, found := strings.Cut(after, "]")
	if !found {
		return "", fmt.Errorf("%s says %q", path, text)
	}
	return in, nil
}

func oneLine(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// confinedBy names the AppArmor profile that is enforced on this process.
//
// Source: proc_pid_attr(5); security/apparmor/procattr.c: "name (mode)".
func confinedBy() string {
	text, err := oneLine("/proc/self/attr/apparmor/current")
	if err != nil {
		return "" // the kernel has no AppArmor
	}
	name, mode, _ := strings.Cut(text, " ")
	if mode != "(enforce)" {
		return ""
	}
	return name
}

// selinuxType is the type that SELinux enforces on this process.
//
// Source: proc_pid_attr(5), /proc/pid/attr/current: user:role:type:level.
func selinuxType(enforce, current string) string {
	if text, err := oneLine(enforce); err != nil || text != "1" {
		return "" // the kernel has no SELinux, or it only reports
	}
	label, err := oneLine(current)
	parts := strings.Split(strings.TrimRight(label, "\x00"), ":")
	if err != nil || len(parts) < 3 {
		return "an unknown type"
	}
	return parts[2]
}

// armsOnBoot tells whether a unit that starts pods has the one that arms the node
// come before it.
func armsOnBoot(units string) (bool, error) {
	if _, err := os.ReadDir(units); err != nil {
		return false, err
	}
	for _, dependency := range []string{"wants", "requires"} {
		links, err := filepath.Glob(filepath.Join(units, "*."+dependency, armUnit))
		if err != nil || len(links) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// hasOwnPIDs tells whether this is another process ID namespace than the first,
// whose number is fixed.
//
// Source: include/linux/proc_ns.h, PROC_PID_INIT_INO.
func hasOwnPIDs() (bool, error) {
	const first = "pid:[4026531836]"
	link, err := os.Readlink("/proc/self/ns/pid")
	return link != first, err
}

// clockSynced tells whether something keeps the clock right.
//
// Source: adjtimex(2), STA_UNSYNC.
func clockSynced() (bool, error) {
	var now unix.Timex
	if _, err := unix.Adjtimex(&now); err != nil {
		return false, os.NewSyscallError("adjtimex", err)
	}
	return now.Status&unix.STA_UNSYNC == 0, nil
}

// room is the free space where a folder is or would be made.
func room(dir string) (found string, freeBytes uint64, err error) {
	dir = filepath.Clean("/" + dir)
	var st unix.Statfs_t
	for {
		err = unix.Statfs(dir, &st)
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	if err != nil {
		return dir, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return dir, st.Bavail * uint64(st.Bsize), nil
}

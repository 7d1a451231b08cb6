// Package workload describes the process that opened a connection: what the
// kernel recorded when it connected, completed by what /proc says of that very
// process while it is still there.
package workload

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what the kernel recorded of a process when it connected.
type Process struct {
	PID      int // in the initial namespace
	UID      uint32
	Comm     string        // its name as it says itself
	Started  time.Duration // since boot
	Cgroup   uint64
	ExeDev   uint64 // of the file that it runs, as stat(2) has it
	ExeInode uint64
}

// Facts are a process as a record shows it.
type Facts struct {
	PID     uint32
	Process string // the process chooses it
	Exe     string // empty: it was gone, or its file cannot be told
	UID     uint32
	User    string // empty: the UID has no name
	Cgroup  uint64
}

// Describe completes p.
func Describe(p Process) Facts {
	facts := Facts{PID: uint32(p.PID), Process: strings.ToValidUTF8(p.Comm, "�"), UID: p.UID, Cgroup: p.Cgroup, Exe: exe(p)}
	if known, err := user.LookupId(strconv.FormatUint(uint64(p.UID), 10)); err == nil {
		facts.User = known.Username
	}
	return facts
}

// exe is the path of the file that p runs.
//
// A PID is used again, and a process may run another file by now: the path
// counts only if the link leads to the file that the kernel saw, and if the
// process is, after the link was read, still the one that the kernel saw.
func exe(p Process) string {
	link := fmt.Sprintf("/proc/%d/exe", p.PID)
	path, err := os.Readlink(link)
	if err != nil {
		return ""
	}
	// What is known already is enough: a file system that the workload serves itself
	// (FUSE) would be asked else, and need not answer.
	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	if err != nil || st.Ino != p.ExeInode || unix.Mkdev(st.Dev_major, st.Dev_minor) != p.ExeDev {
		return ""
	}
	if ticks, ok := started(p.PID); !ok || ticks != ticksOf(p.Started) {
		return ""
	}
	return strings.ToValidUTF8(path, "�")
}

// ticksOf is a time since boot in the unit that /proc shows to programs.
//
// Source: USER_HZ is 100 on every architecture but alpha; include/asm-generic/param.h.
func ticksOf(d time.Duration) uint64 { return uint64(d / (10 * time.Millisecond)) }

// started is when a process was started, in ticks since boot.
//
// Source: proc_pid_stat(5), field 22. Field 2 is in parentheses and may hold
// any byte, parentheses and spaces too.
func started(pid int) (uint64, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	return startOf(text)
}

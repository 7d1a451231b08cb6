package agent

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confine takes from this process, for good, what an agent of a node never does and
// whoever took it over would: execute a program, make or enter namespaces, mount,
// trace, load programs into the kernel, send packets that no socket of its own made,
// open files out of its reach. The container's runtime forbids most of it too, where
// it has a profile.
//
// Shape: it holds for all threads, those that are there and those to come. unable says
// why the files, and other processes of its user, are not kept from it: see landlock.
// Source: seccomp(2), SECCOMP_FILTER_FLAG_TSYNC; Documentation/userspace-api/seccomp_filter.rst.
func confine(r reach) (unable string, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "", fmt.Errorf("forbid new privileges: %w", err)
	}
	if err := filterCalls(); err != nil { // for all threads, as the former now too
		return "", err
	}
	return landlock(r)
}

// filterCalls forbids the system calls that an agent of a node never makes.
func filterCalls() error {
	arch, ok := auditArch()
	if !ok {
		return fmt.Errorf("confine the agent: no list of system calls for %s", runtime.GOARCH)
	}
	filter := confinement(arch)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, number := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&program)))
	switch {
	case number != 0:
		return fmt.Errorf("confine the agent: %w", number)
	case thread != 0:
		return fmt.Errorf("confine the agent: thread %d cannot be", thread)
	}
	return nil
}

func auditArch() (uint32, bool) {
	switch runtime.GOARCH {
	case "amd64":
		return unix.AUDIT_ARCH_X86_64, true
	case "arm64":
		return unix.AUDIT_ARCH_AARCH64, true
	}
	return 0, false
}

// forbidden are the system calls that are answered with EPERM.
func forbidden() []uint32 {
	return []uint32{
		unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
		unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT,
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK,
		unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_ACCT, unix.SYS_SYSLOG,
		unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX,
		unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
		unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
		unix.SYS_SETGROUPS, unix.SYS_CAPSET, unix.SYS_PERSONALITY,
	}
}

// sockets are the address families that the agent uses.
func sockets() []uint32 { return []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} }

// confinement is the filter. A call table of another architecture ends the process:
// nothing of the agent's uses one.
func confinement(arch uint32) []unix.SockFilter {
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		anyOf   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		give    = unix.BPF_RET | unix.BPF_K
		// Offsets in struct seccomp_data.
		number, archAt, first = 0, 4, 16
		x32                   = 0x40000000
	)
	refuse := unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	allow := unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ALLOW}
	filter := []unix.SockFilter{
		{Code: load, K: archAt},
		{Code: equal, K: arch, Jt: 1},
		{Code: give, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: number},
		{Code: atLeast, K: x32, Jf: 1},
		{Code: give, K: unix.SECCOMP_RET_KILL_PROCESS},
	}
	for _, call := range forbidden() {
		filter = append(filter, unix.SockFilter{Code: equal, K: call, Jf: 1}, refuse)
	}
	// Threads are made by clone; clone3's arguments cannot be looked at, and whoever
	// is told that there is none uses clone.
	filter = append(filter,
		unix.SockFilter{Code: equal, K: unix.SYS_CLONE3, Jf: 1},
		unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		unix.SockFilter{Code: equal, K: unix.SYS_CLONE, Jf: 4},
		unix.SockFilter{Code: load, K: first},
		unix.SockFilter{Code: anyOf, K: unix.CLONE_THREAD, Jt: 1},
		refuse,
		allow)
	families := sockets()
	filter = append(filter,
		unix.SockFilter{Code: equal, K: unix.SYS_SOCKET, Jf: uint8(len(families) + 2)},
		unix.SockFilter{Code: load, K: first})
	for i, family := range families {
		filter = append(filter, unix.SockFilter{Code: equal, K: family, Jt: uint8(len(families) - i)})
	}
	return append(filter, refuse, allow)
}

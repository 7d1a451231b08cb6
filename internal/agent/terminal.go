package agent

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is the number of ioctl(2) in one of the call tables that a process may use.
type call struct{ arch, number uint32 }

// ioctls are the tables that the kernel has for this machine.
//
// Source: arch/x86/entry/syscalls/syscall_{64,32}.tbl, include/uapi/asm-generic/unistd.h, arch/arm/tools/syscall.tbl.
func ioctls() []call {
	const x32 = 0x40000000
	switch runtime.GOARCH {
	case "amd64":
		return []call{{unix.AUDIT_ARCH_X86_64, 16}, {unix.AUDIT_ARCH_X86_64, x32 | 514}, {unix.AUDIT_ARCH_I386, 54}}
	case "arm64":
		return []call{{unix.AUDIT_ARCH_AARCH64, 29}, {unix.AUDIT_ARCH_ARM, 54}}
	}
	return nil
}

// forbidTyping keeps the thread, and what it executes, from putting characters
// into a terminal's input. The command shares the terminal with its caller's
// shell, which would read them once the command has ended, and run them
// unguarded.
//
// Shape: no_new_privs is set.
// Source: TIOCSTI(2const) and ioctl_console(2), TIOCLINUX; seccomp(2); Linux
// 6.2 can forbid the first by itself.
func forbidTyping() error {
	filter := typingFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Without the flag, kernels before 5.16 slow every filtered process down.
	_, _, number := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&program)))
	if number != 0 {
		return fmt.Errorf("forbid typing into the terminal: %w", number)
	}
	return nil
}

// typingFilter answers EPERM to the two ioctls and allows everything else.
func typingFilter() []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		give  = unix.BPF_RET | unix.BPF_K
		// Offsets in struct seccomp_data.
		number, arch, request = 0, 4, 24 // the low half of the second argument, which is all that ioctl looks at
		tioclinux             = 0x541c
	)
	var filter []unix.SockFilter
	for _, one := range ioctls() {
		filter = append(filter,
			unix.SockFilter{Code: load, K: arch},
			unix.SockFilter{Code: equal, K: one.arch, Jf: 6},
			unix.SockFilter{Code: load, K: number},
			unix.SockFilter{Code: equal, K: one.number, Jf: 4},
			unix.SockFilter{Code: load, K: request},
			unix.SockFilter{Code: equal, K: unix.TIOCSTI, Jt: 1},
			unix.SockFilter{Code: equal, K: tioclinux, Jf: 1},
			unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		)
	}
	return append(filter, unix.SockFilter{Code: give, K: unix.SECCOMP_RET_ALLOW})
}

package agent

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Becoming is what a process becomes before it is the command.
type Becoming struct {
	UID, GID uint32
	Groups   []int
	CoreSize uint64 // soft limit in bytes, which the agent has set to 0 for itself
	Command  []string
}

// Become turns this process, which is root's and already in the command's
// cgroup, into the command: another user, no capability, no way to gain one,
// and no descriptor but 0, 1 and 2.
//
// Errors: it returns only when it fails; [exec.ErrNotFound] and
// [fs.ErrPermission] tell why the command cannot be executed.
// Source: capabilities(7), "Effect of user ID changes on capabilities" and
// "Capability bounding set"; Documentation/userspace-api/no_new_privs.rst.
func Become(b Becoming, environment []string) error {
	runtime.LockOSThread() // what follows is the thread's, and exec keeps the thread that calls it
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("read core limit: %w", err)
	}
	limit.Cur = min(b.CoreSize, limit.Max)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("set core limit: %w", err)
	}
	if err := dropPrivileges(b); err != nil {
		return err
	}
	// What the caller's shell left open is none of the command's business.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	path, err := exec.LookPath(b.Command[0]) // as the user, who may see less than root
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return err
	}
	if err := syscall.Exec(path, b.Command, environment); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return nil
}

func dropPrivileges(b Becoming) error {
	if b.UID == 0 {
		return errors.New("a command of root cannot be guarded")
	}
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && capability > 0 {
			break // one more than the kernel has
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := syscall.Setgroups(b.Groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setresgid(int(b.GID), int(b.GID), int(b.GID)); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if err := syscall.Setresuid(int(b.UID), int(b.UID), int(b.UID)); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return forbidTyping()
}

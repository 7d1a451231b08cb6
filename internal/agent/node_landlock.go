package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reach is what of the file system a confined process keeps.
type reach struct {
	read  []string // files, and folders with all that is in them
	write []string // folders whose files it makes, changes and removes
}

// reach is what the agent of a node needs: its own state, what the kubelet mounts for
// it, and what the Go library reads by itself (names, zones, certificates, limits).
func (o NodeOptions) reach() reach {
	r := reach{
		read: []string{
			"/etc", "/usr/share", "/proc/self", "/proc/sys/net", "/proc/stat",
			"/var/run/secrets/kubernetes.io/serviceaccount", o.OperatorKey, // which the pod has for it
		},
		write: []string{o.LogDir, filepath.Dir(o.Gate), os.DevNull},
	}
	for _, file := range []string{o.StatusSocket, o.CheckpointFile} {
		if file != "" {
			r.write = append(r.write, filepath.Dir(file))
		}
	}
	if o.Kubeconfig != "" {
		r.read = append(r.read, filepath.Dir(o.Kubeconfig))
	}
	return r
}

// Rights of Landlock. Those of a file, of a folder, and what came with which version.
const (
	fileRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE
	fileWrite = fileRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	dirRead   = fileRead | unix.LANDLOCK_ACCESS_FS_READ_DIR
	dirWrite  = fileWrite | dirRead | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_REFER

	firstRights = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1 // version 1: all up to this one
)

// handled are the rights that a kernel with this version of Landlock can take away,
// but for that to look up a unix socket, which the agent needs.
//
// Source: Documentation/userspace-api/landlock.rst, Previous limitations.
func handled(version int) uint64 {
	rights := uint64(firstRights)
	for _, since := range []struct {
		version int
		right   uint64
	}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if version >= since.version {
			rights |= since.right
		}
	}
	return rights
}

// LandlockVersion is that of the kernel's Landlock, with which the agent of a node
// confines itself; 0: it cannot, and unable says why.
//
// Source: Documentation/userspace-api/landlock.rst, Landlock ABI versions.
func LandlockVersion() (version int, unable string, err error) {
	v, _, number := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch number {
	case 0:
		return int(v), "", nil
	case unix.ENOSYS, unix.EOPNOTSUPP:
		return 0, "the kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, and landlock in lsm=)", nil
	case unix.EPERM:
		return 0, "the container's seccomp profile forbids Landlock", nil
	}
	return 0, "", fmt.Errorf("ask for Landlock: %w", number)
}

// landlock takes every file from this process but those of its reach, and with them
// the other processes of the node: in the gate's pod it sees them all, those of other
// pods with its own user among them, whose memory, environment and files the kernel
// would let it read (ptrace(2), access mode checks). Outside of its Landlock domain it
// may trace none. Where the kernel can it may send them no signals either, nor connect
// to their abstract sockets.
//
// Shape: it holds for all threads. unable says why a kernel, or this build, cannot;
// then all stays as it is.
// Source: Documentation/userspace-api/landlock.rst, Ptrace restrictions, IPC scoping.
func landlock(r reach) (unable string, err error) {
	version, unable, err := LandlockVersion()
	if version == 0 {
		return unable, err
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handled(version), Scoped: scopes(version)}
	size := unsafe.Offsetof(attr.Handled_access_net) // what the first version knows; a longer one must hold zeros
	if attr.Scoped != 0 {
		size = unsafe.Offsetof(attr.Quiet_access_fs)
	}
	set, _, number := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if number != 0 {
		return "", fmt.Errorf("confine the agent's files: %w", number)
	}
	defer unix.Close(int(set))
	for _, path := range r.read {
		err = errors.Join(err, allow(set, path, fileRead, dirRead&attr.Handled_access_fs))
	}
	for _, path := range r.write {
		err = errors.Join(err, allow(set, path, fileWrite&attr.Handled_access_fs, dirWrite&attr.Handled_access_fs))
	}
	if err != nil {
		return "", err
	}
	return restrict(set, version)
}

// scopes are what of other processes can be taken away beside their files. A signal
// from one thread of a process to another is taken for one to somebody else where an
// erratum is not repaired, and Go's threads send such signals.
//
// Source: landlock.rst, Errata: 2, scoped signal handling.
func scopes(version int) uint64 {
	if version < 6 {
		return 0
	}
	errata, _, number := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	if number != 0 || errata&(1<<(2-1)) == 0 {
		return unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
}

// allow leaves a path to the process: as a file or, with all that is beneath it, as a
// folder. What is not there is not needed.
func allow(set uintptr, path string, file, dir uint64) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: file, Parent_fd: int32(f.Fd())}
	if info.IsDir() {
		rule.Allowed_access = dir
	}
	_, _, number := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, set, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if number != 0 {
		return fmt.Errorf("leave %s to the agent: %w", path, number)
	}
	return nil
}

// restrict enforces a set on every thread.
func restrict(set uintptr, version int) (unable string, err error) {
	if version >= 8 {
		if _, _, number := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, set, unix.LANDLOCK_RESTRICT_SELF_TSYNC, 0); number != 0 {
			return "", fmt.Errorf("confine the agent's files: %w", number)
		}
		return "", nil
	}
	_, _, number := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0, 0)
	switch number {
	case 0:
		return "", nil
	case unix.ENOTSUP:
		return "this program was built with cgo, whose threads nobody can confine", nil
	}
	return "", fmt.Errorf("confine the agent's files: %w", number)
}

package workload

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is which namespace a file is of. It is told apart from others as
// long as the file is open.
//
// Source: namespaces(7): device and inode identify a namespace.
type Namespace struct{ Dev, Inode uint64 }

// NamespaceOf tells which namespace f is of.
func NamespaceOf(f *os.File) (Namespace, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Namespace{}, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return Namespace{Dev: st.Dev, Inode: st.Ino}, nil
}

// nodeOwns tells whether a network namespace belongs to the user namespace of
// this process, which is the node's. One that an unprivileged process makes for
// itself belongs to a user namespace that it made before.
//
// Source: ioctl_ns(2), NS_GET_USERNS.
func nodeOwns(netns *os.File) (bool, error) {
	fd, err := unix.IoctlRetInt(int(netns.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) { // it is not below this process's
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for the owner of %s: %w", netns.Name(), err)
	}
	owner := os.NewFile(uintptr(fd), "user namespace")
	defer owner.Close()
	theirs, err := NamespaceOf(owner)
	if err != nil {
		return false, err
	}
	own, err := os.Open("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	defer own.Close()
	ours, err := NamespaceOf(own)
	return theirs == ours, err
}

// addresses are those of a network namespace's links.
func addresses(netns *os.File) ([]netip.Addr, error) {
	var found []net.Addr
	err := inside(netns, func() (err error) {
		found, err = net.InterfaceAddrs()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses in %s: %w", netns.Name(), err)
	}
	var addrs []netip.Addr
	for _, a := range found {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, nil
}

// inside runs f on a thread that is in the namespace and that ends with it.
func inside(netns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// OpenOnNode opens a file of the node as a process there would.
//
// Shape: pid is a process in the node's mount namespace. Links in path are the
// node's own, absolute ones too.
func OpenOnNode(pid int, path string) (*os.File, error) {
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), filepath.Clean(path), &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s on the node: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

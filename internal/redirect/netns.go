package redirect

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// inNetns runs f on a thread in a network namespace. Sockets that f makes belong
// there; goroutines that it starts do not.
func inNetns(ns *os.File, f func() error) error {
	var thread errgroup.Group
	thread.Go(func() error {
		// A thread that cannot go back is never unlocked, and ends here.
		runtime.LockOSThread()
		own, err := openOwn()
		if err != nil {
			return err
		}
		defer own.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
		}
		failed := f()
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err == nil {
			runtime.UnlockOSThread()
		}
		return failed
	})
	return thread.Wait()
}

// openOwn opens the network namespace of this thread.
func openOwn() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// openHost keeps a descriptor of the node's namespace for itself.
func openHost(host *os.File) (*os.File, error) {
	if host == nil {
		return openOwn()
	}
	return duplicate(host)
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// ownCookie is the cookie of this thread's network namespace.
func ownCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("getsockopt SO_NETNS_COOKIE: %w", err)
	}
	return cookie, nil
}

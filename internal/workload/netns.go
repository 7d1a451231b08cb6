package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

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

// maxAddresses bounds a look at the addresses of a namespace: who has NET_ADMIN in it
// may give it millions.
const maxAddresses = 1 << 16

// hasAddress tells whether one of a network namespace's links has one of these
// addresses. It keeps none of those that it looks at.
//
// Source: rtnetlink(7), RTM_GETADDR: the answer is as many messages as there are
// addresses, the links in their order.
func hasAddress(netns *os.File, wanted []netip.Addr) (has bool, err error) {
	err = inside(netns, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		has, err = dumpFor(fd, wanted)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("list the addresses in %s: %w", netns.Name(), err)
	}
	return has, nil
}

// dumpFor asks for all addresses, until one is wanted.
func dumpFor(fd int, wanted []netip.Addr) (bool, error) {
	request := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfAddrmsg) // of any family
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETADDR)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 64<<10)
	for seen := 0; ; {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return false, os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return false, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return false, nil
			case unix.NLMSG_ERROR:
				return false, errors.New("the kernel refuses to list them")
			case unix.RTM_NEWADDR:
				if addr, ok := addressOf(&m); ok && slices.Contains(wanted, addr) {
					return true, nil
				}
			}
			if seen++; seen > maxAddresses {
				return false, fmt.Errorf("there are more than %d", maxAddresses)
			}
		}
	}
}

// addressOf is the address that a message is about. Of a link between two points
// IFA_ADDRESS is the other one's.
func addressOf(m *syscall.NetlinkMessage) (addr netip.Addr, ok bool) {
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return addr, false
	}
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		for _, a := range attributes {
			if a.Attr.Type != kind {
				continue
			}
			if addr, ok := netip.AddrFromSlice(a.Value); ok {
				return addr.Unmap(), true
			}
		}
	}
	return addr, false
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

package gate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// bindSocket makes the socket, in the place of one that an earlier gate left. Who
// may use it is seen at each connection: to give the file away would need another
// capability.
//
// Shape: the agent may write in the folder. So nothing there has a name that it could
// know, and nothing is followed: a link in the socket's place would make another
// file of the node's everybody's to write. What lies in the way is put aside.
func bindSocket(path string) (*net.UnixListener, error) {
	fresh := path + "." + rand.Text()[:8]
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fresh})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = openToAll(fresh)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if errors.Is(err, os.ErrExist) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) {
		err = errors.Join(os.Rename(path, fresh+".aside"), os.Rename(fresh, path))
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return l, nil
}

// openToAll lets everybody connect to a socket, and changes nothing but a socket.
//
// Source: chmod(2) has no variant that does not follow links below Linux 6.6; of a
// descriptor of open(2), O_PATH, what it was opened of is changed.
func openToAll(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is no socket any more", path)
	}
	return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o666)
}

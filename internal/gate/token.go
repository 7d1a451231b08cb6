package gate

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openToken opens a file in a pod's projected volume.
//
// Shape: kubelet is the kubelet's folder. The kubelet writes such a volume as
// links within it (..data, renamed at each change), so links are followed but
// never out of it. A file that is not a regular one is not waited for.
// Source: Kubernetes, pkg/volume/util/atomic_writer.go; pkg/volume/projected
// (kubernetes.io~projected).
func openToken(kubelet, uid, volume, file string) (*os.File, error) {
	if !uidPattern.MatchString(uid) {
		return nil, fmt.Errorf("%q is no pod's UID", uid)
	}
	if !volumePattern.MatchString(volume) {
		return nil, fmt.Errorf("%q is no volume's name", volume)
	}
	dir := filepath.Join(kubelet, "pods", uid, "volumes", "kubernetes.io~projected", volume)
	at, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	fd, err := unix.Openat2(at, file, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(volume, file), Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s: not a regular file", filepath.Join(volume, file))
	}
	return os.NewFile(uintptr(fd), file), nil
}

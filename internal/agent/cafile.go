package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// caFile is the run's CA certificate in a file. Its folder may be the guarded
// user's: it is held open, so that what it is exchanged for is not written to.
type caFile struct {
	folder *os.File
	name   string
}

// writeCA writes the certificate. What lies at path is replaced, not followed.
func writeCA(path string, pem []byte) (*caFile, error) {
	folder, err := openFolder(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("write CA certificate: %w", err)
	}
	f := &caFile{folder: folder, name: filepath.Base(path)}
	if err := f.write(pem); err != nil {
		return nil, errors.Join(fmt.Errorf("write CA certificate to %s: %w", path, err), folder.Close())
	}
	return f, nil
}

func (f *caFile) write(pem []byte) error {
	temporary := ".postern-ca-" + rand.Text()
	folder := int(f.folder.Fd())
	number, err := unix.Openat(folder, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(number), temporary)
	_, err = file.Write(pem)
	err = errors.Join(err, file.Chmod(0o644), file.Close()) // whatever the caller's umask
	if err == nil {
		err = unix.Renameat(folder, temporary, folder, f.name)
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(folder, temporary, 0))
	}
	return nil
}

// remove removes the file. Its user may have done so already, and the keeper does too.
func (f *caFile) remove() {
	_ = unix.Unlinkat(int(f.folder.Fd()), f.name, 0)
	f.folder.Close()
}

// openFolder opens a folder to make and remove entries in, one element of its path after the
// other, each from the descriptor of the one before: what is exchanged
// meanwhile leads nowhere else.
//
// Errors: a symbolic link on the way is another's than root's, or lies where
// others can exchange it: it might lead root to a folder that its user cannot write.
func openFolder(path string) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	here, err := openAt(nil, "/", flags)
	if err != nil {
		return nil, err
	}
	defer func() { here.Close() }()
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" {
			continue
		}
		next, err := openAt(here, name, flags)
		if err != nil {
			return nil, err
		}
		target, err := readLink(here, next)
		switch {
		case err != nil:
			return nil, errors.Join(err, next.Close())
		case target == "":
			here.Close()
			here = next
			continue
		}
		next.Close()
		if links++; links > maxLinks {
			return nil, fmt.Errorf("open %s: too many symbolic links", path)
		}
		if filepath.IsAbs(target) {
			here.Close()
			if here, err = openAt(nil, "/", flags); err != nil {
				return nil, err
			}
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return openAt(here, ".", flags|unix.O_DIRECTORY)
}

// openAt opens an entry of a folder; its name is the whole path, for messages.
func openAt(folder *os.File, name string, flags int) (*os.File, error) {
	from, path := unix.AT_FDCWD, name
	if folder != nil {
		from, path = int(folder.Fd()), filepath.Join(folder.Name(), name)
	}
	number, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(number), path), nil
}

// readLink gives where a symbolic link of root's leads, "" for what is no link.
//
// Shape: both are open with O_PATH.
// Source: symlink(7): a link's target cannot be changed, only the link exchanged; readlinkat(2), empty pathname.
func readLink(folder, entry *os.File) (string, error) {
	var of, in unix.Stat_t
	if err := errors.Join(unix.Fstat(int(entry.Fd()), &of), unix.Fstat(int(folder.Fd()), &in)); err != nil {
		return "", fmt.Errorf("inspect %s: %w", entry.Name(), err)
	}
	if of.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	shared := in.Mode&0o022 != 0 && in.Mode&unix.S_ISVTX == 0
	if of.Uid != 0 || in.Uid != 0 || shared {
		return "", fmt.Errorf("%s is a symbolic link that others than root can change: give a path without it", entry.Name())
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(entry.Fd()), "", target)
	if err != nil {
		return "", fmt.Errorf("read link %s: %w", entry.Name(), err)
	}
	return string(target[:n]), nil
}

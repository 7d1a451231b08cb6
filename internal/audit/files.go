package audit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// randomName is 64 random bits as text.
func randomName() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// writeFile writes a new file and makes it durable.
func writeFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// replaceFile writes a file so that a reader sees the old or the new one whole.
func replaceFile(path string, b []byte, mode os.FileMode) error {
	temporary := path + "." + randomName()
	err := writeFile(temporary, b, mode)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary) // it may not be there; err says what happened
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readAtMost reads all of r, which must not be longer than limit.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("it is longer than %d bytes", limit)
	}
	return b, nil
}

// control calls f with the descriptor of file, which cannot be closed
// meanwhile.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// fdatasync makes what was written to file durable.
func fdatasync(file *os.File) error {
	return control(file, func(fd int) error { return uninterrupted(func() error { return unix.Fdatasync(fd) }) })
}

// lock takes the lock of a folder, which is given back when the file that it
// returns is closed, or its process ends. It waits for it unless how is
// [unix.LOCK_NB].
//
// Errors: [unix.EWOULDBLOCK] when another process holds it.
func lock(dir string, how int) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = control(d, func(fd int) error { return uninterrupted(func() error { return unix.Flock(fd, unix.LOCK_EX|how) }) })
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return d, nil
}

// uninterrupted calls f again when a signal ended it.
func uninterrupted(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

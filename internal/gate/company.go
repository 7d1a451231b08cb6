package gate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// companyFile is the name of what the gates of a node meet at, in the state folder.
const companyFile = "gates"

// company tells whether another gate is on the node: for the time of an upgrade
// there are two, and the counters of the kernel are those of both.
//
// Every gate holds a lock on one file, which others may hold too, and then writes
// who it is. A gate that came and went while nobody looked has left its name.
type company struct {
	mu    sync.Mutex
	file  *os.File
	name  string
	alone time.Time // since when no other is there; zero: one is
}

// joinCompany says that this gate is here. It is called before it listens.
func joinCompany(dir string) (*company, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, companyFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	c := &company{file: file, name: strconv.Itoa(os.Getpid()) + " " + strconv.FormatInt(time.Now().UnixNano(), 10)}
	shared := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &shared); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
	}
	if err := c.sign(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return c, nil
}

// sign writes this gate's name over the last one's.
func (c *company) sign() error {
	if err := c.file.Truncate(0); err != nil {
		return err
	}
	_, err := c.file.WriteAt([]byte(c.name), 0)
	return err
}

// since tells since when this gate has been alone; zero: it is not, or may not be.
//
// Shape: the moment is that of a look, and so never too early.
// Source: fcntl(2), open file description locks, F_OFD_GETLK.
func (c *company) since() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	alone, err := c.look()
	switch {
	case err != nil || !alone:
		c.alone = time.Time{}
	case c.alone.IsZero():
		c.alone = time.Now()
	}
	return c.alone, err
}

// look tells whether no other gate is here or was since the last look. The name is
// written before the lock is looked at: who locks later writes later, and is seen
// by its name the next time.
func (c *company) look() (bool, error) {
	text := make([]byte, len(c.name)+1)
	n, err := c.file.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if string(text[:n]) != c.name {
		c.alone = time.Time{}
		if err := c.sign(); err != nil {
			return false, err
		}
	}
	other := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(c.file.Fd(), unix.F_OFD_GETLK, &other); err != nil {
		return false, fmt.Errorf("look at the lock of %s: %w", c.file.Name(), err)
	}
	return other.Type == unix.F_UNLCK, nil
}

func (c *company) close() error { return c.file.Close() }

package audit

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// growing is a file that is written at its end, into room that was filled with
// zeros before: there fdatasync has no metadata to write, and a full disk shows
// before a line is begun.
type growing struct {
	file  *os.File
	end   int64 // of what was written; guarded by its owner
	chunk int64 // it grows by
	spare int64 // kept for what must still be written when the disk is full
	dirty bool  // written to and not synced; guarded by its owner

	mu     sync.Mutex // one grows it at a time
	closed bool       // guarded by mu
	room   atomic.Int64
}

// createGrowing makes the file at path, which must not be there, with its first
// room.
func createGrowing(path string, chunk, spare int64) (*growing, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	g := &growing{file: f, chunk: chunk, spare: spare}
	if err := g.grow(chunk); err != nil {
		return nil, errors.Join(err, g.discard())
	}
	return g, nil
}

// reserve makes sure of room for n bytes.
//
// Errors: [ErrFull] when the disk has none but the spare room, unless last says
// that these bytes may use it.
func (g *growing) reserve(n int64, last bool) error {
	want := g.end + n + g.spare
	if g.room.Load() >= want {
		return nil
	}
	err := g.grow(want)
	if last && errors.Is(err, ErrFull) && g.room.Load() >= g.end+n {
		return nil
	}
	return err
}

// grow fills the file with zeros to at least size.
//
// Errors: [ErrFull]; any other error means that what was written before may be
// lost, since the kernel reports a failed write-back once only, to whoever
// syncs next.
func (g *growing) grow(size int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	room := g.room.Load()
	if room >= size || g.closed {
		return nil
	}
	size = (size + g.chunk - 1) / g.chunk * g.chunk
	zeros := make([]byte, min(size-room, 1<<20))
	for at := room; at < size; {
		n, err := g.file.WriteAt(zeros[:min(size-at, int64(len(zeros)))], at)
		if err := full(err); errors.Is(err, ErrFull) {
			return errors.Join(err, g.file.Truncate(room))
		}
		if err != nil {
			return fmt.Errorf("grow audit log: %w", err)
		}
		at += int64(n)
	}
	if err := fdatasync(g.file); err != nil {
		return fmt.Errorf("grow audit log: %w", err)
	}
	g.room.Store(size)
	return nil
}

// full is err, and [ErrFull] as well where that is what the kernel means.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// append writes b at the end, in one call.
func (g *growing) append(b []byte) error {
	if _, err := g.file.WriteAt(b, g.end); err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	g.end += int64(len(b))
	g.dirty = true
	return nil
}

func (g *growing) sync() error {
	if err := fdatasync(g.file); err != nil {
		return fmt.Errorf("sync audit log: %w", err)
	}
	return nil
}

// close cuts off the room that was not used and closes the file.
func (g *growing) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	return errors.Join(g.file.Truncate(g.end), g.file.Sync(), g.file.Close())
}

// discard removes the file.
func (g *growing) discard() error {
	return errors.Join(g.file.Close(), os.Remove(g.file.Name()))
}

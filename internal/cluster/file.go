package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/policy"
)

// kept is what the file of a Snapshot holds. When the API server last confirmed it
// is the file's time of modification.
type kept struct {
	Pods              []Pod
	Guards            map[string][]string // by the API object's UID; the protocols, none: everything
	GuardedNamespaces []string
	Objects           []policy.Document
	Services          *Services
}

// maxKept is far more than the Services of the biggest cluster take, in bytes.
const maxKept = 1 << 30

// save replaces the file at path.
func save(path string, s *Snapshot, guards map[string]guard) error {
	k := kept{s.Pods, make(map[string][]string, len(guards)), s.GuardedNamespaces, s.Objects, s.Services}
	for uid, g := range guards {
		k.Guards[uid] = g.protocols
	}
	data, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("keep the cluster's objects: %w", err)
	}
	if err := replaceFile(path, data); err != nil {
		return fmt.Errorf("keep the cluster's objects: %w", err)
	}
	return nil
}

// replaceFile writes a file that its owner alone can read, whole or not at all.
func replaceFile(path string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // no longer there once it is renamed
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

// confirm notes that what the file says still holds.
func confirm(path string, now time.Time) error { return os.Chtimes(path, now, now) }

// restore reads the file at path.
//
// Shape: confirmed is when the API server last did; nil, without an error, where no file is.
// Errors: a file that cannot be read, is none of ours, or is of a time to come: the
// clock was set back, and how old it is cannot be told. Its guards stick all the same.
func restore(path string, now time.Time) (s *Snapshot, guards map[string]guard, confirmed time.Time, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe that lies there is not waited for
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, time.Time{}, nil
	}
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKept {
		return nil, nil, time.Time{}, fmt.Errorf("read %s: no file of at most %d bytes", path, int64(maxKept))
	}
	var k kept
	if err := json.NewDecoder(io.LimitReader(file, maxKept)).Decode(&k); err != nil {
		return nil, nil, time.Time{}, fmt.Errorf("read %s: %w", path, err)
	}
	if k.Services == nil {
		k.Services = &Services{}
	}
	guards = make(map[string]guard, len(k.Guards))
	for uid, protocols := range k.Guards {
		guards[uid] = guard{on: true, protocols: protocols}
	}
	confirmed = info.ModTime()
	if confirmed.After(now) {
		return nil, guards, time.Time{}, fmt.Errorf("read %s: it is of %s, which has not come yet", path, confirmed.Format(time.RFC3339))
	}
	return &Snapshot{Pods: k.Pods, GuardedNamespaces: k.GuardedNamespaces, Objects: k.Objects, Services: k.Services, Stale: max(now.Sub(confirmed), 1)}, guards, confirmed, nil
}

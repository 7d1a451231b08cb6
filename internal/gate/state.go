package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"postern.dev/postern/internal/redirect"
)

// stateFile is the name of what outlives the gate, in its state folder.
const stateFile = "state.json"

// maxStateBytes bounds the file, which root alone writes: more is an accident.
const maxStateBytes = 64 << 20

// state is what outlives the gate.
type state struct {
	Version           int              `json:"version"`
	Fed               bool             `json:"fed"` // Guarded is an agent's word
	Guarded           redirect.Guarded `json:"guarded"`
	GuardedNamespaces []string         `json:"guardedNamespaces,omitempty"`
	GuardedPods       []string         `json:"guardedPods,omitempty"` // UIDs: these stay guarded
	PodsCgroup        string           `json:"podsCgroup,omitempty"`  // below the root of the hierarchy
	Armed             *armed           `json:"armed,omitempty"`       // nil: not known
}

const stateVersion = 1

// readState reads the state.
//
// Errors: none when there is no file yet; it answers the zero state then.
func readState(dir string) (state, error) {
	path := filepath.Join(dir, stateFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{Version: stateVersion}, nil
	}
	if err != nil {
		return state{}, err
	}
	if info.Size() > maxStateBytes {
		return state{}, fmt.Errorf("read %s: it has %d bytes", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return state{}, err
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return state{}, fmt.Errorf("read %s: %w", path, err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("read %s: version %d is not known", path, s.Version)
	}
	return s, nil
}

// write replaces the state: whoever reads it, after a crash too, finds the old
// or the new.
func (s state) write(dir string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, stateFile+".*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, stateFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(dir)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeState removes the state; the folder too if nothing else is in it.
func removeState(dir string) error {
	for _, name := range []string{stateFile, companyFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, stateFile+".*")) // of a write that was cut off
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range left {
		errs = append(errs, os.Remove(path))
	}
	os.Remove(dir) // it may hold what is not ours
	return errors.Join(errs...)
}

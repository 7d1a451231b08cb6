package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// secretsFile is where Secrets outlive the agent's process, and not its pod.
const secretsFile = "secrets"

// memory keeps Secrets in a file that no disk ever sees, so that an agent that was
// killed serves without API server as it did before.
type memory struct {
	file string // empty: nothing is kept
	warn func(error)
	kept map[string]keptSecret // held under secrets.mu
}

type keptSecret struct {
	Data    map[string][]byte
	Version string
}

// remember takes up what an earlier process of the pod kept in a folder. One that
// is not in memory is left alone: there a Secret would outlive its pod.
//
// Source: statfs(2), f_type.
func (s *secrets) remember(dir string, warn func(error)) error {
	var at unix.Statfs_t
	if err := unix.Statfs(dir, &at); err != nil {
		return fmt.Errorf("keep Secrets in %s: %w", dir, err)
	}
	if at.Type != unix.TMPFS_MAGIC {
		return nil
	}
	s.memory = memory{file: filepath.Join(dir, secretsFile), warn: warn, kept: make(map[string]keptSecret)}
	text, err := os.ReadFile(s.memory.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s.memory.kept)
	}
	if err != nil {
		s.memory.kept = make(map[string]keptSecret)
		return fmt.Errorf("read kept Secrets: %w", err)
	}
	for name, one := range s.memory.kept {
		held := s.of(name)
		held.data, held.version = one.Data, one.Version
	}
	return nil
}

// keep writes down what a Secret is now; without data there is none.
func (s *secrets) keep(name string, data map[string][]byte, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.memory
	before, was := m.kept[name]
	if m.file == "" || was == (data != nil) && before.Version == version {
		return
	}
	next := maps.Clone(m.kept)
	if data != nil {
		next[name] = keptSecret{data, version}
	} else {
		delete(next, name)
	}
	text, err := json.Marshal(next)
	if err == nil {
		err = replaceFile(m.file, text)
	}
	if err != nil {
		m.warn(fmt.Errorf("keep Secrets: %w", err))
		return
	}
	m.kept = next
}

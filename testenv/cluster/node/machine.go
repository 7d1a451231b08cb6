package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"postern.dev/postern/testenv/cluster/layout"
)

// sysctls are the machine's settings that the kubelet writes and that no
// namespace keeps to itself (kubernetes 1.37,
// pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables).
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// before is what the machine was like before the node came, to be restored.
type before struct {
	Sysctls     map[string]string `json:"sysctls"`
	Controllers []string          `json:"controllers"`
}

func recordFile(dir layout.Dir) string { return dir.Path("before.json") }

// record writes what the machine is like, unless it is written already: then a
// node was here before, and what is set now is its doing.
func record(dir layout.Dir, h hierarchies) error {
	if _, err := os.Stat(recordFile(dir)); err == nil {
		return nil
	}
	b := before{Sysctls: map[string]string{}}
	for _, name := range sysctls {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			return err
		}
		b.Sysctls[name] = strings.TrimSpace(string(value))
	}
	var err error
	if b.Controllers, err = h.controllers(); err != nil {
		return err
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return os.WriteFile(recordFile(dir), text, 0o644)
}

// restore makes the machine what it was when [record] was called.
func restore(dir layout.Dir, h hierarchies) error {
	text, err := os.ReadFile(recordFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var b before
	if err := json.Unmarshal(text, &b); err != nil {
		return fmt.Errorf("parse %s: %w", recordFile(dir), err)
	}
	for name, value := range b.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
	}
	if err := h.restoreControllers(b.Controllers); err != nil {
		return err
	}
	return os.Remove(recordFile(dir))
}

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"postern.dev/postern/testenv/cluster/boot"
	"postern.dev/postern/testenv/cluster/layout"
)

// Import gives the node an image out of a file, unless it has had the image of
// that key already, in this cluster or an earlier one. Pods that run keep the image they have.
func Import(ctx context.Context, dir layout.Dir, file, key string) (imported bool, err error) {
	pid, err := Pid(dir)
	if err != nil {
		return false, err
	}
	done := dir.Path("containerd", "imported", filepath.Base(file))
	old, err := os.ReadFile(done)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if string(old) == key {
		return false, nil
	}
	// The socket is in the node's /run, which is seen through its first process.
	socket := filepath.Join("/proc", strconv.Itoa(pid), "root", boot.ContainerdSocket)
	cmd := exec.CommandContext(ctx, dir.Path("bin", "knode"), "ctr", "--address", socket, "--namespace", "k8s.io",
		"images", "import", "--local", file) // half the time of streaming it
	if out, err := cmd.CombinedOutput(); err != nil {
		return false, fmt.Errorf("import %s: %w: %s", filepath.Base(file), err, strings.TrimSpace(string(out)))
	}
	if err := os.MkdirAll(filepath.Dir(done), 0o755); err != nil {
		return false, err
	}
	return true, os.WriteFile(done, []byte(key), 0o644)
}

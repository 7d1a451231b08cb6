package testenv

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is a cgroup v2 of a test.
type Cgroup struct {
	Path string
	dir  *os.File
}

// NewCgroup makes a fresh cgroup; it is killed and removed after the test.
func NewCgroup(t testing.TB) *Cgroup {
	t.Helper()
	Need(t, os.Geteuid() == 0, "root")
	path, err := os.MkdirTemp(cgroupRoot(t), "testenv-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, path) })
	return OpenCgroup(t, path)
}

// OpenCgroup uses a cgroup that somebody else made and removes.
func OpenCgroup(t testing.TB, path string) *Cgroup {
	t.Helper()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return &Cgroup{Path: path, dir: dir}
}

// Command is a command that starts in the cgroup: not moved there, so that there
// is no moment when it is elsewhere.
func (c *Cgroup) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(c.dir.Fd())}
	return cmd
}

func cgroupRoot(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(mounts))
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	Need(t, false, "cgroup v2 hierarchy")
	return ""
}

func removeCgroup(t testing.TB, path string) {
	t.Helper()
	err := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
	if err != nil {
		t.Errorf("kill %s: %v", path, err)
	}
	for range 1000 {
		if err = os.Remove(path); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("remove %s: %v", path, err)
	}
}

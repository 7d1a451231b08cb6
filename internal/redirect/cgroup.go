package redirect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the name of every run's cgroup.
const prefix = "postern-"

// place is where a run's cgroups are.
type place struct {
	id                        string
	root, run, agent, command string
}

func placeOf(root, id string) place {
	run := filepath.Join(root, prefix+id)
	return place{
		id:      id,
		root:    root,
		run:     run,
		agent:   filepath.Join(run, "agent"),
		command: filepath.Join(run, "command"),
	}
}

// findRoot finds where the cgroup v2 hierarchy is mounted, and that it is all of
// it: programs at the root of a cgroup namespace would not see other processes.
func findRoot(mounted string) (string, error) {
	if mounted == "" {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return "", err
		}
		if mounted = cgroupMount(mounts); mounted == "" {
			return "", errors.New("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mounted, &st); err != nil {
		return "", fmt.Errorf("statfs %s: %w", mounted, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return "", fmt.Errorf("%s is not a cgroup v2 hierarchy", mounted)
	}
	// Only the real root has no cgroup.events.
	_, err := os.Stat(filepath.Join(mounted, "cgroup.events"))
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not the root of the cgroup v2 hierarchy", mounted)
	}
	return mounted, nil
}

// cgroupMount finds the first mount of a whole cgroup v2 hierarchy in
// /proc/<pid>/mountinfo.
//
// Source: proc_pid_mountinfo(5): optional fields end at " - ", the type follows;
// field 4 is what is mounted, field 5 where, with space, tab, newline and
// backslash in octal.
func cgroupMount(mountinfo []byte) string {
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		}
	}
	return ""
}

// make makes the cgroups and moves this process into the agent's, from when on
// the run counts as alive.
//
// Errors: fs.ErrNotExist if another process's Clear took the run, empty as it
// was, for a dead one.
func (p place) make() error {
	if err := os.Mkdir(p.run, 0o755); err != nil {
		return err // if it exists, it is another's
	}
	for _, step := range []func() error{
		func() error { return os.Mkdir(p.agent, 0o755) },
		func() error { return enter(p.agent) },
		func() error { return os.Mkdir(p.command, 0o755) },
	} {
		if err := step(); err != nil {
			return errors.Join(err, p.abandon())
		}
	}
	return nil
}

// abandon undoes make, of a run in which nothing was started.
func (p place) abandon() error {
	return errors.Join(leave(p), detachRoot(p), p.remove())
}

// remove removes the run's cgroups, which are empty.
func (p place) remove() error {
	for _, dir := range []string{p.agent, p.command, p.run} {
		if err := remove(dir); err != nil {
			return err
		}
	}
	return nil
}

func remove(dir string) error {
	err := os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// enter moves this process, with all its threads, into a cgroup.
func enter(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// cgroupID is the id that programs see: the inode of the directory.
func cgroupID(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", dir, err)
	}
	return st.Ino, nil
}

// populated tells whether a process lives in the cgroup or below it. A cgroup
// that is not there has none.
func populated(dir string) (bool, error) {
	events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return bytes.Contains(events, []byte("populated 1")), nil
}

// processes lists who is in the cgroup.
func processes(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dir, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// kill kills all in the cgroup and waits until it is empty.
func kill(ctx context.Context, dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return waitEmpty(ctx, dir)
}

func waitEmpty(ctx context.Context, dir string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		alive, err := populated(dir)
		if err != nil || !alive {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s is empty: %w", dir, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/layout"
)

// trees are the cgroups, below the root of every hierarchy, that a node makes.
var trees = []string{layout.NodeCgroup, layout.PodCgroup, layout.StrayCgroup}

// hierarchies are where the machine's cgroup hierarchies are mounted: v2 alone,
// or the v1 controllers beside it.
type hierarchies struct {
	v2 string
	v1 []string
}

func findHierarchies() (hierarchies, error) {
	var h hierarchies
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return h, err
	}
	defer mounts.Close()
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		// proc_pid_mountinfo(5): the fourth field is what of the file system is mounted, the fifth where.
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(kind) == 0 || fields[3] != "/" {
			continue
		}
		switch {
		case kind[0] == "cgroup2" && h.v2 == "":
			h.v2 = fields[4]
		case kind[0] == "cgroup":
			h.v1 = append(h.v1, fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return h, err
	}
	if h.v2 == "" {
		return h, errors.New("find the root of cgroup v2: none is mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
	}
	return h, nil
}

// populated lists the node's trees of cgroup v2 that hold a process.
func (h hierarchies) populated() ([]string, error) {
	var found []string
	for _, tree := range trees {
		events, err := os.ReadFile(filepath.Join(h.v2, tree, "cgroup.events"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(events), "populated 1") {
			found = append(found, tree)
		}
	}
	return found, nil
}

// kill ends every process of the node at once, as a power cut does, and returns
// when all are gone.
func (h hierarchies) kill(ctx context.Context) error {
	for {
		left, err := h.populated()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, tree := range left {
			// Again in each round: what moved between the trees may have been missed.
			err := os.WriteFile(filepath.Join(h.v2, tree, "cgroup.kill"), []byte("1"), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("kill the cgroup %s: %w", tree, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill the cgroups %s: %w: a process does not die", strings.Join(left, ", "), context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// remove removes the node's trees from every hierarchy.
func (h hierarchies) remove(ctx context.Context) error {
	for _, root := range append([]string{h.v2}, h.v1...) {
		for _, tree := range trees {
			if err := removeTree(ctx, filepath.Join(root, tree)); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeTree(ctx context.Context, tree string) error {
	for {
		var dirs []string
		err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			return nil
		}
		slices.Reverse(dirs) // children first
		for _, dir := range dirs {
			// EBUSY: a process that died is not reaped yet. Tried again below.
			if err := unix.Rmdir(dir); err != nil && err != unix.EBUSY && err != unix.ENOENT {
				return fmt.Errorf("remove the cgroup %s: %w", dir, err)
			}
		}
		if _, err := os.Stat(tree); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove the cgroup %s: %w", tree, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// controllers are those that the root hands down to its children; the kubelet
// turns on what it needs, which is none of a hybrid machine's.
func (h hierarchies) controllers() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(h.v2, "cgroup.subtree_control"))
	return strings.Fields(string(text)), err
}

// restoreControllers turns off what was not on before.
func (h hierarchies) restoreControllers(before []string) error {
	now, err := h.controllers()
	if err != nil {
		return err
	}
	var failed error
	for _, controller := range now {
		if slices.Contains(before, controller) {
			continue
		}
		err := os.WriteFile(filepath.Join(h.v2, "cgroup.subtree_control"), []byte("-"+controller), 0)
		// Somebody else's cgroup may use it by now.
		if err != nil && !errors.Is(err, unix.EBUSY) {
			failed = errors.Join(failed, fmt.Errorf("turn the controller %s off: %w", controller, err))
		}
	}
	return failed
}

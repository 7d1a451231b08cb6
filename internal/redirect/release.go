package redirect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Release ends the run called id: it kills the command, waits until its cgroup
// is empty, and only then detaches the programs at the root and removes the run's
// cgroups. Whoever calls it may be in the agent cgroup and then leaves it; others
// there (the agent, which is about to end) are waited for.
//
// Errors: with ctx ended before the cgroups are empty, the guard is still whole.
func Release(ctx context.Context, cgroups, id string) error {
	root, err := findRoot(cgroups)
	if err != nil {
		return err
	}
	p := placeOf(root, id)
	if err := kill(ctx, p.command); err != nil {
		return fmt.Errorf("release run %s: %w", id, err)
	}
	if err := leave(p); err != nil {
		return err
	}
	if err := waitEmpty(ctx, p.agent); err != nil {
		return fmt.Errorf("release run %s: %w", id, err)
	}
	if err := remove(p.agent); err != nil {
		return err
	}
	return finish(ctx, p)
}

// finish ends a run whose agent cgroup is gone, so that it cannot be alive. The
// command's cgroup goes last, as it tells whose the programs at the root are.
func finish(ctx context.Context, p place) error {
	if err := kill(ctx, p.command); err != nil {
		return fmt.Errorf("release run %s: %w", p.id, err)
	}
	if err := detachRoot(p); err != nil {
		return err
	}
	return p.remove()
}

// leave moves this process out of the agent cgroup, if it is there.
func leave(p place) error {
	pids, err := processes(p.agent)
	if err != nil {
		return err
	}
	if !slices.Contains(pids, os.Getpid()) {
		return nil
	}
	return enter(p.root)
}

// Cleared is a dead run that was removed.
type Cleared struct {
	ID     string
	Killed int // processes of its command that still ran
}

// Clear releases the runs whose agent and keeper are gone: none of their
// processes is in the agent cgroup.
func Clear(ctx context.Context, cgroups string, log logrus.FieldLogger) ([]Cleared, error) {
	root, err := findRoot(cgroups)
	if err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var cleared []Cleared
	var errs []error
	for _, d := range dirs {
		id, ours := strings.CutPrefix(d.Name(), prefix)
		if !ours || !d.IsDir() {
			continue
		}
		p := placeOf(root, id)
		if ours, err := isRun(p); err != nil || !ours {
			errs = append(errs, err)
			continue
		}
		// The kernel removes a cgroup only while nobody is in it, and nobody can
		// enter it afterwards: no other test of being alive is free of races.
		if err := remove(p.agent); errors.Is(err, unix.EBUSY) {
			continue
		} else if err != nil {
			errs = append(errs, err)
			continue
		}
		killed, err := processes(p.command)
		if err == nil {
			err = finish(ctx, p)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		cleared = append(cleared, Cleared{ID: id, Killed: len(killed)})
		log.WithField("run", id).WithField("killed", len(killed)).Warn("Cleared a run that nobody had ended")
	}
	errs = append(errs, detachOrphans(root))
	return cleared, errors.Join(errs...)
}

// isRun tells a run's cgroup from another one that begins with the same letters:
// no process is in a run's itself, and no other cgroup than these.
func isRun(p place) (bool, error) {
	inside, err := processes(p.run)
	if err != nil || len(inside) > 0 {
		return false, err
	}
	below, err := os.ReadDir(p.run)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // cleared by another
	}
	return !slices.ContainsFunc(below, func(d os.DirEntry) bool {
		return d.IsDir() && d.Name() != filepath.Base(p.agent) && d.Name() != filepath.Base(p.command)
	}), err
}

// detachOrphans detaches from the root what belongs to no cgroup any more.
func detachOrphans(root string) error {
	return detachWhere(root, func(command uint64) bool {
		dirs, err := os.ReadDir(root)
		if err != nil {
			return false
		}
		return !slices.ContainsFunc(dirs, func(d os.DirEntry) bool {
			id, ours := strings.CutPrefix(d.Name(), prefix)
			if !ours {
				return false
			}
			got, err := cgroupID(placeOf(root, id).command)
			return err == nil && got == command
		})
	})
}

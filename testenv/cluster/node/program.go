package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/boot"
	"postern.dev/postern/testenv/cluster/layout"
)

// Hold kills one of the node's programs and keeps it from being started again,
// until [Release] or a reboot. It returns when the program is gone.
func Hold(ctx context.Context, dir layout.Dir, program string) error {
	if err := known(dir, program); err != nil {
		return err
	}
	if err := os.WriteFile(dir.Path("node", "held", program), nil, 0o644); err != nil {
		return err
	}
	for gone := 0; ; {
		pid, err := programPid(dir, program)
		if err != nil {
			return err
		}
		if pid == 0 {
			// Twice: it may have been about to start when we forbade it.
			if gone++; gone == 2 {
				return nil
			}
		} else if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill %s: %w", program, err)
		}
		if err := sleep(ctx); err != nil {
			return fmt.Errorf("wait for the end of %s: %w", program, err)
		}
	}
}

// Release lets a held program start again, and returns when it is a process; it
// may not be ready yet.
func Release(ctx context.Context, dir layout.Dir, program string) error {
	if err := known(dir, program); err != nil {
		return err
	}
	err := os.Remove(dir.Path("node", "held", program))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for {
		pid, err := programPid(dir, program)
		if err != nil || pid != 0 {
			return err
		}
		if err := sleep(ctx); err != nil {
			return fmt.Errorf("wait for the start of %s: %w", program, err)
		}
	}
}

func known(dir layout.Dir, program string) error {
	if !slices.Contains(boot.Programs, program) {
		return fmt.Errorf("no program of the node is called %q: there are %s", program, strings.Join(boot.Programs, ", "))
	}
	_, err := Pid(dir)
	return err
}

// programPid is 0 when the program does not run.
func programPid(dir layout.Dir, program string) (int, error) {
	text, err := os.ReadFile(dir.Path("node", "pids", program))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

func sleep(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}

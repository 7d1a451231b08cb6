package boot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// pause is how long a program that ended stays away, as systemd's RestartSec.
const pause = 200 * time.Millisecond

// A supervisor starts programs and starts them again when they end. There is no
// way back: everything ends with the node's cgroup.
type supervisor struct {
	logs  string
	state string // pids/PROGRAM is a process ID, held/PROGRAM keeps it from starting
}

func (s supervisor) prepare() error {
	// Who was held before a reboot is started by it, as a machine's boot does.
	return errors.Join(
		os.RemoveAll(filepath.Join(s.state, "held")), os.MkdirAll(filepath.Join(s.state, "held"), 0o755),
		os.RemoveAll(filepath.Join(s.state, "pids")), os.MkdirAll(filepath.Join(s.state, "pids"), 0o755))
}

func (s supervisor) run(program string, args ...string) {
	go func() {
		for {
			if !exists(filepath.Join(s.state, "held", program)) {
				err := s.once(program, args)
				fmt.Fprintf(os.Stderr, "%s %s: %v\n", time.Now().UTC().Format(time.RFC3339), program, err)
			}
			time.Sleep(pause)
		}
	}()
}

// once runs the program to its end, and says how that came.
func (s supervisor) once(program string, args []string) error {
	log, err := os.OpenFile(filepath.Join(s.logs, program+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	pidFile := filepath.Join(s.state, "pids", program)
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if exists(filepath.Join(s.state, "held", program)) {
		// Forbidden while it was starting: whoever did that may have seen no pid.
		err = cmd.Process.Kill()
	}
	err = errors.Join(err, cmd.Wait())
	if removed := os.Remove(pidFile); removed != nil {
		return errors.Join(err, removed)
	}
	if err == nil {
		err = errors.New("ended by itself")
	}
	return err
}

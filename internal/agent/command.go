package agent

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is the guarded command, a child of the agent in the same process
// group and session: job control, pipelines and Ctrl-C of the caller's shell
// treat both as one.
type command struct {
	cmd *exec.Cmd
}

// killDelay is what a command gets between SIGTERM and SIGKILL when the agent
// cannot go on.
const killDelay = 5 * time.Second

// startCommand starts the command inside the cgroup: it is never anywhere
// else, so no instruction of its own runs unguarded. It ends when ctx does.
func startCommand(ctx context.Context, words []string, user account, cgroup *os.File, coreSize uint64) (*command, error) {
	groups := make([]string, 0, len(user.groups))
	for _, gid := range user.groups {
		groups = append(groups, strconv.FormatUint(uint64(gid), 10))
	}
	cmd := exec.CommandContext(ctx, self, "become",
		"--uid", strconv.FormatUint(uint64(user.uid), 10), "--gid", strconv.FormatUint(uint64(user.gid), 10),
		"--groups", strings.Join(groups, ","), "--core-size", strconv.FormatUint(coreSize, 10), "--")
	cmd.Args = append(cmd.Args, words...)
	cmd.Env = user.environment(os.Environ())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = killDelay
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &command{cmd: cmd}, nil
}

// wait returns the command's exit code, as a shell tells it: 128 and the
// signal's number when a signal ended it.
func (c *command) wait() int {
	_ = c.cmd.Wait() // the state tells the same
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

// signals are those that the agent passes on to the command.
type signals chan os.Signal

// catchSignals keeps signals from ending the agent. What the caller ignores, as
// nohup does, stays ignored for the command too.
func catchSignals() signals {
	s := make(signals, 16)
	for _, one := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2} {
		if !signal.Ignored(one) {
			signal.Notify(s, one)
		}
	}
	// A closed pipe behind standard error must not end the agent.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	return s
}

// pending is the number of a signal that came before the command was there, or 0.
func (s signals) pending() int {
	select {
	case one := <-s:
		if number, ok := one.(syscall.Signal); ok {
			return int(number)
		}
	default:
	}
	return 0
}

// forward passes signals on until ctx is done.
func (s signals) forward(ctx context.Context, to *os.Process) {
	for {
		select {
		case <-ctx.Done():
			return
		case one := <-s:
			if !fromTerminal(one) {
				_ = to.Signal(one) // it may have ended
			}
		}
	}
}

// fromTerminal tells whether the command has the signal already: the terminal
// sends those of its keys to its whole foreground process group. One of these
// two that a process sends to the agent alone, while the agent is in the
// foreground, cannot be told from them and is lost.
func fromTerminal(one os.Signal) bool {
	if one != unix.SIGINT && one != unix.SIGQUIT {
		return false
	}
	terminal, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer terminal.Close()
	foreground, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

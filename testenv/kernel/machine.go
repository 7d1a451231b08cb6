package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// statusPrefix begins the line that the guest ends with.
const statusPrefix = "kernel-test-status: "

// machine is a virtual machine that runs the initramfs once.
type machine struct {
	kernel, initramfs string
	console           string // where the kernel's own messages go
	limit             time.Duration
}

var (
	errHung = errors.New("the machine hung")
	errDied = errors.New("the machine ended without saying a status")
)

// boot runs the machine, copies what the guest prints, and answers an error
// unless the guest said status 0.
//
// Errors: errHung when the limit has passed; errDied when the kernel gave up.
// Both come with the kernel's last messages.
func boot(ctx context.Context, m machine, out io.Writer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.limit, fmt.Errorf("%w: it was still running after %v", errHung, m.limit))
	defer cancel()
	// QEMU dies with the thread that started it, and so with this process
	// however it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		// The processor is QEMU's own: the host's would need hardware support.
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G",
		"-kernel", m.kernel, "-initrd", m.initramfs,
		"-append", "console=ttyS0 loglevel=5 panic=-1",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-serial", "file:"+m.console, "-serial", "stdio")
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	qemu.Stderr = os.Stderr
	lines, err := qemu.StdoutPipe()
	if err != nil {
		return err
	}
	if err := qemu.Start(); err != nil {
		return err
	}
	status, said, read := follow(lines, out)
	ended := qemu.Wait()
	switch {
	case said && status == 0:
		return nil
	case said:
		return fmt.Errorf("tests failed on this kernel (exit status %d)", status)
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errHung):
		return context.Cause(ctx)
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), lastMessages(m.console))
	}
	return errors.Join(errDied, read, ended, lastMessages(m.console))
}

// follow copies the guest's lines until there are no more, but keeps the status.
func follow(from io.Reader, out io.Writer) (status int, said bool, err error) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		if text, isStatus := strings.CutPrefix(line, statusPrefix); isStatus {
			status, err = strconv.Atoi(strings.TrimSpace(text))
			said = err == nil
		} else if line != "" {
			if _, err := io.WriteString(out, line); err != nil {
				return 0, false, err
			}
		}
		if errors.Is(err, io.EOF) {
			return status, said, nil
		}
		if err != nil {
			return 0, false, err
		}
	}
}

// lastMessages is an error that holds the end of the kernel's messages.
func lastMessages(console string) error {
	const some = 4096
	text, err := os.ReadFile(console)
	if err != nil {
		return err
	}
	if len(text) > some {
		text = text[len(text)-some:]
	}
	return fmt.Errorf("the kernel's last messages:\n%s", text)
}

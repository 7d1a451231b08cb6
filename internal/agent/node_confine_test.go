package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// confinedVariable makes the test binary try what an agent of a node must not be able to.
const confinedVariable = "POSTERN_TEST_CONFINED"

func TestConfinedProcessHasItsWorkAndNothingElse(t *testing.T) {
	if os.Getenv(confinedVariable) != "" {
		if err := tryConfined(); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), confinedVariable+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("got %v, want the confined process to work:\n%s", err, out)
	}
}

func tryConfined() error {
	before := make(chan error)
	ask := make(chan func() error)
	go func() { // on a thread that is there already
		for f := range ask {
			before <- f()
		}
	}()
	if _, err := confine(reach{write: []string{os.DevNull}}); err != nil {
		return err
	}
	var errs []error
	for name, call := range map[string]func() error{
		"execve":  func() error { return syscall.Exec("/bin/true", nil, nil) },
		"start":   func() error { return exec.Command("/bin/true").Run() },
		"unshare": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"setns":   func() error { return unix.Setns(0, 0) },
		"mount":   func() error { return unix.Mount("none", "/", "tmpfs", 0, "") },
		"ptrace":  func() error { return unix.PtraceAttach(1) },
		"bpf":     func() error { _, _, n := unix.Syscall(unix.SYS_BPF, 0, 0, 0); return n },
		"setuid":  func() error { _, _, n := unix.RawSyscall(unix.SYS_SETUID, 1, 0, 0); return n },
		"packet":  func() error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err },
	} {
		ask <- call
		for where, err := range map[string]error{"a new thread": call(), "an old one": <-before} {
			if !errors.Is(err, unix.EPERM) {
				errs = append(errs, fmt.Errorf("got %w for %s on %s, want %w", err, name, where, unix.EPERM))
			}
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, conn.Close(), os.WriteFile(os.DevNull, []byte("x"), 0))...)
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guest is what the machine runs as its first process. It does not return.
func guest() {
	status := 1
	out, err := prepare()
	if err == nil {
		status, err = runTests(out)
	}
	if err != nil {
		fmt.Fprintln(out, "kernel: in the machine:", err)
		status = 1
	}
	fmt.Fprintf(out, "%s%d\n", statusPrefix, status)
	// What the port still holds is lost when the power goes.
	if f, ok := out.(*os.File); ok {
		_ = unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// prepare makes of the kernel alone what the tests expect of a machine. The
// answered writer leads to the host.
func prepare() (io.Writer, error) {
	for _, m := range []struct{ kind, at string }{
		{"devtmpfs", "/dev"},
		{"devpts", "/dev/pts"},
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"bpf", "/sys/fs/bpf"},
		{"tmpfs", "/run"},
		{"tmpfs", "/tmp"},
	} {
		err := os.MkdirAll(m.at, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.at, m.kind, 0, "")
		}
		if err != nil {
			return os.Stdout, fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	out, err := openPort("/dev/ttyS1")
	if err != nil {
		return os.Stdout, err
	}
	if err := os.Chmod("/tmp", 0o777|os.ModeSticky); err != nil {
		return out, err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return out, err
	}
	return out, errors.Join(netlink.LinkSetUp(lo), loadModules())
}

// openPort opens a serial port that passes bytes on as they are.
func openPort(path string) (*os.File, error) {
	// A terminal of process 1 would kill its children when the line drops.
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	settings, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read the settings of %s: %w", path, err)
	}
	settings.Oflag &^= unix.OPOST
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, settings)
}

func loadModules() error {
	paths, err := filepath.Glob("/" + modulesPath + "/*") // sorted
	if err != nil {
		return err
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// runTests runs one test binary after the other and answers the first status
// that is not 0.
func runTests(out io.Writer) (int, error) {
	arguments, err := os.ReadFile("/" + argumentsPath)
	if err != nil {
		return 1, err
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return 1, err
	}
	fmt.Fprintf(out, "kernel: running on %s", release)
	binaries, err := filepath.Glob("/" + testsPath + "/*/*.test")
	if err != nil {
		return 1, err
	}
	failed := 0
	for _, binary := range binaries {
		name := filepath.Base(filepath.Dir(binary))
		start := time.Now()
		status, err := runOne(out, binary, strings.Fields(string(arguments)))
		if err != nil {
			return 1, fmt.Errorf("run %s: %w", binary, err)
		}
		fmt.Fprintf(out, "kernel: %s: exit status %d after %d s\n", name, status, int(time.Since(start).Seconds()))
		if failed == 0 {
			failed = status
		}
	}
	return failed, nil
}

// runOne runs a test binary as `go test` does: in its package's folder.
func runOne(out io.Writer, binary string, arguments []string) (int, error) {
	port, ok := out.(*os.File)
	if !ok {
		return 1, errors.New("no port leads to the host")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 1, err
	}
	defer null.Close()
	test, err := os.StartProcess(binary, append([]string{binary}, arguments...), &os.ProcAttr{
		Dir:   filepath.Dir(binary),
		Env:   []string{"PATH=" + programsPath, "HOME=/tmp", "POSTERN_TEST_STRICT=1", "POSTERN_TEST_PATIENCE=5s"},
		Files: []*os.File{null, port, port},
	})
	if err != nil {
		return 1, err
	}
	// Process 1 inherits whoever loses their parent, and must wait for all.
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 1, fmt.Errorf("wait: %w", err)
		}
		if pid != test.Pid {
			continue
		}
		if status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return status.ExitStatus(), nil
	}
}

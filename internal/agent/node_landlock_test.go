//go:build !cgo

// The race detector needs cgo, in whose programs not every thread can be confined.

package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// reachVariable makes the test binary an agent that was taken over: it holds its
// folder, and a process of another pod with the same user.
const reachVariable = "POSTERN_TEST_REACH"

const agentUser = 65532

func TestTakenOverAgentReachesItsOwnFilesAlone(t *testing.T) {
	if spec := os.Getenv(reachVariable); spec != "" {
		var dir string
		var victim int
		if _, err := fmt.Sscan(spec, &dir, &victim); err != nil {
			t.Fatal(err)
		}
		if err := tryReach(dir, victim); err != nil {
			t.Fatal(err)
		}
		return
	}
	testenv.Need(t, os.Geteuid() == 0, "root, to be another user")
	like := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: agentUser, Gid: agentUser}}
	victim := exec.Command("sleep", "600")
	victim.Env, victim.Dir, victim.SysProcAttr = []string{"PGPASSWORD=secret"}, "/", like
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { victim.Process.Kill(); victim.Wait() }()
	dir, err := os.MkdirTemp("/tmp", "reach") // which its user may enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"", "log", "run", "other"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, agentUser, agentUser); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", reachVariable, dir, victim.Process.Pid))
	cmd.Dir, cmd.SysProcAttr = "/", like
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("got %v, want the agent within its reach:\n%s", err, out)
	}
}

// tryReach tries what a process of the agent's user can do before it is confined, and
// then that it has its own work and nothing else. On a kernel without Landlock all
// stays as it was, and is said.
func tryReach(dir string, victim int) error {
	proc := fmt.Sprintf("/proc/%d/", victim)
	forbidden := map[string]func() error{
		"its environment":     func() error { return read(proc + "environ") },
		"its root folder":     func() error { return read(proc + "root/etc/hostname") },
		"its working folder":  func() error { _, err := os.ReadDir(proc + "cwd/"); return err },
		"its descriptors":     func() error { _, err := os.ReadDir(proc + "fd"); return err },
		"its memory":          func() error { f, err := os.Open(proc + "mem"); return errors.Join(err, f.Close()) },
		"its command line":    func() error { return read(proc + "cmdline") },
		"another folder":      func() error { return os.WriteFile(filepath.Join(dir, "other", "x"), []byte("x"), 0o600) },
		"a list of processes": func() error { _, err := os.ReadDir("/proc"); return err },
	}
	old := make(chan func() error)
	answer := make(chan error)
	go func() { // on a thread that is there already
		for f := range old {
			answer <- f()
		}
	}()
	for name, try := range forbidden {
		if err := try(); err != nil {
			return fmt.Errorf("got %w for %s before, want it open", err, name)
		}
	}
	o := NodeOptions{LogDir: filepath.Join(dir, "log"), Gate: filepath.Join(dir, "run", "gate.sock")}
	unable, err := confine(o.reach())
	if err != nil {
		return err
	}
	abi, _, number := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if (unable == "") != (number == 0) {
		return fmt.Errorf("got %q on a kernel that answers %w, want one to be the other's reason", unable, number)
	}
	errs := []error{tryWork(o)}
	for name, try := range forbidden {
		old <- try
		for where, err := range map[string]error{"a new thread": try(), "an old one": <-answer} {
			if isRefused := errors.Is(err, unix.EACCES); isRefused != (unable == "") {
				errs = append(errs, fmt.Errorf("got %v for %s on %s, want it refused: %v", err, name, where, unable == ""))
			}
		}
	}
	if err := unix.Kill(victim, 0); unable == "" && scopes(int(abi))&unix.LANDLOCK_SCOPE_SIGNAL != 0 && err == nil {
		errs = append(errs, errors.New("got a signal sent to another pod's process, want none"))
	}
	return errors.Join(errs...)
}

func read(path string) error {
	_, err := os.ReadFile(path)
	return err
}

// tryWork does what an agent does all day.
func tryWork(o NodeOptions) error {
	segment, folder := filepath.Join(o.LogDir, "node", "1.log"), filepath.Join(o.LogDir, "node")
	unixListener, err := net.Listen("unix", o.Gate)
	if err != nil {
		return err
	}
	defer unixListener.Close()
	tcpListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer tcpListener.Close()
	var errs []error
	for _, l := range []net.Listener{unixListener, tcpListener} {
		conn, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			return err
		}
		errs = append(errs, conn.Close())
	}
	_, unresolved := net.LookupHost("localhost")
	errs = append(errs, unresolved, read("/etc/hosts"), read("/proc/self/stat"), os.WriteFile(os.DevNull, []byte("x"), 0),
		os.Mkdir(folder, 0o700), os.WriteFile(segment+".new", []byte("x"), 0o600), os.Rename(segment+".new", segment),
		os.Truncate(segment, 0), read(segment), os.Remove(segment), os.Remove(folder))
	return errors.Join(errs...)
}

package workload

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDescribesTheProcessThatTheKernelSaw(t *testing.T) {
	p, path := sleeper(t)
	got := Describe(p)
	want := Facts{PID: uint32(p.PID), Process: "sleep", Exe: path, UID: 0, User: "root", Cgroup: 7}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestExeOfAnotherProcessIsNotShown(t *testing.T) {
	p, _ := sleeper(t)
	for name, change := range map[string]func(*Process){
		"PID used again":     func(p *Process) { p.Started -= 10 * time.Millisecond },
		"runs another file":  func(p *Process) { p.ExeInode++ },
		"of another device":  func(p *Process) { p.ExeDev++ },
		"gone":               func(p *Process) { p.PID = 1<<22 + 1 },
		"nothing is known":   func(p *Process) { *p = Process{PID: p.PID} },
		"kernel thread":      func(p *Process) { p.PID = 2 },
		"no process at all":  func(p *Process) { p.PID = 0 },
		"a negative process": func(p *Process) { p.PID = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			changed := p
			change(&changed)
			if got := Describe(changed).Exe; got != "" {
				t.Errorf("got %q, want no path", got)
			}
		})
	}
}

func TestNameThatBreaksTheStatLineIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), ") R 1 1 1")
	program, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(program, path); err != nil { // the name of the file becomes that of the process
		content, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := start(t, path)
	plain := start(t, program)
	got, ok := started(cmd.Process.Pid)
	want, _ := started(plain.Process.Pid)
	if !ok || got > want || want-got > 1000 {
		t.Errorf("got start %d (%v), want one just before %d", got, ok, want)
	}
}

func TestProcessNameIsValidText(t *testing.T) {
	if got, want := Describe(Process{Comm: "a\xffb"}).Process, "a�b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// sleeper is a process as the kernel would record it.
func sleeper(t *testing.T) (Process, string) {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	cmd := start(t, path)
	if path, err = filepath.EvalSymlinks(path); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	ticks, ok := started(cmd.Process.Pid)
	if !ok {
		t.Fatal("got no start time of a running process")
	}
	return Process{
		PID: cmd.Process.Pid, Comm: "sleep", Cgroup: 7, ExeDev: st.Dev, ExeInode: st.Ino,
		Started: time.Duration(ticks)*10*time.Millisecond + 3*time.Millisecond,
	}, path
}

func start(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(path, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	// Start may return a moment before the process shows its new program: seen on
	// an emulated 6.1, for some milliseconds.
	for range 5000 {
		if shown, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)); err == nil && shown == path {
			return cmd
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("process %d does not run %s", cmd.Process.Pid, path)
	return nil
}

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// counting says READY, counts a signal each time it comes, and ends by "quit" or SIGTERM.
const counting = `trap 'echo GOT' %s; trap 'echo END; exit 7' TERM; echo READY; while :; do sleep 0.05; done`

func TestSignalsReachTheCommandOnce(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	for name, number := range map[string]syscall.Signal{"INT": unix.SIGINT, "HUP": unix.SIGHUP, "QUIT": unix.SIGQUIT, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2} {
		t.Run(name, func(t *testing.T) {
			before := rootPrograms(t)
			p := w.start(t, "sh", "-c", strings.ReplaceAll(counting, "%s", name))
			eventually(t, "the command ready", func() bool { return strings.Contains(p.stdout.String(), "READY") })
			if err := p.Process.Signal(number); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the signal", func() bool { return strings.Contains(p.stdout.String(), "GOT") })
			if err := p.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			r := p.end(t)
			if got := strings.Count(r.stdout, "GOT"); got != 1 || r.code != 7 {
				t.Errorf("got the signal %d times and exit code %d, want once and 7", got, r.code)
			}
			w.nothingLeft(t, before)
		})
	}
}

func TestBackgroundProcessesEndWithTheCommand(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	w.flags = append(w.flags, "--drain", "1s")
	r := w.run(t, "sh", "-c", "setsid sleep 4711 >/dev/null 2>&1 & echo $!")
	pid := strings.TrimSpace(r.stdout)
	if _, err := strconv.Atoi(pid); err != nil || r.code != 0 {
		t.Fatalf("got %q, exit code %d and %q; want a process ID and 0", r.stdout, r.code, r.stderr)
	}
	if words, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); strings.Contains(string(words), "4711") {
		t.Errorf("got process %s alive, want it killed", pid)
	}
}

func TestTerminalIsTheCommands(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	terminal := w.startOnTerminal(t, "sh", "-c", "test -t 0 && test -t 1 && "+strings.ReplaceAll(counting, "%s", "INT"))
	terminal.expect(t, "READY")
	terminal.send(t, "\x03") // Ctrl-C
	terminal.expect(t, "GOT")
	time.Sleep(300 * time.Millisecond) // a second one, if there is any, has come by then
	if got := strings.Count(terminal.shown.String(), "GOT"); got != 1 {
		t.Errorf("got Ctrl-C %d times, want once", got)
	}
	terminal.send(t, "\x1a") // Ctrl-Z stops both, as the shell's job
	eventually(t, "a stopped job", func() bool { return state(t, terminal.cmd.Process.Pid) == "T" })
	if err := unix.Kill(-terminal.cmd.Process.Pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	terminal.send(t, "\x03")
	eventually(t, "Ctrl-C after the job went on", func() bool { return strings.Count(terminal.shown.String(), "GOT") == 2 })
	if err := terminal.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	terminal.end(t, 7)
}

func TestInteractivePsqlCancelsByCtrlC(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	words := w.psql("")
	terminal := w.startOnTerminal(t, append(words[:2], words[3])...)
	terminal.expect(t, "postgres=#")
	terminal.send(t, "SELECT 40 + 2 AS sum;\n")
	terminal.expect(t, "42")
	terminal.send(t, "SELECT pg_sleep(600);\n")
	time.Sleep(500 * time.Millisecond)
	terminal.send(t, "\x03")
	terminal.expect(t, "canceling statement due to user request")
	terminal.send(t, "SELECT 50 + 3 AS sum;\n")
	terminal.expect(t, "53")
	terminal.send(t, "\\q\n")
	terminal.end(t, 0)
}

func TestRunThatLosesItsTerminalLeavesNothing(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	before := rootPrograms(t)
	terminal := w.startOnTerminal(t, "sh", "-c", "echo READY; sleep 600")
	terminal.expect(t, "READY")
	terminal.master.Close() // the kernel sends SIGHUP
	_ = terminal.cmd.Wait()
	w.nothingLeft(t, before)
}

// terminal is a run in a session of its own, in the foreground of a terminal.
type terminal struct {
	cmd    *exec.Cmd
	master *os.File
	shown  *output
	seen   int // of shown, by expect
}

func (w *world) startOnTerminal(t *testing.T, words ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	args := append(append(append([]string{}, w.flags...), "--"), words...)
	x := &terminal{cmd: exec.Command(filepath.Join(shared.dir, postern), args...), master: master, shown: new(output)}
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	x.cmd.Env = append(os.Environ(), "TERM=dumb", "PAGER=cat")
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(x.shown, master) }()
	t.Cleanup(func() { _ = x.cmd.Process.Kill(); master.Close() })
	return x
}

func (x *terminal) send(t *testing.T, keys string) {
	t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// expect waits until text is shown after what was expected before.
func (x *terminal) expect(t *testing.T, text string) {
	t.Helper()
	for range 1200 {
		shown := x.shown.String()
		if at := strings.Index(shown[x.seen:], text); at >= 0 {
			x.seen += at + len(text)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("got %q on the terminal, want %q", x.shown, text)
}

func (x *terminal) end(t *testing.T, want int) {
	t.Helper()
	_ = x.cmd.Wait()
	if got := x.cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("got exit code %d, want %d; the terminal shows %q", got, want, x.shown)
	}
}

// state is a process's, as ps shows it.
func state(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text)[strings.LastIndex(string(text), ")")+1:])
	return fields[0]
}

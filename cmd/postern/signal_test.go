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

func TestSignalsReachTheCommandOnce(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	before := rootPrograms(t)
	p := w.start(t, "sh", "-c", `for name in INT HUP QUIT USR1 USR2; do trap "echo GOT $name" $name; done
		trap 'echo END; exit 7' TERM; echo READY; while :; do sleep 0.05; done`)
	eventually(t, "the command ready", func() bool { return strings.Contains(p.stdout.String(), "READY") })
	for i, number := range []syscall.Signal{unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT} {
		if err := p.Process.Signal(number); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the signal "+number.String(), func() bool { return strings.Count(p.stdout.String(), "GOT") > i })
	}
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	const want = "READY\nGOT INT\nGOT HUP\nGOT QUIT\nGOT USR1\nGOT USR2\nGOT INT\nEND\n"
	if r := p.end(t); r.stdout != want || r.code != 7 {
		t.Errorf("got %q and exit code %d, want %q and 7", r.stdout, r.code, want)
	}
	w.nothingLeft(t, before)
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

// prompt is that of the shell on a [terminal].
const prompt = "next> "

func TestJobOfAShellIsOneWithItsCommand(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	script := filepath.Join(shared.dir, "job.sh")
	text := `test -t 0 && test -t 1 || exit 9
n=0
trap 'n=$((n + 1)); echo GOT $n; test $n = 2 && exit 7' INT
echo READY
while :; do sleep 0.05; done
`
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	shell := startOnTerminal(t, "bash", "--norc", "--noprofile", "-i")
	shell.expect(t, prompt)
	words := append(append([]string{w.program}, w.flags...), "--", "sh", script)
	shell.send(t, strings.Join(words, " ")+"\n")
	shell.expect(t, "READY")
	shell.send(t, "\x03") // Ctrl-C
	shell.expect(t, "GOT 1")
	time.Sleep(300 * time.Millisecond) // a second one, if there is any, has come by then
	if shown := shell.shown.String(); strings.Contains(shown, "GOT 2") {
		t.Errorf("got %q, want Ctrl-C to come once", shown)
	}
	shell.send(t, "\x1a") // Ctrl-Z
	shell.expect(t, "Stopped")
	shell.expect(t, prompt)
	shell.send(t, "fg\n")
	shell.expect(t, script) // the shell shows what goes on
	shell.send(t, "\x03")
	shell.expect(t, "GOT 2")
	shell.expect(t, "postern: ")
	shell.expect(t, prompt)
	shell.send(t, "exit\n") // with the code of the last command
	shell.end(t, 7)
}

func TestInteractivePsqlCancelsByCtrlC(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	words := w.psql("")
	terminal := w.runOnTerminal(t, append(words[:2], words[3])...)
	terminal.expect(t, "postgres=#")
	terminal.send(t, "SELECT 40 + 2 AS sum;\n")
	terminal.expect(t, "42")
	terminal.send(t, "SELECT pg_catalog.pg_sleep(600);\n")
	time.Sleep(500 * time.Millisecond)
	terminal.send(t, "\x03")
	terminal.expect(t, "canceling statement due to user request")
	terminal.send(t, "SELECT 50 + 3 AS sum;\n")
	terminal.expect(t, "53")
	terminal.send(t, "\\q\n")
	terminal.end(t, 0)
}

func TestCommandCannotTypeForItsCaller(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	t.Setenv(workerVariable, typeJob)
	terminal := w.runOnTerminal(t, filepath.Join(shared.dir, worker))
	terminal.expect(t, "typing: "+unix.EPERM.Error())
	terminal.end(t, 0)
}

func TestRunThatLosesItsTerminalLeavesNothing(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	before := rootPrograms(t)
	terminal := w.runOnTerminal(t, "sh", "-c", "echo READY; sleep 600")
	terminal.expect(t, "READY")
	terminal.master.Close() // the kernel sends SIGHUP
	_ = terminal.cmd.Wait()
	w.nothingLeft(t, before)
}

// terminal is a process in a session and on a terminal of its own.
type terminal struct {
	cmd    *exec.Cmd
	master *os.File
	shown  *output
	seen   int // of shown, by expect
}

// runOnTerminal starts words under guard.
func (w *world) runOnTerminal(t *testing.T, words ...string) *terminal {
	t.Helper()
	return startOnTerminal(t, append(append(append([]string{w.program}, w.flags...), "--"), words...)...)
}

func startOnTerminal(t *testing.T, words ...string) *terminal {
	t.Helper()
	descriptor, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(descriptor), "terminal") // a read does not keep it from being closed
	if err := unix.IoctlSetPointerInt(descriptor, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(descriptor, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	x := &terminal{cmd: exec.Command(words[0], words[1:]...), master: master, shown: new(output)}
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	x.cmd.Env = append(os.Environ(), "TERM=dumb", "PAGER=cat", "PS1="+prompt)
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

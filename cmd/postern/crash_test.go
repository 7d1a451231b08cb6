package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"postern.dev/postern/testenv"
)

// TestNoWayOpensWhoeverIsKilled kills what guards a command while the command
// connects as fast as it can, with a password that lets it in at the server.
func TestNoWayOpensWhoeverIsKilled(t *testing.T) {
	for name, row := range map[string]struct {
		agent, keeper bool
	}{
		"agent":  {agent: true},
		"keeper": {keeper: true},
		"both":   {agent: true, keeper: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "linux:"+guest)
			before := rootPrograms(t)
			role := "direct_" + name
			shared.server.MustExec(t, "postgres", "DROP ROLE IF EXISTS "+role+"; CREATE ROLE "+role+" LOGIN PASSWORD 'right'")
			p := w.startWorker(t, role)
			eventually(t, "connections through Postern", func() bool { return strings.Count(p.stdout.String(), testenv.Superuser) > 20 })
			keeper := keeperOf(t, p)
			if row.agent && row.keeper { // stopped, the agent starts no other keeper in between
				send(t, p.Process.Pid, syscall.SIGSTOP)
			}
			if row.keeper {
				send(t, keeper, syscall.SIGKILL)
			}
			if row.agent {
				send(t, p.Process.Pid, syscall.SIGKILL)
			}
			if row.keeper && !row.agent { // which has started another one, and goes on
				replaced(t, p, keeper)
			}
			w.afterwards(t, p, row.agent, row.keeper)
			if strings.Contains(p.stdout.String(), role) {
				t.Errorf("got a connection as %s, want none around Postern", role)
			}
			w.nothingLeft(t, before)
		})
	}
}

func TestKilledAgentLeavesNoCertificate(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	before := rootPrograms(t)
	folder := filepath.Join(w.dir, "certificates")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(folder, "-ca.pem") // no flag, though it looks like one
	w.flags = append(w.flags, "--ca-file", ca)
	p := w.start(t, "sh", "-c", "echo READY; exec sleep 600")
	eventually(t, "the command ready", func() bool { return strings.Contains(p.stdout.String(), "READY") })
	if !exists(ca) {
		t.Errorf("got no %s while the command runs, want one", ca)
	}
	first := keeperOf(t, p)
	send(t, first, syscall.SIGKILL) // the one that takes its place knows the file too
	replaced(t, p, first)
	// The folder is held: what lies under its path by then is another's.
	if err := errors.Join(os.Rename(folder, folder+".old"), os.Mkdir(folder, 0o755), os.WriteFile(ca, []byte("kept"), 0o600)); err != nil {
		t.Fatal(err)
	}
	send(t, p.Process.Pid, syscall.SIGKILL)
	_ = p.Wait()
	w.nothingLeft(t, before)
	if left, _ := os.ReadDir(folder + ".old"); len(left) > 0 {
		t.Errorf("got %v, want no file left", left)
	}
	if text, _ := os.ReadFile(ca); string(text) != "kept" {
		t.Errorf("got %q in another folder, want it kept", text)
	}
}

// afterwards checks what has to happen once agent or keeper are dead.
func (w *world) afterwards(t *testing.T, p *process, agent, keeper bool) {
	t.Helper()
	group := filepath.Join(cgroups(t), "postern-"+w.runs(t)[0])
	switch {
	case !agent:
		served := strings.Count(p.stdout.String(), testenv.Superuser)
		eventually(t, "more connections through Postern", func() bool { return strings.Count(p.stdout.String(), testenv.Superuser) > served+20 })
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if r := p.end(t); r.code != 128+15 {
			t.Errorf("got exit code %d, want %d", r.code, 128+15)
		}
	case !keeper: // which has ended the command, and then let go
		eventually(t, "the end of the run", func() bool { return !exists(group) })
		_ = p.Wait()
	default: // the command lives, refused; the next run ends it
		refused := strings.Count(p.stdout.String(), "refused")
		eventually(t, "refused connections", func() bool { return strings.Count(p.stdout.String(), "refused") > refused+20 })
		r := w.run(t, "true")
		if r.code != 0 || !strings.Contains(r.stderr, "Cleared a run that nobody had ended") {
			t.Errorf("got exit code %d and %q, want 0 and a word about what was cleared", r.code, r.stderr)
		}
		if exists(group) {
			t.Errorf("got %s after the next run, want it gone", group)
		}
		_ = p.Wait()
	}
}

// startWorker starts the test binary under guard, with the password of role.
func (w *world) startWorker(t *testing.T, role string) *process {
	t.Helper()
	t.Setenv(workerVariable, fmt.Sprintf("host=localhost port=%d user=%s password=right dbname=postgres sslmode=prefer", w.port, role))
	return w.start(t, filepath.Join(shared.dir, worker))
}

// replaced waits until a run has another keeper than the one that was killed,
// which may be seen for a moment still.
func replaced(t *testing.T, p *process, killed int) {
	t.Helper()
	eventually(t, "another keeper", func() bool {
		one := keeperOf(t, p)
		return one != 0 && one != killed
	})
}

// keeperOf is the process ID of a run's keeper, or 0.
func keeperOf(t *testing.T, p *process) int {
	t.Helper()
	for _, one := range processesOf(t, filepath.Join(shared.dir, postern)) {
		status, _ := os.ReadFile(filepath.Join("/proc", one, "status"))
		words, _ := os.ReadFile(filepath.Join("/proc", one, "cmdline"))
		if strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", p.Process.Pid)) && strings.Contains(string(words), "\x00keeper\x00") {
			pid, _ := strconv.Atoi(one)
			return pid
		}
	}
	return 0
}

func send(t *testing.T, pid int, one syscall.Signal) {
	t.Helper()
	if pid == 0 {
		t.Fatalf("got no process to send %s to, want one", one)
	}
	if err := syscall.Kill(pid, one); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

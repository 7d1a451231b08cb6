package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestRunRefusesWhatItsUserCouldUndo gives the guest a hold on each file that
// a run rests on.
func TestRunRefusesWhatItsUserCouldUndo(t *testing.T) {
	const guestID = 65534
	for name, row := range map[string]struct {
		spoil func(w *world) (path string, err error)
		want  string // %s is the path
	}{
		"credential is readable": {func(w *world) (string, error) {
			path := filepath.Join(w.dir, "login.yaml")
			return path, os.Chmod(path, 0o644)
		}, "nobody has access to %s; type: chown root:root %s && chmod 600 %s"},
		"credential is the user's": {func(w *world) (string, error) {
			path := filepath.Join(w.dir, "login.yaml")
			return path, os.Chown(path, guestID, guestID)
		}, "nobody has access to %s; type: chown root:root %s && chmod 600 %s"},
		"operator's key is readable": {func(w *world) (string, error) {
			path := filepath.Join(w.dir, "operator")
			return path, os.WriteFile(path, nil, 0o644)
		}, "nobody has access to %s; type: chown root:root %s && chmod 600 %s"},
		"trail is readable": {func(w *world) (string, error) {
			path := filepath.Join(w.dir, "log")
			return path, os.Mkdir(path, 0o755)
		}, "nobody has access to %s; type: chown root:root %s && chmod 700 %s"},
		"policy is writable": {func(w *world) (string, error) {
			return w.policy, os.Chmod(w.policy, 0o666)
		}, "nobody can write %s; type: chown root:root %s && chmod go-w %s"},
		"policy's folder is writable": {func(w *world) (string, error) {
			return w.dir, os.Chmod(w.dir, 0o777)
		}, "%s is not root's alone; type: chown root:root %s && chmod go-w %s"},
		"policy's folder is the user's": {func(w *world) (string, error) {
			return w.dir, os.Chown(w.dir, guestID, 0)
		}, "%s is not root's alone; type: chown root:root %s && chmod go-w %s"},
		"policy is behind the user's link": {func(w *world) (string, error) {
			folder := filepath.Join(w.dir, "links")
			link := filepath.Join(folder, "policy.yaml")
			w.flags[2] = link
			return folder, errors.Join(os.Mkdir(folder, 0o755), os.Symlink(w.policy, link), os.Chown(folder, guestID, 0))
		}, "%s is not root's alone; type: chown root:root %s && chmod go-w %s"},
		"program is in the user's folder": {func(w *world) (string, error) {
			folder := filepath.Join(w.dir, "bin")
			text, err := os.ReadFile(w.program)
			w.program = filepath.Join(folder, postern)
			return folder, errors.Join(err, os.Mkdir(folder, 0o755), os.WriteFile(w.program, text, 0o755), os.Chown(folder, guestID, 0))
		}, "%s is not root's alone; type: chown root:root %s && chmod go-w %s"},
		"trail can be made by the user first": {func(w *world) (string, error) {
			folder := filepath.Join(w.dir, "sticky")
			w.flags = append(w.flags, "--log-dir", filepath.Join(folder, "log"))
			return folder, errors.Join(os.Mkdir(folder, 0o755), os.Chmod(folder, 0o777|os.ModeSticky))
		}, "%s is not root's alone; type: chown root:root %s && chmod go-w %s"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "linux:"+guest)
			open(t, w.dir)
			path, err := row.spoil(w)
			if err != nil {
				t.Fatal(err)
			}
			r := w.run(t, "touch", filepath.Join(w.dir, "ran"))
			want := strings.ReplaceAll(row.want, "%s", path)
			if r.code != runFailed || !strings.Contains(r.stderr, want) {
				t.Errorf("got exit code %d and %q, want %d and %q", r.code, r.stderr, runFailed, want)
			}
			if exists(filepath.Join(w.dir, "ran")) {
				t.Error("got the command run, want it not started")
			}
		})
	}
}

func TestRunSaysWhatToType(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	flags := w.flags
	user := func(words ...string) func() {
		return func() {
			w.flags = append([]string{"run", "-f", w.policy, "--log-dir", filepath.Join(w.dir, "log"), "--operator-key", filepath.Join(w.dir, "operator")}, words...)
		}
	}
	for name, row := range map[string]struct {
		change func()
		want   string
	}{
		"nobody is named": {user(), "name its user with --user, or call run with sudo"},
		"root is named":   {user("--user", "root"), "a command of root cannot be guarded: name another user with --user"},
		"unknown user":    {user("--user", "postern-no-such-user"), "unknown user postern-no-such-user"},
		"unknown number":  {user("--user", "4294967290"), "unknown userid 4294967290"},
		"root's number":   {user("--user", "0"), "a command of root cannot be guarded: name another user with --user"},
		"no policy":       {func() { w.flags[2] = "/nowhere/policy.yaml" }, "/nowhere/policy.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SUDO_UID", "")
			w.flags = slices.Clone(flags)
			row.change()
			if r := w.run(t, "true"); r.code != runFailed || !strings.Contains(r.stderr, row.want) {
				t.Errorf("got exit code %d and %q, want %d and %q", r.code, r.stderr, runFailed, row.want)
			}
		})
	}
}

func TestNameWithoutAnAddressThatWouldBeOpenStartsNothing(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	text, err := os.ReadFile(w.policy)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "policy.yaml", strings.Replace(string(text), "hosts: [localhost]", "hosts: [nowhere.invalid]\n  unknownHosts: pass", 1))
	r := w.run(t, "echo", "RAN")
	if want := "host nowhere.invalid has no address"; r.code != runFailed || r.stdout != "" || !strings.Contains(r.stderr, want) {
		t.Errorf("got %q, exit code %d and %q; want nothing, %d and %q", r.stdout, r.code, r.stderr, runFailed, want)
	}
}

func TestRunWithoutRootSaysSo(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	cmd := exec.Command(w.program, append(w.flags, "--", "true")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("got a run without root, want none")
	}
	r := ending{stderr: string(out), code: cmd.ProcessState.ExitCode()}
	if want := "run needs root to guard a command: put sudo before it"; r.code != runFailed || !strings.Contains(r.stderr, want) {
		t.Errorf("got exit code %d and %q, want %d and %q", r.code, r.stderr, runFailed, want)
	}
}

// open lets the guest look into a folder and those above that the test made.
func open(t *testing.T, dir string) {
	t.Helper()
	for ; strings.HasPrefix(filepath.Base(dir), "Test") || strings.HasPrefix(filepath.Base(filepath.Dir(dir)), "Test"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"postern.dev/postern/testenv"
)

// guest is whom the tests guard: an account that every machine has.
const guest = "nobody"

// workerVariable makes the test binary the worker of a test: see work.
const workerVariable = "POSTERN_TEST_WORKER"

func TestMain(m *testing.M) {
	if job := os.Getenv(workerVariable); job != "" {
		os.Exit(work(job))
	}
	// Under nohup the commands of the tests would ignore what they are to hear.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	code := m.Run()
	if shared.dir != "" {
		code = max(code, exitCode(errors.Join(shared.server.Close(), os.RemoveAll(shared.dir)), os.Stderr))
	}
	os.Exit(code)
}

// shared is what every test uses: one server, and the program under test.
var shared struct {
	once   sync.Once
	err    error
	dir    string // the guest may look into it
	server *testenv.Postgres
}

const (
	postern = "postern" // in shared.dir
	worker  = "worker"
)

// world is a policy for the guest on the shared server, and where a run of it
// puts its files.
type world struct {
	dir     string // root's alone
	policy  string
	port    int
	program string
	flags   []string
}

// target and access are documents of a policy; access allows all that it is given.
const (
	target = `apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec:
  protocol: postgres
  hosts: [localhost]
  ports: [%d]
  tls: {mode: verify-full, ca: {file: %q}}
  credential: {file: %q}
`
	access = `---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: everything}
spec:
  subjects: [{users: [%q]}]
  targets: [db]
  rules: [{name: all, allow: [ALL], functions: ["pg_catalog.*"]}]
`
)

// newWorld makes a policy under which user may do everything.
func newWorld(t *testing.T, user string, more ...string) *world {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root, to guard a command")
	shared.once.Do(func() { shared.err = prepare() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	w := &world{dir: t.TempDir(), port: shared.server.Port, program: filepath.Join(shared.dir, postern)}
	w.policy = filepath.Join(w.dir, "policy.yaml")
	login := w.write(t, "login.yaml", fmt.Sprintf("username: %s\npassword: %s\n", testenv.Superuser, shared.server.Password))
	text := fmt.Sprintf(target, w.port, shared.server.CAFile, login) + fmt.Sprintf(access, user) + strings.Join(more, "")
	w.write(t, "policy.yaml", text)
	w.flags = []string{"run", "-f", w.policy, "--user", guest, "--log-dir", filepath.Join(w.dir, "log"), "--operator-key", filepath.Join(w.dir, "operator")}
	return w
}

func prepare() (err error) {
	if shared.dir, err = os.MkdirTemp("", "postern-test-"); err != nil {
		return err
	}
	if err := os.Chmod(shared.dir, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", filepath.Join(shared.dir, postern), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(shared.dir, worker), self, 0o755); err != nil {
		return err
	}
	shared.server, err = testenv.RunPostgres(context.Background())
	return err
}

func (w *world) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ending is how a run ended.
type ending struct {
	stdout, stderr string
	code           int
}

// process is a run under way.
type process struct {
	*exec.Cmd
	stdout, stderr *output
}

// start starts words under guard.
func (w *world) start(t *testing.T, words ...string) *process {
	t.Helper()
	return w.startWith(t, nil, words...)
}

func (w *world) startWith(t *testing.T, stdin io.Reader, words ...string) *process {
	t.Helper()
	args := append(append(append([]string{}, w.flags...), "--"), words...)
	p := &process{Cmd: exec.Command(w.program, args...), stdout: new(output), stderr: new(output)}
	p.Stdin, p.Stdout, p.Stderr = stdin, p.stdout, p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill() })
	return p
}

func (p *process) end(t *testing.T) ending {
	t.Helper()
	done := make(chan struct{})
	go func() { _ = p.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		_ = p.Process.Kill()
		t.Fatalf("got no end in two minutes, want one; stdout %q, stderr %q", p.stdout, p.stderr)
	}
	return ending{p.stdout.String(), p.stderr.String(), p.ProcessState.ExitCode()}
}

// run runs words under guard to their end, after which nothing may be left.
func (w *world) run(t *testing.T, words ...string) ending {
	t.Helper()
	before := rootPrograms(t)
	r := w.start(t, words...).end(t)
	w.nothingLeft(t, before)
	return r
}

// psql are the words of an unmodified psql with a wrong password.
func (w *world) psql(statement string, settings ...string) []string {
	info := fmt.Sprintf("host=localhost port=%d user=anyone password=wrong dbname=postgres %s", w.port, strings.Join(settings, " "))
	return []string{"psql", "-X", "-At", info, "-c", statement}
}

// trail is every line of every log of the world's runs.
func (w *world) trail(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "log", "*", "*", "leaves-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(bytes.TrimRight(text, "\x00"))
	}
	return all.String()
}

// nothingLeft checks that no process, cgroup or program of the world's runs is there.
func (w *world) nothingLeft(t *testing.T, before map[ebpf.ProgramID]bool) {
	t.Helper()
	for _, id := range w.runs(t) {
		if left, _ := filepath.Glob(filepath.Join(cgroups(t), "postern-"+id)); len(left) > 0 {
			t.Errorf("got cgroup %s, want none left", left[0])
		}
	}
	eventually(t, "no program at the root of the cgroups, and no process of the program", func() bool {
		for id := range rootPrograms(t) {
			if !before[id] {
				return false
			}
		}
		return len(processesOf(t, w.program)) == 0
	})
}

// runs are the IDs of the world's runs, as the trail names them.
func (w *world) runs(t *testing.T) []string {
	t.Helper()
	var ids []string
	for line := range strings.Lines(w.trail(t)) {
		if _, rest, ok := strings.Cut(line, `"run":"`); ok && strings.Contains(line, `"agent.attach"`) {
			id, _, _ := strings.Cut(rest, `"`)
			ids = append(ids, id)
		}
	}
	return ids
}

// rootPrograms are the programs at the root of the hierarchy.
func rootPrograms(t *testing.T) map[ebpf.ProgramID]bool {
	t.Helper()
	root, err := os.Open(cgroups(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	all := make(map[ebpf.ProgramID]bool)
	for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(root.Fd()), Attach: hook})
		if err != nil {
			t.Fatal(err)
		}
		for _, program := range found.Programs {
			all[program.ID] = true
		}
	}
	return all
}

// cgroups is where the cgroup v2 hierarchy is mounted.
func cgroups(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	t.Fatal("got no cgroup v2 hierarchy, want one")
	return ""
}

// processesOf are those that run the file program.
func processesOf(t *testing.T, program string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, one := range links {
		if path, err := os.Readlink(one); err == nil && path == program {
			found = append(found, filepath.Base(filepath.Dir(one)))
		}
	}
	return found
}

// eventually waits for what other processes are about to do.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 1200 {
		if done() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("got it not in a minute, want %s", what)
}

// output is what a process has printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write is [io.Writer]'s.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// String is what was written.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

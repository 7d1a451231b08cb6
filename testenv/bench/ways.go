package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"postern.dev/postern/testenv"
)

// A way leads from a worker to the server; proxy is the process between them,
// zero for direct.
type way struct {
	name    string
	host    string
	port    int
	login   login
	proxy   int // pid
	process *exec.Cmd
	jobs    *json.Encoder
	answers *json.Decoder
}

// A figure is one measurement of a case on a way.
type figure struct {
	rate float64 // transactions or rows a second
	cpu  float64 // of the proxy: µs a transaction; for rows s a GB
}

type bench struct {
	server *testenv.Postgres
	dir    string
	ways   []*way
	others []*exec.Cmd
}

const (
	role     = "bench"
	database = "bench"
)

func prepare(ctx context.Context, o options) (*bench, error) {
	b := new(bench)
	if err := b.start(ctx, o); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) start(ctx context.Context, o options) (err error) {
	if b.server, err = testenv.RunPostgres(ctx, "shared_buffers = 512MB"); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "postern-bench-"); err != nil {
		return err
	}
	password := b.server.Password
	if err := b.fill(ctx, o, password); err != nil {
		return err
	}
	binary, err := b.install()
	if err != nil {
		return err
	}
	direct := &way{name: "direct", host: "127.0.0.1", port: b.server.Port, login: login{role, password, database}}
	if err := direct.startWorker(exec.Command(binary, "worker")); err != nil {
		return err
	}
	b.ways = append(b.ways, direct)
	if err := b.addRelay(binary, direct); err != nil {
		return err
	}
	if err := b.addPostern(o, binary, "Postern", ""); err != nil {
		return err
	}
	return b.addPostern(o, binary, "Postern, masks", masks)
}

// install copies this program where the guarded account can run it.
func (b *bench) install() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return "", err
	}
	content, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.dir, "bench")
	return path, os.WriteFile(path, content, 0o755)
}

func (b *bench) fill(ctx context.Context, o options, password string) error {
	if err := b.server.Exec(ctx, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", role, password)); err != nil {
		return err
	}
	if err := b.server.Exec(ctx, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", database, role)); err != nil {
		return err
	}
	fill := exec.CommandContext(ctx, "pgbench", "--initialize", "--quiet", "--scale", "1", b.server.UserURL(role, password, database))
	if out, err := fill.CombinedOutput(); err != nil {
		return fmt.Errorf("pgbench --initialize: %w\n%s", err, out)
	}
	// About 100 bytes a row on the wire.
	return b.server.Exec(ctx, database, fmt.Sprintf(`
		CREATE TABLE large AS SELECT i AS id, 'customer-' || i || '@example.com' AS email, md5(i::text) AS note
		FROM generate_series(1, %d) i;
		GRANT SELECT ON large TO %s; ANALYZE large; SELECT count(*) FROM large`, o.rows, role))
}

func (b *bench) addRelay(binary string, direct *way) error {
	process := exec.Command(binary, "relay", b.server.Address())
	out, err := process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return err
	}
	b.others = append(b.others, process)
	w := &way{name: "relay", host: "127.0.0.1", login: direct.login, proxy: process.Process.Pid}
	if _, err := fmt.Fscanln(out, &w.port); err != nil {
		return fmt.Errorf("read the relay's port: %w", err)
	}
	if err := w.startWorker(exec.Command(binary, "worker")); err != nil {
		return err
	}
	b.ways = append(b.ways, w)
	return nil
}

// masks declares a column of every table that the cases read.
const masks = `
  sensitive:
    - {columns: ["public.large.email", "public.pgbench_accounts.filler"], mask: redact}`

const policy = `apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: bench}
spec:
  protocol: postgres
  hosts: ["127.0.0.1"]
  ports: [%d]
  source: node
  tls: {mode: disable}
  credential: {file: %s}%s
---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: bench}
spec:
  subjects: [{users: ["linux:%s"]}]
  targets: [bench]
  rules: [{name: reads, allow: [SELECT], relations: ["*.*"]}]
`

func (b *bench) addPostern(o options, binary, name, sensitive string) error {
	dir, err := os.MkdirTemp(b.dir, "postern-")
	if err != nil {
		return err
	}
	credential, policyFile := filepath.Join(dir, "login.yaml"), filepath.Join(dir, "policy.yaml")
	if err := errors.Join(
		os.WriteFile(credential, fmt.Appendf(nil, "username: %s\npassword: %s\n", role, b.server.Password), 0o600),
		os.WriteFile(policyFile, fmt.Appendf(nil, policy, b.server.Port, credential, sensitive, o.user), 0o600),
	); err != nil {
		return err
	}
	process := exec.Command(o.postern, "run", "-f", policyFile, "--user", o.user,
		"--log-dir", filepath.Join(dir, "log"), "--operator-key", filepath.Join(dir, "operator.key"), "--", binary, "worker")
	w := &way{name: name, host: "127.0.0.1", port: b.server.Port, login: login{role, "not-the-password", database}}
	if err := w.startWorker(process); err != nil {
		return err
	}
	w.proxy = process.Process.Pid
	b.ways = append(b.ways, w)
	return nil
}

func (w *way) startWorker(process *exec.Cmd) error {
	in, err := process.StdinPipe()
	if err != nil {
		return err
	}
	out, err := process.StdoutPipe()
	if err != nil {
		return err
	}
	process.Stderr = os.Stderr
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C ends the bench, which ends these in order
	w.process, w.jobs, w.answers = process, json.NewEncoder(in), json.NewDecoder(out)
	return process.Start()
}

func (w *way) measure(ctx context.Context, j job) (figure, error) {
	if err := ctx.Err(); err != nil {
		return figure{}, err
	}
	j.Host, j.Port, j.Login = w.host, w.port, w.login
	before, err := cpuSeconds(w.proxy)
	if err != nil {
		return figure{}, err
	}
	if err := w.jobs.Encode(j); err != nil {
		return figure{}, err
	}
	var a answer
	if err := w.answers.Decode(&a); err != nil {
		return figure{}, err
	}
	if a.Error != "" {
		return figure{}, errors.New(a.Error)
	}
	after, err := cpuSeconds(w.proxy)
	if err != nil {
		return figure{}, err
	}
	f := figure{rate: a.Done / a.Seconds, cpu: (after - before) * 1e6 / a.Done}
	if j.Query != "" {
		f.cpu = (after - before) * 1e9 / float64(a.Bytes)
	}
	return f, nil
}

// cpuSeconds is what a process has used so far, user and system.
//
// Source: proc_pid_stat(5), fields utime and stime, in ticks of 10 ms.
func cpuSeconds(pid int) (float64, error) {
	if pid == 0 {
		return 0, nil
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest) // from field 3, state, on
	if len(fields) < 13 {
		return 0, io.ErrUnexpectedEOF
	}
	utime, err1 := strconv.ParseFloat(fields[11], 64)
	stime, err2 := strconv.ParseFloat(fields[12], 64)
	return (utime + stime) / 100, errors.Join(err1, err2)
}

func (b *bench) close() {
	for _, w := range b.ways {
		_ = w.process.Process.Signal(syscall.SIGTERM)
		_ = w.process.Wait()
	}
	for _, other := range b.others {
		_ = other.Process.Kill()
		_ = other.Wait()
	}
	if b.server != nil {
		_ = b.server.Close()
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/testenv"
)

func TestUnmodifiedPsqlGetsInWithAWrongPasswordUnderGuardAlone(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	words := w.psql("SELECT 40 + 2")
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err == nil {
		t.Fatalf("got %q without Postern and with a wrong password, want psql to fail", out)
	}
	r := w.run(t, words...)
	if r.stdout != "42\n" || r.code != 0 {
		t.Errorf("got %q, exit code %d and %q; want 42 and 0", r.stdout, r.code, r.stderr)
	}
	trail := w.trail(t)
	for _, want := range []string{
		`"kind":"agent.start"`, `"kind":"policy"`, `"kind":"agent.attach"`, `"kind":"session.open"`, `"kind":"request"`, `"kind":"outcome"`,
		`"kind":"session.close"`, `"kind":"ledger"`, `"missing":0`, `"kind":"agent.detach"`, `"kind":"agent.stop"`,
		`"user":"linux:nobody"`, `"process":"psql"`, `"linux_user":"nobody"`, `"verified":"kernel"`,
	} {
		if !strings.Contains(trail, want) {
			t.Errorf("got no %s, want it in the trail\n%s", want, trail)
		}
	}
	for _, secret := range []string{"password=wrong", shared.server.Password, "40 + 2"} {
		if strings.Contains(trail, secret) {
			t.Errorf("got %q in a leaf, want none", secret)
		}
	}
	summary := regexp.MustCompile(`(?m)^postern: \d+ records, 0 refused; log /\S+; checkpoint \S{44}$`)
	if !summary.MatchString(r.stderr) {
		t.Errorf("got %q, want a line that sums the run up", r.stderr)
	}
}

func TestExitCodeIsTheCommands(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	script := filepath.Join(shared.dir, "not-executable")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		words []string
		want  int
	}{
		"success":        {[]string{"true"}, 0},
		"failure":        {[]string{"sh", "-c", "exit 3"}, 3},
		"a signal":       {[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
		"not found":      {[]string{"postern-no-such-command"}, notFound},
		"not executable": {[]string{script}, notExecutable},
		"its own flags":  {[]string{"sh", "-c", "exit $#", "--", "-f", "--user"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			if r := w.run(t, row.words...); r.code != row.want {
				t.Errorf("got exit code %d and %q, want %d", r.code, r.stderr, row.want)
			}
		})
	}
}

func TestCommandIsItsUserAndNothingMore(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	t.Setenv("SUDO_UID", "4711")
	t.Setenv("SUDO_COMMAND", "secret")
	t.Setenv("HOME", "/root")
	t.Setenv("KEPT", "as it was")
	extra, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	r := w.runWith(t, extra, "sh", "-c", `id -u; id -g; echo "$HOME $USER $LOGNAME $SUDO_UID$SUDO_COMMAND $KEPT"; umask; ulimit -c
		grep -E '^(NoNewPrivs|Cap)' /proc/self/status; cat; ls /proc/$$/fd; sed 's/.*://' /proc/self/cgroup | tail -1`)
	for _, want := range []string{
		"65534\n65534\n", "/nonexistent nobody nobody  as it was\n", "0027\n", "unlimited\n", "NoNewPrivs:\t1\n", "standard input\n", "0\n1\n2\n", "/command\n",
		"CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("got no %q, want it in\n%s%s", want, r.stdout, r.stderr)
		}
	}
	if strings.Contains(r.stdout, "\n3\n") {
		t.Errorf("got descriptor 3 in the command, want only 0, 1 and 2: %q", r.stdout)
	}
}

// runWith runs words with an umask, a core limit, standard input and an open
// descriptor of a caller.
func (w *world) runWith(t *testing.T, extra *os.File, words ...string) ending {
	t.Helper()
	shell := append([]string{"-c", `umask 027; ulimit -c unlimited; exec "$@"`, "sh", w.program}, w.flags...)
	cmd := exec.Command("sh", append(append(shell, "--"), words...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("standard input\n"), &stdout, &stderr
	cmd.ExtraFiles = []*os.File{extra, extra, extra}
	if err := cmd.Run(); err != nil {
		t.Fatalf("got error %v and %q, want none", err, stderr.String())
	}
	return ending{stdout.String(), stderr.String(), 0}
}

func TestTwoRunsAtOnceDoNotMeet(t *testing.T) {
	first, second := newWorld(t, "linux:"+guest), newWorld(t, "linux:"+guest)
	before := rootPrograms(t)
	query := "SELECT 40 + 2, pg_catalog.pg_sleep(0.2)"
	var runs []*process
	for range 2 {
		runs = append(runs, first.start(t, first.psql(query)...), second.start(t, second.psql(query)...))
	}
	for _, p := range runs {
		if r := p.end(t); r.code != 0 || r.stdout != "42|\n" {
			t.Errorf("got %q, exit code %d and %q; want 42| and 0", r.stdout, r.code, r.stderr)
		}
	}
	first.nothingLeft(t, before)
	second.nothingLeft(t, before)
}

func TestClientThatVerifiesTakesTheRunsCertificate(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	dir, err := os.MkdirTemp(shared.dir, "ca-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	w.flags = append(w.flags, "--ca-file", ca)
	for _, host := range []string{"localhost", "127.0.0.1"} {
		r := w.run(t, w.psql("SELECT 42", "host="+host, "sslmode=verify-full", "sslrootcert="+ca)...)
		if r.stdout != "42\n" {
			t.Errorf("got %q and %q from %s, want 42", r.stdout, r.stderr, host)
		}
	}
	r := w.run(t, w.psql("SELECT 42", "sslmode=verify-full", "sslrootcert="+shared.server.CAFile)...)
	if r.code == 0 {
		t.Errorf("got %q from a client that trusts the server's authority alone, want a refusal", r.stdout)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("got %v, want no file left", left)
	}
}

func TestGuardedPortOfAStrangerIsRefusedByName(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	text, err := os.ReadFile(w.policy)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "policy.yaml", strings.Replace(string(text), "hosts: [localhost]", "hosts: [192.0.2.1]", 1))
	r := w.run(t, w.psql("SELECT 42")...)
	if r.code == 0 || !strings.Contains(r.stderr, "FATAL") {
		t.Errorf("got exit code %d, %q and %q; want a FATAL error of the protocol", r.code, r.stdout, r.stderr)
	}
	if trail := w.trail(t); !strings.Contains(trail, `"kind":"refusal"`) || !strings.Contains(trail, "unknown-host") {
		t.Errorf("got no refusal of the unknown host, want one in\n%s", trail)
	}
}

func TestCommandRunsAsWhoCalledSudo(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	w.flags = slices.DeleteFunc(w.flags, func(word string) bool { return word == "--user" || word == guest })
	t.Setenv("SUDO_UID", "65534")
	if r := w.run(t, "id", "-un"); r.stdout != guest+"\n" || r.code != 0 {
		t.Errorf("got %q, exit code %d and %q; want %s and 0", r.stdout, r.code, r.stderr, guest)
	}
}

func TestCommandRunsAsAUserThatIsNumbered(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	w.flags[slices.Index(w.flags, "--user")+1] = "65534"
	if r := w.run(t, "id", "-un"); r.stdout != guest+"\n" || r.code != 0 {
		t.Errorf("got %q, exit code %d and %q; want %s and 0", r.stdout, r.code, r.stderr, guest)
	}
}

func TestMetricsAndHealthAreServed(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	port, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	w.flags = append(w.flags, "--metrics-address", address)
	client := w.startClient(t, "SELECT 42")
	if got := client.ask(t); !strings.Contains(got, "42") {
		t.Fatalf("got %q, want 42", got)
	}
	eventually(t, "an agent that is ready", func() bool { status, _ := get(t, address, "/readyz"); return status == http.StatusOK })
	if status, body := get(t, address, "/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("got status %d and %q, want 200 and ok", status, body)
	}
	_, metrics := get(t, address, "/metrics")
	for _, want := range []string{
		`postern_build_info{`, "postern_policy_loaded 1", "postern_audit_failed 0", `postern_kernel_connections_total{verdict="redirected"} 1`,
		`postern_requests_total{action="allow",target="db"} 1`, `postern_sessions_total{target="db"} 1`, `postern_audit_records_total{kind="request"} 1`,
	} {
		if !strings.Contains(metrics, "\n"+want) {
			t.Errorf("got no %q, want it in\n%s", want, metrics)
		}
	}
	client.close(t)
}

func get(t *testing.T, address, path string) (status int, body string) {
	t.Helper()
	answer, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestVersionAndUnknownCommands(t *testing.T) {
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"nonsense"}, "unknown command"},
	} {
		var stderr bytes.Buffer
		code := exitCode(run(t.Context(), row.args, &stderr), &stderr)
		if code != 1 || !strings.Contains(stderr.String(), row.want) {
			t.Errorf("got exit code %d and %q for %v, want 1 and %q", code, stderr.String(), row.args, row.want)
		}
	}
	if err := run(t.Context(), []string{"version"}, new(bytes.Buffer)); err != nil {
		t.Error(fmt.Errorf("got %w, want none", err))
	}
}

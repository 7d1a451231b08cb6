package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/audit"
)

// trail is a folder of logs as a run leaves it.
type trail struct {
	dir, key, kept string
	request, reply *audit.Record
}

func newTrail(t *testing.T) *trail {
	t.Helper()
	root := t.TempDir()
	x := &trail{dir: filepath.Join(root, "log"), key: filepath.Join(root, "operator.key"), kept: filepath.Join(root, "kept")}
	if _, err := audit.EnsureOperatorKey(x.key); err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(audit.Options{Dir: x.dir, Node: "n1", Agent: "0.1.0", OperatorKey: x.key, CheckpointFile: x.kept})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run errgroup.Group
	run.Go(func() error { return l.Run(ctx) })
	x.request = &audit.Record{
		Kind: audit.KindRequest, Session: audit.NewID(), Seq: 1,
		Workload: &audit.Workload{User: "linux:ada", Process: "psql\x1b[2J", PID: 7, LinuxUID: 1000},
		Target:   &audit.Target{Name: "orders-db", Database: "orders"},
		Request: &audit.Request{Operations: []string{"DDL"}, Relations: []string{"public.users"},
			Text: "drop table\n\tusers -- \u202e\x1b]0;owned\x07", Parameters: []string{"'x'"}},
		Decision: &audit.Decision{Action: "deny", Policy: "report-agents", Rule: "no-ddl", Reason: "not here", Hash: "sha256:0"},
	}
	x.reply = &audit.Record{
		Kind: audit.KindOutcome, Session: x.request.Session, Seq: 1,
		Outcome: &audit.Outcome{Status: audit.StatusRefused, Code: "42501", DurationUS: 913, Masked: map[string]int64{"public.users.email": 12}},
	}
	for _, r := range []*audit.Record{x.request, x.reply} {
		x.reply.RequestID = x.request.ID
		if _, err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := run.Wait(); err != nil {
		t.Fatal(err)
	}
	return x
}

func auditRun(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	c := auditCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	err = c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestAuditTailPrintsALineARecordThatNoTerminalObeys(t *testing.T) {
	x := newTrail(t)
	out, err := auditRun(t, "tail", "--log-dir", x.dir)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if got, want := len(lines), 5; got != want { // key, start, request, outcome, stop
		t.Fatalf("got %d lines, want %d:\n%s", got, want, out)
	}
	for _, want := range []string{
		x.request.ID[28:], "linux:ada", `psql\x1b[2J`, "orders-db/orders", "DDL public.users", `drop table users -- \u202e\x1b]0;owned\a`,
		"DENY by report-agents/no-ddl: not here",
	} {
		if !strings.Contains(lines[2], want) {
			t.Errorf("got %s, want it to say %q", lines[2], want)
		}
	}
	if want := "of " + x.request.ID[28:] + ": refused 42501 0 rows, 0 bytes, 913µs 12 values masked"; !strings.Contains(lines[3], want) {
		t.Errorf("got %s, want it to say %q", lines[3], want)
	}
	noControls(t, out)
}

func noControls(t *testing.T, out string) {
	t.Helper()
	if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && hidden(r) }); i >= 0 {
		t.Errorf("got %q at %d, want nothing that a terminal obeys", out[i], i)
	}
}

func TestAuditTailSelects(t *testing.T) {
	x := newTrail(t)
	for name, row := range map[string]struct {
		args  []string
		lines int
	}{
		"the newest":  {[]string{"-n", "1"}, 1},
		"none":        {[]string{"-n", "0"}, 0},
		"all":         {[]string{"-n", "1", "--all"}, 5},
		"one session": {[]string{"--session", x.request.Session}, 2},
		"no session":  {[]string{"--session", audit.NewID()}, 0},
	} {
		out, err := auditRun(t, append([]string{"tail", "--log-dir", x.dir}, row.args...)...)
		if got := strings.Count(out, "\n"); err != nil || got != row.lines {
			t.Errorf("got %d lines of %s, %v, want %d", got, name, err, row.lines)
		}
	}
}

func TestAuditTailPrintsJSONWithValues(t *testing.T) {
	x := newTrail(t)
	out, err := auditRun(t, "tail", "--json", "--session", x.request.Session, "--log-dir", x.dir)
	if err != nil {
		t.Fatal(err)
	}
	noControls(t, out)
	var got audit.Record
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Request.Text != x.request.Request.Text || got.Workload.Process != x.request.Workload.Process {
		t.Errorf("got %q by %q, want the values as they were", got.Request.Text, got.Workload.Process)
	}
}

func TestAuditTailShowsWhereALineWasDamaged(t *testing.T) {
	x := newTrail(t)
	x.change(t, `{"v":0,"log":"n1`, `["v":0,"log":"n1`)
	out, err := auditRun(t, "tail", "--log-dir", x.dir)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "no record") || strings.Count(out, "\n") != 5 {
		t.Errorf("got\n%swant the damaged line said, and those behind it", out)
	}
}

func TestAuditShowPrintsTheRecordAndItsOutcome(t *testing.T) {
	x := newTrail(t)
	for _, id := range []string{x.request.ID, x.request.ID[28:]} {
		out, err := auditRun(t, "show", "--log-dir", x.dir, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			x.request.ID, x.reply.ID, "drop table\n", `\tusers -- \u202e`, "$1            'x'", "DENY by report-agents/no-ddl: not here", "public.users.email: 12 values",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("got\n%swant it to say %q", out, want)
			}
		}
		noControls(t, out)
	}
	for _, id := range []string{"short", audit.NewID()} {
		if out, err := auditRun(t, "show", "--log-dir", x.dir, id); err == nil || out != "" {
			t.Errorf("got %q, %v for %q, want an error", out, err, id)
		}
	}
}

// change edits the first leaves file of the trail, as an attacker would.
func (x *trail) change(t *testing.T, before, after string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(x.dir, "n1", "*", "leaves-000001.jsonl"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("got %v, %v, want one log", paths, err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(paths[0], bytes.Replace(b, []byte(before), []byte(after), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAuditVerifyTellsByItsExitCode(t *testing.T) {
	x := newTrail(t)
	good := []string{"verify", "--key", x.key + ".pub", "--checkpoint", x.kept, x.dir}
	tests := []struct {
		name   string
		args   []string
		change func(t *testing.T)
		code   int
		says   string
	}{
		{"a good trail", good, nil, 0, "The trail verifies: logs 1, records 5, values 2."},
		{"the same key twice", append(good[:len(good):len(good)], "--key", x.key+".pub"), nil, 0, "The trail verifies: logs 1"},
		{"no key", []string{"verify", "--key", x.key + "0", x.dir}, nil, 2, "public key"},
		{"the private key", []string{"verify", "--key", x.key, x.dir}, nil, 2, "not a verifier key"},
		{"no trail", []string{"verify", "--key", x.key + ".pub", t.TempDir()}, nil, 2, "no audit logs"},
		{"an unknown flag", append(good, "--frob"), nil, 2, "unknown flag"},
		{"two folders", append(good, x.dir), nil, 2, "accepts at most 1"},
		{"a changed record", good, func(t *testing.T) { x.change(t, "no-ddl", "no-dcl") }, 1,
			"record 2 (" + x.request.ID + "): it is not the record that was written"},
	}
	for _, row := range tests {
		t.Run(row.name, func(t *testing.T) {
			if row.change != nil {
				row.change(t)
			}
			out, err := auditRun(t, row.args...)
			code := 0
			if err != nil {
				out += err.Error()
				var coded interface{ ExitCode() int }
				if !errors.As(err, &coded) {
					t.Fatalf("got %v, want an error with an exit code", err)
				}
				code = coded.ExitCode()
			}
			if code != row.code || !strings.Contains(out, row.says) {
				t.Errorf("got %d and\n%s\nwant %d and %q", code, out, row.code, row.says)
			}
		})
	}
}

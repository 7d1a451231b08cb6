package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"postern.dev/postern/testenv/autogen"
)

// requirements pins what the AutoGen agent imports, as the test cluster's image has it.
const requirements = "testenv/cluster/image/workload/requirements.txt"

const report = `SELECT c.name, c.email AS contact, c.ssn, c.card, sum(o.total) OVER (PARTITION BY c.id) AS spent
FROM customers c JOIN orders o ON o.customer_id = c.id ORDER BY o.id`

func (d *demo) unguarded(ctx context.Context) error {
	d.step("Without Postern: psql with a wrong password gets nothing")
	out, err := d.command(ctx, d.psql("SELECT * FROM customers")...)
	if err == nil {
		return errors.New("psql got in with a wrong password and without Postern; the demo's server is not safe")
	}
	if !strings.Contains(out, "password authentication failed") {
		return fmt.Errorf("psql failed for another reason than its password: %w", err)
	}
	return ctx.Err()
}

func (d *demo) guarded(ctx context.Context) error {
	d.step("The same psql, the same wrong password, under postern run: rows, masked")
	out, err := d.command(ctx, d.run(d.psql(report)...)...)
	if err != nil {
		return err
	}
	return masked(out)
}

// masked tells whether a client was shown a sensitive value.
func masked(out string) error {
	for _, secret := range []string{"@example", "078-05-1120", "411111"} {
		if strings.Contains(out, secret) {
			return fmt.Errorf("%s reached the client; masking is broken", secret)
		}
	}
	return nil
}

func (d *demo) refused(ctx context.Context) error {
	d.step("A DDL, and a sensitive column inside an expression: refused, with rule and record")
	for _, statement := range []string{"DROP TABLE customers", "SELECT lower(email) FROM customers"} {
		out, err := d.command(ctx, d.run(d.psql(statement)...)...)
		if err == nil {
			return fmt.Errorf("%q was not refused", statement)
		}
		if !strings.Contains(out, "postern") {
			return fmt.Errorf("%q failed, but Postern did not refuse it: %w", statement, err)
		}
	}
	return ctx.Err()
}

// autogen guards a real AutoGen agent, whose model's answers are replayed.
func (d *demo) autogen(ctx context.Context) error {
	d.step("An AutoGen agent, its tools with psycopg and SQLAlchemy: masked rows, and a DDL that fails as its tool's error")
	python, err := autogen.Python(ctx, requirements)
	if err != nil {
		return err
	}
	program := d.path("agent.py")
	if err := os.WriteFile(program, []byte(autogen.Program), 0o644); err != nil {
		return err
	}
	environment := []string{
		fmt.Sprintf("DSN=host=localhost port=%d user=report password=wrong dbname=%s", d.server.Port, database),
		fmt.Sprintf("URL=postgresql+psycopg://report:wrong@localhost:%d/%s", d.server.Port, database),
	}
	out, err := d.command(ctx, d.run(append(append([]string{"env"}, environment...), python, "agent.py")...)...)
	if err != nil {
		return err
	}
	for _, want := range []string{"Ada Byron", role, "rule no-ddl: schema changes go through migrations", "is_error=True", "The report is done."} {
		if !strings.Contains(out, want) {
			return fmt.Errorf("the agent's trace has no %q", want)
		}
	}
	return masked(out)
}

func (d *demo) trail(ctx context.Context) error {
	d.step("The trail: who, where, what, decided by which rule")
	_, err := d.command(ctx, "postern", "audit", "tail", "--log-dir", "log", "--all")
	return err
}

func (d *demo) verify(ctx context.Context) error {
	d.step("The trail verifies, with the operator's public key")
	_, err := d.command(ctx, "postern", "audit", "verify", "--key", "operator.key.pub", "log")
	return err
}

func (d *demo) tamper(ctx context.Context) error {
	d.step("A copy in which one record now names another rule: found, and the record named")
	if err := os.CopyFS(d.path("tampered"), os.DirFS(d.path("log"))); err != nil {
		return err
	}
	if err := d.rewriteRule("tampered", `"rule":"no-ddl"`, `"rule":"no-dcl"`); err != nil {
		return err
	}
	_, err := d.command(ctx, "postern", "audit", "verify", "--key", "operator.key.pub", "tampered")
	if err == nil {
		return errors.New("a changed record verified; the trail proves nothing")
	}
	return ctx.Err()
}

// rewriteRule edits the one record that holds before, as an attacker would.
func (d *demo) rewriteRule(folder, before, after string) error {
	var edited bool
	err := filepath.WalkDir(d.path(folder), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || edited {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(content, []byte(before)) {
			return err
		}
		edited = true
		return os.WriteFile(path, bytes.Replace(content, []byte(before), []byte(after), 1), 0o600)
	})
	if err == nil && !edited {
		err = fmt.Errorf("no record says %s", before)
	}
	return err
}

// psql is the unmodified client with the wrong password that it has.
func (d *demo) psql(statement string) []string {
	return []string{"psql", "-X", fmt.Sprintf("host=localhost port=%d user=report password=wrong dbname=%s", d.server.Port, database), "-c", statement}
}

func (d *demo) run(command ...string) []string {
	return append([]string{"postern", "run", "-f", "policy.yaml", "--token-file", "job.token", "--user", d.user,
		"--log-dir", "log", "--operator-key", "operator.key", "--"}, command...)
}

// command prints a command as one would type it, runs it in the demo's folder,
// and shows what it says while it says it.
func (d *demo) command(ctx context.Context, words ...string) (string, error) {
	fmt.Println("    $ " + quote(words))
	path := words[0]
	if path == "postern" {
		path = d.postern
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, words[1:]...)
	cmd.Dir = d.dir
	cmd.Stdout = io.MultiWriter(&out, &indenter{to: os.Stdout})
	cmd.Stderr = cmd.Stdout
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	return out.String(), err
}

func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		if strings.ContainsAny(word, " \n*;()'") {
			word = `"` + strings.ReplaceAll(word, "\n", " ") + `"`
		}
		quoted[i] = word
	}
	return strings.Join(quoted, " ")
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ")
}

// An indenter sets what a command prints apart from what the demo says.
type indenter struct {
	to      io.Writer
	midLine bool
}

func (i *indenter) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if !i.midLine {
			if _, err := io.WriteString(i.to, "    "); err != nil {
				return 0, err
			}
		}
		if _, err := i.to.Write(line); err != nil {
			return 0, err
		}
		i.midLine = !bytes.HasSuffix(line, []byte("\n"))
	}
	return len(b), nil
}

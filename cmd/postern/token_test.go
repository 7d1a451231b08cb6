package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/testenv"
)

// issuerDocument is the Issuer of a policy: CI jobs of one branch.
const issuerDocument = `---
apiVersion: postern.dev/v1alpha1
kind: Issuer
metadata: {name: ci}
spec:
  url: %s
  audience: postern
  username: claims.repository
  require: "claims.ref == 'refs/heads/main'"
  ca: {file: %q}
`

// job are the claims of a token that the Issuer takes.
func job(name string, value any) map[string]any {
	claims := map[string]any{"repository": "acme/reports", "ref": "refs/heads/main"}
	if name != "" {
		claims[name] = value
	}
	return claims
}

func TestTokenThatProvesNothingIsRefusedInWords(t *testing.T) {
	issuer, stranger := testenv.StartIssuer(t), testenv.StartIssuer(t)
	w := newWorld(t, "ci:acme/reports", fmt.Sprintf(issuerDocument, issuer.URL, issuer.CAFile))
	file := w.write(t, "token", "")
	w.flags = append(w.flags, "--token-file", file)
	ago, ahead := time.Now().Add(-time.Hour).Unix(), time.Now().Add(time.Hour).Unix()
	client := w.startClient(t, "SELECT 42")
	for _, row := range []struct{ name, token, want string }{
		{"empty", "", "the OIDC token is empty"},
		{"too large", strings.Repeat("a", 65<<10), "the OIDC token is larger than 64 KiB"},
		{"not a token", "hunter2", "the OIDC token is not a signed JSON Web Token"},
		{"alg none", issuer.Unsigned(t, job("", nil)), "the OIDC token is not signed (algorithm none)"},
		{"HS256 with the public key", issuer.Confused(t, job("", nil)), "the OIDC token is signed by an algorithm that is not accepted"},
		{"expired", issuer.MustToken(t, job("exp", ago)), "the OIDC token has expired"},
		{"not yet valid", issuer.MustToken(t, job("nbf", ahead)), "the OIDC token is not valid yet"},
		{"audience", issuer.MustToken(t, job("aud", "somebody")), "the OIDC token is meant for another audience"},
		{"issuer", stranger.MustToken(t, job("", nil)), "the OIDC token is of an issuer that the policy does not name"},
		{"forged", issuer.Forged(t, job("", nil)), "the OIDC token is signed by no key of its issuer"},
		{"claims", issuer.MustToken(t, job("ref", "refs/heads/evil")), "the OIDC token's claims are refused by the policy"},
		{"taken", issuer.MustToken(t, job("", nil)), ""},
		{"missing", "-", "the OIDC token is missing"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w.write(t, "token", row.token)
			if row.token == "-" {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			before := len(w.trail(t))
			got := client.ask(t)
			refusal := strings.Contains(w.trail(t)[before:], `"refusal":{"reason":"identity"`) && strings.Contains(w.trail(t)[before:], `"code":"28000"`)
			switch {
			case row.want == "" && !strings.Contains(got, "42"):
				t.Errorf("got %q, want 42", got)
			case row.want != "" && !strings.Contains(got, "FATAL:  postern: identity is not proven: "+row.want):
				t.Errorf("got %q, want a FATAL error with %q", got, row.want)
			case refusal != (row.want != ""):
				t.Errorf("got a refusal in the trail: %v, want %v", refusal, !refusal)
			}
		})
	}
	client.close(t)
	if trail := w.trail(t); !strings.Contains(trail, `"user":"ci:acme/reports"`) || !strings.Contains(trail, `"verified":"token"`) || !strings.Contains(trail, `"iss":"`+issuer.URL) {
		t.Errorf("got no proven subject and token, want them in\n%s", trail)
	}
}

func TestSessionEndsWithItsToken(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	w := newWorld(t, "ci:acme/reports", fmt.Sprintf(issuerDocument, issuer.URL, issuer.CAFile))
	file := w.write(t, "token", "")
	w.flags = append(w.flags, "--token-file", file)
	client := w.startClient(t, "SELECT pg_catalog.pg_sleep(600)")
	client.ask(t) // once the empty token is refused, all that takes time is there
	w.write(t, "token", issuer.MustToken(t, job("exp", time.Now().Add(10*time.Second).Unix())))
	got := client.ask(t)
	if !strings.Contains(got, "FATAL:  57P01: postern: the token that proved the identity has expired") {
		t.Errorf("got %q, want the session ended with its token", got)
	}
	client.close(t)
	if trail := w.trail(t); !strings.Contains(trail, `"code":"57P01"`) {
		t.Errorf("got no 57P01 in the trail, want one in\n%s", trail)
	}
}

// client is a guarded shell that runs psql whenever it is asked to.
type client struct {
	*process
	lines io.WriteCloser
	seen  int
}

func (w *world) startClient(t *testing.T, statement string) *client {
	t.Helper()
	words := w.psql(statement)
	words = append(words[:2], append([]string{"-v", "VERBOSITY=verbose"}, words[2:]...)...)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := &client{lines: writer}
	c.process = w.startWith(t, reader, append([]string{"sh", "-c", `while read -r _; do "$@" 2>&1; echo DONE; done`, "sh"}, words...)...)
	return c
}

// ask runs psql once and returns what it said.
func (c *client) ask(t *testing.T) string {
	t.Helper()
	if _, err := io.WriteString(c.lines, "\n"); err != nil {
		t.Fatal(err)
	}
	var said string
	eventually(t, "an answer", func() bool {
		var done bool
		said, _, done = strings.Cut(c.stdout.String()[c.seen:], "DONE\n")
		return done
	})
	c.seen += len(said) + len("DONE\n")
	return said
}

func (c *client) close(t *testing.T) {
	t.Helper()
	if err := c.lines.Close(); err != nil {
		t.Fatal(err)
	}
	if r := c.end(t); r.code != 0 {
		t.Errorf("got exit code %d and %q, want 0", r.code, r.stderr)
	}
}

func TestPolicyIsTakenWhenItChangesAndKeptWhenFaulty(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	text, err := os.ReadFile(w.policy)
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	client := w.startClient(t, "SELECT 42")
	for _, row := range []struct{ name, policy, want string }{
		{"first", good, "42"},
		{"faulty", "kind: Nonsense\n", "42"},
		{"nothing allowed", strings.Replace(good, "allow: [ALL]", "allow: [LISTEN]", 1), "42501"},
		{"nobody allowed", strings.Replace(good, "linux:"+guest, "linux:ada", 1), "FATAL"},
		{"writable by the user", good, "FATAL"},
		{"good again", good, "42"},
	} {
		mode := os.FileMode(0o600)
		if row.name == "writable by the user" {
			mode = 0o666
		}
		w.replacePolicy(t, row.policy, mode)
		time.Sleep(2500 * time.Millisecond) // it is looked at each second
		if got := client.ask(t); !strings.Contains(got, row.want) {
			t.Errorf("got %q with the policy %s, want %q", got, row.name, row.want)
		}
	}
	client.close(t)
	if got := strings.Count(w.trail(t), `"kind":"policy"`); got != 4 {
		t.Errorf("got %d policies recorded, want 4", got)
	}
}

// replacePolicy puts another policy in the old one's place, whole.
func (w *world) replacePolicy(t *testing.T, text string, mode os.FileMode) {
	t.Helper()
	fresh := filepath.Join(w.dir, "policy.new")
	if err := os.WriteFile(fresh, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(fresh, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, w.policy); err != nil {
		t.Fatal(err)
	}
}

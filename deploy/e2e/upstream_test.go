package e2e

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

//go:embed testdata/upstream.py
var upstreamProgram string

// The shop's sessions are dialled from the pod's network namespace (source: pod),
// where a process with NET_RAW sees and forges packets.

func TestPodReadsNothingOfItsUpstreamLeg(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "open"})
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	const statement, row = "SELECT 'needle-' || name FROM customers WHERE id = 7", "needle-Customer 7"
	words := []string{"sniff", "needle-", "Customer 7", directPassword, "guarded-password", loginUser, "SCRAM"}

	for name, want := range map[string]string{"open": "[needle- Customer 7 SCRAM]", "client": "[]"} {
		stop := w.tamper(t, name, words...)
		if out, err := w.inClear(t, name, statement); err != nil || strings.TrimSpace(out) != row {
			t.Errorf("got %q, %v in %s, want %q", out, err, name, row)
		}
		segments, _, found := stop()
		t.Logf("%s: %s segments to and from the database, in clear text %s", name, segments, found)
		if segments == "0" || found != want {
			t.Errorf("got %s of %q in clear text in %s segments of %s, want %s of some", found, words[1:], segments, name, want)
		}
	}
}

func TestPodForgesNothingOnItsUpstreamLeg(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "open"})
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	// It takes seconds, without a function that the policy would have to allow.
	const statement = `SELECT 'real' WHERE NOT EXISTS (SELECT FROM orders a, orders b, orders c WHERE a.total * b.total * c.total < 0)`

	for _, mode := range []string{"rows", "reset"} {
		for _, name := range []string{"open", "client"} {
			stop := w.tamper(t, name, mode)
			out, err := w.inClear(t, name, statement)
			_, forged, _ := stop()
			t.Logf("%s: after %s forged packets (%s) the client got %q, %v", name, forged, mode, out, err)
			if forged == "0" {
				t.Errorf("got no packet forged (%s) in %s, want some", mode, name)
			}
			accepted := strings.Contains(out, "forged")
			switch {
			case name == "client" && (accepted || err == nil && strings.TrimSpace(out) != "real"):
				t.Errorf("got %q, %v under guard, want the server's row, or the session's end", out, err)
			case name == "open" && mode == "rows" && !accepted, name == "open" && mode == "reset" && err == nil:
				t.Errorf("got %q, %v without the guard, want the forged packet (%s) accepted", out, err, mode)
			}
		}
	}
	w.guarded(t, "client") // later sessions are none the worse
}

// inClear runs a statement over IPv4, on a connection that has no TLS of its own.
func (w *world) inClear(t *testing.T, name, statement string) (string, error) {
	t.Helper()
	dsn := fmt.Sprintf("host=%s user=%s password=%s dbname=shop connect_timeout=10 sslmode=disable", addresses(t, "data", "shop")[0], directUser, directPassword)
	return w.exec(name, "psql", "-XAt", dsn, "-c", statement)
}

var summary = regexp.MustCompile(`segments (\d+) forged (\d+) found (.*) end`)

// tamper runs testdata/upstream.py in a pod until stop, which tells what it did.
func (w *world) tamper(t *testing.T, name string, args ...string) (stop func() (segments, forged, found string)) {
	t.Helper()
	o := w.background(t, name, append([]string{"python3", "-c", upstreamProgram}, args...)...)
	eventually(t, "somebody watches the link of "+name, func() bool { return o.count("watching") > 0 })
	return func() (string, string, string) {
		t.Helper()
		database := addresses(t, "data", "shop")[0]
		if out, err := w.exec(name, "bash", "-c", "echo end > /dev/udp/"+database+"/9"); err != nil {
			t.Fatalf("got %v from a datagram, want it sent: %s", err, out)
		}
		eventually(t, "its end", func() bool { return summary.MatchString(o.String()) })
		m := summary.FindStringSubmatch(o.String())
		return m[1], m[2], strings.NewReplacer("'", "", ",", "").Replace(m[3])
	}
}

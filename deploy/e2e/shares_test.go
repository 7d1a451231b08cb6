package e2e

import (
	_ "embed"
	"fmt"
	"strings"
	"testing"
)

//go:embed testdata/attack.py
var attackProgram string

//go:embed testdata/steady.py
var steadyProgram string

// TestOnePodCannotStarveAnother has one pod attack each share while another works.
// Whatever the one does, the other's statements succeed; how long they take is
// measured and not judged. Two of the shares can be exceeded in moments on any
// machine: there the one is refused by name.
func TestOnePodCannotStarveAnother(t *testing.T) {
	w := newWorld(t)
	w.start(t, pod{name: "quiet", labels: guardLabel})
	w.start(t, pod{name: "greedy", labels: guardLabel})
	w.guarded(t, "quiet")
	w.guarded(t, "greedy")
	alone := w.steady(t)
	t.Logf("alone: %s (a statement of the quiet pod, in µs)", alone)
	for _, row := range []struct{ attack, told string }{
		{"half-open", "connections"},
		{"log-ins", ""},
		{"parser", ""},
		{"trail", ""},
		{"look-ups", ""},
		{"long-texts", "memory"},
	} {
		t.Run(row.attack, func(t *testing.T) {
			dsn := fmt.Sprintf("user=%s password=%s dbname=shop sslmode=disable", directUser, directPassword)
			o := w.background(t, "greedy", "timeout", "300", "python3", "-c", attackProgram, row.attack, addresses(t, "data", "shop")[0], dsn)
			defer func() { _, _ = w.exec("greedy", "pkill", "-f", "attacking") }()
			o.more(t, "attacking", 1)
			beside := w.steady(t)
			if row.told != "" {
				eventually(t, "the greedy pod told of its share of "+row.told, func() bool { return o.count("told "+row.told) > 0 })
			}
			t.Logf("beside %s: %s; the other was told: %s", row.attack, beside, strings.Join(strings.Fields(o.String()), " "))
		})
	}
	// The kernel's refusals are of what drivers try beside connecting; every connection was made.
	for _, r := range records(t, func(r record) bool {
		return r.Kind == "refusal" && r.Workload.Pod == "quiet" && r.Workload.Namespace == w.namespace && r.Refusal.Reason != "kernel"
	}) {
		t.Errorf("got the quiet pod refused (%s), want it let go on", r.Refusal.Message)
	}
}

// steady has the quiet pod work.
func (w *world) steady(t *testing.T) string {
	t.Helper()
	out, err := w.exec("quiet", "python3", "-c", steadyProgram, w.shop(), "5")
	if err != nil {
		t.Fatalf("got %v from the quiet pod, want all of its statements run: %s", err, out)
	}
	return strings.TrimSpace(out)
}

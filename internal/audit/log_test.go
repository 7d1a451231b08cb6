package audit

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// fixture is a folder for the logs of one node, and the operator's key.
type fixture struct {
	dir    string
	public string
	o      Options
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{dir: filepath.Join(dir, "log"), o: Options{
		Dir: filepath.Join(dir, "log"), Node: "n1", Agent: "0.1.0",
		OperatorKey: filepath.Join(dir, "operator"), CheckpointFile: filepath.Join(dir, "kept"),
	}}
	var err error
	if f.public, err = EnsureOperatorKey(f.o.OperatorKey); err != nil {
		t.Fatal(err)
	}
	return f
}

// write runs an agent instance that does what use says, and returns the folder
// of its log.
func (f *fixture) write(t testing.TB, use func(*Log)) string {
	t.Helper()
	l, err := Open(f.o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return l.Run(ctx) })
	use(l)
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return l.dir
}

func (f *fixture) verify(t testing.TB, kept ...[]byte) *Report {
	t.Helper()
	r, err := Verify(t.Context(), VerifyOptions{Dir: f.dir, OperatorKeys: []string{f.public}, Checkpoints: kept})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// exchange appends a request and its outcome.
func exchange(t testing.TB, l *Log, text string, parameters ...string) (request, outcome *Record) {
	t.Helper()
	request = &Record{
		Kind: KindRequest, Session: NewID(), Seq: 1,
		Workload: &Workload{PID: 4312, Process: "psql", LinuxUID: 1000, User: "linux:ada", Verified: "kernel"},
		Target:   &Target{Name: "orders-db", Protocol: "postgres", Address: "10.8.0.5:5432", TLS: "verify-full"},
		Request:  &Request{Operations: []string{"SELECT"}, Relations: []string{"public.users"}, Text: text, Parameters: parameters},
		Decision: &Decision{Action: "allow", Policy: "report-agents", Rule: "reads", Hash: "sha256:00"},
	}
	index, err := l.Append(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Wait(t.Context(), index); err != nil {
		t.Fatal(err)
	}
	outcome = &Record{
		Kind: KindOutcome, Session: request.Session, Seq: 1, RequestID: request.ID,
		Outcome: &Outcome{Status: StatusOK, Code: "00000", Rows: 12, Bytes: 840, DurationUS: 913},
	}
	if _, err := l.Append(outcome); err != nil {
		t.Fatal(err)
	}
	return request, outcome
}

func TestLogVerifiesAndHoldsNoValueInItsLeaves(t *testing.T) {
	f := newFixture(t)
	const secret = "select 'sentinel-4711'"
	dir := f.write(t, func(l *Log) {
		for range 10 {
			exchange(t, l, secret, "'ada'", "NULL")
		}
	})
	r := f.verify(t)
	if len(r.Problems)+len(r.Warnings) > 0 {
		t.Fatalf("got %+v, %+v, want nothing wrong", r.Problems, r.Warnings)
	}
	if got, want := r.Logs[0].Records, int64(23); got != want || r.Logs[0].Covered != want { // key, start, stop
		t.Errorf("got %d records, %d covered, want %d", got, r.Logs[0].Covered, want)
	}
	if got, want := r.Logs[0].Values, int64(30); got != want {
		t.Errorf("got %d values, want %d", got, want)
	}
	b, err := os.ReadFile(segmentPath(dir, leavesPrefix, 1))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "sentinel") || strings.Contains(string(b), "ada'") {
		t.Errorf("got a leaf with a value in it, want commitments only:\n%s", b)
	}
}

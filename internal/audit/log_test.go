package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
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

func TestEveryEmittedRecordValidates(t *testing.T) {
	f := newFixture(t)
	f.write(t, func(l *Log) { exchange(t, l, "select 1", "'a'") })
	l := open(t, f)
	begun(t, l)
	abandon(t, l)
	edit(t, l.dir, 1, "{", "[")
	f.write(t, func(*Log) {})
	s := schema(t)
	dirs, err := Logs(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[Kind]bool)
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, firstLeaves))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			r, err := decodeLeaf(bytes.TrimSuffix(line, []byte("\n")))
			if err != nil {
				continue // the one that was damaged above, and unused room
			}
			seen[r.Kind] = true
			if err := valid(t, s, line); err != nil {
				t.Errorf("got %v, want %s valid", err, line)
			}
		}
	}
	for _, want := range []Kind{KindKey, KindPrevious, KindLoss, KindAgentStart, KindAgentStop, KindRequest, KindOutcome} {
		if !seen[want] {
			t.Errorf("got no record of kind %s, want one", want)
		}
	}
}

func TestManyAppendersGetEveryIndexOnce(t *testing.T) {
	f := newFixture(t)
	f.o.SegmentBytes = minSegmentBytes
	const appenders, each = 16, 100
	indexes := make([][]int64, appenders)
	dir := f.write(t, func(l *Log) {
		var g errgroup.Group
		for i := range appenders {
			g.Go(func() error {
				for range each {
					r := benchRecord("request")
					r.Request.Text = strings.Repeat("é", 1000)
					index, err := l.Append(r)
					if err != nil {
						return err
					}
					if i%2 == 0 {
						if err := l.Wait(t.Context(), index); err != nil {
							return err
						}
					}
					indexes[i] = append(indexes[i], index)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	all := slices.Sorted(slices.Values(slices.Concat(indexes...)))
	for i, got := range all {
		if want := all[0] + int64(i); got != want {
			t.Fatalf("got index %d, want %d", got, want)
		}
	}
	if got, want := len(all), appenders*each; got != want {
		t.Errorf("got %d indexes, want %d", got, want)
	}
	if segments, _ := filepath.Glob(filepath.Join(dir, "values-*")); len(segments) < 3 { // the pattern is good
		t.Errorf("got segments %v, want at least 3", segments)
	}
	r := f.verify(t)
	if len(r.Problems)+len(r.Warnings) > 0 || r.Logs[0].Values != 2*appenders*each {
		t.Errorf("got %+v, %+v and %d values, want nothing wrong and %d", r.Problems, r.Warnings, r.Logs[0].Values, 2*appenders*each)
	}
	for _, e := range ofKind(read(t, dir), KindRequest) {
		if e.Request.Text != strings.Repeat("é", 1000) {
			t.Fatalf("got %q at %d, want its text", e.Request.Text, e.Index)
		}
	}
}

func TestWaitReturnsNoSoonerThanTheCommit(t *testing.T) {
	l := open(t, newFixture(t))
	index, err := l.Append(benchRecord("request"))
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Wait(soon, index); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v before the commit, want to be still waiting", err)
	}
	l.commit()
	if err := l.Wait(t.Context(), index); err != nil {
		t.Errorf("got %v after the commit, want nil", err)
	}
	if err := l.Wait(t.Context(), index+1); err == nil {
		t.Error("got nil for a record that is not there, want an error")
	}
	l.sign()
	if got, want := lastCheckpoint(l.dir, logKey(l.dir)).size, index+1; got != want {
		t.Errorf("got a checkpoint of %d records, want %d", got, want)
	}
	begun(t, l)
	l.sign()
	if got, want := lastCheckpoint(l.dir, logKey(l.dir)).size, index+1; got != want {
		t.Errorf("got a checkpoint of %d records, want %d: the last is not durable", got, want)
	}
	abandon(t, l)
}

func TestReadersSeeValuesAndWhatIsErased(t *testing.T) {
	f := newFixture(t)
	f.o.MaxValueBytes = 16
	texts := []string{"select 'é'", "a\xff\x00b", "", strings.Repeat("é", 20)}
	want := []string{"select 'é'", "a\xff\x00b", "", strings.Repeat("é", 8)}
	dir := f.write(t, func(l *Log) {
		for _, text := range texts {
			exchange(t, l, text)
		}
	})
	for i, e := range ofKind(read(t, dir), KindRequest) {
		if e.Request.Text != want[i] || len(e.Missing) > 0 {
			t.Errorf("got %q, missing %v, want %q", e.Request.Text, e.Missing, want[i])
		}
		if got, want := e.Request.Truncated, i == 3; got != want {
			t.Errorf("got truncated %t of %q, want %t", got, e.Request.Text, want)
		}
	}
	remove(t, dir, firstValues)
	e := ofKind(read(t, dir), KindRequest)[0]
	if !slices.Equal(e.Missing, []string{fieldText}) || !isCommitment(e.Request.Text) {
		t.Errorf("got %q, missing %v, want the commitment in place of the erased text", e.Request.Text, e.Missing)
	}
}

func TestReaderFollowsAWriter(t *testing.T) {
	f := newFixture(t)
	f.write(t, func(l *Log) {
		r := NewReader(l.dir)
		defer r.Close()
		drain := func() (last *Entry) {
			for {
				e, err := r.Next()
				if err == io.EOF {
					return last
				}
				if err != nil {
					t.Fatal(err)
				}
				last = e
			}
		}
		drain()
		for range 3 {
			request, outcome := exchange(t, l, "select 1")
			if got := drain(); got == nil || got.ID != outcome.ID || got.RequestID != request.ID {
				t.Fatalf("got %+v, want the outcome of %s", got, request.ID)
			}
		}
	})
}

func TestEdgeHasTheRootsOfTlog(t *testing.T) {
	var e edge
	var stored []byte
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			copy(hashes[i][:], stored[index*tlog.HashSize:])
		}
		return hashes, nil
	})
	for n := range int64(130) {
		want, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.root(); got != want {
			t.Fatalf("got root %v of %d leaves, want %v", got, n, want)
		}
		stored = e.push(tlog.RecordHash([]byte{byte(n)}), stored)
		if got, want := int64(len(stored)), tlog.StoredHashCount(n+1)*tlog.HashSize; got != want {
			t.Fatalf("got %d bytes of hashes for %d leaves, want %d", got, n+1, want)
		}
	}
}

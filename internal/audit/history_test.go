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

	"golang.org/x/sync/errgroup"
)

// abandon leaves a log as a killed agent leaves it: the kernel drops the lock.
func abandon(t testing.TB, l *Log) {
	t.Helper()
	l.commit()
	l.sign()
	if err := l.folder.Close(); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, f *fixture) *Log {
	t.Helper()
	l, err := Open(f.o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// read returns all records of a log as a reader sees them.
func read(t testing.TB, dir string) []*Entry {
	t.Helper()
	r := NewReader(dir)
	defer r.Close()
	var es []*Entry
	for {
		e, err := r.Next()
		if err == io.EOF {
			return es
		}
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
}

func ofKind(es []*Entry, k Kind) []*Entry {
	return slices.DeleteFunc(slices.Clone(es), func(e *Entry) bool { return e.Kind != k })
}

// begun appends a request that gets no outcome.
func begun(t testing.TB, l *Log) *Record {
	t.Helper()
	r := benchRecord("request")
	if _, err := l.Append(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNextLogRepairsWhatAKilledAgentLeft(t *testing.T) {
	f := newFixture(t)
	l := open(t, f)
	lost := begun(t, l)
	answered := begun(t, l)
	if _, err := l.Append(&Record{Kind: KindOutcome, RequestID: answered.ID, Outcome: &Outcome{Status: StatusOK}}); err != nil {
		t.Fatal(err)
	}
	abandon(t, l)
	// The next record was being written: its values are there, its line is not whole.
	value := `{"index":` + "6" + `,"id":"x","field":"request.text","salt":"","value":"torn"}` + "\n"
	for g, torn := range map[*growing]string{l.values: value, l.leaves: `{"v":0,"log":"`} {
		if err := g.append([]byte(torn)); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.verify(t); len(got.Warnings) != 1 || got.Warnings[0].Fault != FaultNotClosed || len(got.Problems) > 0 {
		t.Errorf("got %+v, %+v, want a warning of a log that was not closed", got.Problems, got.Warnings)
	}

	es := read(t, f.write(t, func(*Log) {}))
	previous := ofKind(es, KindPrevious)
	if len(previous) != 1 {
		t.Fatalf("got %d records of earlier logs, want 1", len(previous))
	}
	got := previous[0].Previous
	want := Repair{LeafBytes: 14, ValueBytes: int64(len(value)), Lines: 1}
	if got.Log != l.id || got.State != StateUnclean || got.Size != 5 || got.Repair == nil || *got.Repair != want {
		t.Errorf("got %+v, repair %+v, want %s unclean with 5 records and %+v cut off", got, got.Repair, l.id, want)
	}
	outcomes := ofKind(es, KindOutcome)
	if len(outcomes) != 1 {
		t.Fatalf("got %d outcomes, want 1 for the request that has none", len(outcomes))
	}
	if o := outcomes[0]; o.RequestID != lost.ID || o.RequestLog != l.id || o.Outcome.Status != StatusUnknown || o.Session != lost.Session {
		t.Errorf("got %+v, want an unknown outcome of %s in %s", o, lost.ID, l.id)
	}
	if got := f.verify(t); len(got.Problems)+len(got.Warnings) > 0 {
		t.Errorf("got %+v, %+v after the repair, want nothing wrong", got.Problems, got.Warnings)
	}
	es = read(t, f.write(t, func(*Log) {}))
	if got := len(ofKind(es, KindOutcome)); got != 0 {
		t.Errorf("got %d outcomes in the third log, want 0: the second has said it", got)
	}
}

func TestNextLogAnswersWhatAClosedLogLeftOpen(t *testing.T) {
	f := newFixture(t)
	var open *Record
	f.write(t, func(l *Log) {
		open = begun(t, l)
		exchange0(t, l)
	})
	outcomes := ofKind(read(t, f.write(t, func(*Log) {})), KindOutcome)
	if len(outcomes) != 1 || outcomes[0].RequestID != open.ID {
		t.Errorf("got %d outcomes, want one of %s", len(outcomes), open.ID)
	}
}

func TestNextLogCutsARecordOffWhoseValuesThePowerCutTook(t *testing.T) {
	f := newFixture(t)
	l := open(t, f)
	begun(t, l)
	l.commit()
	l.sign()
	begun(t, l)
	begun(t, l)
	if err := l.folder.Close(); err != nil {
		t.Fatal(err)
	}
	// Nobody waited for the last two: what fdatasync has not returned for may be
	// on the disk in part. A value of the first of them is not.
	changeLines(t, l.dir, firstValues, func(lines [][]byte) [][]byte { return slices.Delete(lines, 2, 3) })
	got := ofKind(read(t, f.write(t, func(*Log) {})), KindPrevious)[0].Previous
	if got.Size != 3 || got.Repair == nil || got.Repair.Lines != 2 {
		t.Errorf("got %d records and repair %+v, want 3, and 2 lines cut off", got.Size, got.Repair)
	}
	if got := f.verify(t); len(got.Problems)+len(got.Warnings) > 0 {
		t.Errorf("got %+v, %+v after the repair, want nothing wrong", got.Problems, got.Warnings)
	}
}

func TestUnusedRoomIsNoTornLine(t *testing.T) {
	f := newFixture(t)
	l := open(t, f)
	exchange0(t, l)
	abandon(t, l)
	es := read(t, f.write(t, func(*Log) {}))
	if got := ofKind(es, KindPrevious)[0].Previous; got.Repair != nil || got.State != StateUnclean {
		t.Errorf("got %+v, repair %+v, want an unclean log with nothing to repair", got, got.Repair)
	}
	info, err := os.Stat(filepath.Join(l.dir, firstLeaves))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Size(), l.leaves.end; got != want {
		t.Errorf("got a file of %d bytes, want its %d bytes of records", got, want)
	}
}

// exchange0 appends a request and its outcome and waits for neither.
func exchange0(t testing.TB, l *Log) {
	t.Helper()
	r := begun(t, l)
	if _, err := l.Append(&Record{Kind: KindOutcome, RequestID: r.ID, Outcome: &Outcome{Status: StatusOK}}); err != nil {
		t.Fatal(err)
	}
}

func TestNextLogSaysWhatIsLost(t *testing.T) {
	cut := func(t *testing.T, l *Log) {
		changeLines(t, l.dir, firstLeaves, func(lines [][]byte) [][]byte { return lines[:2] })
	}
	tests := map[string]struct {
		lose  func(t *testing.T, l *Log)
		found int64
	}{
		"records below its checkpoint": {cut, 2},
		"records and checkpoints below the kept checkpoint": {func(t *testing.T, l *Log) {
			cut(t, l)
			if err := os.Truncate(filepath.Join(l.dir, checkpointsFile), 0); err != nil {
				t.Fatal(err)
			}
		}, 2},
		"a line in the middle, and the checkpoints": {func(t *testing.T, l *Log) {
			edit(t, l.dir, 2, "{", "[")
			if err := os.Truncate(filepath.Join(l.dir, checkpointsFile), 0); err != nil {
				t.Fatal(err)
			}
		}, 2},
		"a line in the middle": {func(t *testing.T, l *Log) { edit(t, l.dir, 2, "{", "[") }, 2},
		"the whole log":        {func(t *testing.T, l *Log) { remove(t, l.dir, "") }, 0},
	}
	for name, row := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			l := open(t, f)
			exchange0(t, l)
			abandon(t, l)
			row.lose(t, l)
			before, _ := os.ReadFile(filepath.Join(l.dir, firstLeaves)) // it is not there in the last row
			losses := ofKind(read(t, f.write(t, func(*Log) {})), KindLoss)
			if len(losses) != 1 {
				t.Fatalf("got %d losses, want 1", len(losses))
			}
			if got := losses[0].Loss; got.Log != l.id || got.Known != 4 || got.Found != row.found {
				t.Errorf("got %+v, want 4 known and %d found in %s", got, row.found, l.id)
			}
			if after, _ := os.ReadFile(filepath.Join(l.dir, firstLeaves)); !bytes.Equal(before, after) {
				t.Error("got the damaged log changed, want the evidence left as it is")
			}
			if got := f.verify(t).Problems; !slices.ContainsFunc(got, func(p Problem) bool { return p.Fault == FaultLoss }) {
				t.Errorf("got %+v, want the loss reported", got)
			}
		})
	}
}

func TestTwoInstancesMayWriteAtOnce(t *testing.T) {
	f := newFixture(t)
	f.o.CheckpointFile = ""
	var first string
	second := f.write(t, func(l *Log) {
		first = f.write(t, func(other *Log) {
			exchange(t, l, "select 1")
			exchange(t, other, "select 2")
		})
		exchange(t, l, "select 3")
	})
	third := f.write(t, func(*Log) {})
	if got := f.verify(t); len(got.Problems)+len(got.Warnings) > 0 {
		t.Errorf("got %+v, %+v, want nothing wrong", got.Problems, got.Warnings)
	}
	states := func(dir string) (s []State) {
		for _, e := range ofKind(read(t, dir), KindPrevious) {
			s = append(s, e.Previous.State)
		}
		return s
	}
	if got, want := states(first), []State{StateLive}; !slices.Equal(got, want) {
		t.Errorf("got %v said of the logs before the inner one, want %v", got, want)
	}
	if got, want := states(third), []State{StateClosed, StateClosed}; !slices.Equal(got, want) {
		t.Errorf("got %v said of the logs before the last one, want %v", got, want)
	}
	remove(t, third, "")
	remove(t, second, "")
	if got := f.verify(t).Problems; len(got) != 1 || got[0].Fault != FaultLogMissing {
		t.Errorf("got %+v, want a log missed by the one that saw it running", got)
	}
}

func TestOpenRemovesALogThatNeverBegan(t *testing.T) {
	f := newFixture(t)
	left := filepath.Join(f.dir, "n1", hiddenPrefix+"x")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	f.write(t, func(*Log) {})
	if _, err := os.Stat(left); err == nil {
		t.Errorf("got %s still there, want it removed", left)
	}
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	f := newFixture(t)
	tests := map[string]struct {
		change func(*Options)
		want   string
	}{
		"no folder":            {func(o *Options) { o.Dir = "" }, "no folder"},
		"a node with a path":   {func(o *Options) { o.Node = "../n1" }, "no name of a node"},
		"too large values":     {func(o *Options) { o.MaxValueBytes = 1 << 30 }, "at most"},
		"too small segments":   {func(o *Options) { o.SegmentBytes = 1 }, "at least"},
		"no operator's key":    {func(o *Options) { o.OperatorKey += "0" }, "operator key"},
		"a key that all read":  {func(o *Options) { o.OperatorKey = readable(t, o.OperatorKey) }, "chmod 600"},
		"the public key":       {func(o *Options) { o.OperatorKey = private(t, o.OperatorKey+".pub") }, "not a signer key"},
		"a file as the folder": {func(o *Options) { o.Dir = o.OperatorKey }, "not a directory"},
	}
	for name, row := range tests {
		t.Run(name, func(t *testing.T) {
			o := f.o
			row.change(&o)
			if _, err := Open(o); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want an error that says %q", err, row.want)
			}
			if left, _ := filepath.Glob(filepath.Join(f.dir, "*", "*")); len(left) > 0 { // the pattern is good
				t.Errorf("got %v left behind, want nothing", left)
			}
		})
	}
}

func readable(t testing.TB, from string) string { return copyFile(t, from, 0o644) }
func private(t testing.TB, from string) string  { return copyFile(t, from, 0o600) }

func copyFile(t testing.TB, from string, mode os.FileMode) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(to, b, mode); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestOperatorKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postern", "operator")
	var g errgroup.Group
	keys := make([]string, 8)
	for i := range keys {
		g.Go(func() (err error) {
			keys[i], err = EnsureOperatorKey(path)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := len(slices.Compact(keys)); got != 1 {
		t.Errorf("got %d keys from eight processes, want 1", got)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(public)), keys[0]; got != want {
		t.Errorf("got public key %q in the file, want %q", got, want)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
		t.Errorf("got mode %v of the private key, want %v", got, want)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 2 { // the pattern is good
		t.Errorf("got %v, want the two halves and nothing else", left)
	}
}

func TestClosedLogRefuses(t *testing.T) {
	f := newFixture(t)
	l := open(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(benchRecord("request")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
}

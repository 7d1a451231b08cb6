package audit

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// victim is a node with two closed logs, and what an attacker has at hand.
type victim struct {
	*fixture
	first, second string            // folders of the logs
	requests      map[string]Record // the fourth record of each log: a request with a value
	copies        string            // both logs as they were before their last exchange
	kept          []byte            // the last checkpoint, kept elsewhere
}

// edited is the index of the record that attackers are after: the second
// request. Before it are the key, what is said of earlier logs, agent.start,
// and the first exchange.
func (v *victim) edited(dir string) int64 { return v.requests[dir].Index }

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{fixture: newFixture(t), requests: make(map[string]Record), copies: t.TempDir()}
	write := func() string {
		var request *Record
		dir := v.write(t, func(l *Log) {
			exchange(t, l, "select 1")
			request, _ = exchange(t, l, "select email from users where name = $1", "'ada'")
			exchange(t, l, "select 2")
			l.sign()
			copyLog(t, l.dir, filepath.Join(v.copies, filepath.Base(l.dir)))
			exchange(t, l, "delete from users")
		})
		v.requests[dir] = *request
		return dir
	}
	v.first, v.second = write(), write()
	var err error
	if v.kept, err = os.ReadFile(v.o.CheckpointFile); err != nil {
		t.Fatal(err)
	}
	return v
}

func copyLog(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// change rewrites one file of a log.
func change(t testing.TB, dir, name string, edit func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	after := edit(bytes.Clone(b))
	if bytes.Equal(after, b) {
		t.Fatalf("got %s unchanged, want the attack to change it", name)
	}
	if err := os.WriteFile(path, after, 0o600); err != nil {
		t.Fatal(err)
	}
}

const (
	firstLeaves = "leaves-000001.jsonl"
	firstValues = "values-000001.jsonl"
)

// changeLines rewrites the lines of one file of a log.
func changeLines(t testing.TB, dir, name string, edit func([][]byte) [][]byte) {
	t.Helper()
	change(t, dir, name, func(b []byte) []byte {
		lines := bytes.Split(bytes.TrimSuffix(bytes.TrimRight(b, "\x00"), []byte("\n")), []byte("\n"))
		return append(bytes.Join(edit(lines), []byte("\n")), '\n')
	})
}

func edit(t testing.TB, dir string, index int64, before, after string) {
	t.Helper()
	changeLines(t, dir, firstLeaves, func(lines [][]byte) [][]byte {
		lines[index] = bytes.Replace(lines[index], []byte(before), []byte(after), 1)
		return lines
	})
}

// rehash writes the hashes anew, as they follow from the leaves.
func rehash(t testing.TB, dir string) *edge {
	t.Helper()
	var e edge
	var stored []byte
	leaves := newLines(dir, leavesPrefix, maxLeafBytes)
	defer leaves.close()
	for line, err := leaves.read(); err == nil; line, err = leaves.read() {
		stored = e.push(tlog.RecordHash(line), stored)
	}
	if err := os.WriteFile(filepath.Join(dir, hashesFile), stored, 0o600); err != nil {
		t.Fatal(err)
	}
	return &e
}

// forge gives the log a key that the holder of operatorKey certifies, and signs
// everything anew with it.
func forge(t testing.TB, dir, operatorKey string, replaceKeyRecord bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, firstLeaves))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	r, err := decodeLeaf(line)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := note.GenerateKey(rand.Reader, originPrefix+r.Log)
	if err != nil {
		t.Fatal(err)
	}
	if replaceKeyRecord {
		certificate, err := certify(r.Log, public, operatorKey)
		if err != nil {
			t.Fatal(err)
		}
		r.Key = &Key{Public: public, Certificate: certificate}
		changeLines(t, dir, firstLeaves, func(lines [][]byte) [][]byte {
			lines[0] = appendRecord(nil, r, new(seal))
			return lines
		})
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	c, err := signCheckpoint(r.Log, rehash(t, dir), signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpointsFile), c.note, 0o600); err != nil {
		t.Fatal(err)
	}
}

// cutNewest takes the last records of a log and all checkpoints that cover them.
func cutNewest(t testing.TB, dir string, records int) {
	t.Helper()
	left := 0
	changeLines(t, dir, firstLeaves, func(lines [][]byte) [][]byte {
		left = len(lines) - records
		return lines[:left]
	})
	rehash(t, dir)
	change(t, dir, checkpointsFile, func(b []byte) []byte {
		return bytes.Join(slices.DeleteFunc(wholeCheckpoints(t, b), func(one []byte) bool {
			c, err := parseCheckpoint(one)
			return err != nil || c.size > int64(left)
		}), nil)
	})
}

func wholeCheckpoints(t testing.TB, b []byte) (whole [][]byte) {
	t.Helper()
	for all := newCheckpoints(bytes.NewReader(b)); ; {
		one, err := all.next()
		if err == io.EOF {
			return whole
		}
		if err != nil {
			t.Fatal(err)
		}
		whole = append(whole, bytes.Clone(one))
	}
}

func otherOperator(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "operator")
	if _, err := EnsureOperatorKey(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func remove(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// addForged adds a record that fits, but that the log's agent has not written.
func addForged(t testing.TB, dir string, lines [][]byte) [][]byte {
	t.Helper()
	r, err := decodeLeaf(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	forged := &Record{Log: r.Log, Index: int64(len(lines)), ID: NewID(), Kind: KindOutcome, Outcome: &Outcome{Status: StatusOK}}
	return append(lines, appendRecord(nil, forged, new(seal)))
}

func TestVerifyFindsEveryAttack(t *testing.T) {
	for _, row := range attacks {
		t.Run(row.name, func(t *testing.T) {
			v := newVictim(t)
			kept := [][]byte{}
			if row.kept {
				kept = append(kept, v.kept)
			}
			if r := v.verify(t, kept...); len(r.Problems)+len(r.Warnings) > 0 {
				t.Fatalf("got %+v, %+v before the attack, want nothing wrong", r.Problems, r.Warnings)
			}
			row.attack(t, v)
			r := v.verify(t, kept...)
			i := slices.IndexFunc(r.Problems, func(p Problem) bool {
				return p.Fault == row.fault && (row.index == nil || row.index(v) == p.Index) && (row.id == nil || row.id(v) == p.ID)
			})
			if i < 0 {
				t.Errorf("got %+v, want %s, and the record", r.Problems, row.fault)
			}
		})
	}
}

func TestVerifyWarnsOfALogThatMayHaveBeenCut(t *testing.T) {
	v := newVictim(t)
	cutNewest(t, v.second, 2)
	r := v.verify(t)
	if len(r.Problems) != 0 || len(r.Warnings) != 1 || r.Warnings[0].Fault != FaultNotClosed {
		t.Errorf("got %+v, %+v, want a warning: without a kept checkpoint nobody can tell", r.Problems, r.Warnings)
	}
}

func TestVerifyTakesAnyPartOfTheTree(t *testing.T) {
	v := newVictim(t)
	for name, dir := range map[string]string{"all": v.dir, "node": filepath.Dir(v.first), "log": v.second} {
		r, err := Verify(t.Context(), VerifyOptions{Dir: dir, OperatorKeys: []string{v.public}})
		if err != nil {
			t.Fatal(err)
		}
		want := 2
		if dir == v.second {
			want = 1
		}
		if got := len(r.Logs); got != want {
			t.Errorf("got %d logs below the folder of %s, want %d", got, name, want)
		}
		// The second log speaks of the first, which is not there when it is looked at alone.
		if got := slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Fault != FaultLogMissing }); got {
			t.Errorf("got %+v below the folder of %s, want nothing else wrong", r.Problems, name)
		}
	}
}

func TestVerifyRefusesWithoutWhatItNeeds(t *testing.T) {
	v := newVictim(t)
	for name, o := range map[string]VerifyOptions{
		"no key":           {Dir: v.dir},
		"no such key":      {Dir: v.dir, OperatorKeys: []string{"postern+00+x"}},
		"no such folder":   {Dir: v.dir + "0", OperatorKeys: []string{v.public}},
		"an empty folder":  {Dir: t.TempDir(), OperatorKeys: []string{v.public}},
		"not a checkpoint": {Dir: v.dir, OperatorKeys: []string{v.public}, Checkpoints: [][]byte{[]byte("a\nb\nc\nd\ne\n")}},
		"half of one":      {Dir: v.dir, OperatorKeys: []string{v.public}, Checkpoints: [][]byte{v.kept[:20]}},
	} {
		if _, err := Verify(t.Context(), o); err == nil {
			t.Errorf("got no error with %s, want one", name)
		}
	}
	_, err := Verify(t.Context(), VerifyOptions{Dir: t.TempDir(), OperatorKeys: []string{v.public}})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no audit logs") {
		t.Errorf("got %v, want it to say that there are no logs", err)
	}
}

package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fuzzLog gives f the files of a small log as seeds, and returns the operator's
// key.
func fuzzLog(f *testing.F) (public string, leaves, values, hashes, checkpoints []byte) {
	f.Helper()
	x := newFixture(f)
	dir := x.write(f, func(l *Log) {
		exchange(f, l, "select $1", "'a'", "b\xff")
		exchange(f, l, "select 2")
	})
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	return x.public, read(firstLeaves), read(firstValues), read(hashesFile), read(checkpointsFile)
}

// FuzzHostileLog has verify, readers and the next instance read files that
// somebody else has written: none may panic, and the next instance can start.
func FuzzHostileLog(f *testing.F) {
	public, leaves, values, hashes, checkpoints := fuzzLog(f)
	f.Add(leaves, values, hashes, checkpoints)
	f.Add(leaves[:len(leaves)/2], values, hashes[:len(hashes)/2], checkpoints)
	f.Add(leaves, []byte{}, []byte{}, checkpoints[:20])
	f.Add([]byte(`{"index":9223372036854775807,"kind":"key","key":{}}`+"\n"), []byte(`{"index":-1}`+"\n"), []byte{1}, []byte("\n\n\n\n\n"))
	f.Add([]byte("{\"kind\":\"checkpoint\",\"previous\":{\"size\":-1}}\n\x00{"), []byte("\x00\n"), make([]byte, 4096), []byte("\x00"))
	f.Fuzz(func(t *testing.T, leaves, values, hashes, checkpoints []byte) {
		root := t.TempDir()
		dir := filepath.Join(root, "n1", "20261123T154300.000Z-00")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{
			firstLeaves: leaves, firstValues: values, hashesFile: hashes, checkpointsFile: checkpoints,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Verify(t.Context(), VerifyOptions{Dir: root, OperatorKeys: []string{public}})
		if err != nil {
			t.Fatalf("got %v, want a report of whatever is there", err)
		}
		if len(r.Problems) > 4*maxProblems {
			t.Errorf("got %d problems, want them bounded", len(r.Problems))
		}
		reader := NewReader(dir)
		defer reader.Close()
		for range 1000 {
			if _, err := reader.Next(); err != nil {
				break
			}
		}
		h := new(history)
		defer h.release()
		if err := h.add(dir, "n1/20261123T154300.000Z-00", checkpoint{}); err != nil {
			t.Errorf("got %v, want the next instance to start", err)
		}
		if err := h.repair(); err != nil {
			t.Errorf("got %v, want the next instance to start", err)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	_, _, _, _, checkpoints := fuzzLog(f)
	f.Add(checkpoints)
	f.Add([]byte("postern.dev/audit/n1/x\n18446744073709551616\nAAAA\n\n— x y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for all := newCheckpoints(bytes.NewReader(b)); ; {
			one, err := all.next()
			if err != nil {
				break
			}
			total += len(one)
			c, err := parseCheckpoint(one)
			if err != nil {
				continue
			}
			text := fmt.Sprintf("%s%s\n%d\n%v\n\n", originPrefix, c.log, c.size, c.root)
			if c.size < 0 || !strings.HasPrefix(string(one), text) {
				t.Errorf("got %+v of %q, want what it says", c, one)
			}
		}
		if total > len(b) {
			t.Errorf("got %d bytes out of %d, want none twice", total, len(b))
		}
	})
}

func FuzzValue(f *testing.F) {
	_, _, values, _, _ := fuzzLog(f)
	f.Add(string(values))
	f.Add("select '\x00\xff\u2028é\\\"'")
	f.Fuzz(func(t *testing.T, text string) {
		r := &Record{ID: NewID(), Request: &Request{Text: text}}
		var s seal
		s.take(r, defaultValueBytes)
		lines := s.appendLines(nil, 7)
		if text == "" {
			return
		}
		v, err := decodeValue(lines[:len(lines)-1])
		if err != nil {
			t.Fatal(err)
		}
		got, commitment, err := v.reveal(&s)
		if err != nil || got != clip(text, defaultValueBytes) || commitment != s.text {
			t.Errorf("got %q, %s, %v, want %q and %s", got, commitment, err, text, s.text)
		}
	})
}

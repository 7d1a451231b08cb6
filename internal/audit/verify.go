package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"
)

// VerifyOptions say what to verify, and what to verify it with. The keys and
// the checkpoints must come from where nobody who could change the log could
// change them.
type VerifyOptions struct {
	Dir          string   // of all logs, of one node, or of one log
	OperatorKeys []string // public halves; any of them may have certified a log's key
	Checkpoints  [][]byte // that were kept elsewhere
}

// Fault is one word for what is wrong.
type Fault string

// The faults that Verify finds.
const (
	FaultRecordChanged   Fault = "record-changed"
	FaultRecordMissing   Fault = "record-missing"
	FaultRecordMisplaced Fault = "record-misplaced"
	FaultRecordsAdded    Fault = "records-added" // after the log's agent was gone
	FaultValueChanged    Fault = "value-changed"
	FaultValueMissing    Fault = "value-missing"
	FaultHistoryChanged  Fault = "history-changed" // some record before a checkpoint; which one cannot be told
	FaultRecordsCut      Fault = "records-cut"     // the newest records
	FaultLogMissing      Fault = "log-missing"
	FaultLoss            Fault = "loss" // said by a later log
	FaultKey             Fault = "key"  // the operator has not certified it
	FaultCheckpoint      Fault = "checkpoint"
	FaultHashes          Fault = "hashes"     // the records are good
	FaultNotClosed       Fault = "not-closed" // a warning
)

// Problem is one thing that is wrong with a log.
type Problem struct {
	Log   string
	Fault Fault
	Index int64  // of the record, or of the first it may be; -1: of the log
	ID    string // of the record, when it can be told
	Text  string // what is wrong, in words
}

// LogReport is what was found in one log.
type LogReport struct {
	ID          string
	State       State
	Records     int64
	Covered     int64 // by a signed checkpoint, or by a later log
	Values      int64
	First, Last time.Time
}

// Report is what Verify found.
type Report struct {
	Logs     []LogReport
	Problems []Problem
	Warnings []Problem // nothing is proven wrong, but less is proven right
}

// Verify recomputes every tree below a folder and compares it with what was
// signed, in the logs themselves, in later logs, and in checkpoints that were
// kept elsewhere.
//
// Shape: a report without problems says that nothing that a checkpoint covers
// was changed, removed or cut since.
// Errors: it fails when nothing could be verified; what is wrong with a log is a
// [Problem].
func Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	operators, err := verifiers(o.OperatorKeys)
	if err != nil {
		return nil, fmt.Errorf("verify audit logs: %w", err)
	}
	dirs, err := logDirs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("verify audit logs: %w", err)
	}
	v := &verification{operators: operators, logs: make(map[string]*walk), lacked: make(map[string]bool)}
	for _, dir := range dirs {
		w := newWalk(dir, operators)
		if dir != o.Dir && filepath.Base(dir) != path.Base(w.id) {
			w.problem(FaultRecordMisplaced, -1, "", "it lies in a folder named "+filepath.Base(dir))
		}
		if twin := v.logs[w.id]; twin != nil {
			w.problem(FaultRecordMisplaced, -1, "", "it says that it is the log in "+twin.dir)
			w.id = dir
		}
		v.logs[w.id] = w
		v.order = append(v.order, w)
	}
	if err := v.addKept(o.Checkpoints); err != nil {
		return nil, fmt.Errorf("verify audit logs: %w", err)
	}
	v.addLinks()
	for _, w := range v.order {
		if err := w.run(ctx); err != nil {
			return nil, fmt.Errorf("verify audit log %s: %w", w.id, err)
		}
	}
	return v.report(), nil
}

func verifiers(keys []string) (note.Verifiers, error) {
	if len(keys) == 0 {
		return nil, errors.New("no operator's key is given")
	}
	var vs []note.Verifier
	for _, k := range keys {
		v, err := note.NewVerifier(k)
		if err != nil {
			return nil, errors.New("the operator's key is not a verifier key")
		}
		vs = append(vs, v)
	}
	return note.VerifierList(vs...), nil
}

// maxLogDepth is how far below the folder of all logs a log lies: node, log.
const maxLogDepth = 2

// logDirs finds the folders of logs at or below dir, in the order of their
// names.
func logDirs(dir string) ([]string, error) {
	level := []string{dir}
	for range maxLogDepth + 1 {
		var logs, next []string
		for _, d := range level {
			entries, err := os.ReadDir(d)
			if err != nil {
				return nil, err
			}
			if isLog(entries) {
				logs = append(logs, d)
			}
			for _, e := range entries {
				if e.IsDir() && e.Name()[0] != '.' {
					next = append(next, filepath.Join(d, e.Name()))
				}
			}
		}
		if len(logs) > 0 {
			return logs, nil
		}
		level = next
	}
	return nil, fmt.Errorf("%s holds no audit logs: %w", dir, fs.ErrNotExist)
}

// isLog tells whether a folder with these entries is a log, or what is left of
// one.
func isLog(entries []os.DirEntry) bool {
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		name := e.Name()
		return name == hashesFile || name == checkpointsFile ||
			strings.HasPrefix(name, leavesPrefix) || strings.HasPrefix(name, valuesPrefix)
	})
}

// verification compares the logs with each other.
type verification struct {
	operators note.Verifiers
	logs      map[string]*walk
	order     []*walk
	missing   []Problem
	lacked    map[string]bool // logs that are in missing
}

// addKept adds what the checkpoints that were kept elsewhere demand.
func (v *verification) addKept(kept [][]byte) error {
	for _, b := range kept {
		found := 0
		for all := newCheckpoints(bytes.NewReader(b)); ; found++ {
			one, err := all.next()
			if err == io.EOF && found > 0 {
				break
			}
			if err != nil {
				return errCheckpoint
			}
			c, err := parseCheckpoint(bytes.Clone(one))
			if err != nil {
				return err
			}
			v.keep(c)
		}
	}
	return nil
}

// keep adds what one checkpoint demands.
func (v *verification) keep(c checkpoint) {
	w := v.logs[c.log]
	if w == nil {
		v.lack(c.log, fmt.Sprintf("a kept checkpoint covers %d records of it", c.size))
		return
	}
	if w.key != nil && !c.signedBy(w.key) {
		w.problem(FaultKey, -1, "", "the kept checkpoint is not signed by the key that the log names: "+
			"the log was written anew, or the checkpoint is not of this log")
	}
	w.expected = append(w.expected, expectation{size: c.size, root: c.root, by: "the kept checkpoint"})
}

// addLinks adds what each log says of those before it.
func (v *verification) addLinks() {
	for _, later := range v.order {
		for _, p := range openingRecords(later.dir) {
			w := v.logs[p.Log]
			if w == nil {
				v.lack(p.Log, fmt.Sprintf("%s found %d records of it", later.id, p.Size))
				continue
			}
			e, err := p.expectation("the log " + later.id)
			if err != nil {
				continue // the later log is damaged, and its own walk says so
			}
			w.expected = append(w.expected, e)
		}
	}
}

func (v *verification) lack(log, why string) {
	if v.lacked[log] {
		return
	}
	v.lacked[log] = true
	v.missing = append(v.missing, Problem{Log: log, Fault: FaultLogMissing, Index: -1, Text: "the whole log is missing: " + why})
}

func (v *verification) report() *Report {
	r := &Report{Problems: v.missing}
	for _, w := range v.order {
		r.Logs = append(r.Logs, w.report)
		r.Problems = append(r.Problems, w.problems...)
		r.Warnings = append(r.Warnings, w.warnings...)
	}
	return r
}

// running tells whether an agent holds the lock of the log in dir.
func running(dir string) bool {
	f, err := lock(dir, unix.LOCK_NB)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, unix.EWOULDBLOCK)
}

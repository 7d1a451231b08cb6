package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxProblems bounds the problems that are listed of one log.
const maxProblems = 100

// expectation says that the first size records of a log have this root.
type expectation struct {
	size  int64
	root  tlog.Hash
	by    string // who says it
	own   bool   // the log itself, which proves nothing against who has its key
	final bool   // there are no further records
}

func (p *Previous) expectation(by string) (expectation, error) {
	root, err := tlog.ParseHash(p.Root)
	if err != nil || p.Size < 0 {
		return expectation{}, errors.New("it has no root")
	}
	return expectation{size: p.Size, root: root, by: by, final: p.State != StateLive}, nil
}

// walk goes once over a log's lines. It follows two trees: that of the lines,
// and, from the first line on that is not as its stored hash says, that of the
// stored hashes. When only the second has the root that was signed, the stored
// hashes are right and name the records that are not.
type walk struct {
	dir      string
	id       string
	key      note.Verifier // that signed its checkpoints; nil when nobody certified one
	own      *ownCheckpoints
	expected []expectation // of others, by size once the walk has begun

	next   int64 // index of the record that should come
	tree   edge  // of the lines
	broken bool  // a line was missing or misplaced: tree says nothing more
	stored edge  // of the stored hashes, while forked
	forked bool
	blind  bool // a stored hash was missing: stored says nothing more
	hashes *os.File

	good    int64        // the largest size that was found as expected
	proven  int64        // the same, as expected by others than the log itself
	end     *expectation // of whoever found it finished
	lost    bool         // neither tree had the root that was expected
	pending []Problem    // of records since then
	absent  []Problem    // values that are not there
	joiner  *joiner
	last    Kind

	report   LogReport
	problems []Problem
	warnings []Problem
}

// newWalk reads who the log in dir is, and the checkpoints in it.
func newWalk(dir string, operators note.Verifiers) *walk {
	w := &walk{dir: dir, id: filepath.Base(filepath.Dir(dir)) + "/" + filepath.Base(dir), joiner: newJoiner(dir)}
	leaves := newLines(dir, leavesPrefix, maxLeafBytes)
	defer leaves.close()
	line, err := leaves.read()
	if err != nil {
		w.problem(FaultRecordsCut, 0, "", "it has no first record")
		return w
	}
	r, err := decodeLeaf(line)
	if err != nil || r.Kind != KindKey {
		w.problem(FaultRecordChanged, 0, "", "the first record does not hold the log's key")
		return w
	}
	w.id = r.Log
	if w.key, err = r.Key.certifiedBy(r.Log, operators); err != nil {
		w.problem(FaultKey, 0, r.ID, "the key that the log names is not to be trusted: "+err.Error())
		return w
	}
	if w.own, err = openOwn(dir); err != nil {
		w.problem(FaultCheckpoint, -1, "", "its checkpoints cannot be read")
	}
	return w
}

func (w *walk) problem(f Fault, index int64, id, text string) {
	if len(w.problems) < maxProblems {
		w.problems = append(w.problems, Problem{Log: w.id, Fault: f, Index: index, ID: id, Text: text})
	}
}

func (w *walk) warn(f Fault, text string) {
	w.warnings = append(w.warnings, Problem{Log: w.id, Fault: f, Index: -1, Text: text})
}

// suspect remembers a problem of a record until it is known whether the record
// or its stored hash is wrong.
func (w *walk) suspect(f Fault, index int64, id, text string) {
	if len(w.pending) < maxProblems {
		w.pending = append(w.pending, Problem{Log: w.id, Fault: f, Index: index, ID: id, Text: text})
	}
}

// run reads every record and compares it with all that is known of it.
//
// Errors: the context's, and what keeps a file from being read.
func (w *walk) run(ctx context.Context) error {
	slices.SortStableFunc(w.expected, func(a, b expectation) int { return cmp.Compare(a.size, b.size) })
	live := running(w.dir) // asked first: whoever stops meanwhile has closed the log
	if err := w.openHashes(); err != nil {
		return err
	}
	defer w.close()
	leaves := newLines(w.dir, leavesPrefix, maxLeafBytes)
	defer leaves.close()
	w.compare()
	// A running agent may meanwhile have signed what was not there yet: then
	// there is more to read.
	for before := int64(-1); before < w.next; {
		before = w.next
		if err := w.readAll(ctx, leaves); err != nil {
			return err
		}
		if !live || w.ahead() == nil {
			break
		}
	}
	w.finish(live, leaves.unfinished())
	return nil
}

// readAll takes in the lines that are there now.
func (w *walk) readAll(ctx context.Context, leaves *lines) error {
	for {
		line, err := leaves.read()
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if errors.Is(err, errLongLine) {
			w.suspect(FaultRecordChanged, w.next, "", "the line is longer than a record can be")
			return nil
		}
		if err != nil {
			return err
		}
		if err := cmp.Or(ctx.Err(), w.leaf(line)); err != nil {
			return err
		}
	}
}

func (w *walk) openHashes() error {
	f, err := os.Open(filepath.Join(w.dir, hashesFile))
	if errors.Is(err, fs.ErrNotExist) {
		w.problem(FaultHashes, -1, "", "its hashes are missing: a changed record cannot be named")
		return nil
	}
	w.hashes = f
	return err
}

func (w *walk) close() {
	w.joiner.close()
	if w.own != nil {
		w.own.file.Close()
	}
	if w.hashes != nil {
		w.hashes.Close()
	}
}

// leaf checks one line and adds it to the tree.
func (w *walk) leaf(line []byte) error {
	r, err := decodeLeaf(line)
	if err != nil {
		w.suspect(FaultRecordChanged, w.next, "", err.Error())
		r = &Record{Index: w.next, Log: w.id}
	}
	switch {
	case r.Log != w.id:
		w.suspect(FaultRecordMisplaced, w.next, r.ID, "it is a record of "+r.Log)
		r.Index = w.next
	case r.Index < w.next:
		w.suspect(FaultRecordMisplaced, r.Index, r.ID, fmt.Sprintf("it stands before record %d: it was moved or repeated", w.next))
		w.fork()
		w.broken = true
		return nil
	case r.Index > w.next:
		w.suspect(FaultRecordMissing, w.next, "", fmt.Sprintf("record %d stands in its place", r.Index))
		w.fork()
		w.broken = true
		if err := w.skip(r.Index); err != nil {
			return err
		}
	}
	if err := w.add(r, tlog.RecordHash(line)); err != nil {
		return err
	}
	w.note(r)
	return w.checkValues(r)
}

// skip follows the stored hashes over records that are not there.
func (w *walk) skip(index int64) error {
	for w.next < index && !w.blind {
		h, known, err := w.storedHash(w.next)
		if err != nil {
			return err
		}
		w.blind = !known
		w.stored.push(h, nil)
		w.next++
		w.compare()
	}
	w.next = index
	return nil
}

// add puts the next record's hash into the trees.
func (w *walk) add(r *Record, hash tlog.Hash) error {
	stored, known, err := w.storedHash(w.next)
	if err != nil {
		return err
	}
	if known && stored != hash {
		w.suspect(FaultRecordChanged, w.next, r.ID, "it is not the record that was written")
		w.fork()
	}
	if !known {
		stored = hash // the agent was killed before it wrote this one
	}
	if w.forked {
		w.stored.push(stored, nil)
	}
	w.tree.push(hash, nil)
	w.next++
	w.compare()
	return nil
}

// fork begins to follow the stored hashes apart from the lines.
func (w *walk) fork() {
	if !w.forked {
		w.tree.copyTo(&w.stored)
		w.forked = true
	}
}

// storedHash returns what the hashes file holds for a record.
func (w *walk) storedHash(index int64) (h tlog.Hash, known bool, err error) {
	if w.hashes == nil || index >= maxIndex {
		return h, false, nil
	}
	n, err := w.hashes.ReadAt(h[:], tlog.StoredHashIndex(0, index)*tlog.HashSize)
	if err != nil && err != io.EOF {
		return h, false, err
	}
	return h, n == tlog.HashSize && h != tlog.Hash{}, nil
}

// compare compares the trees with what is expected of the size they have.
func (w *walk) compare() {
	for e := w.ahead(); e != nil && e.size <= w.next; e = w.ahead() {
		w.pass()
		if e.size == w.next { // smaller ones lie in a gap of the stored hashes
			w.meet(*e)
		}
		if e.final {
			w.end = e
		}
	}
}

// ahead returns the expectation that comes next, or nil.
func (w *walk) ahead() *expectation {
	own := w.ownAhead()
	switch {
	case len(w.expected) == 0:
		return own
	case own != nil && own.size <= w.expected[0].size:
		return own
	}
	return &w.expected[0]
}

// pass goes on to the one after.
func (w *walk) pass() {
	if own := w.ownAhead(); own != nil && w.ahead() == own {
		w.own.ahead = nil
		return
	}
	w.expected = w.expected[1:]
}

// meet compares the trees with e, which speaks of the records up to here.
func (w *walk) meet(e expectation) {
	lines := !w.broken && w.tree.root() == e.root
	stored := w.forked && !w.blind && w.stored.root() == e.root
	switch {
	case lines && w.forked:
		w.problem(FaultHashes, -1, "", "its hashes were changed: the records are as they were signed")
		w.forked, w.pending = false, nil
	case lines, stored:
		w.problems = append(w.problems, w.pending...)
		w.pending = nil
	case !w.lost:
		w.lost = true
		w.problems = append(w.problems, w.pending...)
		w.pending = nil
		from := w.proven
		if e.own {
			from = w.good
		}
		w.problem(FaultHistoryChanged, from, "", fmt.Sprintf(
			"of the records %d to %d at least one is not what %s covers", from, e.size-1, e.by))
		return
	default:
		return
	}
	w.good, w.report.Covered = e.size, e.size
	if !e.own {
		w.proven = e.size
	}
}

// note remembers what the report says of the log.
func (w *walk) note(r *Record) {
	if w.last == KindAgentStop {
		w.problem(FaultRecordsAdded, r.Index, r.ID, "it stands behind agent.stop, which is the last that an agent writes")
	}
	w.last = r.Kind
	if w.report.First.IsZero() {
		w.report.First = r.Time
	}
	w.report.Last = r.Time
	if r.Kind == KindLoss {
		w.problem(FaultLoss, r.Index, r.ID, fmt.Sprintf("it says that %s had %d records of which %d were left",
			r.Loss.Log, r.Loss.Known, r.Loss.Found))
	}
}

// checkValues compares the values of r with its commitments.
func (w *walk) checkValues(r *Record) error {
	ds, strays, err := w.joiner.join(r)
	if err != nil {
		return err
	}
	if strays > 0 {
		w.problem(FaultValueChanged, r.Index, r.ID, "at or before it are values that no record commits to")
	}
	for _, d := range ds {
		switch {
		case !isCommitment(*d.commitment):
			w.suspect(FaultRecordChanged, r.Index, r.ID, d.field+" is not a commitment")
		case !d.found:
			w.absent = append(w.absent, Problem{
				Log: w.id, Fault: FaultValueMissing, Index: r.Index, ID: r.ID, Text: "the value of " + d.field + " is missing",
			})
		case !d.kept:
			w.problem(FaultValueChanged, r.Index, r.ID, "the value of "+d.field+" is not the one that the record commits to")
		default:
			w.report.Values++
		}
	}
	return nil
}

// finish says how the log ends.
func (w *walk) finish(live, torn bool) {
	w.problems = append(w.problems, w.pending...)
	w.report.ID, w.report.Records, w.report.State = w.id, w.next, StateUnclean
	switch {
	case live:
		w.report.State = StateLive
	case w.last == KindAgentStop:
		w.report.State = StateClosed
	}
	w.finishValues()
	w.finishRecords(torn)
}

// finishValues lists the values that are not there. Where no checkpoint covers
// them, they were lost with the machine's power.
func (w *walk) finishValues() {
	for _, p := range w.absent[:min(len(w.absent), maxProblems)] {
		if p.Index >= w.report.Covered && w.report.State == StateUnclean {
			w.warnings = append(w.warnings, p)
			continue
		}
		w.problems = append(w.problems, p)
	}
}

// finishRecords says whether records are missing at the end, or too many.
func (w *walk) finishRecords(torn bool) {
	n := w.next
	var cut *expectation
	for e := w.ahead(); e != nil; e = w.ahead() {
		cut = e
		w.pass()
	}
	if cut != nil {
		w.problem(FaultRecordsCut, n, "", fmt.Sprintf(
			"%s covers %d records and %d are there: those from %d on were removed", cut.by, cut.size, n, n))
		return
	}
	if torn && w.last == KindAgentStop {
		w.problem(FaultRecordsAdded, n, "", "something stands behind agent.stop, after which no agent writes")
		return
	}
	if w.end != nil {
		if w.end.size < n {
			w.problem(FaultRecordsAdded, w.end.size, "", fmt.Sprintf(
				"%s found %d records when its agent was gone, and %d are there", w.end.by, w.end.size, n))
		}
		return
	}
	switch {
	case w.report.State == StateClosed && w.report.Covered < n && w.key != nil:
		w.problem(FaultCheckpoint, w.report.Covered, "", "no checkpoint covers its last records, though it was closed: "+
			"a checkpoint was removed, or these were written by somebody else")
	case w.report.State == StateUnclean && torn:
		w.warn(FaultNotClosed, "its agent was killed while it wrote a line; the next agent repairs that and says so")
	case w.report.State == StateUnclean:
		w.warn(FaultNotClosed, "it does not end with agent.stop: its agent was killed, or its newest records were cut. "+
			"Compare it with a checkpoint that was kept elsewhere")
	}
}

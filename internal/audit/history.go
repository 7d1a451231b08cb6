package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"
)

const (
	hashesFile      = "hashes"
	checkpointsFile = "checkpoints"
)

// history is what a new log says of the logs before it.
type history struct {
	records []*Record
	locks   []*os.File // of the logs that it speaks for
	cuts    []cut      // to be made once the records are durable
}

func (h *history) release() {
	for _, f := range h.locks {
		f.Close()
	}
}

// repair cuts off what killed agents left unfinished.
func (h *history) repair() error {
	for _, c := range h.cuts {
		if err := c.make(); err != nil {
			return fmt.Errorf("repair audit log: %w", err)
		}
	}
	return nil
}

// findHistory looks at every log of the node that no later log speaks for.
func (l *Log) findHistory() (*history, error) {
	node := filepath.Dir(l.dir)
	names, err := logNames(node)
	if err != nil {
		return nil, err
	}
	spoken := make(map[string]bool)
	for _, name := range names {
		for _, p := range openingRecords(filepath.Join(node, name)) {
			spoken[p.Log] = spoken[p.Log] || p.State != StateLive
		}
	}
	kept := l.keptCheckpoint()
	h := new(history)
	for _, name := range names {
		id := l.o.Node + "/" + name
		if spoken[id] {
			continue
		}
		if err := h.add(filepath.Join(node, name), id, kept); err != nil {
			h.release()
			return nil, err
		}
	}
	log, here := strings.CutPrefix(kept.log, l.o.Node+"/")
	if here && !slices.Contains(names, log) {
		h.loss(kept.log, kept, 0)
	}
	return h, nil
}

// logNames lists the logs in the folder of a node, oldest first.
func logNames(node string) ([]string, error) {
	entries, err := os.ReadDir(node)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), hiddenPrefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// keptCheckpoint reads the checkpoint that an earlier instance left outside its
// log; a zero one when there is none.
func (l *Log) keptCheckpoint() checkpoint {
	if l.o.CheckpointFile == "" {
		return checkpoint{}
	}
	b, err := readFile(l.o.CheckpointFile, maxCheckpointBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return checkpoint{}
	}
	var c checkpoint
	if err == nil {
		c, err = parseCheckpoint(b)
	}
	if err != nil {
		l.o.Log.WithError(err).Warn("Kept checkpoint cannot be read, it is replaced")
	}
	return c
}

// add says how the log in dir was left.
func (h *history) add(dir, id string, kept checkpoint) error {
	f, err := lock(dir, unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		h.addLive(dir, id)
		return nil
	}
	if err != nil {
		return err
	}
	h.locks = append(h.locks, f)

	found, err := inspect(dir, id)
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	p := &Previous{Log: id, State: StateUnclean, Size: found.size, Root: found.root.String()}
	if found.stopped {
		p.State = StateClosed // what stands behind is not its agent's: it stays for Verify to find
	}
	last := found.last
	if kept.log == id && kept.size > last.size && found.signed(kept) {
		last = kept
	}
	p.Checkpoint = string(last.note)
	if found.size >= last.size && p.State != StateClosed {
		cuts, err := found.survey(dir)
		if err != nil {
			return fmt.Errorf("look for what to repair in %s: %w", dir, err)
		}
		h.cuts = append(h.cuts, cuts...)
		p.Repair = repairOf(cuts)
	}
	h.records = append(h.records, &Record{Kind: KindPrevious, Previous: p})
	if found.size < last.size {
		h.loss(id, last, found.size)
	}
	for _, r := range found.unanswered() {
		h.records = append(h.records, &Record{
			Kind: KindOutcome, Session: r.Session, Seq: r.Seq, RequestID: r.ID, RequestLog: id,
			Outcome: &Outcome{Status: StatusUnknown},
		})
	}
	return nil
}

func (h *history) loss(log string, c checkpoint, found int64) {
	h.records = append(h.records, &Record{
		Kind: KindLoss, Loss: &Loss{Log: log, Known: c.size, Found: found, Checkpoint: string(c.note)},
	})
}

// addLive says what the running log in dir has signed so far.
func (h *history) addLive(dir, id string) {
	c := lastCheckpoint(dir, logKey(dir))
	if c.size == 0 {
		return
	}
	h.records = append(h.records, &Record{Kind: KindPrevious, Previous: &Previous{
		Log: id, State: StateLive, Size: c.size, Root: c.root.String(), Checkpoint: string(c.note),
	}})
}

// inspection is what a log has, as far as it can be read.
type inspection struct {
	size    int64
	root    tlog.Hash
	key     note.Verifier    // nil when the log names none
	last    checkpoint       // the largest that this key signed
	open    map[string]*head // requests without an outcome
	stopped bool             // its last record is agent.stop
	segment int              // of its last good record
	leafEnd int64
}

// inspect tells how the log in dir, which no agent writes any more, was left.
func inspect(dir, id string) (*inspection, error) {
	f := &inspection{key: logKey(dir), open: make(map[string]*head), segment: 1}
	f.last = lastCheckpoint(dir, f.key)
	if stop := lastLeaf(dir); stop.concludes(id, f.last) {
		f.size, f.root, f.stopped = f.last.size, f.last.root, true
		return f, nil
	}
	return f, f.readAll(dir, id)
}

// concludes tells whether r is an agent's last word: the last record that the
// checkpoint covers, with no request left open. What lies before it was signed
// by its own agent and need not be read again.
func (r *Record) concludes(id string, last checkpoint) bool {
	return r != nil && r.Kind == KindAgentStop && r.Log == id && r.Index == last.size-1 && r.Event == nil
}

// readAll reads the log in dir up to its end or the first line that is not the
// record that belongs there, with its values.
func (f *inspection) readAll(dir, id string) error {
	leaves := newLines(dir, leavesPrefix, maxLeafBytes)
	defer leaves.close()
	values := newJoiner(dir)
	values.from = f.last.size
	defer values.close()
	var tree edge
	defer func() { f.size, f.root = tree.size, tree.root() }()
	for {
		line, err := leaves.read()
		if err != nil {
			return nil
		}
		r, err := decodeHead(line)
		if err != nil || r.Index != tree.size || r.Log != id {
			return nil
		}
		// A machine that loses power may write a leaf and not its values. No
		// fdatasync has returned for such a record.
		if r.Index >= f.last.size {
			if whole, err := values.complete(line); !whole || err != nil {
				return err
			}
		}
		f.note(r)
		tree.push(tlog.RecordHash(line), nil)
		f.segment, f.leafEnd = leaves.segment, leaves.offset()
	}
}

// complete tells whether the record in line and all of its values are there.
func (j *joiner) complete(line []byte) (bool, error) {
	r, err := decodeLeaf(line)
	if err != nil {
		return false, nil
	}
	ds, _, err := j.join(r)
	return !slices.ContainsFunc(ds, func(d disclosure) bool { return !d.kept }), err
}

// note remembers of a record what the next log has to say.
func (f *inspection) note(r *head) {
	f.stopped = r.Kind == KindAgentStop
	switch r.Kind {
	case KindRequest:
		f.open[r.ID] = r
	case KindOutcome:
		delete(f.open, r.RequestID)
	}
}

// unanswered lists the requests without an outcome, in their order.
func (f *inspection) unanswered() []*head {
	return slices.SortedFunc(maps.Values(f.open), func(a, b *head) int { return cmp.Compare(a.Index, b.Index) })
}

// signed tells whether the log's key signed c.
func (f *inspection) signed(c checkpoint) bool { return f.key != nil && c.signedBy(f.key) }

// openingRecords returns what the log in dir says of the logs before it.
func openingRecords(dir string) []*Previous {
	leaves := newLines(dir, leavesPrefix, maxLeafBytes)
	defer leaves.close()
	var ps []*Previous
	for {
		line, err := leaves.read()
		if err != nil {
			return ps
		}
		r, err := decodeLeaf(line)
		if err != nil || r.Kind == KindAgentStart {
			return ps
		}
		if r.Kind == KindPrevious {
			ps = append(ps, r.Previous)
		}
	}
}

// lastLeaf returns the last record of the log in dir, or nil when it is longer
// than an agent's last is, or not whole.
func lastLeaf(dir string) *Record {
	segment := 1
	for {
		if _, err := os.Stat(segmentPath(dir, leavesPrefix, segment+1)); err != nil {
			break
		}
		segment++
	}
	f, err := os.Open(segmentPath(dir, leavesPrefix, segment))
	if err != nil {
		return nil
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	b := make([]byte, min(end, 4<<10))
	if _, err := f.ReadAt(b, end-int64(len(b))); err != nil {
		return nil
	}
	b, whole := bytes.CutSuffix(b, []byte("\n"))
	r, err := decodeLeaf(b[bytes.LastIndexByte(b, '\n')+1:])
	if err != nil || !whole {
		return nil
	}
	return r
}

// logKey returns the key that the log in dir names, or nil.
func logKey(dir string) note.Verifier {
	leaves := newLines(dir, leavesPrefix, maxLeafBytes)
	defer leaves.close()
	line, err := leaves.read()
	if err != nil {
		return nil
	}
	r, err := decodeLeaf(line)
	if err != nil || r.Kind != KindKey {
		return nil
	}
	return r.Key.verifier()
}

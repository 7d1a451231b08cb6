package audit

import (
	"errors"
	"fmt"
	"io/fs"
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
	p := &Previous{Log: id, State: StateUnclean, Size: found.tree.size, Root: found.tree.root().String()}
	if found.stopped && !found.torn {
		p.State = StateClosed
	}
	last := found.last
	p.Checkpoint = string(last.note)
	if found.tree.size >= last.size {
		cuts, err := found.survey(dir)
		if err != nil {
			return fmt.Errorf("look for what to repair in %s: %w", dir, err)
		}
		h.cuts = append(h.cuts, cuts...)
		p.Repair = repairOf(cuts)
	}
	h.records = append(h.records, &Record{Kind: KindPrevious, Previous: p})
	if kept.log == id && kept.size > last.size && found.signed(kept) {
		last = kept
	}
	if found.tree.size < last.size {
		h.loss(id, last, found.tree.size)
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
	tree    edge
	key     note.Verifier // nil when the log names none
	last    checkpoint    // the largest that this key signed
	open    map[string]*Record
	stopped bool // its last record is agent.stop
	torn    bool // something is behind its last good record
	segment int  // of its last good record
	leafEnd int64
}

// inspect reads the log in dir up to its end or the first line that is not the
// record that belongs there, with its values.
func inspect(dir, id string) (*inspection, error) {
	f := &inspection{key: logKey(dir), open: make(map[string]*Record), segment: 1}
	f.last = lastCheckpoint(dir, f.key)
	leaves := newLines(dir, leavesPrefix, maxLeafBytes)
	defer leaves.close()
	values := newJoiner(dir)
	defer values.close()
	for {
		line, err := leaves.read()
		if err != nil {
			f.torn = leaves.unfinished() || errors.Is(err, errLongLine)
			return f, nil
		}
		r, err := decodeLeaf(line)
		if err != nil || r.Index != f.tree.size || r.Log != id {
			f.torn = true
			return f, nil
		}
		ds, _, err := values.join(r)
		if err != nil {
			return nil, err
		}
		// A machine that loses power may write a leaf and not its values. No
		// fdatasync has returned for such a record.
		if r.Index >= f.last.size && slices.ContainsFunc(ds, func(d disclosure) bool { return !d.kept }) {
			f.torn = true
			return f, nil
		}
		f.note(r)
		f.tree.push(tlog.RecordHash(line), nil)
		f.segment, f.leafEnd = leaves.segment, leaves.offset()
	}
}

// note remembers of a record what the next log has to say.
func (f *inspection) note(r *Record) {
	f.stopped = r.Kind == KindAgentStop
	switch r.Kind {
	case KindRequest:
		f.open[r.ID] = &Record{ID: r.ID, Index: r.Index, Session: r.Session, Seq: r.Seq}
	case KindOutcome:
		delete(f.open, r.RequestID)
	}
}

// unanswered lists the requests without an outcome, in their order.
func (f *inspection) unanswered() []*Record {
	rs := make([]*Record, 0, len(f.open))
	for _, r := range f.open {
		rs = append(rs, r)
	}
	slices.SortFunc(rs, func(a, b *Record) int { return int(a.Index - b.Index) })
	return rs
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

package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	// ErrPoisoned is returned for ever after a write or fsync of the log failed:
	// nobody can tell then what is on the disk.
	ErrPoisoned = errors.New("the audit log cannot be written any more")
	// ErrFull is returned while the disk has no room for the record. Nothing of
	// it was written.
	ErrFull = errors.New("the disk has no room for the audit log")
	// ErrClosed is returned when Run has returned.
	ErrClosed = errors.New("the audit log is closed")
)

// errTooLong is returned for a record that no workload can cause.
var errTooLong = errors.New("append audit record: it is longer than a record may be")

// Log is the log of one agent instance.
type Log struct {
	o      Options
	id     string
	dir    string
	folder *os.File // its lock is held
	signer note.Signer
	seals  sync.Pool

	wanted chan struct{} // somebody waits for a commit
	dirty  chan struct{} // there is something to commit
	low    chan struct{} // a file should grow

	mu      sync.Mutex // guards what follows
	err     error      // why nothing can be appended
	tree    edge       // of all that was written; its size is the next index
	open    int64      // requests without an outcome
	segment int
	leaves  *growing
	values  *growing
	retired []*growing // of earlier segments, not yet synced
	line    []byte
	lines   []byte

	hashes        *growing
	pendingHashes []byte // of the tree, not yet written

	durable   edge   // what fdatasync has returned for
	pending   *batch // of the records that the next commit takes
	flying    *batch // of those that a commit is busy with
	flyingEnd int64

	checkpoints *growing // written by sign only
	signed      int64
	anchorFails bool
}

// batch is what one fdatasync makes durable.
type batch struct {
	done chan struct{}
	err  error // set before done is closed
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

func (b *batch) finish(err error) {
	b.err = err
	close(b.done)
}

// ID is the log's name: <node>/<start>-<random>.
func (l *Log) ID() string { return l.id }

// Append writes r to the log.
//
// Shape: V, Log, Index, Time, Node, Agent and Bytes are filled in, and ID when it is
// empty. r and what it points to may be used again afterwards. Many goroutines
// may append at once.
// Errors: [ErrPoisoned], [ErrFull], [ErrClosed]; the request must then not be
// forwarded.
func (l *Log) Append(r *Record) (index int64, err error) {
	if r.ID == "" {
		r.ID = NewID()
	}
	s, ok := l.seals.Get().(*seal)
	if !ok {
		s = new(seal)
	}
	defer l.seals.Put(s)
	s.take(r, l.o.MaxValueBytes)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(r, s); err != nil {
		return 0, err
	}
	return r.Index, nil
}

// append writes a record whose values are sealed. The caller holds mu.
func (l *Log) append(r *Record, s *seal) error {
	if l.err != nil {
		return l.err
	}
	r.V, r.Log, r.Index = Version, l.id, l.tree.size
	r.Time, r.Node, r.Agent = l.o.Clock(), l.o.Node, l.o.Agent
	l.line = append(appendRecord(l.line[:0], r, s), '\n')
	l.lines = s.appendLines(l.lines[:0], r.Index)
	if len(l.line) > maxLeafBytes {
		return errTooLong
	}
	if err := l.reserve(r.Kind); err != nil {
		return err
	}
	r.Bytes = len(l.line) + len(l.lines)
	if len(l.lines) > 0 {
		if err := l.values.append(l.lines); err != nil {
			return l.fail(err)
		}
	}
	if err := l.leaves.append(l.line); err != nil {
		return l.fail(err)
	}
	leaf := tlog.RecordHash(l.line[:len(l.line)-1])
	l.pendingHashes = l.tree.push(leaf, l.pendingHashes)
	l.count(r)
	notify(l.dirty)
	return nil
}

// count keeps count of the requests without an outcome in this log.
func (l *Log) count(r *Record) {
	switch {
	case r.Kind == KindRequest:
		l.open++
	case r.Kind == KindOutcome && r.RequestLog == "":
		l.open--
	}
}

// Wait returns when the record with this index is durable.
//
// Errors: [ErrPoisoned] when it may never be; the context's.
func (l *Log) Wait(ctx context.Context, index int64) error {
	b, err := l.batchOf(index)
	if b == nil {
		return err
	}
	notify(l.wanted)
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// batchOf returns the batch that makes a record durable, or nil when there is
// nothing to wait for.
func (l *Log) batchOf(index int64) (*batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case index < l.durable.size:
		return nil, nil
	case l.err != nil:
		return nil, l.err
	case index >= l.tree.size:
		return nil, fmt.Errorf("wait for audit record %d: there are %d", index, l.tree.size)
	case index < l.flyingEnd:
		return l.flying, nil
	}
	return l.pending, nil
}

// Err tells why nothing can be appended, or nil. It does not look at the disk's
// room, which may come back.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// fail ends the log after a failed write or sync. Neither is tried again: the
// kernel may have dropped what it could not write. The caller holds mu.
//
// Source: "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
func (l *Log) fail(err error) error {
	if errors.Is(l.err, ErrPoisoned) {
		return l.err
	}
	l.o.Log.WithError(err).Error("Audit log failed, every further request is refused")
	l.err = fmt.Errorf("%w: %w", ErrPoisoned, err)
	l.pending.finish(l.err)
	l.pending = newBatch()
	return l.err
}

// notify wakes whoever reads c, or leaves word for him.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Options say where a log lies and how it is written. Zero values are defaults,
// but for Dir, Node, Agent and OperatorKey.
type Options struct {
	Dir            string             // holds the logs of all nodes
	Node           string             // name of this node: letters, digits, '.', '_' and '-'
	Agent          string             // version of the agent
	OperatorKey    string             // file of the operator's private key, see [EnsureOperatorKey]
	CheckpointFile string             // holds the newest checkpoint; empty: none
	MaxValueBytes  int                // of all values of one record: 64 KiB, at most 1 MiB
	SegmentBytes   int64              // a new segment begins beyond it: 64 MiB
	SignEvery      time.Duration      // between checkpoints while there is activity: 1 s
	SyncEvery      time.Duration      // until a record that nobody waits for is durable: 50 ms
	Clock          func() time.Time   // time.Now
	Log            logrus.FieldLogger // nil: silent
}

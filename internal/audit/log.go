package audit

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
)

var (
	// ErrPoisoned is returned for ever after a write or fsync of the log failed.
	ErrPoisoned = errors.New("the audit log cannot be written any more")
	// ErrFull is returned while the disk has no room for the record. Nothing of
	// it was written.
	ErrFull = errors.New("the audit log has no room")
	// ErrClosed is returned by Append and Wait when Run has returned.
	ErrClosed = errors.New("the audit log is closed")
)

// Options say where a log lies and how it is written. Zero values are defaults,
// but for Dir, Node, Agent and OperatorKey.
type Options struct {
	Dir            string             // holds the logs of all nodes
	Node           string             // name of this node: letters, digits, '.', '_' and '-'
	Agent          string             // version of the agent
	OperatorKey    string             // file of the operator's private key, see [EnsureOperatorKey]
	CheckpointFile string             // kept up to date with the newest checkpoint; empty: none
	MaxValueBytes  int                // of all values of one record; 64 KiB
	SegmentBytes   int64              // a new segment begins beyond it; 64 MiB
	SignEvery      time.Duration      // between checkpoints while there is activity; 1 s
	SyncEvery      time.Duration      // until a record that nobody waits for is durable; 50 ms
	Clock          func() time.Time   // time.Now
	Log            logrus.FieldLogger // the standard logger's settings, discarded when nil
}

// Log is the log of one agent instance.
type Log struct{}

// Open makes a new log and writes its first records: its key, and what it
// found of the logs before it.
//
// Errors: it fails when the operator's key cannot be read or the folder cannot
// be made; a damaged earlier log is recorded and fails nothing.
func Open(o Options) (*Log, error) { return nil, errors.New("not built") }

// ID is the log's name: <node>/<start>-<random>.
func (l *Log) ID() string { return "" }

// Append writes r to the log.
//
// Shape: V, Log, Index, Time, Node and Agent are filled in, and ID when it is
// empty. r and what it points to may be used again afterwards. Many goroutines
// may append at once.
// Errors: [ErrPoisoned], [ErrFull], [ErrClosed]; the request must then not be
// forwarded.
func (l *Log) Append(r *Record) (index int64, err error) { return 0, nil }

// Wait returns when the record with this index is durable.
func (l *Log) Wait(ctx context.Context, index int64) error { return nil }

// Err tells why nothing can be appended, or nil.
func (l *Log) Err() error { return nil }

// Run makes records durable and signs checkpoints until ctx is done. Then it
// writes agent.stop and the last checkpoint, and closes the log.
func (l *Log) Run(ctx context.Context) error { return nil }

package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"
)

const (
	defaultValueBytes   = 64 << 10
	maxValueBytes       = 1 << 20
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 1 << 20
)

// nameTime is how a log's name begins, so that names sort by time.
const nameTime = "20060102T150405.000Z"

// hiddenPrefix is how the folder of a log is named that has no records yet.
const hiddenPrefix = ".new-"

// Open makes a new log and writes its first records: its key, and what it
// found of the logs before it.
//
// Errors: it fails when the operator's key cannot be read or the folder cannot
// be made; a damaged earlier log is recorded and fails nothing.
func Open(o Options) (*Log, error) {
	o, err := o.complete()
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	node, err := lockNode(o)
	if err != nil {
		return nil, fmt.Errorf("open audit log in %s: %w", o.Dir, err)
	}
	defer node.Close()
	name := o.Clock().UTC().Format(nameTime) + "-" + randomName()
	l, err := create(o, name)
	if err != nil {
		return nil, fmt.Errorf("open audit log in %s: %w", o.Dir, full(err))
	}
	if err := l.begin(name); err != nil {
		err = errors.Join(full(err), l.closeFiles(), os.RemoveAll(filepath.Join(o.Dir, o.Node, hiddenPrefix+name)))
		return nil, fmt.Errorf("open audit log in %s: %w", o.Dir, err)
	}
	return l, nil
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$`)

// complete fills the defaults in.
func (o Options) complete() (Options, error) {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("no folder is given"))
	}
	if !nodeName.MatchString(o.Node) {
		errs = append(errs, fmt.Errorf("%q is no name of a node: up to 63 letters, digits, '.', '_' and '-'", o.Node))
	}
	if o.MaxValueBytes == 0 {
		o.MaxValueBytes = defaultValueBytes
	}
	if o.MaxValueBytes < 0 || o.MaxValueBytes > maxValueBytes {
		errs = append(errs, fmt.Errorf("values of %d bytes are kept: want at most %d", o.MaxValueBytes, maxValueBytes))
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.SegmentBytes < minSegmentBytes {
		errs = append(errs, fmt.Errorf("segments have %d bytes: want at least %d", o.SegmentBytes, minSegmentBytes))
	}
	if o.SignEvery == 0 {
		o.SignEvery = time.Second
	}
	if o.SyncEvery == 0 {
		o.SyncEvery = 50 * time.Millisecond
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		o.Log = silent
	}
	return o, errors.Join(errs...)
}

// lockNode makes the folder of a node and takes its lock: logs begin one after
// the other, so that each knows those before it. It removes what is left of
// those whose agent was killed before the first record.
func lockNode(o Options) (*os.File, error) {
	node := filepath.Join(o.Dir, o.Node)
	if err := os.MkdirAll(node, 0o700); err != nil {
		return nil, err
	}
	f, err := lock(node, 0)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(node)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), hiddenPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(node, e.Name())))
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// create makes the files of an empty log in a hidden folder.
func create(o Options, name string) (*Log, error) {
	l := &Log{
		o: o, id: o.Node + "/" + name, dir: filepath.Join(o.Dir, o.Node, hiddenPrefix+name), segment: 1,
		wanted: make(chan struct{}, 1), dirty: make(chan struct{}, 1), low: make(chan struct{}, 1),
		pending: newBatch(),
	}
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return nil, err
	}
	if err := l.createFiles(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(l.dir))
	}
	return l, nil
}

func (l *Log) createFiles() (err error) {
	var made []*growing
	defer func() {
		for _, g := range made {
			if err != nil {
				err = errors.Join(err, g.discard())
			}
		}
	}()
	if l.leaves, l.values, err = createSegment(l.dir, l.segment); err != nil {
		return err
	}
	made = append(made, l.leaves, l.values)
	if l.hashes, err = createGrowing(filepath.Join(l.dir, hashesFile), hashesChunk, hashesSpare); err != nil {
		return err
	}
	made = append(made, l.hashes)
	l.checkpoints, err = createGrowing(filepath.Join(l.dir, checkpointsFile), checkpointsChunk, checkpointsSpare)
	if err != nil {
		return err
	}
	made = append(made, l.checkpoints)
	l.folder, err = lock(l.dir, unix.LOCK_NB)
	return err
}

// begin writes the first records and then gives the folder its name: a log that
// can be seen has a key.
func (l *Log) begin(name string) error {
	key, err := l.makeKey()
	if err != nil {
		return err
	}
	h, err := l.findHistory()
	if err != nil {
		return err
	}
	defer h.release()
	records := append([]*Record{{Kind: KindKey, Key: key}}, h.records...)
	for _, r := range append(records, &Record{Kind: KindAgentStart}) {
		if _, err := l.Append(r); err != nil {
			return err
		}
	}
	l.commit()
	if err := errors.Join(l.Err(), h.repair()); err != nil {
		return err
	}
	node := filepath.Dir(l.dir)
	if err := os.Rename(l.dir, filepath.Join(node, name)); err != nil {
		return err
	}
	l.dir = filepath.Join(node, name)
	if err := errors.Join(syncDir(l.dir), syncDir(node)); err != nil {
		return err
	}
	l.sign()
	return l.Err()
}

// makeKey makes the log's key, whose private half stays in the signer.
func (l *Log) makeKey() (*Key, error) {
	private, public, err := note.GenerateKey(rand.Reader, originPrefix+l.id)
	if err != nil {
		return nil, fmt.Errorf("make log key: %w", err)
	}
	if l.signer, err = note.NewSigner(private); err != nil {
		return nil, fmt.Errorf("make log key: %w", err)
	}
	certificate, err := certify(l.id, public, l.o.OperatorKey)
	if err != nil {
		return nil, err
	}
	return &Key{Public: public, Certificate: certificate}, nil
}

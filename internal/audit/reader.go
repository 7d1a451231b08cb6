package audit

import (
	"errors"
	"fmt"
	"io"
)

// Entry is a record as a reader sees it: with its values.
type Entry struct {
	Record
	Missing []string // fields whose value is not there, or not the right one: they hold the commitment
	Damaged bool     // the line is no record, and Record is empty
}

// Reader reads the records of one log in their order, also while they are being
// written. It proves nothing: that is what [Verify] is for.
type Reader struct {
	dir    string
	leaves *lines
	joiner *joiner
}

// Logs lists the folders of the logs at or below dir, each node's oldest first.
func Logs(dir string) ([]string, error) {
	dirs, err := logDirs(dir)
	if err != nil {
		return nil, fmt.Errorf("list audit logs: %w", err)
	}
	return dirs, nil
}

// NewReader reads the log in the folder dir.
func NewReader(dir string) *Reader {
	return &Reader{dir: dir, leaves: newLines(dir, leavesPrefix, maxLeafBytes), joiner: newJoiner(dir)}
}

// Next returns the next record.
//
// Errors: [io.EOF] when there is none yet: a later call may find one. After any
// other there is nothing more to read.
func (r *Reader) Next() (*Entry, error) {
	line, err := r.leaves.read()
	if err == io.EOF {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("read audit log %s: %w", r.dir, err)
	}
	record, err := decodeLeaf(line)
	if err != nil {
		return &Entry{Damaged: true}, nil
	}
	e := &Entry{Record: *record}
	ds, _, err := r.joiner.join(&e.Record)
	if err != nil {
		return nil, fmt.Errorf("read audit log %s: %w", r.dir, err)
	}
	for _, d := range ds {
		if !d.kept {
			e.Missing = append(e.Missing, d.field)
			continue
		}
		*d.commitment = d.text
	}
	return e, nil
}

// Close closes the log's files.
func (r *Reader) Close() error {
	return errors.Join(r.leaves.close(), r.joiner.close())
}

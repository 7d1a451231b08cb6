package audit

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ownCheckpoints reads the checkpoints of a log while a walk goes over its
// records: an agent signs one a second, and lives for months.
type ownCheckpoints struct {
	file  *os.File
	all   *checkpoints
	count int
	size  int64        // that the last one covers
	ahead *expectation // read and not yet met
	over  bool
}

// openOwn opens the checkpoints that are there now, so that a walk over a log
// that goes on being written ends.
func openOwn(dir string) (*ownCheckpoints, error) {
	f, err := os.Open(filepath.Join(dir, checkpointsFile))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &ownCheckpoints{file: f, all: newCheckpoints(io.NewSectionReader(f, 0, info.Size()))}, nil
}

// ownAhead returns what the log's own next checkpoint demands, or nil.
func (w *walk) ownAhead() *expectation {
	o := w.own
	if o == nil {
		return nil
	}
	for o.ahead == nil && !o.over {
		b, err := o.all.next()
		if err != nil { // the end, or one that was not written to its end
			o.over = true
			break
		}
		o.count++
		c, err := parseCheckpoint(b)
		if err != nil || c.log != w.id || c.size < o.size || !c.signedBy(w.key) {
			w.problem(FaultCheckpoint, -1, "", fmt.Sprintf("checkpoint %d is not signed by the log's key", o.count))
			continue
		}
		o.size = c.size
		o.ahead = &expectation{size: c.size, root: c.root, by: "its own checkpoint", own: true}
	}
	return o.ahead
}

package audit

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// originPrefix makes a log's ID the origin of its checkpoints.
const originPrefix = "postern.dev/audit/"

// checkpointLines is the number of lines of one checkpoint: origin, size, root,
// an empty one, and the signature.
const checkpointLines = 5

// maxCheckpointBytes bounds one checkpoint. A log's ID is far shorter.
const maxCheckpointBytes = 4 << 10

// errCheckpoint is why a checkpoint cannot be read.
var errCheckpoint = errors.New("it is not a checkpoint")

// checkpoint says that the first size records of a log have this root.
//
// Source: C2SP tlog-checkpoint.
type checkpoint struct {
	log  string
	size int64
	root tlog.Hash
	note []byte // as signed
}

// signCheckpoint signs what e covers.
func signCheckpoint(log string, e *edge, s note.Signer) (checkpoint, error) {
	root := e.root()
	text := originPrefix + log + "\n" + strconv.FormatInt(e.size, 10) + "\n" + root.String() + "\n"
	signed, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		return checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	return checkpoint{log: log, size: e.size, root: root, note: signed}, nil
}

// parseCheckpoint reads a checkpoint without looking at its signature.
func parseCheckpoint(b []byte) (checkpoint, error) {
	if len(b) > maxCheckpointBytes || bytes.Count(b, []byte("\n")) != checkpointLines {
		return checkpoint{}, errCheckpoint
	}
	lines := strings.Split(string(b), "\n")
	log, ok := strings.CutPrefix(lines[0], originPrefix)
	if !ok {
		return checkpoint{}, errCheckpoint
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return checkpoint{}, errCheckpoint
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return checkpoint{}, errCheckpoint
	}
	return checkpoint{log: log, size: size, root: root, note: b}, nil
}

// signedBy tells whether the holder of a log's key signed the checkpoint.
func (c checkpoint) signedBy(v note.Verifier) bool {
	_, err := note.Open(c.note, note.VerifierList(v))
	return err == nil
}

// splitCheckpoints cuts a checkpoints file into its checkpoints, and tells what
// is left over at its end.
func splitCheckpoints(b []byte) (whole [][]byte, rest []byte) {
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	for {
		end := 0
		for range checkpointLines {
			n := bytes.IndexByte(b[end:], '\n')
			if n < 0 {
				return whole, b
			}
			end += n + 1
		}
		whole, b = append(whole, b[:end:end]), b[end:]
	}
}

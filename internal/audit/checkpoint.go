package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	if !ok || lines[3] != "" {
		return checkpoint{}, errCheckpoint
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return checkpoint{}, errCheckpoint
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || root.String() != lines[2] { // base64 has several spellings
		return checkpoint{}, errCheckpoint
	}
	return checkpoint{log: log, size: size, root: root, note: b}, nil
}

// signedBy tells whether the holder of a log's key signed the checkpoint.
func (c checkpoint) signedBy(v note.Verifier) bool {
	_, err := note.Open(c.note, note.VerifierList(v))
	return err == nil
}

// checkpoints reads a checkpoints file, one after the other.
type checkpoints struct {
	scanner *bufio.Scanner
}

// newCheckpoints reads up to a zero byte: behind it is room that was not used.
func newCheckpoints(r io.Reader) *checkpoints {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxCheckpointBytes)
	s.Split(splitCheckpoint)
	return &checkpoints{scanner: s}
}

// next returns the next checkpoint as it is in the file, whether it is one or
// not. It is valid until the next call.
//
// Errors: [io.EOF] at the end, errCheckpoint when what is left is not a
// checkpoint, be it that it was not written to its end.
func (c *checkpoints) next() ([]byte, error) {
	if c.scanner.Scan() {
		return c.scanner.Bytes(), nil
	}
	if err := c.scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, errCheckpoint
	} else if err != nil {
		return nil, err
	}
	return nil, io.EOF
}

// splitCheckpoint is a [bufio.SplitFunc] of checkpointLines lines at a time.
func splitCheckpoint(data []byte, atEOF bool) (advance int, token []byte, err error) {
	end := 0
	for range checkpointLines {
		n := bytes.IndexByte(data[end:], '\n')
		zero := bytes.IndexByte(data[end:], 0)
		if zero >= 0 && (n < 0 || zero < n) {
			if end+zero > 0 {
				return 0, nil, errCheckpoint
			}
			return 0, nil, bufio.ErrFinalToken
		}
		if n < 0 {
			if atEOF && len(data) > 0 {
				return 0, nil, errCheckpoint
			}
			return 0, nil, nil
		}
		end += n + 1
	}
	return end, data[:end], nil
}

// lastCheckpoint returns the last checkpoint of the log in dir that its key
// signed; a zero one when there is none.
func lastCheckpoint(dir string, key note.Verifier) checkpoint {
	if key == nil {
		return checkpoint{}
	}
	f, err := os.Open(filepath.Join(dir, checkpointsFile))
	if err != nil {
		return checkpoint{}
	}
	defer f.Close()
	var newest [][]byte // a few: the last may be damaged
	for all := newCheckpoints(f); ; {
		b, err := all.next()
		if err != nil {
			break
		}
		newest = append(newest, bytes.Clone(b))
		if len(newest) > 16 {
			newest = slices.Delete(newest, 0, 8)
		}
	}
	for _, b := range slices.Backward(newest) {
		if c, err := parseCheckpoint(b); err == nil && c.signedBy(key) {
			return c
		}
	}
	return checkpoint{}
}

package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

const (
	leavesPrefix = "leaves-"
	valuesPrefix = "values-"
)

// maxValueLineBytes bounds a line of the values file: the largest value that
// can be configured, each of its bytes escaped, and what is around it.
const maxValueLineBytes = 6*maxValueBytes + 1024

// errLongLine is returned for a line that no writer of logs has written.
var errLongLine = errors.New("the line is too long")

func segmentPath(dir, prefix string, segment int) string {
	return filepath.Join(dir, fmt.Sprintf("%s%06d.jsonl", prefix, segment))
}

// lines reads the lines of a log's segments, one after the other.
//
// Shape: a segment ends where its file ends or at its first zero byte. What is
// behind its last newline is not a line, or not yet: whoever reads again later
// may find it completed.
type lines struct {
	dir, prefix string
	max         int // bytes of a line

	segment int // being read, from 1
	file    *os.File
	at      int64 // where buf lies in the file
	buf     []byte
	next    int // where the next line begins in buf
}

func newLines(dir, prefix string, max int) *lines {
	return &lines{dir: dir, prefix: prefix, max: max, segment: 1}
}

// offset is where the next line begins in its segment.
func (l *lines) offset() int64 { return l.at + int64(l.next) }

// unfinished tells whether something is behind the last line.
func (l *lines) unfinished() bool { return l.next < len(l.buf) }

// read returns the next line without its newline. It is valid until the next
// call.
//
// Errors: [io.EOF] when there is no further line now; [fs.ErrNotExist] when
// there is no first segment; errLongLine.
func (l *lines) read() ([]byte, error) {
	for {
		if err := l.open(); err != nil {
			return nil, err
		}
		line, err := l.line()
		if err != io.EOF || l.unfinished() || !l.followed() {
			return line, err
		}
		// The writer may have added a line here before it began the next segment.
		if line, err = l.line(); err != io.EOF {
			return line, err
		}
		if err := l.close(); err != nil {
			return nil, err
		}
		l.segment++
	}
}

func (l *lines) followed() bool {
	_, err := os.Stat(segmentPath(l.dir, l.prefix, l.segment+1))
	return err == nil
}

func (l *lines) open() error {
	if l.file != nil {
		return nil
	}
	f, err := os.Open(segmentPath(l.dir, l.prefix, l.segment))
	if err != nil {
		return err
	}
	l.file, l.at, l.buf, l.next = f, 0, l.buf[:0], 0
	return nil
}

func (l *lines) close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// line returns the next line of this segment.
func (l *lines) line() ([]byte, error) {
	for searched := 0; ; {
		rest := l.buf[l.next:]
		if n := bytes.IndexByte(rest[searched:], '\n'); n >= 0 {
			l.next += searched + n + 1
			return rest[:searched+n], nil
		}
		searched = len(rest)
		if searched > l.max {
			return nil, errLongLine
		}
		if err := l.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more of the segment, up to a zero byte.
func (l *lines) fill() error {
	l.at += int64(l.next)
	l.buf = append(l.buf[:0], l.buf[l.next:]...)
	l.next = 0

	have := len(l.buf)
	l.buf = slices.Grow(l.buf, 64<<10)
	n, err := l.file.ReadAt(l.buf[have:cap(l.buf)], l.at+int64(have))
	l.buf = l.buf[:have+n]
	if zero := bytes.IndexByte(l.buf[have:], 0); zero >= 0 {
		l.buf = l.buf[:have+zero]
	}
	if len(l.buf) > have {
		return nil
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

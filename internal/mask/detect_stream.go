package mask

import (
	"bytes"
	"io"
)

const (
	window  = MaxValue + 64 // bytes in which a value and what decides about it lie
	context = 64            // bytes before a value that decide about it
	name    = 16            // bytes of the longest name that is matched with its value: SharedAccessKey=
)

// Stream masks what is written to it, and hands it on. A value is found however
// it is cut into writes.
//
// Shape: what stands behind the last byte that no value holds (a line's end, a
// comma, a quote) waits for more, up to twice [MaxValue]; so does a private key
// until its last line. Close hands on what waits. A Stream belongs to one goroutine.
// Errors: those of the writer, after which nothing more is handed on.
type Stream struct {
	detectors *Detectors
	to        io.Writer
	counts    []int64
	held      []byte // context that was handed on, and what waits
	from      int    // held[from:] waits
	safe      int    // held[from:safe] ends with a byte that no value holds
	out       []byte
	spans     []Span
	err       error
}

// NewStream gives a stream that hands on to w and counts what it masks.
//
// Shape: counts has [Detectors.Len] entries, or is nil.
func (d *Detectors) NewStream(w io.Writer, counts []int64) *Stream {
	return &Stream{detectors: d, to: w, counts: counts}
}

// Write takes all of p, or fails.
func (s *Stream) Write(p []byte) (int, error) {
	for taken := 0; taken < len(p) && s.err == nil; {
		n := min(len(p)-taken, window)
		s.take(p[taken : taken+n])
		taken += n
	}
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

// Close hands on what waits. It does not close the writer.
func (s *Stream) Close() error {
	if s.err == nil {
		s.handOn(len(s.held))
	}
	return s.err
}

// take adds a piece, and hands on what it decides.
func (s *Stream) take(piece []byte) {
	before := len(s.held)
	s.held = append(s.held, piece...)
	moved := false
	for i := len(s.held); i > before; i-- {
		if breaks(s.held[i-1]) {
			s.safe, moved = i, true
			break
		}
	}
	cut := s.from
	if moved {
		cut = s.beforeKey()
	}
	if waits := len(s.held) - s.from; waits >= 2*window {
		cut = max(cut, len(s.held)-window)
	}
	if cut > s.from {
		s.handOn(cut)
	}
}

// beforeKey is safe, or the beginning of the first key before it whose end has not come.
func (s *Stream) beforeKey() int {
	begin := []byte("-----BEGIN ")
	for at := s.from; ; at += len(begin) {
		i := bytes.Index(s.held[at:s.safe], begin)
		if i < 0 {
			return s.safe
		}
		if at += i; unended(s.held[at:], len(begin)) {
			return at
		}
	}
}

// unended tells that where a key that text begins with ends is yet to come.
func unended(text []byte, i int) bool {
	const lastLine = 70 // bytes, and more than it has
	dashes, labelled := []byte("-----"), false
	for ; i < len(text); i++ {
		rest := text[i:]
		switch {
		case i > MaxValue || !is(text[i], armour):
			return false
		case bytes.HasPrefix(dashes, rest):
			return true
		case !bytes.HasPrefix(rest, dashes):
		case !labelled:
			labelled = true
			i += len(dashes) - 1
		default:
			end := []byte("-----END ")
			return len(rest) < lastLine && (bytes.HasPrefix(end, rest) || bytes.HasPrefix(rest, end) && !bytes.Contains(rest[len(end):], dashes))
		}
	}
	return true
}

// handOn masks and writes what waits before cut. What would be cut in two goes on waiting.
func (s *Stream) handOn(cut int) {
	s.spans = s.detectors.find(s.spans[:0], s.held, s.from)
	last := cut == len(s.held)
	at := s.from
	s.out = s.out[:0]
	for _, span := range s.spans {
		if span.Start >= cut {
			break
		}
		if span.End > cut && !last {
			if span.Start > s.from || len(s.held)-s.from < 2*window {
				cut = max(at, span.Start-name)
				break
			}
			cut = span.End // values that overlap, for longer than one can be
		}
		s.out = append(s.out, s.held[at:span.Start]...)
		s.out = append(s.out, stars...)
		at = span.End
		if s.counts != nil {
			s.counts[span.Detector]++
		}
	}
	if cut == s.from {
		return
	}
	s.out = append(s.out, s.held[at:cut]...)
	if _, err := s.to.Write(s.out); err != nil {
		s.err = err
		return
	}
	drop := max(0, cut-context)
	s.held = s.held[:copy(s.held, s.held[drop:])]
	s.from, s.safe = cut-drop, max(s.safe-drop, cut-drop)
}

package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"unicode/utf8"
)

const (
	saltBytes        = 16
	maxParameters    = 256
	commitmentPrefix = "sha256:"
	fieldText        = "request.text"
	fieldParameter   = "request.parameters."
	valueBeginning   = `{"index":`
)

// seal is what becomes of a record's values: a commitment to each for the leaf,
// and their lines for the values file. It is reused, its memory with it.
type seal struct {
	text       string
	parameters []string
	truncated  bool

	lines   []byte // of all values, each without its beginning, which holds the index
	ends    []int  // where each ends in lines
	scratch []byte
}

// take seals the values of r, of which it keeps at most maxBytes in all.
func (s *seal) take(r *Record, maxBytes int) {
	s.text, s.parameters, s.truncated = "", s.parameters[:0], false
	s.lines, s.ends = s.lines[:0], s.ends[:0]
	q := r.Request
	if q == nil {
		return
	}
	room := maxBytes
	if q.Text != "" {
		s.text = s.commit(r.ID, fieldText, q.Text, &room)
	}
	for i, p := range q.Parameters {
		if i == maxParameters {
			s.truncated = true
			break
		}
		s.parameters = append(s.parameters, s.commit(r.ID, fieldParameter+strconv.Itoa(i), p, &room))
	}
}

// commit appends the line of a value and returns the commitment to it.
func (s *seal) commit(id, field, value string, room *int) string {
	kept := clip(value, *room)
	s.truncated = s.truncated || len(kept) < len(value)
	*room -= len(kept)

	var salt [saltBytes]byte
	rand.Read(salt[:])
	commitment := s.commitment(salt[:], kept)

	e := encoder{buf: append(s.lines, '{')}
	e.text("id", id)
	e.text("field", field)
	e.key("salt")
	e.buf = append(e.buf, '"')
	e.buf = hex.AppendEncode(e.buf, salt[:])
	e.buf = append(e.buf, '"')
	e.value(kept)
	e.buf = append(e.buf, '}', '\n')
	s.lines = e.buf
	s.ends = append(s.ends, len(s.lines))
	return commitment
}

// value appends a value of any length as it is: text as text, and what is not
// UTF-8 in base64, so that nothing of it is lost.
func (e *encoder) value(v string) {
	if !utf8.ValidString(v) {
		e.key("base64")
		e.buf = append(e.buf, '"')
		e.buf = base64.StdEncoding.AppendEncode(e.buf, []byte(v))
		e.buf = append(e.buf, '"')
		return
	}
	e.key("value")
	e.buf = append(e.buf, '"')
	e.buf = appendEscaped(e.buf, v)
	e.buf = append(e.buf, '"')
}

func (s *seal) commitment(salt []byte, value string) string {
	s.scratch = append(append(s.scratch[:0], salt...), value...)
	sum := sha256.Sum256(s.scratch)
	var text [len(commitmentPrefix) + 2*sha256.Size]byte
	copy(text[:], commitmentPrefix)
	hex.Encode(text[len(commitmentPrefix):], sum[:])
	return string(text[:])
}

// appendLines appends the lines of the values, each with the index of its
// record.
func (s *seal) appendLines(dst []byte, index int64) []byte {
	start := 0
	for _, end := range s.ends {
		dst = append(dst, valueBeginning...)
		dst = strconv.AppendInt(dst, index, 10)
		dst = append(dst, ',')
		dst = append(dst, s.lines[start+1:end]...)
		start = end
	}
	return dst
}

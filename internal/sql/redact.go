package sql

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// reading is what the lexer alone tells of a text.
type reading struct {
	redacted    string
	literals    []Literal
	fingerprint string
	backslashes bool
}

// read cuts the text into tokens, checks the limits, and takes the literals out.
//
// Errors: a constant; the text is not to be parsed.
func read(text string, options Options) (*reading, error) {
	if len(text) > options.MaxBytes {
		return nil, errLong
	}
	if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
		return nil, errEncoding
	}
	tokens, highest, err := tokens(text, options)
	if err != nil {
		return nil, err
	}
	r := redactor{text: text, next: highest + 1, print: sha256.New()}
	backslashes := false
	for _, t := range tokens {
		r.add(t)
		backslashes = backslashes || backslashed(t, text)
	}
	return &reading{
		backslashes: backslashes,
		redacted:    r.out.String(),
		literals:    r.literals,
		fingerprint: hex.EncodeToString(r.print.Sum(nil)),
	}, nil
}

// tokens gives the tokens of a text and the highest number of its parameters.
func tokens(text string, options Options) (all []token, highest int, err error) {
	l, d := lexer{text: text}, depth{}
	for {
		t, err := l.next()
		if err != nil {
			return nil, 0, err
		}
		if t.kind == endToken {
			return all, highest, nil
		}
		d.add(t, text)
		switch {
		case d.total > options.MaxDepth:
			return nil, 0, errDeep
		case len(all) == options.MaxTokens:
			return nil, 0, errTokens
		}
		if t.kind == parameterToken {
			// PostgreSQL has 16 bits for them; what does not fit an int is not a statement.
			number, _ := strconv.Atoi(text[t.start+1 : t.end])
			highest = max(highest, min(number, 1<<31))
		}
		all = append(all, t)
	}
}

// redactor writes the tokens again, without values.
type redactor struct {
	text     string
	out      strings.Builder
	print    hash.Hash
	literals []Literal
	next     int // number of the next placeholder
	last     token
}

func (r *redactor) add(t token) {
	piece, printed := r.text[t.start:t.end], r.text[t.start:t.end]
	switch t.kind {
	case textToken, bitsToken, integerToken, floatToken:
		piece, printed = "$"+strconv.Itoa(r.next), "?"
		r.next++
		r.literals = append(r.literals, Literal{Placeholder: piece, Type: literalTypes[t.kind], Length: length(r.text[t.start:t.end], t.kind)})
	case wordToken:
		printed = strings.ToLower(piece)
	}
	if r.out.Len() > 0 && (t.start > r.last.end || worded(r.last.kind) && worded(t.kind)) {
		r.out.WriteByte(' ')
	}
	r.out.WriteString(piece)
	// A hash takes what it is given.
	_, _ = io.WriteString(r.print, printed+" ")
	r.last = t
}

// backslashed tells that t is a literal whose end depends on standard_conforming_strings: '…' or N'…' with a backslash.
// (U&'…' is an error where it is off; the others are read one way.)
func backslashed(t token, text string) bool {
	literal := text[t.start:t.end]
	return t.kind == textToken && strings.IndexByte("'nN", literal[0]) >= 0 && strings.IndexByte(literal, '\\') >= 0
}

// worded tells that two such tokens side by side read as one.
func worded(k kind) bool { return k != punctuationToken && k != operatorToken }

// literalTypes holds the kinds of token that are values.
var literalTypes = map[kind]string{textToken: "string", bitsToken: "bits", integerToken: "integer", floatToken: "float"}

// length tells how long a literal is, without prefix, quotes or tag.
func length(literal string, k kind) int {
	switch {
	case k == integerToken || k == floatToken:
		return len(literal)
	case literal[0] == '$':
		tag := strings.IndexByte(literal[1:], '$') + 2
		return len(literal) - 2*tag
	}
	return len(literal) - strings.IndexByte(literal, '\'') - 2
}

package audit

import (
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// What a hostile client can put into a leaf is bounded, so that a line is never
// longer than maxLeafBytes, whatever it is made of.
const (
	maxLeafBytes   = 1 << 20
	maxStringBytes = 1 << 10
	maxListItems   = 256
	maxListBytes   = 16 << 10
)

// timeLayout is RFC 3339 with all nine digits, so that times sort as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z07:00"

// encoder appends JSON to buf. It writes what encoding/json would write for a
// Record, an order of magnitude cheaper, and cuts what exceeds the limits.
type encoder struct {
	buf []byte
	cut bool // something was cut since it was last reset
}

// key appends the separator and the name of the next member.
func (e *encoder) key(name string) {
	e.separate()
	e.buf = append(e.buf, '"')
	e.buf = append(e.buf, name...)
	e.buf = append(e.buf, '"', ':')
}

func (e *encoder) separate() {
	switch e.buf[len(e.buf)-1] {
	case '{', '[':
	default:
		e.buf = append(e.buf, ',')
	}
}

func (e *encoder) open(name string) {
	e.key(name)
	e.buf = append(e.buf, '{')
}

func (e *encoder) close() { e.buf = append(e.buf, '}') }

func (e *encoder) text(name, s string) {
	e.key(name)
	e.quote(s)
}

func (e *encoder) optional(name, s string) {
	if s != "" {
		e.text(name, s)
	}
}

func (e *encoder) number(name string, n int64) {
	e.key(name)
	e.integer(n)
}

func (e *encoder) integer(n int64) { e.buf = strconv.AppendInt(e.buf, n, 10) }

func (e *encoder) unsigned(name string, n uint64) {
	e.key(name)
	e.buf = strconv.AppendUint(e.buf, n, 10)
}

func (e *encoder) boolean(name string, b bool) {
	e.key(name)
	e.buf = strconv.AppendBool(e.buf, b)
}

func (e *encoder) time(name string, t time.Time) {
	e.key(name)
	e.buf = append(e.buf, '"')
	e.buf = t.UTC().AppendFormat(e.buf, timeLayout)
	e.buf = append(e.buf, '"')
}

func (e *encoder) list(name string, items []string) {
	e.key(name)
	e.buf = append(e.buf, '[')
	room := maxListBytes
	for i, item := range items {
		if i == maxListItems || room < len(item) {
			e.cut = true
			break
		}
		room -= len(item)
		e.separate()
		e.quote(item)
	}
	e.buf = append(e.buf, ']')
}

func (e *encoder) optionalList(name string, items []string) {
	if len(items) > 0 {
		e.list(name, items)
	}
}

// object appends the first maxListItems members of m in the order of their
// names.
func object[V any](e *encoder, name string, m map[string]V, value func(V)) {
	if len(m) == 0 {
		return
	}
	e.open(name)
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i == maxListItems {
			e.cut = true
			break
		}
		e.separate()
		e.quote(k)
		e.buf = append(e.buf, ':')
		value(m[k])
	}
	e.close()
}

// quote appends s as a JSON string, cut to maxStringBytes. Invalid UTF-8
// becomes U+FFFD.
func (e *encoder) quote(s string) {
	e.buf = append(e.buf, '"')
	short := clip(s, maxStringBytes)
	e.buf = appendEscaped(e.buf, short)
	if len(short) < len(s) {
		e.cut = true
		e.buf = append(e.buf, "…"...)
	}
	e.buf = append(e.buf, '"')
}

// clip cuts s to at most n bytes without splitting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range utf8.UTFMax {
		if n > i && utf8.RuneStart(s[n-i]) {
			return s[:n-i]
		}
	}
	return s[:n]
}

const hexDigits = "0123456789abcdef"

func appendEscaped(dst []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		dst = appendEscape(dst, c)
		i++
		start = i
	}
	return append(dst, s[start:]...)
}

// appendEscape appends the escape of a byte that cannot stand for itself.
func appendEscape(dst []byte, c byte) []byte {
	switch {
	case c == '"', c == '\\':
		return append(dst, '\\', c)
	case c == '\n':
		return append(dst, '\\', 'n')
	case c == '\r':
		return append(dst, '\\', 'r')
	case c == '\t':
		return append(dst, '\\', 't')
	case c < 0x20:
		return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
	}
	return append(dst, `\ufffd`...)
}

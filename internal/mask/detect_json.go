package mask

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// maskJSON masks what is found in the strings of a JSON text, names of fields
// included, and replaces a number that is found by 0.
//
// Shape: as of [Detectors.MaskValue]. What is not JSON is masked as text from
// where it ceases to be.
// Source: RFC 8259 §7 for escapes: a value may be spelt with them.
func (d *Detectors) maskJSON(dst, value []byte, counts []int64) (masked []byte, found, null bool) {
	escaped := bytes.Contains(value, []byte(`\u`)) || bytes.Contains(value, []byte(`\/`))
	if !escaped && !d.Suspects(value) {
		return dst, false, false
	}
	w := jsonWalk{Detectors: d, dst: dst, value: value, counts: counts}
	w.run()
	if !w.found || w.null {
		return dst, w.found, w.null
	}
	return append(w.dst, value[w.kept:]...), true, false
}

// jsonWalk goes through a JSON text once.
type jsonWalk struct {
	*Detectors
	dst    []byte
	value  []byte
	kept   int // value[kept:] is not in dst yet
	counts []int64
	room   [8]Span
	found  bool
	null   bool
}

func (w *jsonWalk) run() {
	for i := 0; i < len(w.value); {
		switch c := w.value[i]; {
		case c == '"':
			end := stringEnd(w.value, i+1)
			w.text(i+1, end)
			i = end + 1
		case c == '-' || is(c, digit):
			end := i + 1
			for end < len(w.value) && (is(w.value[end], alnum) || contains("+-.", w.value[end])) {
				end++
			}
			if spans := w.Find(w.room[:0], w.value[i:end]); len(spans) > 0 {
				w.replaceWith(i, end, []byte("0"), spans)
			}
			i = end
		case is(c, unspaced) || c >= utf8.RuneSelf: // true, false, null, or no JSON
			end := i + 1
			for end < len(w.value) && !contains("\",:[]{}", w.value[end]) {
				end++
			}
			w.text(i, end)
			i = end
		default:
			i++
		}
	}
}

// text masks the inside of a string.
func (w *jsonWalk) text(start, end int) {
	inside := w.value[start:end]
	spans := w.Find(w.room[:0], inside)
	if bytes.IndexByte(inside, '\\') < 0 {
		if len(spans) > 0 {
			w.replaceWith(start, end, w.replace(nil, inside, spans, nil), spans)
		}
		return
	}
	if len(spans) == 0 && !bytes.Contains(inside, []byte(`\u`)) && !bytes.Contains(inside, []byte(`\/`)) {
		return
	}
	plain := unescape(make([]byte, 0, len(inside)), inside)
	if spans = w.Find(w.room[:0], plain); len(spans) > 0 {
		w.replaceWith(start, end, escape(nil, w.replace(nil, plain, spans, nil)), spans)
	}
}

// replaceWith puts other bytes in the place of value[start:end].
func (w *jsonWalk) replaceWith(start, end int, other []byte, spans []Span) {
	count(w.counts, spans)
	w.found = true
	w.null = w.null || w.nullifies(spans)
	w.dst = append(w.dst, w.value[w.kept:start]...)
	w.dst = append(w.dst, other...)
	w.kept = end
}

// stringEnd finds the quote that ends a string, or the end of the text.
func stringEnd(value []byte, i int) int {
	for ; i < len(value); i++ {
		switch value[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return len(value)
}

// unescape appends what a string of JSON says.
func unescape(dst, inside []byte) []byte {
	for i := 0; i < len(inside); i++ {
		c := inside[i]
		if c != '\\' || i+1 == len(inside) {
			dst = append(dst, c)
			continue
		}
		i++
		switch c = inside[i]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, size := codePoint(inside[i+1:])
			dst = utf8.AppendRune(dst, r)
			i += size
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// codePoint reads the four digits behind \u, and those of the second half of a pair.
func codePoint(b []byte) (r rune, size int) {
	first, ok := fourDigits(b)
	if !ok {
		return utf8.RuneError, 0
	}
	if utf16.IsSurrogate(first) && len(b) >= 10 && b[4] == '\\' && b[5] == 'u' {
		if second, ok := fourDigits(b[6:]); ok {
			if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
				return r, 10
			}
		}
	}
	return first, 4
}

func fourDigits(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		if !is(c, hexadecimal) {
			return 0, false
		}
		n := rune(c - '0')
		if c > '9' {
			n = rune(c|0x20-'a') + 10
		}
		r = r<<4 | n
	}
	return r, true
}

// escape appends text as the inside of a string of JSON.
func escape(dst, text []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

package mask

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// The longest parts of an address.
//
// Source: RFC 5321 §4.5.3.1.1 and §4.5.3.1.2.
const (
	maxLocal  = 64  // bytes
	maxDomain = 255 // bytes
)

// findEmails finds e-mail addresses: without quotes and comments, with a domain of
// at least two labels.
func (d *Detectors) findEmails(dst []Span, text []byte, from int) []Span {
	low := from
	for at := indexAt(text, from); at >= 0; at = indexAt(text, at+1) {
		start, end := localStart(text, low, at), domainEnd(text, at+1)
		if start < at && end > 0 {
			dst = d.add(dst, detectEmail, start, end)
			low = end
			at = end - 1
		}
	}
	return dst
}

// localStart finds the beginning of the local part that ends before at; at itself where there is none.
//
// Source: RFC 5322 §3.2.3, dot-atom, less what text around addresses is likely to
// hold; RFC 6532 §3.2 for letters beyond ASCII.
func localStart(text []byte, low, at int) int {
	low = max(low, at-maxLocal)
	if at == low || text[at-1] == '.' {
		return at
	}
	start, wide := at, isWide(text, low, at)
	for start > low {
		if c := text[start-1]; c < utf8.RuneSelf {
			if !is(c, local) || c == '.' && text[start] == '.' {
				break // two dots are in no address
			}
			start--
			continue
		}
		r, size := utf8.DecodeLastRune(text[low:start])
		if r == utf8.RuneError || !wide && size > 2 {
			break
		}
		start -= size
	}
	for start < at && !begins(text, start) {
		start++
	}
	return start
}

// begins tells that a local part may begin at i.
func begins(text []byte, i int) bool {
	c := text[i]
	if c >= utf8.RuneSelf {
		return utf8.RuneStart(c)
	}
	if i > 0 && text[i-1] == '\\' && (c == 'n' || c == 'r' || c == 't') {
		return false // the letter of an escape
	}
	return is(c, word) && starts(text, i)
}

// isWide tells that the letter before at is of a script that puts no spaces between
// words: only then are others of the kind before it taken for a part of the address.
func isWide(text []byte, low, at int) bool {
	_, size := utf8.DecodeLastRune(text[low:at])
	return size > 2
}

// domainEnd finds the end of the domain that begins at i, 0 where there is none: the
// last place at which one may end.
//
// Source: RFC 1035 §2.3.1, RFC 5890 §2.3.2.1 for labels beyond ASCII.
func domainEnd(text []byte, i int) int {
	limit := min(len(text), i+maxDomain)
	end, label, dots := 0, i, 0
	for i < limit {
		switch c := text[i]; {
		case is(c, alnum):
			i++
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(text[i:limit])
			if r == utf8.RuneError || size > 2 && !(i == label && dots == 0) {
				return end
			}
			for size > 2 && r != utf8.RuneError { // a label of a script without spaces
				i += size
				if r, size = utf8.DecodeRune(text[i:limit]); size < 2 {
					break
				}
			}
			if size == 2 {
				i += size
			}
		case c == '.' && i > label && text[i-1] != '-':
			i++
			dots++
			label = i
			continue
		case c == '-' && i > label:
			i++
			continue
		default:
			return end
		}
		if dots > 0 && ends(text, i) && isTopLevel(text[label:i]) {
			end = i
		}
	}
	return end
}

// isTopLevel tells that a label may be a top-level domain: letters, and not what ends
// the name of a file.
func isTopLevel(label []byte) bool {
	if len(label) < 2 || len(label) > 63 {
		return false
	}
	if bytes.HasPrefix(label, []byte("xn--")) {
		return true
	}
	for _, c := range label {
		if c < utf8.RuneSelf && (!is(c, alnum) || is(c, digit)) {
			return false
		}
	}
	return len(label) > 5 || !strings.Contains(fileEndings, " "+strings.ToLower(string(label))+" ")
}

// fileEndings are those of names like icon@2x.png.
const fileEndings = " png jpg jpeg gif svg webp avif ico css js mjs cjs ts tsx jsx json map html htm xml yaml yml toml txt csv pdf mp4 woff ttf scss "

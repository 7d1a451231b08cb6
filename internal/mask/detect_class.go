package mask

import "bytes"

// A class is a set of bytes.
type class uint16

// The classes.
const (
	word        class = 1 << iota // letters, digits and _
	digit                         // 0-9
	alnum                         // letters and digits
	hexadecimal                   // 0-9, a-f, A-F
	lowerHex                      // 0-9, a-f
	upper                         // 0-9, A-Z
	urlSafe                       // word and -, the alphabet of base64url
	base64                        // alnum, + / =
	grouped                       // what numbers are written with
	unspaced                      // what tokens are made of
	local                         // of the part of an e-mail address before its @, in ASCII
	armour                        // what PEM has between its first and last line, and escapes of line ends
	padded                        // urlSafe and =
	bech32                        // of age's keys, in upper case
)

// classes holds the classes of every byte.
var classes = makeClasses()

func makeClasses() (all [256]class) {
	set := func(c class, bytes string) {
		for i := range len(bytes) {
			all[bytes[i]] |= c
		}
	}
	const (
		digits  = "0123456789"
		letters = "abcdefghijklmnopqrstuvwxyz"
		capital = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		letter  = digits + letters + capital
	)
	set(digit|grouped|upper|hexadecimal|lowerHex, digits)
	set(hexadecimal|lowerHex, "abcdef")
	set(hexadecimal, "ABCDEF")
	set(upper, capital)
	set(alnum|word|urlSafe|base64|unspaced|local|armour|padded, letter)
	set(word|urlSafe|unspaced|local|padded, "_")
	set(urlSafe|unspaced|local|armour|padded, "-")
	set(padded, "=")
	set(base64|unspaced|armour, "+/=")
	set(unspaced, ".~%")
	set(local, ".%+")
	set(grouped, " -./()+")
	set(armour, " \r\n\\:,")
	set(bech32, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")
	return all
}

func is(b byte, c class) bool { return classes[b]&c != 0 }

// breaks tells that no value holds b, but for a private key.
func breaks(b byte) bool { return b < 0x80 && classes[b]&(grouped|unspaced|local) == 0 && b != '@' }

// run gives the end of the bytes of a class that begin at i, at most limit of them.
func run(text []byte, i, limit int, c class) int {
	end := min(len(text), i+limit)
	for i < end && classes[text[i]]&c != 0 {
		i++
	}
	return i
}

// starts tells that a word may begin at i: no word reaches up to it. The letter of
// an escaped line end or tab does not count as one.
func starts(text []byte, i int) bool {
	if i == 0 || !is(text[i-1], word) {
		return true
	}
	c := text[i-1]
	return i > 1 && text[i-2] == '\\' && (c == 'n' || c == 'r' || c == 't')
}

// ends tells that a word may end before i.
func ends(text []byte, i int) bool { return i >= len(text) || !is(text[i], word) }

// The shortest runs that a closer look is worth.
const (
	minGrouped  = 9  // 123-45-6789, +49301234
	minDigits   = 8  // of them
	minUnspaced = 15 // every rule of tokenRules is longer
)

// numberRun finds the first run behind from that may hold a number, and its end; -1 where there is none.
//
// Shape: one byte in nine is looked at where the text has few digits.
func numberRun(text []byte, from int) (start, end int) {
	low := from
	for i := from + minGrouped - 1; i < len(text); i += minGrouped {
		if !is(text[i], grouped) {
			continue
		}
		start, end = i, i+1
		for start > low && is(text[start-1], grouped) {
			start--
		}
		for end < len(text) && is(text[end], grouped) {
			end++
		}
		if end-start >= minGrouped && digitsIn(text[start:end]) >= minDigits {
			return start, end
		}
		low, i = end, end
	}
	return -1, -1
}

func digitsIn(text []byte) int {
	n := 0
	for _, b := range text {
		if b-'0' < 10 {
			n++
		}
	}
	return n
}

// tokenRun is numberRun for what has no spaces.
func tokenRun(text []byte, from int) (start, end int) {
	low := from
	for i := from + minUnspaced - 1; i < len(text); i += minUnspaced {
		if !is(text[i], unspaced) {
			continue
		}
		start, end = i, i+1
		for start > low && is(text[start-1], unspaced) {
			start--
		}
		for end < len(text) && is(text[end], unspaced) {
			end++
		}
		if end-start >= minUnspaced {
			return start, end
		}
		low, i = end, end
	}
	return -1, -1
}

// indexAt finds the next @.
func indexAt(text []byte, from int) int {
	i := bytes.IndexByte(text[from:], '@')
	if i < 0 {
		return -1
	}
	return from + i
}

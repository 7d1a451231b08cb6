package postgres

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
)

// sentinel is a value that must not reach the client.
type sentinel struct {
	value string
	part  int // bytes of it that are a leak already; more where it could be in a record's ID
}

// sentinels are the values in testdata/sentinel/schema.sql, as text and as the binary format has them.
func sentinels() []sentinel {
	return []sentinel{
		{"Zqvx0817Wkjyp", 5}, {"@bqzwmx", 5}, // email
		{"9K7-W4-3V8", 5},                        // ssn
		{"83650719", 8}, {"\x04\xfc\x68\x9f", 4}, // salary
		{"1957-03-29", 8}, {"\xff\xff\xc2\xfe", 4}, // born, days before 2000
		{"5457623898234113", 10}, {"\x15\x51\x18\x5e\x26\x5f", 4}, // card, in digits to base 10,000
		{"GB29QZXWKJQVXWZQ", 5},                                     // meta
		{"\xfe\xed\xfa\xce\xca\xfe\x13\x79", 5},                     // photo
		{"d9f1c0de-5e17-4abc-9def-7766a1b2c3d", 10},                 // token
		{"\xd9\xf1\xc0\xde\x5e\x17\x4a\xbc\x9d\xef\x77\x66\xa1", 5}, // token
		{"+999 7654 0123", 6},                                       // phones
		{"11 Xyloquartz Row", 6}, {"QZ9 8XJ", 5},                    // home
		{"Vexjolq9", 5}, // bio
	}
}

// needles are the lower-case forms of the sentinels' parts that a client could
// make the value of: as they are, backwards, in hex and in base64.
func needles() map[string]string {
	found := map[string]string{}
	add := func(text, value string, part int) {
		for i := 0; i+part <= len(text); i++ {
			found[string(asciiLower([]byte(text[i:i+part])))] = value
		}
	}
	for _, s := range sentinels() {
		for _, form := range []string{s.value, asciiUpper(s.value), string(asciiLower([]byte(s.value))), reversed(s.value)} {
			add(form, s.value, s.part)
			add(hex.EncodeToString([]byte(form)), s.value, 2*s.part)
			for shift := range 3 { // where it begins within three bytes
				encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + form))
				first := []int{0, 2, 3}[shift] // characters that hold bits of what is before
				last := len(encoded)
				if (shift+len(form))%3 != 0 {
					last-- // holds bits of what is behind
				}
				add(encoded[first:last], s.value, max(7, s.part+s.part/3))
			}
		}
	}
	return found
}

func reversed(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

// leak finds a part of a sentinel in what a client received.
func leak(needles map[string]string, received []byte) (part, value string, found bool) {
	lower := asciiLower(received)
	for part, value := range needles {
		if bytes.Contains(lower, []byte(part)) {
			return part, value, true
		}
	}
	return "", "", false
}

// asciiLower is bytes.ToLower for bytes that are no text.
func asciiLower(b []byte) []byte {
	lower := bytes.Clone(b)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return lower
}

func asciiUpper(s string) string {
	upper := []byte(s)
	for i, c := range upper {
		if 'a' <= c && c <= 'z' {
			upper[i] = c - 'a' + 'A'
		}
	}
	return string(upper)
}

func TestLeaksAreFoundInEveryForm(t *testing.T) {
	needles := needles()
	for name, received := range map[string]string{
		"as it is":        "D..Zqvx0817Wkjyp1@bqzwmx.test",
		"a part":          "xx0817Wxx",
		"upper":           "ZQVX0817WKJYP",
		"backwards":       reversed("9K7-W4-3V81"),
		"hex":             hex.EncodeToString([]byte("..7Wkjyp..")),
		"hex of upper":    strings.ToUpper(hex.EncodeToString([]byte("7WKJYP"))),
		"base64":          base64.StdEncoding.EncodeToString([]byte("Zqvx0817Wkjyp1@bqzwmx.test")),
		"base64, shifted": base64.StdEncoding.EncodeToString([]byte("a: Zqvx0817Wkjyp1")),
		"binary integer":  "\x00\x00\x00\x04\x04\xfc\x68\x9f",
		"binary date":     "\x00\x00\x00\x04\xff\xff\xc2\xfe",
		"bytea as text":   `\xfeedfacecafe1379`,
	} {
		if _, _, found := leak(needles, []byte(received)); !found {
			t.Errorf("%s: got no leak, want one", name)
		}
	}
	if part, value, found := leak(needles, []byte("D\x00\x00\x00\x0b\x00\x01\x00\x00\x00\x03***Z\x00\x00\x00\x05I user 1, nobody@example.org")); found {
		t.Errorf("got a leak of %q by %q, want none", value, part)
	}
}

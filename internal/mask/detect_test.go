package mask

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// pieces writes text to a stream in pieces of the given sizes, over and over.
func pieces(t testing.TB, d *Detectors, text []byte, sizes ...int) string {
	t.Helper()
	var out bytes.Buffer
	s := d.NewStream(&out, make([]int64, d.Len()))
	for i := 0; len(text) > 0; i++ {
		n := min(max(1, sizes[i%len(sizes)]), len(text))
		if _, err := s.Write(text[:n]); err != nil {
			t.Fatal(err)
		}
		text = text[n:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// masked is text masked as a whole.
func masked(d *Detectors, text []byte) string {
	if out, found := d.Mask(nil, text, nil); found {
		return string(out)
	}
	return string(text)
}

func TestStreamMasksAsAWholeDoes(t *testing.T) {
	d := everything(t, Redact)
	samples := corpus(t)
	for _, s := range samples {
		for size := range 7 {
			if got, want := pieces(t, d, []byte(s.text), size+1, 64), masked(d, []byte(s.text)); got != want {
				t.Fatalf("%s in pieces of %d: got %q, want %q", s.line, size+1, got, want)
			}
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for _, glue := range []string{"\n", " ", "-", "", "x", "."} {
		var long []byte
		for len(long) < 10*window {
			long = append(append(long, samples[random.IntN(len(samples))].text...), glue...)
		}
		want := masked(d, long)
		for _, sizes := range [][]int{{1}, {7}, {1000, 1}, {window}, {5 * window}} {
			if got := pieces(t, d, long, sizes...); got != want {
				at := 0
				for at < min(len(got), len(want)) && got[at] == want[at] {
					at++
				}
				t.Errorf("glued by %q in pieces of %d: got …%.80q, want …%.80q", glue, sizes, got[max(0, at-20):], want[max(0, at-20):])
			}
		}
	}
}

func TestStreamHandsOnAtTheEndOfALine(t *testing.T) {
	var out bytes.Buffer
	s := everything(t, Redact).NewStream(&out, nil)
	for _, row := range []struct{ write, want string }{
		{"hello, ", "hello,"},
		{"ada@exam", "hello,"},
		{"ple.com\n", "hello, ***\n"},
	} {
		if _, err := s.Write([]byte(row.write)); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != row.want {
			t.Errorf("got %q behind %q, want %q", got, row.write, row.want)
		}
	}
}

func TestWhatIsMaskedHoldsNothingMore(t *testing.T) {
	d := everything(t, Redact)
	samples := corpus(t)
	for i, a := range samples {
		b := samples[(i*7+3)%len(samples)]
		for _, glue := range []string{"", " ", "-", ".", ",", "\n", "=", "@", "+"} {
			once := masked(d, []byte(a.text+glue+b.text))
			if rest := d.Find(nil, []byte(once)); len(rest) > 0 {
				t.Errorf("%q: got %q in %q, want nothing more", a.text+glue+b.text, once[rest[0].Start:rest[0].End], once)
			}
		}
	}
}

func TestNothingIsAllocatedWhereNothingIsFound(t *testing.T) {
	d := everything(t, Redact)
	var texts [][]byte
	for _, s := range corpus(t) {
		if len(s.marks) == 0 && len(d.Find(nil, []byte(s.text))) == 0 {
			texts = append(texts, []byte(s.text))
		}
	}
	var dst []byte
	allocations := testing.AllocsPerRun(10, func() {
		for _, text := range texts {
			for form := Text; form <= Opaque; form++ {
				if form == JSON && bytes.IndexByte(text, '\\') >= 0 {
					continue
				}
				dst, _, _ = d.MaskValue(dst[:0], text, form, nil)
			}
		}
	})
	if allocations > 0 {
		t.Errorf("got %v allocations, want none", allocations)
	}
}

// What looks for values is led on by each of these beginnings. Were the time that it
// takes not linear, the test would not end.
func TestHostileTextsAreLookedThrough(t *testing.T) {
	d := everything(t, Redact)
	const size = 256 << 10
	for _, unit := range []string{
		"@", "a@", "a@a", "a@b.", "a.", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@", "1", "1-", "1 ", "1111 ", "111-11-1111-", "+1", "+", "(111)", "4111-", "4111 1111 ",
		"eyJ", "eyJ.", "eyJhbGciOiJIUzI1NiJ9.", "eyJhbGciOiJIUzI1NiJ9.eyJ-", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n-----END ",
		"glpat-", "sk-", "sk-proj-", "AKIA", "AKIA-", "xoxb-", "SG.", "aws_secret=", "GB82 WEST ", "GB82", "A1", "DE89 3704 0044 ", "\\u0040", "\\n", "\x80", "é@é.", "東@東.",
	} {
		text := bytes.Repeat([]byte(unit), size/len(unit))
		if rest := d.Find(nil, []byte(masked(d, text))); len(rest) > 0 {
			t.Errorf("got %v in what was masked of %q, want nothing", rest[0], unit)
		}
		d.MaskValue(nil, text, JSON, nil)
		if got, want := pieces(t, d, text[:3*window], 100), masked(d, text[:3*window]); got != want {
			t.Errorf("got %d bytes of %q in pieces, want %d", len(got), unit, len(want))
		}
	}
}

func TestJSONStaysJSON(t *testing.T) {
	d := everything(t, Redact)
	for _, row := range []struct{ name, in, want string }{
		{"a string", `{"mail": "ada@example.com", "n": 1}`, `{"mail": "***", "n": 1}`},
		{"inside a string", `["to ada@example.com!"]`, `["to ***!"]`},
		{"a name", `{"ada@example.com": true}`, `{"***": true}`},
		{"a number", `{"card": 4111111111111111, "n": 12}`, `{"card": 0, "n": 12}`},
		{"an escaped letter", `{"m": "ada\u0040example.com"}`, `{"m": "***"}`},
		{"an escaped line end", `{"m": "to\nada@example.com\n\"x\""}`, `{"m": "to\n***\n\"x\""}`},
		{"an escaped slash", `{"aws": "aws_secret_access_key=abcdefghijklmnopqrs\/abcdefghijklmnopqrst"}`, `{"aws": "aws_secret_access_key=***"}`},
		{"a pair of surrogates", `["\ud83d\ude00 ada@example.com"]`, `["😀 ***"]`},
		{"nothing", `{"a": [1, 2.5e10, null, "x\n\u00e9"]}`, ""},
		{"a string without end", `{"a": "ada@example.com`, `{"a": "***`},
		{"no JSON", `ada@example.com`, `***`},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, found, null := d.MaskValue(nil, []byte(row.in), JSON, nil)
			if string(out) != row.want || found != (row.want != "") || null {
				t.Errorf("got %q, found %v, null %v, want %q", out, found, null, row.want)
			}
			if found && json.Valid([]byte(row.in)) && !json.Valid(out) {
				t.Errorf("got %q, want JSON", out)
			}
			whole, _, _ := d.MaskValue(nil, append([]byte{1}, row.in...), JSONB, nil)
			if want := "\x01" + row.want; found && string(whole) != want {
				t.Errorf("got %q as jsonb, want %q", whole, want)
			}
		})
	}
}

func TestValuesKeepTheirForm(t *testing.T) {
	d := everything(t, Redact)
	counts := make([]int64, d.Len())
	padded, found, _ := d.MaskValue(nil, []byte("é 123-45-6789      "), Padded, counts)
	if got := string(padded); !found || utf8.RuneCountInString(got) != 19 || strings.TrimRight(got, " ") != "é ***" {
		t.Errorf("got %q, want é *** in 19 characters", got)
	}
	fixed, _, _ := d.MaskValue(nil, []byte("\x00\x0b123-45-6789\x00"), Fixed, counts)
	if got, want := string(fixed), "\x00\x0b***********\x00"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	array := append([]byte("\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x19\x00\x00\x00\x03\x00\x00\x00\x01"),
		"\x00\x00\x00\x01a\xff\xff\xff\xff\x00\x00\x00\x0b123-45-6789"...)
	out, _, null := d.MaskValue(nil, array, Array, counts)
	if got, want := string(out[20:]), "\x00\x00\x00\x01a\xff\xff\xff\xff\x00\x00\x00\x03***"; null || got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, _, null := d.MaskValue(nil, array[:len(array)-1], Array, counts); !null {
		t.Error("got an array that is cut off, want NULL")
	}
	if counts[detectSSN] < 3 {
		t.Errorf("got counts %v, want 3 of ssn", counts)
	}
	nulls := everything(t, Null)
	for form := range Array {
		value := []byte("\x01" + `"123-45-6789"`)
		if form != JSONB {
			value = value[1:]
		}
		if out, found, null := nulls.MaskValue(nil, value, form, nil); !found || !null || len(out) > 0 {
			t.Errorf("got %q, found %v, null %v of form %d, want NULL", out, found, null, form)
		}
	}
}

func TestFormsOfTypes(t *testing.T) {
	for _, row := range []struct {
		name   string
		oid    uint32
		binary bool
		want   Form
	}{
		{"text", 25, false, Text}, {"text", 25, true, Text}, {"varchar", 1043, true, Text}, {"bpchar", 1042, false, Padded}, {"bpchar", 1042, true, Padded},
		{"json", 114, true, JSON}, {"jsonb", 3802, false, JSON}, {"jsonb", 3802, true, JSONB}, {"xml", 142, true, Text}, {"name", 19, true, Text},
		{"text[]", 1009, false, Text}, {"text[]", 1009, true, Array}, {"jsonb[]", 3807, true, Array}, {"int4", 23, false, Opaque}, {"int4", 23, true, Opaque},
		{"uuid", 2950, false, Opaque}, {"numeric[]", 1231, true, Opaque}, {"bytea", 17, false, Opaque}, {"timestamptz", 1184, true, Opaque},
		{"an extension's", 40000, false, Text}, {"an extension's", 40000, true, Fixed}, {"record", 2249, false, Text}, {"bit", 1560, false, Opaque},
	} {
		if got := FormOf(Column{TypeOID: row.oid, TypeModifier: -1, Binary: row.binary}); got != row.want {
			t.Errorf("got form %d for %s (binary %v), want %d", got, row.name, row.binary, row.want)
		}
	}
}

// FuzzDetectors holds for any bytes: a stream masks as a whole does, what is masked holds
// nothing more, and JSON stays JSON.
func FuzzDetectors(f *testing.F) {
	samples := corpus(f)
	for chunk := range slices.Chunk(samples, 20) { // each seed is run before any is changed
		var text []byte
		for _, s := range chunk {
			text = append(append(text, s.text...), '\n')
		}
		f.Add(text, uint8(3), uint8(50))
	}
	d := everything(f, Redact)
	f.Fuzz(func(t *testing.T, text []byte, a, b uint8) { holds(t, d, text, int(a), int(b)) })
}

// TestMutatedSamplesHold is what the fuzz target looks for, where chance is more likely to find it:
// between the values of the corpus.
func TestMutatedSamplesHold(t *testing.T) {
	d, samples := everything(t, Redact), corpus(t)
	random := rand.New(rand.NewPCG(5, 6))
	const odd = "@.-+ _/=*\\\"n1a:,()\n\x00\xc3\xa9%~"
	for range mutations {
		var text []byte
		for range 1 + random.IntN(3) {
			piece := samples[random.IntN(len(samples))].text
			from := random.IntN(len(piece) + 1)
			if random.IntN(3) > 0 {
				from = 0
			}
			text = append(text, piece[from:from+random.IntN(len(piece)-from+1)]...)
			if random.IntN(2) > 0 {
				text = append(text[:len(text)-min(len(text), random.IntN(2))], piece[from:]...)
			}
			if random.IntN(2) > 0 {
				text = append(text, odd[random.IntN(len(odd))])
			}
		}
		for range random.IntN(3) {
			if len(text) > 0 {
				text[random.IntN(len(text))] = odd[random.IntN(len(odd))]
			}
		}
		holds(t, d, text, 1+random.IntN(9), 1+random.IntN(99))
	}
}

// mutations is how many texts are tried.
const mutations = 20_000

// holds checks what is true of any text.
func holds(t *testing.T, d *Detectors, text []byte, a, b int) {
	t.Helper()
	spans, last := d.Find(nil, text), 0
	for _, s := range spans {
		if s.Start < last || s.End <= s.Start || s.End > len(text) {
			t.Fatalf("got spans %v of %d bytes, want them in order", spans, len(text))
		}
		last = s.End
	}
	if len(spans) > 0 && !d.Suspects(text) {
		t.Fatalf("got %v in %q without a suspicion", spans, text)
	}
	whole := masked(d, text)
	if rest := d.Find(nil, []byte(whole)); len(rest) > 0 {
		t.Fatalf("%q: got %s %q in %q, want nothing more", text, d.Name(rest[0].Detector), whole[rest[0].Start:rest[0].End], whole)
	}
	if got := pieces(t, d, text, a, b); got != whole {
		t.Fatalf("%q: got %q in pieces of %d and %d, want %q", text, got, a, b, whole)
	}
	if utf8.Valid(text) && !utf8.ValidString(whole) {
		t.Fatalf("%q: got %q, want UTF-8", text, whole)
	}
	for form := range Opaque {
		out, found, null := d.MaskValue(nil, text, form, nil)
		if form == JSON && found && !null && json.Valid(text) && !json.Valid(out) {
			t.Fatalf("%q: got %q, want JSON", text, out)
		}
		if form == Fixed && found && len(out) != len(text) {
			t.Fatalf("got %d bytes, want %d", len(out), len(text))
		}
	}
	quoted, err := json.Marshal(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if out, found, _ := d.MaskValue(nil, quoted, JSON, nil); found && !json.Valid(out) {
		t.Fatalf("%s: got %s, want JSON", quoted, out)
	}
}

func BenchmarkDetectors(b *testing.B) {
	prose := bytes.Repeat([]byte("The order was shipped to the customer on Monday, and the invoice follows by post. "), 200)
	rows := bytes.Repeat([]byte("\x00\x03\x00\x00\x00\x0217\x00\x00\x00\x132026-11-23 10:11:12\x00\x00\x00\x0bnnnnn nnnnn"), 300)
	uuids := bytes.Repeat([]byte("550e8400-e29b-41d4-a716-446655440000,"), 400)
	line := bytes.Repeat([]byte("n"), 100)
	mails := bytes.Repeat([]byte("user4711@example.com bought 3 pieces for 12.50 EUR at 10:11:12\n"), 250)
	d := everything(b, Redact)
	for _, row := range []struct {
		name string
		text []byte
	}{{"prose", prose}, {"rows", rows}, {"uuids", uuids}, {"100B", line}, {"mails", mails}} {
		b.Run(row.name, func(b *testing.B) {
			b.SetBytes(int64(len(row.text)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst, _, _ = d.MaskValue(dst[:0], row.text, Text, nil)
			}
		})
	}
}

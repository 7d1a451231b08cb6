package sql

import (
	"slices"
	"strings"
	"testing"
)

func TestRedactTakesLiteralsOut(t *testing.T) {
	rows := []struct {
		text, redacted string
		literals       []Literal
	}{
		{"select 1", "select $1", []Literal{{"$1", "integer", 1}}},
		{"select 'ada' , E'b\\'c', U&'\\0061' UESCAPE '!'", "select $1 , $2, $3 UESCAPE $4",
			[]Literal{{"$1", "string", 3}, {"$2", "string", 4}, {"$3", "string", 5}, {"$4", "string", 1}}},
		{"select * from t where a = $2 and b = 'x' and c = $1", "select * from t where a = $2 and b = $3 and c = $1", []Literal{{"$3", "string", 1}}},
		{"select $tag$ada$tag$, $$$$, N'x'", "select $1, $2, $3", []Literal{{"$1", "string", 3}, {"$2", "string", 0}, {"$3", "string", 1}}},
		{"select B'01', x'ff', 1.5e3, 0x1F, .5", "select $1, $2, $3, $4, $5",
			[]Literal{{"$1", "bits", 2}, {"$2", "bits", 2}, {"$3", "float", 5}, {"$4", "integer", 4}, {"$5", "float", 2}}},
		{"select/* secret */1-- secret\n from/**/t", "select $1 from t", []Literal{{"$1", "integer", 1}}},
		{"  select\n\t\"My Column\"  ,  b\nfrom   s.\"T\" ; ", "select \"My Column\" , b from s.\"T\" ;", nil},
		{"select'a'AS b", "select $1 AS b", []Literal{{"$1", "string", 1}}},
		{"select 1in(1,2)", "select $1 in($2,$3)", []Literal{{"$1", "integer", 1}, {"$2", "integer", 1}, {"$3", "integer", 1}}},
		{"select 'a'\n'b'", "select $1", []Literal{{"$1", "string", 5}}},
		{"alter role ada password 'secret'", "alter role ada password $1", []Literal{{"$1", "string", 6}}},
		{"select date '2020-01-01', true, null, -5", "select date $1, true, null, -$2", []Literal{{"$1", "string", 10}, {"$2", "integer", 1}}},
		{"", "", nil},
	}
	for _, row := range rows {
		t.Run(row.text, func(t *testing.T) {
			got, err := read(row.text, Options{}.withDefaults())
			if err != nil {
				t.Fatal(err)
			}
			if got.redacted != row.redacted {
				t.Errorf("got %q, want %q", got.redacted, row.redacted)
			}
			if !slices.Equal(got.literals, row.literals) {
				t.Errorf("got %v, want %v", got.literals, row.literals)
			}
		})
	}
}

func TestFingerprintIgnoresLiteralsSpacesAndComments(t *testing.T) {
	same := []string{
		"select a from t where b = 'x' and c = 5",
		"SELECT a  FROM t -- hello\nWHERE b='yy' and c=/* 1 */7",
		"select a from t where b=$$z$$ and c = 'a string'",
	}
	other := []string{
		"select a from t where b = 'x' or c = 5",
		"select a from t where b = 'x' and c = $1",
		"select a from \"T\" where b = 'x' and c = 5",
	}
	want := fingerprint(t, same[0])
	for _, text := range same[1:] {
		if got := fingerprint(t, text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	for _, text := range other {
		if got := fingerprint(t, text); got == want {
			t.Errorf("%s: got the fingerprint of %s, want another", text, same[0])
		}
	}
}

func fingerprint(t *testing.T, text string) string {
	t.Helper()
	r, err := read(text, Options{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	return r.fingerprint
}

// FuzzRedact demands that a redacted text has the tokens of the text, in their order, with a
// parameter for each literal and no literal left.
func FuzzRedact(f *testing.F) {
	for _, statement := range lexical {
		f.Add(statement)
	}
	options := Options{}.withDefaults()
	f.Fuzz(func(t *testing.T, text string) {
		r, err := read(text, options)
		if err != nil {
			return
		}
		before, _, err := tokens(text, options)
		if err != nil {
			t.Fatal(err)
		}
		after, _, err := tokens(r.redacted, options)
		if err != nil {
			t.Fatalf("got %v for %q, want it to be read again", err, r.redacted)
		}
		if len(before) != len(after) {
			t.Fatalf("got %d tokens in %q, want %d as in %q", len(after), r.redacted, len(before), text)
		}
		for i, token := range after {
			was := before[i].kind
			if literalTypes[was] != "" {
				was = parameterToken
			}
			if token.kind != was {
				t.Fatalf("got %q for %q, want its kind kept", r.redacted[token.start:token.end], text[before[i].start:before[i].end])
			}
			if literalTypes[token.kind] != "" {
				t.Fatalf("got %q in %q, want no literal", r.redacted[token.start:token.end], r.redacted)
			}
		}
		if strings.Contains(r.redacted, "--") || strings.Contains(r.redacted, "/*") {
			if !strings.Contains(r.redacted, `"`) {
				t.Fatalf("got %q, want no comment", r.redacted)
			}
		}
	})
}

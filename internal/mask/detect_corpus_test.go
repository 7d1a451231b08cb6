package mask

import (
	"bytes"
	stdbase64 "encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// alphabets are what stands in the corpus for random bytes: no line of it is a token
// that a provider, or somebody who scans repositories, would take for a real one.
var alphabets = map[string]string{
	"alnum": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "lower": "abcdefghijklmnopqrstuvwxyz0123456789",
	"upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "hex": "0123456789abcdef", "digit": "0123456789",
	"url": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "bech32": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
	"base64": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/",
}

var placeholder = regexp.MustCompile(`\{([a-z0-9]+)(?::([A-Z0-9 ]*))?\}`)

// expand fills the placeholders of a line of the corpus.
func expand(line string, random *rand.Rand) string {
	line = strings.ReplaceAll(line, "⏎", "\n")
	return placeholder.ReplaceAllStringFunc(line, func(found string) string {
		m := placeholder.FindStringSubmatch(found)
		lines := func(end string) string {
			var b strings.Builder
			for range 6 {
				b.WriteString(pick("base64", 64, random) + end)
			}
			return b.String()
		}
		encoded := stdbase64.RawURLEncoding.EncodeToString
		payload := encoded([]byte(`{"sub":"` + pick("digit", 8, random) + `"}`))
		switch name := m[1]; name {
		case "jwt":
			return encoded([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + payload + "." + pick("url", 43, random)
		case "jwtnone":
			return encoded([]byte(`{"alg":"none"}`)) + "." + payload + "."
		case "jwe":
			return encoded([]byte(`{"alg":"dir","enc":"A256GCM"}`)) + ".." + pick("url", 16, random) + "." + pick("url", 40, random) + "." + pick("url", 22, random)
		case "pem":
			return "-----BEGIN " + m[2] + "PRIVATE KEY-----\n" + lines("\n") + "-----END " + m[2] + "PRIVATE KEY-----"
		case "pem1":
			return "-----BEGIN " + m[2] + `PRIVATE KEY-----\n` + lines(`\n`) + "-----END " + m[2] + "PRIVATE KEY-----"
		case "pemcut":
			return "-----BEGIN PRIVATE KEY-----\n" + pick("base64", 64, random)
		case "pgp":
			return "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + lines("\n") + "=abcd\n-----END PGP PRIVATE KEY BLOCK-----"
		default:
			n, err := strconv.Atoi(m[2])
			if alphabets[name] == "" || err != nil {
				return found
			}
			return pick(name, n, random)
		}
	})
}

func pick(alphabet string, n int, random *rand.Rand) string {
	of := alphabets[alphabet]
	b := make([]byte, n)
	for i := range b {
		b[i] = of[random.IntN(len(of))]
	}
	return string(b)
}

// sample is a line of the corpus, expanded, and what is to be found in it.
type sample struct {
	line  string
	text  string
	marks []Span // Detector is the number in detectorNames
}

var mark = regexp.MustCompile(`(?s)\[\[([a-z-]+):(.*?)\]\]`)

// corpus reads all lines of the corpus.
func corpus(t testing.TB) []sample {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	var all []sample
	for _, name := range []string{"found", "clean"} {
		data, err := os.ReadFile("testdata/detect/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "# ") {
				continue
			}
			s := sample{line: line}
			rest := expand(line, random)
			for {
				m := mark.FindStringSubmatchIndex(rest)
				if m == nil {
					break
				}
				s.text += rest[:m[0]]
				n := slices.Index(detectorNames[:], rest[m[2]:m[3]])
				if n < 0 {
					t.Fatalf("%s: no detector %q", line, rest[m[2]:m[3]])
				}
				s.marks = append(s.marks, Span{len(s.text), len(s.text) + m[5] - m[4], n})
				s.text += rest[m[4]:m[5]]
				rest = rest[m[1]:]
			}
			s.text += rest
			all = append(all, s)
		}
	}
	return all
}

// everything is all detectors, in their order.
func everything(t testing.TB, kind Kind) *Detectors {
	t.Helper()
	var list []Detector
	for _, name := range DetectorNames() {
		list = append(list, Detector{name, kind})
	}
	d, err := NewDetectors(list...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// floors are the least precision and recall of each detector on the corpus.
//
// One in forty numbers of sixteen digits looks like a payment card's, so that the
// order numbers of the corpus cost precision.
var floors = map[string][2]float64{
	"email": {1, 1}, "credit-card": {0.95, 1}, "iban": {1, 1}, "ssn": {1, 1}, "phone": {0.98, 1}, "jwt": {1, 1}, "private-key": {1, 1}, "api-token": {1, 1},
}

func TestPrecisionAndRecallOnTheCorpus(t *testing.T) {
	d := everything(t, Redact)
	var right, wrong, missed [detectorCount]int
	samples := corpus(t)
	for _, s := range samples {
		found := d.Find(nil, []byte(s.text))
		for _, f := range found {
			if slices.Contains(s.marks, f) {
				right[f.Detector]++
			} else {
				wrong[f.Detector]++
				t.Logf("%s: found %s %q", s.line, d.Name(f.Detector), s.text[f.Start:f.End])
			}
		}
		for _, m := range s.marks {
			if !slices.Contains(found, m) {
				missed[m.Detector]++
				t.Logf("%s: missed %s %q", s.line, d.Name(m.Detector), s.text[m.Start:m.End])
			}
		}
	}
	var report strings.Builder
	fmt.Fprintf(&report, "%d lines\n", len(samples))
	for n, name := range detectorNames {
		precision := float64(right[n]) / float64(right[n]+wrong[n])
		recall := float64(right[n]) / float64(right[n]+missed[n])
		fmt.Fprintf(&report, "%-12s %4d values  precision %.3f  recall %.3f\n", name, right[n]+missed[n], precision, recall)
		if least := floors[name]; !(precision >= least[0]) || !(recall >= least[1]) {
			t.Errorf("got precision %.3f and recall %.3f of %s, want %.3f and %.3f", precision, recall, name, least[0], least[1])
		}
	}
	t.Log(report.String())
}

// A detector that is alone finds what it finds among the others.
func TestEachDetectorWorksAlone(t *testing.T) {
	for n, name := range detectorNames {
		d, err := NewDetectors(Detector{Name: name, Kind: Redact})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range corpus(t) {
			found := d.Find(nil, []byte(s.text))
			for _, m := range s.marks {
				if m.Detector == n && !slices.Contains(found, Span{m.Start, m.End, 0}) {
					t.Errorf("%s: got %v, want %s at %d-%d", s.line, found, name, m.Start, m.End)
				}
			}
		}
	}
}

func TestSuspectsWhateverIsFound(t *testing.T) {
	d := everything(t, Redact)
	for _, s := range corpus(t) {
		text := []byte(s.text)
		if len(d.Find(nil, text)) > 0 && !d.Suspects(text) {
			t.Errorf("%s: got no suspicion, want one", s.line)
		}
		if around := slices.Concat([]byte("\x00\x00\x00A"), text, []byte("\x00\x01B")); len(s.marks) > 0 && !d.Suspects(around) {
			t.Errorf("%s: got no suspicion between other bytes, want one", s.line)
		}
	}
}

func TestUnknownAndDoubledDetectorsAreRefused(t *testing.T) {
	for _, list := range [][]Detector{{{Name: "zodiac"}}, {{Name: "jwt"}, {Name: "jwt"}}, {{}}} {
		if _, err := NewDetectors(list...); err == nil {
			t.Errorf("got detectors of %v, want an error", list)
		}
	}
}

func TestTokenRulesAreLongEnoughToBeSuspected(t *testing.T) {
	for _, r := range tokenRules {
		least := 0
		for _, p := range r.parts {
			least += len(p.text) + p.least
		}
		if least < minUnspaced {
			t.Errorf("got at least %d bytes of a %s, want %d", least, r.name, minUnspaced)
		}
		for _, p := range r.parts {
			if i := bytes.IndexFunc([]byte(p.text), func(r rune) bool { return r > 127 || !is(byte(r), unspaced) }); i >= 0 {
				t.Errorf("got %q in a %s, want bytes that the first look knows", p.text, r.name)
			}
		}
	}
	if len(tokenRules) < 40 {
		t.Errorf("got %d rules, want 40", len(tokenRules))
	}
}

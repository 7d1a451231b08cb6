package mask

import (
	"fmt"
	"slices"
	"strings"
)

// MaxValue is the longest value that a detector finds, in bytes: of a longer one,
// which only a private key or a JWT can be, this much is found.
const MaxValue = 16 << 10

// Detector is one kind of value to look for, and what is left of it.
//
// Shape: Name is one of [DetectorNames]. With [Null] a value of a row that holds
// one becomes NULL; where nothing can be NULL, in an error's text for instance, it
// is redacted.
type Detector struct {
	Name string
	Kind Kind
}

// Span is where a value was found: text[Start:End].
type Span struct {
	Start, End int
	Detector   int // its number in the list that [NewDetectors] was given
}

// Detectors finds values by their form in text, whatever column, field or
// expression they come from. It may be used by many goroutines.
//
// What is found depends on the value and at most two bytes on each side of it
// (of an AWS secret key and an SSN without dashes: on the words before it), and a
// value ends where a word does. So what is left in place of one makes no other.
//
// Looking costs one pass over the text for each of three cheap signs (an @; nine
// bytes of which eight are digits; fifteen bytes without a space), and a closer
// look only where there is one. It takes time linear in the text, and memory for
// what is found alone.
type Detectors struct {
	list    []Detector
	number  [detectorCount]int // in list, -1: not looked for
	emails  bool
	numbers bool
	tokens  bool
}

// The detectors, in the order in which they look.
const (
	detectEmail = iota
	detectCard
	detectIBAN
	detectSSN
	detectPhone
	detectJWT
	detectKey
	detectToken
	detectorCount
)

// detectorNames are the detectors as a Target document writes them.
var detectorNames = [detectorCount]string{"email", "credit-card", "iban", "ssn", "phone", "jwt", "private-key", "api-token"}

// DetectorNames lists the names of all detectors.
func DetectorNames() []string { return slices.Clone(detectorNames[:]) }

// NewDetectors makes detectors ready to look.
//
// Errors: a name that no detector has, or that is there twice.
func NewDetectors(list ...Detector) (*Detectors, error) {
	d := &Detectors{list: slices.Clone(list)}
	for i := range d.number {
		d.number[i] = -1
	}
	for i, wanted := range list {
		n := slices.Index(detectorNames[:], wanted.Name)
		switch {
		case n < 0:
			return nil, fmt.Errorf("detector %q: want one of %s", wanted.Name, strings.Join(detectorNames[:], ", "))
		case d.number[n] >= 0:
			return nil, fmt.Errorf("detector %q is there twice", wanted.Name)
		}
		d.number[n] = i
	}
	d.emails = d.looksFor(detectEmail)
	d.numbers = d.looksFor(detectCard) || d.looksFor(detectIBAN) || d.looksFor(detectSSN) || d.looksFor(detectPhone)
	d.tokens = d.looksFor(detectJWT) || d.looksFor(detectKey) || d.looksFor(detectToken)
	return d, nil
}

// Any tells that there is a detector at all. A nil Detectors has none.
func (d *Detectors) Any() bool { return d != nil && len(d.list) > 0 }

// Len is the number of detectors, and so of the counts that are kept of them.
func (d *Detectors) Len() int { return len(d.list) }

// Name is the name of a detector, by its number.
func (d *Detectors) Name(number int) string { return d.list[number].Name }

func (d *Detectors) looksFor(n int) bool { return d.number[n] >= 0 }

// Suspects tells whether text may hold a value that Find would find. It is cheap,
// and true of much that Find finds nothing in.
//
// Shape: text may be any bytes, of several values side by side too.
func (d *Detectors) Suspects(text []byte) bool {
	if d.emails && indexAt(text, 0) >= 0 {
		return true
	}
	if d.numbers {
		if from, _ := numberRun(text, 0); from >= 0 {
			return true
		}
	}
	if d.tokens {
		if from, _ := tokenRun(text, 0); from >= 0 {
			return true
		}
	}
	return false
}

// Find appends the values in text to dst, in their order. They do not overlap:
// those that would are one, of the detector that found the first.
//
// Shape: nothing is allocated but what dst needs to grow.
func (d *Detectors) Find(dst []Span, text []byte) []Span { return d.find(dst, text, 0) }

// find finds what begins at from or behind it; what is before it is context.
func (d *Detectors) find(dst []Span, text []byte, from int) []Span {
	before := len(dst)
	if d.emails {
		dst = d.findEmails(dst, text, from)
	}
	if d.numbers {
		dst = d.findNumbers(dst, text, from)
	}
	if d.tokens {
		dst = d.findTokens(dst, text, from)
	}
	if len(dst) <= before+1 {
		return dst
	}
	found := dst[before:]
	slices.SortFunc(found, func(a, b Span) int {
		if a.Start != b.Start {
			return a.Start - b.Start
		}
		return b.End - a.End
	})
	kept := 0
	for _, s := range found[1:] {
		if s.Start < found[kept].End {
			found[kept].End = max(found[kept].End, s.End)
			continue
		}
		kept++
		found[kept] = s
	}
	return dst[:before+kept+1]
}

// add appends what the detector n has found.
func (d *Detectors) add(dst []Span, n, start, end int) []Span {
	return append(dst, Span{start, end, d.number[n]})
}

// Mask appends text to dst with the values in it redacted, and counts them.
//
// Shape: counts has [Detectors.Len] entries, or is nil. found is false where text
// has none; nothing was appended then.
func (d *Detectors) Mask(dst, text []byte, counts []int64) (masked []byte, found bool) {
	var room [8]Span
	spans := d.Find(room[:0], text)
	if len(spans) == 0 {
		return dst, false
	}
	return d.replace(dst, text, spans, counts), true
}

// replace appends text with each span replaced.
func (d *Detectors) replace(dst, text []byte, spans []Span, counts []int64) []byte {
	at := 0
	for _, s := range spans {
		dst = append(dst, text[at:s.Start]...)
		dst = append(dst, stars...)
		at = s.End
		if counts != nil {
			counts[s.Detector]++
		}
	}
	return append(dst, text[at:]...)
}

// nullifies tells that one of the spans makes the whole value NULL.
func (d *Detectors) nullifies(spans []Span) bool {
	return slices.ContainsFunc(spans, func(s Span) bool { return d.list[s.Detector].Kind == Null })
}

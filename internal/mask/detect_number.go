package mask

// ibanBefore is how far before its digits an IBAN may begin: "NL91 ABNA " and "GB82 WEST ".
const ibanBefore = 12 // bytes

// findNumbers finds what is made of digits for the most part.
func (d *Detectors) findNumbers(dst []Span, text []byte, from int) []Span {
	low := from
	for {
		start, end := numberRun(text, low)
		if start < 0 {
			return dst
		}
		next := end
		if d.looksFor(detectIBAN) {
			dst, next = d.findIBANs(dst, text, max(from, low, start-ibanBefore), end)
		}
		var last int
		dst, last = d.findGrouped(dst, text, start, end)
		low = max(end, next, last)
	}
}

func (d *Detectors) findIBANs(dst []Span, text []byte, start, end int) ([]Span, int) {
	for i := start; i < end; i++ {
		if !is(text[i], alnum) || is(text[i], digit) || !starts(text, i) {
			continue
		}
		if stop := ibanEnd(text, i); stop > 0 {
			dst = d.add(dst, detectIBAN, i, stop)
			i = stop - 1
			end = max(end, stop)
		}
	}
	return dst, end
}

// findGrouped finds cards, social security and phone numbers in one run. Each
// detector goes on behind what it has found.
func (d *Detectors) findGrouped(dst []Span, text []byte, start, end int) ([]Span, int) {
	card, ssn, phone := start, start, start
	for i := start; i < end; i++ {
		c := text[i]
		if c == ' ' || c == '.' || c == '/' || c == '-' || c == ')' {
			continue
		}
		if i > 0 && is(c, digit) && is(text[i-1], digit) {
			i = run(text, i, len(text), digit) - 1
			continue
		}
		var g digits
		if is(c, digit) {
			if !starts(text, i) {
				continue
			}
			g.read(text, i, " -./")
			if stop := g.cardEnd(text, i); stop > 0 && d.looksFor(detectCard) && i >= card {
				dst, card = d.add(dst, detectCard, i, stop), stop
			}
			if stop := g.ssnEnd(text, i); stop > 0 && d.looksFor(detectSSN) && i >= ssn {
				dst, ssn = d.add(dst, detectSSN, i, stop), stop
			}
		}
		if d.looksFor(detectPhone) && i >= phone {
			if stop := g.phoneEnd(text, i); stop > 0 {
				dst, phone = d.add(dst, detectPhone, i, stop), stop
			}
		}
	}
	return dst, max(card, ssn, phone)
}

// digits reads groups of digits that one separator stands between.
type digits struct {
	value   [20]byte // of all groups
	total   int
	sizes   [6]int // of each group
	stops   [6]int // where each ends in the text
	count   int
	between byte // the separator, 0 where there is one group
}

// read reads up to six groups of up to twenty digits from i, with one and the same
// of the separators between them.
func (g *digits) read(text []byte, i int, separators string) {
	for g.count < len(g.sizes) {
		first := i
		for i < len(text) && text[i]-'0' < 10 {
			if g.total == len(g.value) {
				return // more than any number has that is looked for
			}
			g.value[g.total] = text[i] - '0'
			g.total++
			i++
		}
		if i == first {
			return
		}
		g.sizes[g.count], g.stops[g.count] = i-first, i
		g.count++
		if i+1 >= len(text) || g.count > 1 && text[i] != g.between || !contains(separators, text[i]) {
			return
		}
		g.between = text[i]
		i++
	}
}

func contains(set string, b byte) bool {
	for i := range len(set) {
		if set[i] == b {
			return true
		}
	}
	return false
}

// fits tells that the first groups have these sizes, how many digits they have, and where they end.
func (g *digits) fits(sizes []uint8) (total, stop int, ok bool) {
	if g.count < len(sizes) {
		return 0, 0, false
	}
	for i, size := range sizes {
		if g.sizes[i] != int(size) {
			return 0, 0, false
		}
		total += int(size)
	}
	return total, g.stops[len(sizes)-1], true
}

// joined tells that a number reaches over the separator at i to what lies at beyond,
// so that it is a part of something longer. What was masked counts; behind a space only digits do.
func joined(text []byte, i, beyond int, separators string) bool {
	if i < 0 || i >= len(text) || beyond < 0 || beyond >= len(text) || !contains(separators, text[i]) {
		return false
	}
	return is(text[beyond], digit) || text[beyond] == '*' || is(text[beyond], word) && text[i] != ' '
}

// cardGroups are the ways in which card numbers are written, the longer first.
var cardGroups = [][]uint8{{4, 4, 4, 4, 3}, {4, 4, 4, 4, 2}, {4, 4, 4, 4}, {4, 6, 5}, {4, 6, 4}}

// cardEnd finds the end of the payment card's number that begins at i, 0 where there is none.
func (g *digits) cardEnd(text []byte, i int) int {
	if g.count == 0 || g.sizes[0] != 4 && g.sizes[0] < 13 || joined(text, i-1, i-2, ".,") { // a fraction
		return 0
	}
	stop := 0
	if g.sizes[0] >= 13 {
		if end := g.stops[0]; ends(text, end) && isCard(g.value[:g.sizes[0]]) {
			stop = end
		}
	}
	for _, sizes := range cardGroups {
		if stop > 0 || g.between != ' ' && g.between != '-' {
			break
		}
		if total, end, ok := g.fits(sizes); ok && ends(text, end) && isCard(g.value[:total]) {
			stop = end
		}
	}
	if stop > 0 && stop+1 < len(text) && text[stop] == '.' && (is(text[stop+1], digit) || text[stop+1] == '*') {
		return 0 // a decimal number
	}
	return stop
}

// isCard tells that a network issues such numbers, and that the last digit checks the others.
func isCard(number []byte) bool {
	first6 := 0
	for _, v := range number[:6] {
		first6 = 10*first6 + int(v)
	}
	for _, r := range cardRanges {
		if first6 >= r.first && first6 <= r.last && len(number) >= r.shortest && len(number) <= r.longest {
			return luhn(number)
		}
	}
	return false
}

// luhn checks the last digit.
//
// Source: ISO/IEC 7812-1, annex B.
func luhn(number []byte) bool {
	sum := 0
	for i, v := range number {
		n := int(v)
		if (len(number)-i)%2 == 0 {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
	}
	return sum%10 == 0
}

// ssnEnd finds the end of the US social security number that begins at i, 0 where
// there is none: with dashes anywhere, without them or with spaces behind the word SSN.
func (g *digits) ssnEnd(text []byte, i int) int {
	_, stop, dashed := g.fits([]uint8{3, 2, 4})
	switch {
	case dashed && g.between == '-':
		if joined(text, i-1, i-2, "-") || joined(text, stop, stop+1, "-") {
			return 0
		}
	case dashed && g.between == ' ' && isNamed(text, i, "ssn"):
	case g.count > 0 && g.sizes[0] == 9 && isNamed(text, i, "ssn"):
		stop = g.stops[0]
	default:
		return 0
	}
	if !ends(text, stop) || !isSSN(g.value[:9]) {
		return 0
	}
	return stop
}

// isSSN tells that such a number can have been given out.
//
// Source: SSA, "Social Security Number Randomization" and RM 10201.035, invalid
// numbers: areas 000, 666 and 900-999, group 00, serial 0000; and two numbers
// that were printed in advertisements ("Meet Mr. ..." pamphlets: 078-05-1120, 219-09-9999).
func isSSN(v []byte) bool {
	number := func(v []byte) (n int) {
		for _, d := range v {
			n = 10*n + int(d)
		}
		return n
	}
	area, group, serial := number(v[:3]), number(v[3:5]), number(v[5:9])
	if area == 0 || area == 666 || area >= 900 || group == 0 || serial == 0 {
		return false
	}
	return !(area == 78 && group == 5 && serial == 1120) && !(area == 219 && group == 9 && serial == 9999)
}

// isNamed tells that name stands right before i, in any case, with nothing but what
// an assignment has between them.
func isNamed(text []byte, i int, names ...string) bool {
	const between = 6 // bytes: `": "`, ` => '`
	at := i
	for at > 0 && i-at < between && contains(" \t\"'`:=>#\\", text[at-1]) {
		at--
	}
	if at == i {
		return false
	}
	for _, name := range names {
		if at >= len(name) && equalFold(text[at-len(name):at], name) && starts(text, at-len(name)) {
			return true
		}
	}
	return false
}

// equalFold compares with what is in lower case.
func equalFold(text []byte, lower string) bool {
	for i := range len(lower) {
		c := text[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

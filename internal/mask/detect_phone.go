package mask

// A plan says which digits the numbers of a country begin with.
type plan uint8

const (
	nanp plan = iota
	nanpLong
	france
	britain
	eastAsia
	germanMobile
	australia
	trunk
)

// phoneForm is a way in which a country writes its numbers, without a country code.
type phoneForm struct {
	sizes      []uint8 // of the groups of digits
	separators string  // one of them, between all groups
	plan       plan
}

// phoneForms are forms that little else is written in.
//
// Source: ITU-T E.123 for the idea of groups; NANPA, "North American Numbering
// Plan": N is 2-9, and N11 is no area and no exchange; Ofcom, "National Telephone
// Numbering Plan": 01, 02, 03, 07, 08; ARCEP, "Plan national de numérotation": ten
// digits in pairs; Bundesnetzagentur, mobile numbers 15x, 16x and 17x, and the
// slash that DIN 5008 once put behind an area code; ACMA, mobile numbers 04;
// MIC Japan, 0x0-xxxx-xxxx; MIIT China, mobile numbers 13x-19x.
var phoneForms = []phoneForm{
	{[]uint8{1, 3, 3, 4}, "-. ", nanpLong},
	{[]uint8{3, 3, 4}, "-. ", nanp},
	{[]uint8{2, 2, 2, 2, 2}, " .-", france},
	{[]uint8{5, 6}, " ", britain},
	{[]uint8{5, 3, 3}, " ", britain},
	{[]uint8{4, 3, 4}, " ", britain},
	{[]uint8{3, 4, 4}, " -", eastAsia},
	{[]uint8{4, 7}, " -/", germanMobile},
	{[]uint8{4, 8}, " -/", germanMobile},
	{[]uint8{4, 3, 3}, " ", australia},
	{[]uint8{3, 6}, "/", trunk},
	{[]uint8{3, 7}, "/", trunk},
	{[]uint8{3, 8}, "/", trunk},
	{[]uint8{4, 6}, "/", trunk},
}

// has tells that a number is of the plan.
func (p plan) has(n []byte) bool {
	british := n[0] == 0 && (n[1] == 1 || n[1] == 2 || n[1] == 3 || n[1] == 7 || n[1] == 8)
	switch p {
	case nanpLong:
		return n[0] == 1 && isNANP(n[1:])
	case france:
		return n[0] == 0 && n[1] > 0
	case britain:
		return british
	case eastAsia: // London is written so, too
		return british || n[0] == 0 && n[1] >= 5 && n[2] == 0 || n[0] == 1 && n[1] >= 3
	case germanMobile:
		return n[0] == 0 && n[1] == 1 && n[2] >= 5 && n[2] <= 7
	case australia:
		return n[0] == 0 && n[1] == 4
	case trunk:
		return n[0] == 0 && n[1] >= 2
	}
	return isNANP(n)
}

func isNANP(n []byte) bool {
	return n[0] >= 2 && n[1] < 9 && !(n[1] == 1 && n[2] == 1) && n[3] >= 2 && !(n[4] == 1 && n[5] == 1)
}

// phoneEnd finds the end of the phone number that begins at i, with a digit, a plus
// or a bracket; 0 where there is none.
func (g *digits) phoneEnd(text []byte, i int) int {
	switch c := text[i]; {
	case c == '+':
		return internationalEnd(text, i+1)
	case c == '(':
		return bracketedEnd(text, i+1)
	case g.count < 2 || g.value[0] != 0 && g.sizes[0] != 1 && g.sizes[0] != 3:
		return 0 // no form begins so
	}
	for _, f := range phoneForms {
		total, stop, ok := g.fits(f.sizes)
		if !ok || !contains(f.separators, g.between) || !f.plan.has(g.value[:total]) || !ends(text, stop) {
			continue
		}
		if i > 1 && text[i-1] == g.between && joined(text, i-1, i-2, f.separators) ||
			stop < len(text) && text[stop] == g.between && joined(text, stop, stop+1, f.separators) {
			continue
		}
		return stop
	}
	return 0
}

// The digits of a number with its country code.
//
// Source: ITU-T E.164 §6.2.1 for the most; those of a few islands have fewer than the least.
const (
	minInternational = 9
	maxInternational = 15
	nanpDigits       = 11 // with the country code 1
)

// internationalEnd finds the end of a number behind its +.
//
// Source: ITU-T E.123 §2: spaces, and in practice - . / and one pair of brackets.
func internationalEnd(text []byte, i int) int {
	var number [maxInternational]byte
	total, end := 0, 0
	for i < len(text) {
		first := i
		for i < len(text) && is(text[i], digit) {
			if total == maxInternational {
				return end
			}
			number[total] = text[i] - '0'
			total++
			i++
		}
		if i == first {
			return end
		}
		if ends(text, i) && isInternational(number[:total]) {
			end = i
			if i-first >= 8 || number[0] == 1 {
				return end // all of it in one piece; what follows is something else
			}
		}
		at := i
		for i < len(text) && i-at < 2 && contains(" -./()", text[i]) {
			i++
		}
		if i == at {
			return end
		}
	}
	return end
}

func isInternational(n []byte) bool {
	if len(n) < minInternational || n[0] == 0 {
		return false
	}
	if n[0] == 1 {
		return len(n) == nanpDigits && isNANP(n[1:])
	}
	return isCountryCode(n)
}

// isCountryCode tells that a number begins with a code that is in use.
//
// Source: ITU-T, "List of ITU-T Recommendation E.164 assigned country codes".
func isCountryCode(n []byte) bool {
	two, three := 10*int(n[0])+int(n[1]), 100*int(n[0])+10*int(n[1])+int(n[2])
	switch n[0] {
	case 7:
		return n[1] != 0
	case 2:
		return two == 20 || two == 27 || three >= 211 && three <= 269 && three != 214 && three != 215 && three != 217 && three != 219 && three != 259 ||
			three == 290 || three == 291 || three >= 297
	case 3:
		return three != 384 && three != 388
	case 4:
		return two != 42 || three == 420 || three == 421 || three == 423
	case 5:
		return true
	case 6:
		return two <= 66 || three >= 670 && three <= 692 && three != 671 && three != 684
	case 8:
		return two == 81 || two == 82 || two == 84 || two == 86 || three == 800 || three == 808 || three == 850 || three == 852 || three == 853 ||
			three == 855 || three == 856 || three == 870 || three == 878 || three >= 880 && three <= 883 || three == 886 || three == 888
	case 9:
		return two <= 95 || two == 98 || three >= 960 && three <= 968 || three >= 970 && three <= 979 && three != 978 || three >= 992 && three != 997 && three != 999
	}
	return false
}

// bracketedEnd finds the end of a number behind the bracket around its area code:
// "(212) 555-0100" and "(11) 91234-5678".
func bracketedEnd(text []byte, i int) int {
	first := i
	i = run(text, i, 4, digit)
	area := i - first
	if area != 2 && area != 3 || i >= len(text) || text[i] != ')' {
		return 0
	}
	if i++; i < len(text) && (text[i] == ' ' || text[i] == '-') {
		i++
	}
	var g digits
	g.read(text, i, "-. ")
	var total, stop int
	var ok bool
	if area == 3 {
		total, stop, ok = g.fits([]uint8{3, 4})
	} else {
		total, stop, ok = g.fits([]uint8{5, 4})
	}
	if !ok || !ends(text, stop) || joined(text, stop, stop+1, "-") {
		return 0
	}
	number := make([]byte, 0, 12)
	for _, c := range text[first : first+area] {
		number = append(number, c-'0')
	}
	number = append(number, g.value[:total]...)
	if area == 3 && !isNANP(number) || area == 2 && (number[0] == 0 || number[1] == 0 || number[2] != 9) {
		return 0
	}
	return stop
}

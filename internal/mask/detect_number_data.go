package mask

// cardRange is what the first six digits of a network's numbers lie between, and
// how long the numbers are.
type cardRange struct{ first, last, shortest, longest int }

// cardRanges are those of networks whose numbers pay in many countries. Visa's
// numbers of 13 digits, which are no longer given out, are left out: bar codes
// look like them.
//
// Source: ISO/IEC 7812; the networks' own tables of issuer identification numbers:
// Mastercard (51-55, 2221-2720), American Express, Discover Global Network
// (6011, 644-649, 65, Diners 30, 36, 38-39, JCB 3528-3589), UnionPay 62 and 81,
// Mir 2200-2204, Maestro 5018, 5020, 5038, 5893, 6304, 6759, 6761-6763, Verve,
// RuPay 60 and 508, Troy 9792, Dankort 5019.
var cardRanges = []cardRange{
	{400000, 499999, 16, 16},
	{400000, 499999, 19, 19},
	{510000, 559999, 16, 16},
	{222100, 272099, 16, 16},
	{340000, 349999, 15, 15},
	{370000, 379999, 15, 15},
	{601100, 601199, 16, 19},
	{622126, 622925, 16, 19},
	{644000, 659999, 16, 19},
	{300000, 305999, 14, 19},
	{309500, 309599, 14, 19},
	{360000, 369999, 14, 19},
	{380000, 399999, 14, 19},
	{352800, 358999, 16, 19},
	{620000, 629999, 16, 19},
	{810000, 817199, 16, 19},
	{220000, 220499, 16, 19},
	{501800, 502099, 16, 19},
	{503800, 503899, 16, 19},
	{589300, 589399, 16, 19},
	{630400, 630499, 16, 19},
	{675900, 675999, 16, 19},
	{676100, 676399, 16, 19},
	{506099, 506198, 16, 19},
	{508500, 508999, 16, 16},
	{606985, 608499, 16, 16},
	{979200, 979289, 16, 16},
}

// ibanLengths holds the length of a country's IBANs, in characters.
//
// Source: SWIFT, IBAN Registry.
var ibanLengths = map[[2]byte]int{
	{'A', 'D'}: 24, {'A', 'E'}: 23, {'A', 'L'}: 28, {'A', 'T'}: 20, {'A', 'Z'}: 28, {'B', 'A'}: 20, {'B', 'E'}: 16, {'B', 'G'}: 22,
	{'B', 'H'}: 22, {'B', 'I'}: 27, {'B', 'R'}: 29, {'B', 'Y'}: 28, {'C', 'H'}: 21, {'C', 'R'}: 22, {'C', 'Y'}: 28, {'C', 'Z'}: 24,
	{'D', 'E'}: 22, {'D', 'J'}: 27, {'D', 'K'}: 18, {'D', 'O'}: 28, {'E', 'E'}: 20, {'E', 'G'}: 29, {'E', 'S'}: 24, {'F', 'I'}: 18,
	{'F', 'K'}: 18, {'F', 'O'}: 18, {'F', 'R'}: 27, {'G', 'B'}: 22, {'G', 'E'}: 22, {'G', 'I'}: 23, {'G', 'L'}: 18, {'G', 'R'}: 27,
	{'G', 'T'}: 28, {'H', 'N'}: 28, {'H', 'R'}: 21, {'H', 'U'}: 28, {'I', 'E'}: 22, {'I', 'L'}: 23, {'I', 'Q'}: 23, {'I', 'S'}: 26,
	{'I', 'T'}: 27, {'J', 'O'}: 30, {'K', 'W'}: 30, {'K', 'Z'}: 20, {'L', 'B'}: 28, {'L', 'C'}: 32, {'L', 'I'}: 21, {'L', 'T'}: 20,
	{'L', 'U'}: 20, {'L', 'V'}: 21, {'L', 'Y'}: 25, {'M', 'C'}: 27, {'M', 'D'}: 24, {'M', 'E'}: 22, {'M', 'K'}: 19, {'M', 'N'}: 20,
	{'M', 'R'}: 27, {'M', 'T'}: 31, {'M', 'U'}: 30, {'N', 'I'}: 28, {'N', 'L'}: 18, {'N', 'O'}: 15, {'O', 'M'}: 23, {'P', 'K'}: 24,
	{'P', 'L'}: 28, {'P', 'S'}: 29, {'P', 'T'}: 25, {'Q', 'A'}: 29, {'R', 'O'}: 24, {'R', 'S'}: 22, {'R', 'U'}: 33, {'S', 'A'}: 24,
	{'S', 'C'}: 31, {'S', 'D'}: 18, {'S', 'E'}: 24, {'S', 'I'}: 19, {'S', 'K'}: 24, {'S', 'M'}: 27, {'S', 'O'}: 23, {'S', 'T'}: 25,
	{'S', 'V'}: 28, {'T', 'L'}: 23, {'T', 'N'}: 24, {'T', 'R'}: 26, {'U', 'A'}: 29, {'V', 'A'}: 22, {'V', 'G'}: 24, {'X', 'K'}: 20,
	{'Y', 'E'}: 30,
}

// ibanEnd finds the end of the IBAN that begins at i, 0 where there is none: in one
// piece, or in fours with spaces or dashes between them.
//
// Source: ISO 13616-1; ISO/IEC 7064, MOD 97-10.
func ibanEnd(text []byte, i int) int {
	if len(text)-i < 15 || !is(text[i+1], alnum) || !is(text[i+2], digit) || !is(text[i+3], digit) {
		return 0
	}
	length, ok := ibanLengths[[2]byte{text[i] &^ 0x20, text[i+1] &^ 0x20}]
	if !ok {
		return 0
	}
	var number [34]byte
	n, separator := 0, byte(0)
	for ; n < length; i++ {
		if i == len(text) {
			return 0
		}
		c := text[i]
		switch {
		case is(c, alnum):
			number[n] = c
			n++
		case n == 4 && (c == ' ' || c == '-') && separator == 0:
			separator = c
		case n%4 == 0 && c == separator && text[i-1] != c:
		default:
			return 0
		}
	}
	if !ends(text, i) || mod97(number[4:length], number[:4]) != 1 {
		return 0
	}
	return i
}

// mod97 is the remainder of the number that parts make together, a letter counting from 10.
func mod97(parts ...[]byte) int {
	rest := 0
	for _, part := range parts {
		for _, c := range part {
			if is(c, digit) {
				rest = (10*rest + int(c-'0')) % 97
			} else {
				rest = (100*rest + int(c&^0x20-'A') + 10) % 97
			}
		}
	}
	return rest
}

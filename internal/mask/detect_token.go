package mask

import (
	"bytes"
	stdbase64 "encoding/base64"
)

// part is a piece of a token: text, and then bytes of a class.
type part struct {
	text      string
	class     class
	least, up int // bytes; up is 0 where there is no end to them
}

// tokenRule is how a provider writes its tokens.
type tokenRule struct {
	name  string
	parts []part
	named bool // the text of the first part is the secret's name, and stays
}

// rulesBy holds the numbers of the rules by the first byte of what they match, and
// secondBytes which bytes follow that one in any of them.
var rulesBy, secondBytes = func() (by [256][]uint8, second [256][4]uint64) {
	for i, r := range tokenRules {
		text := r.parts[0].text
		by[text[0]] = append(by[text[0]], uint8(i))
		second[text[0]][text[1]>>6] |= 1 << (text[1] & 63)
	}
	return by, second
}()

// findTokens finds what is made to be secret: it has no spaces.
func (d *Detectors) findTokens(dst []Span, text []byte, from int) []Span {
	low, keys := from, d.looksFor(detectKey)
	for {
		start, end := tokenRun(text, low)
		if start < 0 {
			return dst
		}
		if keys { // the lines of a key are such runs
			dst, keys = d.findKeys(dst, text, from), false
		}
		dst, low = d.findInRun(dst, text, start, end)
	}
}

// findInRun finds tokens where a word begins, and gives the end of the last, or of the run.
func (d *Detectors) findInRun(dst []Span, text []byte, start, end int) ([]Span, int) {
	inWord := !starts(text, start)
	for i := start; i < end; i++ {
		switch c := classes[text[i]]; {
		case c&word == 0:
			inWord = false
			if text[i] != '/' && text[i] != '+' {
				continue
			}
		case inWord && !(i == start+1 && starts(text, i)): // or behind an escape
			continue
		}
		inWord = inWord || is(text[i], word)
		if n, first, stop := d.tokenAt(text, i); stop > 0 {
			dst = d.add(dst, n, first, stop)
			i, inWord = stop-1, false
			end = max(end, stop)
		}
	}
	return dst, end
}

// tokenAt tells which detector finds a token that begins at i, and where its secret part is.
func (d *Detectors) tokenAt(text []byte, i int) (n, start, stop int) {
	if d.looksFor(detectJWT) && text[i] == 'e' {
		if stop := jwtEnd(text, i); stop > 0 {
			return detectJWT, i, stop
		}
	}
	if !d.looksFor(detectToken) || i+1 >= len(text) {
		return 0, 0, 0
	}
	if c := text[i+1]; secondBytes[text[i]][c>>6]&(1<<(c&63)) != 0 {
		for _, number := range rulesBy[text[i]] {
			r := &tokenRules[number]
			if stop := r.end(text, i); stop > 0 {
				if r.named {
					i += len(r.parts[0].text)
				}
				return detectToken, i, stop
			}
		}
	}
	if stop := azureSecretEnd(text, i); stop > 0 {
		return detectToken, i, stop
	}
	if stop := awsSecretEnd(text, i); stop > 0 {
		return detectToken, i, stop
	}
	return 0, 0, 0
}

// end finds the end of a token that begins at i, 0 where there is none.
func (r *tokenRule) end(text []byte, i int) int {
	for _, p := range r.parts {
		if i = p.end(text, i); i == 0 {
			return 0
		}
	}
	if ends(text, i) {
		return i
	}
	if last := r.parts[len(r.parts)-1]; last.up == 0 && i >= maxPart && run(text, i-maxPart, maxPart, last.class) == i {
		return i // there is more of it
	}
	return 0
}

// maxPart is how much is taken of a part that has no end.
const maxPart = MaxValue / 2 // bytes

// end finds the end of a part that begins at i, 0 where there is none.
func (p *part) end(text []byte, i int) int {
	if len(text)-i < len(p.text)+p.least || string(text[i:i+len(p.text)]) != p.text {
		return 0
	}
	i += len(p.text)
	limit := p.up
	if limit == 0 {
		limit = maxPart
	}
	end := run(text, i, limit, p.class)
	if p.up == 0 && p.class == base64 { // a word that goes on belongs to something else
		for end-i >= p.least && end-i < limit && !ends(text, end) {
			end--
		}
	}
	if end-i < p.least {
		return 0
	}
	return end
}

// minDetached is the shortest part behind an empty one: there is no key in the token
// where both sides have it, and no payload where it is sent elsewhere.
//
// Source: RFC 7518 §4.5, RFC 7515 appendix F.
const minDetached = 16 // bytes of base64url

// maxHeader is the longest header of a JWT that is looked into, in bytes of base64url.
const maxHeader = 2 << 10

// jwtEnd finds the end of the JWT that begins at i, 0 where there is none: three
// parts, or the five of an encrypted one, the first of which says an algorithm.
//
// Source: RFC 7515 §3.1 and §4.1.1, RFC 7516 §3.1, RFC 7519 §3.
func jwtEnd(text []byte, i int) int {
	if len(text)-i < 15 || string(text[i:i+3]) != "eyJ" { // {"
		return 0
	}
	start := i
	i = run(text, i, maxHeader, urlSafe)
	if i >= len(text) || text[i] != '.' || !hasAlgorithm(text[start:i]) {
		return 0
	}
	first := i + 1
	i = run(text, first, MaxValue-(first-start), urlSafe)
	if i >= len(text) || text[i] != '.' || i-first < 4 && run(text, i+1, minDetached, urlSafe) != i+1+minDetached {
		return 0
	}
	for range 3 {
		i = run(text, i+1, max(0, MaxValue-(i+1-start)), urlSafe)
		if i+1 >= len(text) || text[i] != '.' || !is(text[i+1], urlSafe) || i-start >= MaxValue {
			break
		}
	}
	return i
}

// hasAlgorithm tells that a part of a JWT is a JSON object with "alg" or "enc" in it.
func hasAlgorithm(part []byte) bool {
	var room [maxHeader]byte
	n, err := stdbase64.RawURLEncoding.Decode(room[:], part)
	header := room[:n]
	return err == nil && n > 1 && header[0] == '{' && header[n-1] == '}' &&
		(bytes.Contains(header, []byte(`"alg"`)) || bytes.Contains(header, []byte(`"enc"`)))
}

// minKey is how much of a private key is worth masking, in letters and digits; a
// line of it has [minUnspaced] in one piece.
const minKey = 32 // bytes

// findKeys finds private keys in PEM, whose end may be missing.
//
// Source: RFC 7468 §2, §10 and §11; RFC 1421 §4.4 for headers; openssh-portable, PROTOCOL.key.
func (d *Detectors) findKeys(dst []Span, text []byte, from int) []Span {
	begin := []byte("-----BEGIN ")
	for {
		i := bytes.Index(text[from:], begin)
		if i < 0 {
			return dst
		}
		start := from + i
		from = start + len(begin)
		body := keyBody(text, from)
		if body == 0 {
			continue
		}
		if stop := keyEnd(text, start, body); stop > 0 {
			dst, from = d.add(dst, detectKey, start, stop), stop
		}
	}
}

// keyBody reads the rest of the first line of a private key, from its label on.
func keyBody(text []byte, i int) int {
	const longest = 40 // bytes
	first := i
	for i < len(text) && i-first < longest && (text[i] == ' ' || is(text[i], upper)) {
		i++
	}
	if i == first || text[i-1] == ' ' || !bytes.Contains(text[first:i], []byte("PRIVATE KEY")) || !bytes.HasPrefix(text[i:], []byte("-----")) {
		return 0
	}
	return i + len("-----")
}

// keyEnd finds the end of a private key: of its last line, or where no key can go on.
func keyEnd(text []byte, start, body int) int {
	limit := min(len(text), start+MaxValue)
	secret, piece, longest, i := 0, 0, 0, body
	for i < limit && is(text[i], armour) {
		if text[i] == '-' && bytes.HasPrefix(text[i:limit], []byte("-----")) {
			break
		}
		if is(text[i], alnum) {
			secret++
		}
		if piece++; !is(text[i], unspaced) {
			piece = 0
		}
		longest = max(longest, piece)
		i++
	}
	if secret < minKey || longest < minUnspaced {
		return 0
	}
	if last := text[i:limit]; bytes.HasPrefix(last, []byte("-----END ")) {
		if end := bytes.Index(last[9:min(len(last), 60)], []byte("-----")); end >= 0 && keyBody(text, i+9) == i+9+end+5 {
			return i + 9 + end + 5
		}
	}
	for i > body && contains(" \r\n\\:,", text[i-1]) {
		i--
	}
	return i
}

// azureSecretEnd finds the end of a client secret of Microsoft Entra ID that begins
// at i: three bytes, a digit, Q~, and 31 to 34 more.
//
// Source: Microsoft Purview, "Azure AD client secret", sensitive information type;
// gitleaks, azure-ad-client-secret.
func azureSecretEnd(text []byte, i int) int {
	if len(text)-i < 37 || !is(text[i], word) || text[i+4] != 'Q' || text[i+5] != '~' || !is(text[i+3], digit) || run(text, i, 3, unspaced) != i+3 {
		return 0
	}
	end := i + 6
	for end < len(text) && end-i-6 < 34 && (is(text[end], urlSafe) || text[end] == '~' || text[end] == '.') {
		end++
	}
	if end-i-6 < 31 || !ends(text, end) {
		return 0
	}
	return end
}

// awsSecretEnd finds the end of the AWS secret access key that begins at i: 40 bytes
// of base64 behind its name, or behind an access key ID.
//
// Source: AWS, "IAM: Manage access keys", and the names of the SDKs' "Shared config and credentials files".
func awsSecretEnd(text []byte, i int) int {
	const behind = ", ;:\t|\"'"
	if i < 4 || i+40 > len(text) || is(text[i-1], base64) && text[i-1] != '=' || !ends(text, i+40) || run(text, i, 41, base64) != i+40 {
		return 0
	}
	if isNamed(text, i, "aws_secret_access_key", "secret_access_key", "secretaccesskey", "aws_secret_key", "aws_secret", "secretkey", "secret_key") {
		return i + 40
	}
	at := i
	for at > 0 && i-at < 4 && contains(behind, text[at-1]) {
		at--
	}
	if at == i || at < 20 || !starts(text, at-20) {
		return 0
	}
	for _, number := range rulesBy['A'] {
		if r := &tokenRules[number]; r.name == awsKeyID && r.end(text, at-20) == at {
			return i + 40
		}
	}
	return 0
}

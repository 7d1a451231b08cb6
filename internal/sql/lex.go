package sql

import (
	"errors"
	"strings"
)

// kind is the kind of a token.
type kind uint8

const (
	endToken         kind = iota
	wordToken             // an identifier or keyword without quotes
	quotedToken           // "…" and U&"…"
	textToken             // '…', E'…', N'…', U&'…' and $tag$…$tag$
	bitsToken             // B'…' and X'…'
	integerToken          // also hexadecimal, octal, binary
	floatToken            // with a point or an exponent
	parameterToken        // $1
	operatorToken         // + - * / < > = ^ % and what is made of ~!@#^&|`?+-*/%<>=
	punctuationToken      // ( ) [ ] , ; . .. : :: :=
)

// token is a piece of the text: text[start:end].
type token struct {
	kind       kind
	start, end int
}

// What the lexer refuses. None quotes the text.
var (
	errUnterminated = errors.New("a quote or comment does not end")
	errCharacter    = errors.New("a character that PostgreSQL's lexer does not know")
)

// lexer cuts a text into tokens as PostgreSQL does with standard_conforming_strings on.
//
// Shape: what it lets through and PostgreSQL does not (a bad escape, 1x, $1x) is a syntax error to the parser; the cut
// is the same for whatever both accept (a test compares them).
// Source: PostgreSQL 17, src/backend/parser/scan.l.
type lexer struct {
	text  string
	at    int
	signs int // as far as this, each + and - is an operator of its own
}

// next gives the next token; comments and spaces lie between tokens. The last one has the kind end.
func (l *lexer) next() (token, error) {
	if err := l.skip(); err != nil {
		return token{}, err
	}
	start := l.at
	if start == len(l.text) {
		return token{kind: endToken, start: start, end: start}, nil
	}
	k, err := l.scan()
	return token{kind: k, start: start, end: l.at}, err
}

// scan reads one token, which is there, and moves past it.
func (l *lexer) scan() (kind, error) {
	c := l.text[l.at]
	switch {
	case c == '\'':
		return textToken, l.quote('\'', false)
	case c == '"':
		return quotedToken, l.quote('"', false)
	case isWordStart(c):
		if k, prefix := l.prefix(); prefix > 0 {
			escapes := c == 'e' || c == 'E'
			l.at += prefix
			return k, l.quote(l.text[l.at], escapes)
		}
		l.at = l.span(l.at+1, isWordPart)
		return wordToken, nil
	case isDigit(c), c == '.' && isDigit(l.peek(1)):
		return l.number(), nil
	case c == '$':
		return l.dollar()
	case isOperator(c):
		l.operator()
		return operatorToken, nil
	case strings.IndexByte("()[],;.:", c) >= 0:
		l.at++
		switch {
		case c == ':' && (l.peek(0) == ':' || l.peek(0) == '='), c == '.' && l.peek(0) == '.':
			l.at++
		}
		return punctuationToken, nil
	}
	return endToken, errCharacter
}

// peek gives the byte n after the current one, 0 beyond the end. (A text with NUL is not lexed.)
func (l *lexer) peek(n int) byte {
	if l.at+n < len(l.text) {
		return l.text[l.at+n]
	}
	return 0
}

// span gives the first position from i on whose byte is not in the class.
func (l *lexer) span(i int, class func(byte) bool) int {
	for i < len(l.text) && class(l.text[i]) {
		i++
	}
	return i
}

// skip moves past spaces and comments.
func (l *lexer) skip() error {
	for l.at < len(l.text) {
		switch {
		case isSpace(l.text[l.at]):
			l.at++
		case strings.HasPrefix(l.text[l.at:], "--"):
			l.line()
		case strings.HasPrefix(l.text[l.at:], "/*"):
			if err := l.comment(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// line moves past a comment that ends with its line.
func (l *lexer) line() {
	l.at = l.span(l.at, func(c byte) bool { return c != '\n' && c != '\r' })
}

// comment moves past /* … */, which nest.
func (l *lexer) comment() error {
	depth := 0
	for l.at < len(l.text) {
		switch {
		case strings.HasPrefix(l.text[l.at:], "/*"):
			depth++
			l.at += 2
		case strings.HasPrefix(l.text[l.at:], "*/"):
			depth--
			l.at += 2
			if depth == 0 {
				return nil
			}
		default:
			l.at++
		}
	}
	return errUnterminated
}

// prefix tells which literal begins here with a letter, and how many bytes before its quote.
func (l *lexer) prefix() (kind, int) {
	switch c := l.text[l.at] | 0x20; {
	case l.peek(1) == '\'' && (c == 'e' || c == 'n'):
		return textToken, 1
	case l.peek(1) == '\'' && (c == 'b' || c == 'x'):
		return bitsToken, 1
	case c == 'u' && l.peek(1) == '&' && l.peek(2) == '\'':
		return textToken, 2
	case c == 'u' && l.peek(1) == '&' && l.peek(2) == '"':
		return quotedToken, 2
	}
	return endToken, 0
}

// quote moves past a quoted token whose opening quote is the current byte. Strings go on after
// white space that holds a line's end (comments to a line's end count as white space).
func (l *lexer) quote(mark byte, escapes bool) error {
	l.at++
	for l.at < len(l.text) {
		c := l.text[l.at]
		l.at++
		switch {
		case c == '\\' && escapes:
			l.at++
		case c != mark:
		case l.peek(0) == mark:
			l.at++
		case mark == '\'' && l.continued():
		default:
			return nil
		}
	}
	return errUnterminated
}

// continued moves past the gap between two parts of one string, and tells if there is one.
func (l *lexer) continued() bool {
	saved, lines := l.at, false
	for l.at < len(l.text) {
		switch c := l.text[l.at]; {
		case isSpace(c):
			lines = lines || c == '\n' || c == '\r'
			l.at++
		case strings.HasPrefix(l.text[l.at:], "--"):
			l.line()
		case c == '\'' && lines:
			l.at++
			return true
		default:
			l.at = saved
			return false
		}
	}
	l.at = saved
	return false
}

// dollar moves past $1, $tag$…$tag$ or a lone $, which no grammar accepts.
func (l *lexer) dollar() (kind, error) {
	if isDigit(l.peek(1)) {
		l.at = l.span(l.at+1, isDigit)
		return parameterToken, nil
	}
	i := l.at + 1
	if i < len(l.text) && isWordStart(l.text[i]) {
		i = l.span(i, func(c byte) bool { return isWordPart(c) && c != '$' })
	}
	if i >= len(l.text) || l.text[i] != '$' {
		return endToken, errCharacter
	}
	tag := l.text[l.at : i+1]
	closing := strings.Index(l.text[i+1:], tag)
	if closing < 0 {
		return endToken, errUnterminated
	}
	l.at = i + 1 + closing + len(tag)
	return textToken, nil
}

// number moves past a number.
func (l *lexer) number() kind {
	if l.peek(0) == '0' {
		if class := radix(l.peek(1)); class != nil {
			if i := l.span(l.at+2, class); i > l.at+2 && l.text[i-1] != '_' {
				l.at = i
				return integerToken
			}
		}
	}
	k := integerToken
	l.at = l.span(l.at, isDecimal)
	// "1..2" is 1, .., 2: a range of PL/pgSQL.
	if l.peek(0) == '.' && l.peek(1) != '.' {
		k = floatToken
		l.at++
		if isDigit(l.peek(0)) {
			l.at = l.span(l.at, isDecimal)
		}
	}
	if c := l.peek(0); c == 'e' || c == 'E' {
		sign := 0
		if c := l.peek(1); c == '+' || c == '-' {
			sign = 1
		}
		if isDigit(l.peek(1 + sign)) {
			k = floatToken
			l.at = l.span(l.at+1+sign, isDecimal)
		}
	}
	return k
}

// operator moves past an operator. A comment ends it; one of several
// characters ends in + or - only if it holds a character that SQL's own operators do not have.
//
// No byte is looked at more than twice, however long a row of signs or comments is.
func (l *lexer) operator() {
	first := l.at
	if l.at++; first < l.signs {
		return
	}
	for l.at < len(l.text) && isOperator(l.text[l.at]) && !l.commented() {
		l.at++
	}
	name := l.text[first:l.at]
	if strings.ContainsAny(name, "~!@#^&|`?%") {
		return
	}
	l.signs = l.at
	l.at = first + max(1, len(strings.TrimRight(name, "+-")))
}

// commented tells that a comment begins here.
func (l *lexer) commented() bool {
	c := l.text[l.at]
	return c == '/' && l.peek(1) == '*' || c == '-' && l.peek(1) == '-'
}

// radix gives the digits that may follow 0x, 0o and 0b.
func radix(c byte) func(byte) bool {
	switch c | 0x20 {
	case 'x':
		return func(c byte) bool { return isDigit(c) || c == '_' || c|0x20 >= 'a' && c|0x20 <= 'f' }
	case 'o':
		return func(c byte) bool { return c >= '0' && c <= '7' || c == '_' }
	case 'b':
		return func(c byte) bool { return c == '0' || c == '1' || c == '_' }
	}
	return nil
}

func isSpace(c byte) bool     { return c == ' ' || c >= '\t' && c <= '\r' }
func isDigit(c byte) bool     { return c >= '0' && c <= '9' }
func isDecimal(c byte) bool   { return isDigit(c) || c == '_' }
func isWordStart(c byte) bool { return c == '_' || c >= 0x80 || c|0x20 >= 'a' && c|0x20 <= 'z' }
func isWordPart(c byte) bool  { return isWordStart(c) || isDigit(c) || c == '$' }
func isOperator(c byte) bool  { return strings.IndexByte("~!@#^&|`?+-*/%<>=", c) >= 0 }

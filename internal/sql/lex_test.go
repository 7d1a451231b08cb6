package sql

import (
	"slices"
	"strings"
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"
	pgquery "github.com/wasilibs/go-pgquery"
)

// lexical are texts whose cut into tokens is easy to get wrong.
var lexical = []string{
	"",
	" \t\r\n\f\v ;",
	"select 'a''b', '', ''''",
	"select 'a' 'b'",
	"select 'a'\n 'b'",
	"select 'a' -- comment\n 'b'",
	"select 'a' -- comment\n -- another\n 'b' 'c'",
	"select 'a' /* comment */\n 'b'",
	"select 'a'\r'b'",
	"select 'a\\' as b -- '",
	"select E'a\\'b', e'\\\\', E'\\n\\x41\\101\\u0041'",
	"select E'a' \n '\\'' , 1",
	"select n'abc', N'a''b'",
	"select U&'d\\0061t\\+000061', u&'d!0061' UESCAPE '!'",
	`select U&"d\0061t" , u & "a" from t u`,
	"select b'01', B'', x'fF', X'1' \n '2'",
	"select $$a$$, $a$ $$ $b$ $a$, $_1$x$_1$, $é$x$é$",
	"select a$$b$$ from t",
	"select a$1, $1, $2+$3, $1a",
	"select $1$2",
	"select 1, 1., .5, 1.5, 1e5, 1E-5, 1.e+5, 1..2, 0x1F, 0o17, 0B01, 1_000, 1_0.0_1, 0x_1f",
	"select 1.5.5, 1e, 1.e, 0x, 0b2, 0o8",
	"select 1-1, 1--1\n, 1 - -1, 1+-1, 1*-1, 1@-1, 1<-1, 1=-1, a->b, a->>'b', a#>>b, a||b, a!=b, a<>b, a<=b, a>=b, a=>b",
	"select a @>/*c*/ b, a @--c\n b, a *-/*c*/ 1, a !=- 1, a <*- 1, a ~- 1",
	"select 1 + +-+ 2, 1 +-+-+ 2, 1 <+-+ 2, 1 @+-+ 2, 1 +-/**/+- 2, 1 -+--c\n+ 2, 1 <--c\n 2, 1 */**/ 2, 1 +/**/-/**/+ 2",
	"select a:=b, a::int::text, a[1:2], a[:], a[1::int]",
	`select "a""b", "A b", ""`,
	`select "a /* b", 'c -- d', $$ /* e $$`,
	"select /* a /* b */ c */ 1 /**/ /***/ /* * / */",
	"select 1 -- at the end",
	"select a--b\rfrom t",
	"select é, ñandú, \"ü\", 'ß', 日本 from 表",
	"select a.b.c, a.*, (a).b, a . b",
	"select @ 5, |/ 25, ~ 1, !! 5, % 3",
	"select a?b, a?|b, a ?& b, a @? b, a `b`",
	"select 1;select 2;;",
	"select e, n, b, x, u, u & v from t",
	"select nation, binary, xx, ee 'a'",
	"create function f() returns int language sql as $body$ select '$x$' $body$",
	"select '\u00a0', a\u00a0b",
	"select 1 as \"b\"'c'",
	"select date '2020-01-01', interval '1' day, int4 '5', point'(1,2)'",
	"select {a}, \\d",
	"select 'unterminated",
	"select \"unterminated",
	"select $$unterminated",
	"select $a$unterminated$b$",
	"select /* unterminated /* */",
	"select E'unterminated\\'",
	"select E'\\",
}

// TestLexerCutsAsPostgreSQL compares with PostgreSQL's own lexer: what the
// grammar accepts is cut the same.
func TestLexerCutsAsPostgreSQL(t *testing.T) {
	for _, statement := range slices.Concat(lexical, plainUses, classifiedTexts()) {
		t.Run(statement, func(t *testing.T) { compareTokens(t, statement) })
	}
}

func compareTokens(t *testing.T, statement string) {
	if _, err := pgquery.Parse(statement); err != nil {
		return // nothing of it reaches a verdict
	}
	scanned, err := pgquery.Scan(statement)
	if err != nil {
		t.Fatalf("got %v from a text that parses", err)
	}
	var want []string
	for i, token := range scanned.Tokens {
		piece := statement[token.Start:token.End]
		switch {
		case token.Token == pg.Token_SQL_COMMENT || token.Token == pg.Token_C_COMMENT:
			continue
		case i > 0 && token.Start == scanned.Tokens[i-1].End && scanned.Tokens[i-1].Token == pg.Token_NCHAR && piece[0] == '\'':
			want[len(want)-1] += piece // PostgreSQL makes two tokens of N'…'
			continue
		}
		want = append(want, piece)
	}
	read, _, err := tokens(statement, New(Options{MaxDepth: 1 << 30}).options)
	if err != nil {
		t.Fatalf("got %v, want what PostgreSQL's lexer takes: %q", err, want)
	}
	var got []string
	for _, token := range read {
		got = append(got, statement[token.start:token.end])
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLexerReadsRowsOfOperatorsOnce takes texts for which a lexer that looks ahead at each operator needs hours.
func TestLexerReadsRowsOfOperatorsOnce(t *testing.T) {
	const n = 1 << 20
	rows := []struct {
		name, text string
		want       int // tokens
	}{
		{"comments", strings.Repeat("+/**/", n) + "/*" + strings.Repeat("*", n) + "/", n},
		{"signs", strings.Repeat("+-", n) + "+", 2*n + 1},
		{"signs behind an operator", "<" + strings.Repeat("+-", n), 2*n + 1},
		{"one operator", "@" + strings.Repeat("+-", n), 1},
		{"comments of a line", strings.Repeat("+--\n", n), n},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got := 0
			for l := (lexer{text: row.text}); ; got++ {
				token, err := l.next()
				if err != nil {
					t.Fatal(err)
				}
				if token.kind == endToken {
					break
				}
			}
			if got != row.want {
				t.Errorf("got %d tokens, want %d", got, row.want)
			}
		})
	}
}

// FuzzLexer looks for a text that the grammar accepts and the lexer cuts otherwise.
func FuzzLexer(f *testing.F) {
	for _, statement := range lexical {
		f.Add(statement)
	}
	if _, err := pgquery.Parse("SELECT 1"); err != nil { // compiles, which takes longer than one input may
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, statement string) {
		if len(statement) < 1000 && !strings.Contains(statement, "\x00") {
			compareTokens(t, strings.ToValidUTF8(statement, "?"))
		}
	})
}

package sql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
)

// newParser gives a parser with caches and workers of its own, on instances that are compiled already.
func newParser(t testing.TB, options Options) *Parser {
	t.Helper()
	if err := shared.Warm(context.Background()); err != nil {
		t.Fatal(err)
	}
	return New(options)
}

// nested are the ways to make a tree deep, each with its n-th form.
var nested = map[string]func(n int) string{
	"plus":        func(n int) string { return "select 1" + strings.Repeat("+1", n) },
	"minus":       func(n int) string { return "select " + strings.Repeat("- ", n) + "a" },
	"concatenate": func(n int) string { return "select a" + strings.Repeat("||a", n) },
	"cast":        func(n int) string { return "select 1" + strings.Repeat("::a", n) },
	"collate":     func(n int) string { return "select 1" + strings.Repeat(" collate a", n) },
	"time zone":   func(n int) string { return "select 1" + strings.Repeat(" at time zone a", n) },
	"operator":    func(n int) string { return "select 1" + strings.Repeat(" operator(pg_catalog.+) 1", n) },
	"not":         func(n int) string { return "select " + strings.Repeat("not ", n) + "a" },
	"union":       func(n int) string { return "select 1, 2" + strings.Repeat(" union select 1, 2", n) },
	"join":        func(n int) string { return "select 1 from a" + strings.Repeat(" join a on b and c", n) },
	"cross join":  func(n int) string { return "select 1 from a" + strings.Repeat(" cross join a", n) },
	"parentheses": func(n int) string { return "select " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) },
	"sums":        func(n int) string { return "select " + strings.Repeat("(1+", n) + "1" + strings.Repeat(")", n) },
	"calls":       func(n int) string { return "select " + strings.Repeat("f(", n) + "1" + strings.Repeat(")", n) },
	"windows": func(n int) string {
		return "select " + strings.Repeat("f() over (partition by ", n) + "1" + strings.Repeat(")", n)
	},
	"filters": func(n int) string {
		return "select " + strings.Repeat("f() filter (where ", n) + "a" + strings.Repeat(")", n)
	},
	"subselects": func(n int) string { return "select " + strings.Repeat("(select ", n) + "1" + strings.Repeat(")", n) },
	"exists": func(n int) string {
		return "select " + strings.Repeat("exists(select ", n) + "1" + strings.Repeat(")", n)
	},
	"in": func(n int) string {
		return "select 1" + strings.Repeat(" where 1 in (select 1", n) + strings.Repeat(")", n)
	},
	"from": func(n int) string {
		return strings.Repeat("select * from (", n) + "select 1" + strings.Repeat(") s", n)
	},
	"lateral": func(n int) string {
		return strings.Repeat("select * from a left join lateral (", n) + "select 1" + strings.Repeat(") s on true", n)
	},
	"with": func(n int) string {
		return strings.Repeat("with a as (", n) + "select 1" + strings.Repeat(") select 1", n)
	},
	"case": func(n int) string {
		return "select " + strings.Repeat("case when ", n) + "a" + strings.Repeat(" then 1 end", n)
	},
	"case else": func(n int) string {
		return "select " + strings.Repeat("case when a and b then c else ", n) + "a" + strings.Repeat(" end", n)
	},
	"case end": func(n int) string {
		return "select " + strings.Repeat("case when a.end and ", n) + "a" + strings.Repeat(" then 1 end", n)
	},
	"arrays":     func(n int) string { return "select array" + strings.Repeat("[", n) + "1" + strings.Repeat("]", n) },
	"subscripts": func(n int) string { return "select a" + strings.Repeat("[a", n) + strings.Repeat("]", n) },
	"rows":       func(n int) string { return "select " + strings.Repeat("(", n) + "1" + strings.Repeat(",2)", n) },
	"fields":     func(n int) string { return "select " + strings.Repeat("(", n) + "a" + strings.Repeat(").b", n) },
	"between": func(n int) string {
		return "select a between " + strings.Repeat("(1 between ", n) + "1 and 2" + strings.Repeat(" and 3)", n) + " and 4"
	},
	"modifiers": func(n int) string {
		return "select 1::a(" + strings.Repeat("1::a(", n) + "1" + strings.Repeat(")", n) + ")"
	},
	"casts": func(n int) string {
		return "select " + strings.Repeat("cast(", n) + "1" + strings.Repeat(" as int)", n)
	},
	"json": func(n int) string {
		return "select " + strings.Repeat("json_object('a': ", n) + "1" + strings.Repeat(")", n)
	},
	"json arrays": func(n int) string {
		return "select " + strings.Repeat("json_arrayagg(", n) + "1" + strings.Repeat(")", n)
	},
	"json_table": func(n int) string {
		return "select * from json_table(x, '$' columns (" + strings.Repeat("nested path '$' columns (", n) + "a int" + strings.Repeat(")", n) + "))"
	},
	"xml": func(n int) string {
		return "select " + strings.Repeat("xmlelement(name a, ", n) + "1" + strings.Repeat(")", n)
	},
	"grouping": func(n int) string {
		return "select 1 group by " + strings.Repeat("grouping sets (", n) + "a" + strings.Repeat(")", n)
	},
	"join parens": func(n int) string {
		return "select 1 from " + strings.Repeat("(a join ", n) + "b" + strings.Repeat(" on true)", n)
	},
	"union parens": func(n int) string { return strings.Repeat("(", n) + "select 1" + strings.Repeat(" union select 1)", n) },
	"and parens": func(n int) string {
		return "select " + strings.Repeat("(a and (b or ", n) + "a" + strings.Repeat("))", n)
	},
}

// TestNoStatementWithinTheLimitsTraps takes each nesting as deep as the lexer lets it: the
// parser must end in a tree or a syntax error, and go on.
func TestNoStatementWithinTheLimitsTraps(t *testing.T) {
	for name, nest := range nested {
		t.Run(name, func(t *testing.T) {
			n := deepest(nest, shared.options)
			script, err := shared.Parse(context.Background(), nest(n))
			if err != nil {
				t.Fatal(err)
			}
			if got := script.Statements[0].Unknown; got == errTrapped.Error() || got == errUnclassified.Error() || got == errDeep.Error() {
				t.Errorf("got %q at %d levels, want a verdict or a syntax error", got, n)
			}
			if got := parseText(t, nest(n+1)).Statements[0].Unknown; got != errDeep.Error() {
				t.Errorf("got %q at %d levels, want %q", got, n+1, errDeep)
			}
			parseOne(t, nest(3)).Misuse(sensitive)
		})
	}
}

// deepest gives the largest n that the lexer lets through.
func deepest(nest func(int) string, options Options) int {
	return sort.Search(4*options.MaxDepth, func(n int) bool {
		_, _, err := tokens(nest(n+1), options)
		return err != nil
	})
}

func parseText(t testing.TB, text string) *Script {
	t.Helper()
	script, err := shared.Parse(context.Background(), text)
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// TestTrapEndsBelief takes the limit away: the parser's stack ends, which must not end the
// process; but no tree is believed after it.
func TestTrapEndsBelief(t *testing.T) {
	if os.Getenv("POSTERN_TEST_TRAP") == "" {
		// In a process of its own: the instances are the process's.
		again := exec.Command(os.Args[0], "-test.run", "^TestTrapEndsBelief$")
		again.Env = append(os.Environ(), "POSTERN_TEST_TRAP=1")
		if out, err := again.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	p := New(Options{Workers: 1, MaxDepth: 1 << 30})
	if err := p.Err(); err != nil {
		t.Errorf("got %v before the trap, want nil", err)
	}
	for _, text := range []string{"select 1" + strings.Repeat("+1", 20_000), "select a from t"} {
		script, err := p.Parse(context.Background(), text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := script.Statements[0].Unknown, errTrapped.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := p.Err(); !errors.Is(err, errTrapped) {
		t.Errorf("got %v after the trap, want %v", err, errTrapped)
	}
}

func TestWhatExceedsALimitIsUnknown(t *testing.T) {
	p := newParser(t, Options{MaxBytes: 200, MaxTokens: 50, MaxDepth: 20})
	rows := []struct {
		name, text string
		want       error
	}{
		{"long", "select '" + strings.Repeat("x", 200) + "'", errLong},
		{"many tokens", "select 1" + strings.Repeat(",1", 40), errTokens},
		{"deep", "select " + strings.Repeat("(", 30) + "1" + strings.Repeat(")", 30), errDeep},
		{"zero byte", "select 1\x00; drop table t", errEncoding},
		{"not UTF-8", "select '\xff'", errEncoding},
		{"surrogate", "select '\xed\xa0\x80'", errEncoding},
		{"open string", "select 'secret", errUnterminated},
		{"stray character", "select {", errCharacter},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			script, err := p.Parse(context.Background(), row.text)
			if err != nil {
				t.Fatal(err)
			}
			if len(script.Statements) != 1 || script.Statements[0].Unknown != row.want.Error() || script.Statements[0].Words[0] != Unknown {
				t.Errorf("got %+v, want UNKNOWN: %v", script.Statements, row.want)
			}
			if script.Redacted != "" || script.Literals != nil {
				t.Errorf("got %q, want nothing of the text kept", script.Redacted)
			}
		})
	}
}

// TestReasonsHoldNoValue looks for the text in what is said of it.
func TestReasonsHoldNoValue(t *testing.T) {
	for _, text := range []string{"select sentinel sentinel sentinel", "sentinel", "select 'sentinel' 'sentinel'", "select $sentinel$", "copy t to 'sentinel'",
		"alter user sentinel passwort 'sentinel'", "select \"sentinel", "load 'sentinel'"} {
		script := parseText(t, text)
		if got := script.Statements[0].Unknown; got == "" || strings.Contains(got, "sentinel") {
			t.Errorf("%s: got %q, want a reason without a word of it", text, got)
		}
		if s := script.Statements[0]; s.tree == nil && script.Redacted != "" {
			t.Errorf("%s: got %q, want nothing of a text that does not parse", text, script.Redacted)
		}
	}
}

func TestSameTextIsReadOnce(t *testing.T) {
	p := newParser(t, Options{})
	scripts := make([]*Script, 16)
	var group sync.WaitGroup
	for i := range scripts {
		group.Go(func() {
			script, err := p.Parse(context.Background(), "select once from t")
			if err != nil {
				t.Error(err)
			}
			scripts[i] = script
		})
	}
	group.Wait()
	for i, script := range scripts {
		if script != scripts[0] {
			t.Errorf("got another script for caller %d, want one for all", i)
		}
	}
}

func TestNobodyParsesWithoutAWorker(t *testing.T) {
	p := newParser(t, Options{Workers: 2})
	for range 2 {
		if err := p.workers.acquire(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Parse(ctx, "select a from t"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v while both workers were busy, want %v", err, context.Canceled)
	}
	p.workers.release("")
	p.workers.release("")
	if _, err := p.Parse(context.Background(), "select a from t"); err != nil {
		t.Errorf("got %v when they were free, want nil", err)
	}
}

func TestCacheIsBoundedByBytes(t *testing.T) {
	c := newCache(10_000)
	keys := make([]key, 20)
	for i := range keys {
		keys[i] = keyOf(fmt.Sprint(i))
		_, e, mine := c.claim("", keys[i])
		if !mine {
			t.Fatalf("got key %d claimed, want it free", i)
		}
		c.settle(e, new(Script), 1000)
		c.claim("", keys[0]) // used all the time
	}
	if c.bytes > 10_000 || len(c.entries) != 10 {
		t.Errorf("got %d bytes in %d entries, want 10,000 in 10", c.bytes, len(c.entries))
	}
	if script, _, _ := c.claim("", keys[0]); script == nil {
		t.Errorf("got the entry in use evicted, want it kept")
	}
	if script, e, mine := c.claim("", keys[1]); script != nil || !mine {
		t.Errorf("got the oldest entry kept, want it evicted")
	} else {
		c.settle(e, new(Script), 5000)
	}
	if _, _, mine := c.claim("", keys[1]); !mine {
		t.Errorf("got an entry of half the cache kept, want it not")
	}
}

func TestCallersThatGoAwayLeaveNobodyWaiting(t *testing.T) {
	p := newParser(t, Options{Workers: 1})
	if err := p.Warm(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := p.workers.acquire(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	first, cancel := context.WithCancel(context.Background())
	errs := make(chan error)
	go func() { _, err := p.Parse(first, "select 5"); errs <- err }()
	for { // until the first has claimed the text
		p.results.mu.Lock()
		n := len(p.results.parsing)
		p.results.mu.Unlock()
		if n == 1 {
			break
		}
		runtime.Gosched()
	}
	go func() { _, err := p.Parse(context.Background(), "select 5"); errs <- err }()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the first cancelled", err)
	}
	p.workers.release("")
	if err := <-errs; err != nil {
		t.Errorf("got %v, want the second to parse it", err)
	}
}

func TestClosedParserRefuses(t *testing.T) {
	p := New(Options{})
	if _, err := p.Parse(context.Background(), "select 1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(context.Background(), "select 2"); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
	if err := p.Close(); err != nil {
		t.Errorf("got %v, want closing twice to be nothing", err)
	}
}

// FuzzParse looks for a text that ends the parser or the process, or that is allowed for having no words.
func FuzzParse(f *testing.F) {
	for _, row := range classified {
		f.Add(row.statement)
	}
	for _, row := range misuses {
		f.Add(row.statement)
	}
	if err := shared.Warm(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		script, err := shared.Parse(context.Background(), text)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range script.Statements {
			if len(s.Words) == 0 || s.Unknown == errTrapped.Error() || s.Unknown == errUnclassified.Error() {
				t.Fatalf("got %+v, want words and no trap", s)
			}
			if s.tree != nil {
				s.Misuse(sensitive)
			}
		}
	})
}

// query is of the size and shape of what an ORM sends: 311 bytes, three joins.
const query = `SELECT o.id, o.created_at, c.name, c.email, p.title, i.quantity FROM orders o JOIN customers c ON c.id = o.customer_id ` +
	`JOIN order_items i ON i.order_id = o.id JOIN products p ON p.id = i.product_id WHERE o.status = 'open' AND o.created_at > '2024-01-01' ` +
	`AND c.country IN ('DE', 'FR') ORDER BY o.id DESC LIMIT 50`

func BenchmarkParse(b *testing.B) {
	ctx := context.Background()
	if err := shared.Warm(ctx); err != nil {
		b.Fatal(err)
	}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := shared.Parse(ctx, query); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("uncached", func(b *testing.B) {
		b.ReportAllocs()
		p := newParser(b, Options{CacheBytes: 1})
		if err := p.Warm(ctx); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := p.Parse(ctx, query); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("misuse", func(b *testing.B) {
		b.ReportAllocs()
		s := parseOne(b, query)
		for b.Loop() {
			if s.Misuse(sensitive) != nil {
				b.Fatal("got a misuse, want none")
			}
		}
	})
}

package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// head is the Target of the tables, before their policies.
const head = `
apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec: {protocol: postgres, hosts: [db.internal], credential: {file: /etc/postern/login.yaml}}
`

// ada matches every policy that policySet makes.
var ada = Subject{User: "linux:ada", Groups: []string{"linux:staff"}}

// policySet makes one AccessPolicy of each spec, named a, b, c, for linux:ada on db.
func policySet(t testing.TB, specs ...string) *Set {
	t.Helper()
	var b strings.Builder
	b.WriteString(head)
	for i, spec := range specs {
		fmt.Fprintf(&b, "---\napiVersion: postern.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: %c}\nspec:\n  subjects: [{users: [\"linux:ada\"]}]\n  targets: [db]\n", 'a'+i)
		for line := range strings.Lines(strings.TrimSpace(spec)) {
			b.WriteString("  " + strings.TrimSpace(line) + "\n")
		}
	}
	set, err := Parse("test.yaml", []byte(b.String()))
	if err != nil {
		t.Fatalf("got %v, want a set", err)
	}
	return set
}

// one is a statement with words, then relations, then functions after a "()".
// A name without a dot has no known schema; "+f()" and "+r" are harmless built-ins.
func one(operations string, names ...string) Statement {
	s := Statement{Words: strings.Fields(operations), HasWhere: true}
	for _, name := range names {
		function, isFunction := strings.CutSuffix(name, "()")
		function, builtin := strings.CutPrefix(function, "+")
		schema, base, dotted := strings.Cut(function, ".")
		if !dotted {
			schema, base = "", schema
		}
		if isFunction {
			s.Functions = append(s.Functions, Function{schema, base, builtin})
		} else {
			s.Relations = append(s.Relations, Relation{schema, base, builtin})
		}
	}
	return s
}

func unknown(reason string) Statement { return Statement{Words: []string{"UNKNOWN"}, Unknown: reason} }

// verdict writes a decision in one line.
func verdict(action Action, policy, rule, reason string) string {
	text := fmt.Sprintf("%s %s/%s", action, policy, rule)
	if reason != "" {
		text += ": " + reason
	}
	return text
}

func TestDecide(t *testing.T) {
	const reads = `rules: [{name: reads, allow: [SELECT], relations: ["public.*"]}]`
	for _, row := range []struct {
		name       string
		specs      []string
		statements []Statement
		want       string
	}{
		{"what a rule allows passes", []string{reads}, []Statement{one("SELECT", "public.users")}, "allow a/reads"},
		{"a word that no rule allows", []string{reads}, []Statement{one("DELETE", "public.users")}, "deny a/: no rule allows DELETE"},
		{"a relation that no rule allows", []string{reads}, []Statement{one("SELECT", "audit.log")}, "deny a/: no rule allows SELECT on audit.log"},
		{"a harmless catalog comes with SELECT", []string{reads}, []Statement{one("SELECT", "public.users", "+pg_catalog.pg_type")}, "allow a/reads"},
		{
			"and can be denied", []string{reads, `rules: [{name: types, deny: [SELECT], relations: ["pg_catalog.*"]}]`},
			[]Statement{one("SELECT", "+pg_catalog.pg_type")}, "deny b/types: SELECT denied",
		},
		{"every relation must be covered", []string{reads}, []Statement{one("SELECT", "public.users", "audit.log")}, "deny a/: no rule allows SELECT on audit.log"},
		{"every word must be covered", []string{reads}, []Statement{one("DELETE SELECT", "public.users")}, "deny a/: no rule allows DELETE"},
		{
			"one rule must cover all words",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: writes, allow: [DELETE]}]`},
			[]Statement{one("DELETE SELECT", "public.users")},
			"deny a/: no rule allows SELECT, DELETE together",
		},
		{
			"one rule must cover all relations",
			[]string{`rules: [{name: one, allow: [SELECT], relations: ["public.users"]}, {name: two, allow: [SELECT], relations: ["public.orders"]}]`},
			[]Statement{one("SELECT", "public.users", "public.orders")},
			"deny a/: no single rule allows all of the statement",
		},
		{
			"rules of two policies do not add up within a statement",
			[]string{`rules: [{name: one, allow: [SELECT], relations: ["public.users"]}]`, `rules: [{name: two, allow: [SELECT], relations: ["public.orders"]}]`},
			[]Statement{one("SELECT", "public.users", "public.orders")},
			"deny /: no single rule allows all of the statement",
		},
		{
			"each statement may have a rule of its own",
			[]string{`rules: [{name: one, allow: [SELECT], relations: ["public.users"]}]`, `rules: [{name: two, allow: [SELECT], relations: ["public.orders"]}]`},
			[]Statement{one("SELECT", "public.users"), one("SELECT", "public.orders")},
			"allow a/one",
		},
		{"one refused statement refuses the request", []string{reads}, []Statement{one("SELECT", "public.users"), one("DDL", "public.users")}, "deny a/: no rule allows DDL"},
		{
			"a deny beats an allow, whatever their order",
			[]string{`rules: [{name: all, allow: [ALL]}, {name: no-ddl, deny: [DDL, DCL], reason: use migrations}]`},
			[]Statement{one("DDL", "public.users")},
			"deny a/no-ddl: use migrations",
		},
		{"a deny without a reason says its words", []string{`rules: [{name: all, allow: [ALL]}, {name: no-ddl, deny: [DDL, DCL]}]`}, []Statement{one("DDL")}, "deny a/no-ddl: DDL, DCL denied"},
		{"a deny of another policy", []string{reads, `rules: [{name: none, deny: [SELECT]}]`}, []Statement{one("SELECT", "public.users")}, "deny b/none: SELECT denied"},
		{
			"a deny needs one of the words",
			[]string{`rules: [{name: all, allow: [ALL]}, {name: no-delete, deny: [DELETE, DDL]}]`},
			[]Statement{one("DELETE SELECT", "public.users")},
			"deny a/no-delete: DELETE, DDL denied",
		},
		{
			"a deny needs one of the relations",
			[]string{`rules: [{name: all, allow: [ALL]}, {name: no-log, deny: [ALL], relations: ["audit.*"], reason: no}]`},
			[]Statement{one("SELECT", "public.users", "audit.log")},
			"deny a/no-log: no",
		},
		{
			"a deny of relations leaves others alone",
			[]string{`rules: [{name: all, allow: [ALL]}, {name: no-log, deny: [ALL], relations: ["audit.*"]}]`},
			[]Statement{one("SELECT", "public.users")},
			"allow a/all",
		},
		{
			"a deny needs one of the functions",
			[]string{`rules: [{name: all, allow: [ALL], functions: ["*.*"]}, {name: no-sleep, deny: [ALL], functions: ["*.pg_sleep"], reason: no}]`},
			[]Statement{one("SELECT", "+pg_catalog.lower()", "pg_catalog.pg_sleep()")},
			"deny a/no-sleep: no",
		},
		{
			"a deny in a later statement is named rather than what is not allowed",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: no-ddl, deny: [DDL], reason: no}]`},
			[]Statement{one("DELETE"), one("DDL")},
			"deny a/no-ddl: no",
		},
		{"databases limit an allow", []string{`rules: [{name: reads, allow: [SELECT], databases: [other]}]`}, []Statement{one("SELECT")}, "deny a/: no rule allows anything in this database"},
		{"databases limit a deny", []string{`rules: [{name: reads, allow: [SELECT]}, {name: none, deny: [SELECT], databases: [other]}]`}, []Statement{one("SELECT")}, "allow a/reads"},
		{"an allow on this database", []string{`rules: [{name: reads, allow: [SELECT], databases: [other, orders]}]`}, []Statement{one("SELECT")}, "allow a/reads"},

		{"built-ins come with SELECT", []string{reads}, []Statement{one("SELECT", "public.users", "+pg_catalog.lower()")}, "allow a/reads"},
		{"built-ins whose schema is not written come with SELECT", []string{reads}, []Statement{one("SELECT", "+lower()")}, "allow a/reads"},
		{
			"built-ins do not come with INSERT",
			[]string{`rules: [{name: adds, allow: [INSERT]}]`},
			[]Statement{one("INSERT", "public.users", "+pg_catalog.now()")},
			"deny a/: no rule that allows SELECT, with which built-in functions come, covers the call of pg_catalog.now",
		},
		{
			"built-ins come with a rule of INSERT and SELECT",
			[]string{`rules: [{name: adds, allow: [INSERT, SELECT]}]`},
			[]Statement{one("INSERT", "public.users", "+pg_catalog.now()")},
			"allow a/adds",
		},
		{"other functions need to be named", []string{`rules: [{name: all, allow: [ALL]}]`}, []Statement{one("SELECT", "pg_catalog.pg_read_file()")}, "deny a/: no rule allows the function pg_catalog.pg_read_file"},
		{
			"a named function passes",
			[]string{`rules: [{name: reads, allow: [SELECT], functions: ["reports.total"]}]`},
			[]Statement{one("SELECT", "public.users", "reports.total()", "+pg_catalog.lower()")},
			"allow a/reads",
		},
		{
			"a named function of no known schema does not",
			[]string{`rules: [{name: reads, allow: [SELECT], functions: ["reports.total"]}]`},
			[]Statement{one("SELECT", "total()")},
			"deny a/: no rule allows the function total, whose schema is not known: write it with its schema",
		},
		{
			"a denied built-in is denied",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: no-version, deny: [SELECT], functions: ["*.version"], reason: no}]`},
			[]Statement{one("SELECT", "+pg_catalog.version()")},
			"deny a/no-version: no",
		},

		{"an unresolved name needs any schema to be allowed", []string{reads}, []Statement{one("SELECT", "users")}, "deny a/: no rule allows SELECT on users, whose schema is not known: write it with its schema"},
		{"an unresolved name passes where any schema is allowed", []string{`rules: [{name: reads, allow: [SELECT], relations: ["*.users"]}]`}, []Statement{one("SELECT", "users")}, "allow a/reads"},
		{"an unresolved name passes where relations are not limited", []string{`rules: [{name: reads, allow: [SELECT]}]`}, []Statement{one("SELECT", "users")}, "allow a/reads"},
		{
			"a deny in a schema matches the name unresolved",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: no-secret, deny: [SELECT], relations: ["audit.secret"], reason: no}]`},
			[]Statement{one("SELECT", "secret")},
			"deny a/no-secret: no",
		},
		{
			"a deny of a schema matches any name unresolved",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: no-audit, deny: [SELECT], relations: ["audit.*"], reason: no}]`},
			[]Statement{one("SELECT", "orders")},
			"deny a/no-audit: no",
		},
		{
			"a deny in any schema matches the name unresolved",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: no-secret, deny: [SELECT], relations: ["*.secret"], reason: no}]`},
			[]Statement{one("SELECT", "secret")},
			"deny a/no-secret: no",
		},
		{
			"a deny of another name does not",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: no-secret, deny: [SELECT], relations: ["audit.secret"]}]`},
			[]Statement{one("SELECT", "orders")},
			"allow a/reads",
		},
		{
			"quoted parts are taken as they are",
			[]string{`rules: [{name: reads, allow: [SELECT], relations: ['"Sales".*']}]`},
			[]Statement{one("SELECT", "Sales.Orders")},
			"allow a/reads",
		},
		{
			"a quoted star is a name",
			[]string{`rules: [{name: reads, allow: [SELECT], relations: ['public."*"']}]`},
			[]Statement{one("SELECT", "public.users")},
			"deny a/: no rule allows SELECT on public.users",
		},
		{
			"a name with a line break is quoted in the reason",
			[]string{reads},
			[]Statement{one("SELECT", "audit.a\nb")},
			`deny a/: no rule allows SELECT on "audit.\"a\nb\""`,
		},

		{"SESSION comes with any allow", []string{reads}, []Statement{one("SESSION")}, "allow a/reads"},
		{"SESSION comes with an allow that has a condition", []string{`rules: [{name: reads, allow: [SELECT], when: "false"}]`}, []Statement{one("SESSION")}, "allow a/reads"},
		{"SESSION does not come with a deny", []string{`rules: [{name: no-ddl, deny: [DDL]}]`}, []Statement{one("SESSION")}, "deny a/: no rule allows anything in this database"},
		{"SESSION does not come where no rule is about the database", []string{`rules: [{name: reads, allow: [SELECT], databases: [other]}]`}, []Statement{one("SESSION")}, "deny a/: no rule allows anything in this database"},
		{
			"the rule of what is more than SESSION is named",
			[]string{`rules: [{name: reads, allow: [SELECT]}, {name: writes, allow: [DELETE]}]`},
			[]Statement{one("SESSION"), one("DELETE"), one("SELECT"), one("SESSION")},
			"allow a/writes",
		},
		{"SESSION can be denied", []string{`rules: [{name: reads, allow: [SELECT]}, {name: no-session, deny: [SESSION]}]`}, []Statement{one("SESSION")}, "deny a/no-session: SESSION denied"},
		{"SESSION beside another word", []string{reads}, []Statement{one("SELECT SESSION", "public.users")}, "allow a/reads"},
		{"SESSION that reads needs its relation", []string{reads}, []Statement{one("SESSION", "audit.log")}, "deny a/: no rule allows SESSION on audit.log"},
		{"SESSION that calls needs its function", []string{reads}, []Statement{one("SESSION", "public.f()")}, "deny a/: no rule allows the function public.f"},
		{"an empty query is SESSION", []string{reads}, nil, "allow a/reads"},
		{"an empty query can be denied", []string{`rules: [{name: reads, allow: [SELECT]}, {name: no-session, deny: [SESSION]}]`}, nil, "deny a/no-session: SESSION denied"},
		{"an empty query where nothing is allowed", []string{`rules: [{name: no-ddl, deny: [DDL]}]`}, nil, "deny a/: no rule allows anything in this database"},

		{"UNKNOWN is not in ALL", []string{`rules: [{name: all, allow: [ALL]}]`}, []Statement{unknown("syntax")}, "deny a/: what the statement does cannot be told (syntax), and no rule allows UNKNOWN"},
		{"UNKNOWN can be allowed", []string{`rules: [{name: any, allow: [UNKNOWN]}]`}, []Statement{unknown("syntax")}, "allow a/any"},
		{"UNKNOWN beside a known word needs both", []string{`rules: [{name: any, allow: [UNKNOWN]}]`}, []Statement{{Words: []string{"SELECT"}, Unknown: "new"}}, "deny a/: no rule allows SELECT"},
		{"a reason alone makes a statement UNKNOWN", []string{reads}, []Statement{{Words: []string{"SELECT"}, Unknown: "new"}}, "deny a/: what the statement does cannot be told (new), and no rule allows UNKNOWN"},
		{"UNKNOWN with functions known in part", []string{`rules: [{name: any, allow: [UNKNOWN]}]`}, []Statement{one("UNKNOWN", "public.f()")}, "allow a/any"},
		{"a word of tomorrow is UNKNOWN", []string{`rules: [{name: all, allow: [ALL]}]`}, []Statement{one("VACATE")}, "deny a/: no rule allows UNKNOWN"},
		{"a word in small letters is UNKNOWN", []string{`rules: [{name: all, allow: [ALL]}]`}, []Statement{one("select")}, "deny a/: no rule allows UNKNOWN"},
		{"a statement without words is UNKNOWN", []string{`rules: [{name: all, allow: [ALL]}]`}, []Statement{{}}, "deny a/: no rule allows UNKNOWN"},
		{
			"a deny of UNKNOWN matches whatever relations it gives",
			[]string{`rules: [{name: any, allow: [UNKNOWN]}, {name: no-audit, deny: [ALL, UNKNOWN], relations: ["audit.*"], reason: no}]`},
			[]Statement{unknown("syntax")},
			"deny a/no-audit: no",
		},
		{
			"a deny without UNKNOWN does not match it",
			[]string{`rules: [{name: any, allow: [UNKNOWN]}, {name: no-ddl, deny: [DDL]}]`},
			[]Statement{unknown("syntax")},
			"allow a/any",
		},

		{"READ is SELECT and COPY-OUT", []string{`rules: [{name: r, allow: [READ]}]`}, []Statement{one("SELECT"), one("COPY-OUT")}, "allow a/r"},
		{"READ does not write", []string{`rules: [{name: r, allow: [READ]}]`}, []Statement{one("COPY-IN")}, "deny a/: no rule allows COPY-IN"},
		{
			"WRITE is every change of rows",
			[]string{`rules: [{name: w, allow: [WRITE]}]`},
			[]Statement{one("INSERT"), one("UPDATE"), one("DELETE"), one("MERGE"), one("TRUNCATE"), one("COPY-IN")},
			"allow a/w",
		},
		{"WRITE does not read", []string{`rules: [{name: w, allow: [WRITE]}]`}, []Statement{one("SELECT")}, "deny a/: no rule allows SELECT"},
		{
			"ALL is the rest too",
			[]string{`rules: [{name: all, allow: [ALL]}]`},
			[]Statement{
				one("CALL"), one("DO"), one("DDL"), one("DCL"), one("MAINTENANCE"), one("LISTEN"), one("NOTIFY"),
				one("LOCK"), one("SET"), one("FUNCTION-CALL"), one("REPLICATION"), one("SESSION"), one("SELECT"), one("INSERT"),
			},
			"allow a/all",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			view := policySet(t, row.specs...).View("db", ada)
			got := view.Decide(Request{Database: "orders", User: "app", Statements: row.statements})
			if text := verdict(got.Action, got.Policy, got.Rule, got.Reason); text != row.want {
				t.Errorf("got  %s\nwant %s", text, row.want)
			}
			if len(got.Would) != 0 {
				t.Errorf("got verdicts %v, want none: no policy observes", got.Would)
			}
		})
	}
}

func TestObserve(t *testing.T) {
	const (
		readsEnforced = `rules: [{name: reads, allow: [SELECT]}]`
		readsObserved = "mode: observe\nrules: [{name: reads, allow: [SELECT]}]"
		noDDLObserved = "mode: observe\nrules: [{name: no-ddl, deny: [DDL, SELECT], reason: no}]"
		allObserved   = "mode: observe\nrules: [{name: all, allow: [ALL]}]"
	)
	for _, row := range []struct {
		name     string
		specs    []string
		words    string
		want     string
		would    []string
		observed bool
	}{
		{"alone, what it allows", []string{readsObserved}, "SELECT", "allow /", []string{"a: allow /reads"}, true},
		{"alone, what it does not allow passes all the same", []string{readsObserved}, "DDL", "allow /", []string{"a: deny /: no rule allows DDL"}, true},
		{"alone, what it denies passes all the same", []string{noDDLObserved}, "DDL", "allow /", []string{"a: deny /no-ddl: no"}, true},
		{"two are judged each for itself", []string{readsObserved, allObserved}, "DDL", "allow /", []string{"a: deny /: no rule allows DDL", "b: allow /all"}, true},
		{"beside an enforced one, a deny is only reported", []string{readsEnforced, noDDLObserved}, "SELECT", "allow a/reads", []string{"b: deny /no-ddl: no"}, false},
		{"beside an enforced one, an allow permits nothing", []string{readsEnforced, allObserved}, "DDL", "deny a/: no rule allows DDL", []string{"b: allow /all"}, false},
		{"beside an enforced one, it is judged with that one's rules", []string{readsEnforced, `mode: observe
			rules: [{name: no-ddl, deny: [DDL]}]`}, "SELECT", "allow a/reads", []string{"b: allow /reads"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			view := policySet(t, row.specs...).View("db", ada)
			got := view.Decide(Request{Statements: []Statement{one(row.words)}})
			if text := verdict(got.Action, got.Policy, got.Rule, got.Reason); text != row.want {
				t.Errorf("got %s, want %s", text, row.want)
			}
			var would []string
			for _, v := range got.Would {
				would = append(would, v.Policy+": "+verdict(v.Action, "", v.Rule, v.Reason))
			}
			if fmt.Sprint(would) != fmt.Sprint(row.would) {
				t.Errorf("got would %q, want %q", would, row.would)
			}
			if view.Observed() != row.observed {
				t.Errorf("got observed %v, want %v", view.Observed(), row.observed)
			}
		})
	}
}

func TestNothingIsClosed(t *testing.T) {
	request := Request{Database: "orders", Statements: []Statement{one("SELECT")}}
	open := policySet(t, `rules: [{name: all, allow: [ALL, UNKNOWN]}]`)
	for _, row := range []struct {
		name string
		view *View
	}{
		{"the zero View", &View{}},
		{"the zero Set", new(Set).View("db", ada)},
		{"a Target that is not there", open.View("other", ada)},
		{"a subject whom no policy names", open.View("db", Subject{User: "linux:eve", Groups: []string{"linux:ada"}})},
		{"the zero Subject", open.View("db", Subject{})},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !row.view.Empty() || row.view.Observed() {
				t.Errorf("got empty %v and observed %v, want true and false", row.view.Empty(), row.view.Observed())
			}
			if got := row.view.Decide(request); got.Action != Deny || got.Reason == "" {
				t.Errorf("got %+v, want a Deny with its reason", got)
			}
			if _, err := row.view.Credential(); err == nil {
				t.Error("got a credential, want an error")
			}
			if !row.view.RequireToken() || row.view.Durability() != Strict || row.view.Record() != RecordNone {
				t.Errorf("got %v, %v, %v, want the strictest", row.view.RequireToken(), row.view.Durability(), row.view.Record())
			}
		})
	}
	if got := new(Decision).Action; got != Deny {
		t.Errorf("got %v from the zero Decision, want deny", got)
	}
}

// TestDecideInManyGoroutines has its say under the race detector.
func TestDecideInManyGoroutines(t *testing.T) {
	view := policySet(t, `rules: [{name: reads, allow: [SELECT], when: "size(statement.relations) == 1"}]`).View("db", ada)
	var wait sync.WaitGroup
	for n := range 8 {
		wait.Go(func() {
			statement, want := one("SELECT", "public.users"), Allow
			if n%2 == 1 {
				statement, want = one("SELECT"), Deny
			}
			for range 100 {
				if got := view.Decide(Request{Statements: []Statement{statement}}); got.Action != want {
					t.Errorf("got %+v, want %s", got, want)
				}
			}
		})
	}
	wait.Wait()
}

func BenchmarkDecide(b *testing.B) {
	const rules = `rules: [
		{name: reads, allow: [SELECT], databases: [orders], relations: ["public.*"]},
		{name: no-ddl, deny: [DDL, DCL], reason: no},
		{name: no-audit, deny: [ALL], relations: ["audit.*"]},
		WHERE]`
	const where = `{name: where-less-writes, deny: [SELECT], when: "!statement.hasWhere"}`
	for name, condition := range map[string]string{"plain": "", "condition": where} {
		b.Run(name, func(b *testing.B) {
			spec := strings.Join(strings.Fields(strings.Replace(rules, "WHERE", condition, 1)), " ")
			view := policySet(b, spec).View("db", ada)
			request := Request{Database: "orders", Statements: []Statement{one("SELECT", "public.users", "public.orders", "+pg_catalog.lower()")}}
			b.ReportAllocs()
			for b.Loop() {
				if got := view.Decide(request); got.Action != Allow {
					b.Fatalf("got %+v, want an Allow", got)
				}
			}
		})
	}
}

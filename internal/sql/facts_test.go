package sql

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestRelationsAreNamedAsWritten covers what hides a relation: WITH queries, and nothing else.
func TestRelationsAreNamedAsWritten(t *testing.T) {
	rows := []struct{ statement, relations string }{ // "!" marks those that are written to
		{"select * from a, s.b, (select * from c) x join d on true", "a s.b c d"},
		{"select * from db.s.t", "s.t"},
		{`select * from "A", a`, "A a"},
		{"with q as (select * from a) select * from q", "a"},
		{"with q as (select * from q) select * from q", "q"}, // the inner one is a relation
		{"with a as (select * from b), b as (select 1) select * from a, b", "b"},
		{"with recursive a as (select * from b), b as (select 1) select * from a, b", ""},
		{"with q as (select 1) select * from s.q", "s.q"},
		{"select * from (with q as (select 1) select * from q) x, q", "q"},
		{"with q as (select 1) select * from (select (select count(*) from q)) x", ""},
		{"with t as (select count(*) filter (where exists (select 1 from t)) from a) select * from t", "t a"},
		{"with q as (select 1) insert into q select * from q", "q!"},
		{"with q as (select 1) update q set a = 1", "q!"},
		{"with q as (select 1) delete from q using q as r", "q!"},
		{"with q as (select 1) merge into q using q r on true when matched then do nothing", "q!"},
		{"with q as (select 1) select * into q from q", "q!"},
		{"with q as (select 1) select 1 union select a from q", ""},
		{"select 1 union (with q as (select 1) select * from q) union select a from q", "q"},
		{"insert into t values ((select a from u))", "t! u"},
		{"insert into t with q as (select 1) select * from q", "t!"},
		{"update t set a = 1 from u where exists (select 1 from v)", "t! u v"},
		{"delete from t using u, lateral (select * from v) x", "t! u v"},
		{"merge into t using (select * from u) x on true when matched then delete", "t! u"},
		{"truncate a, s.b", "a! s.b!"},
		{"copy t from stdin", "t!"},
		{"copy (select * from t) to stdout", "t"},
		{"select * from t for update of t", "t"},
		{"select * from t as x for update of x", "t"},
		{"lock table a, b", "a b"},
		{"create table t (a int references u)", "t! u"},
		{"create table t (like u) inherits (v)", "t! u v"},
		{"create table t as select * from u", "t! u"},
		{"create view v as select * from u", "v! u"},
		{"create index i on t (a)", "t!"},
		{"alter table s.t rename to u", "s.t!"},
		{"alter table t attach partition u default", "t! u"},
		{"drop table a, s.b", "a! s.b!"},
		{"drop view v", "v!"},
		{"drop index s.i", "s.i!"},
		{"drop trigger g on s.t", "s.t!"},
		{"drop policy p on t", "t!"},
		{"drop function f(int)", ""},
		{"comment on column s.t.c is 'x'", "s.t!"},
		{"comment on table t is 'x'", "t!"},
		{"grant select on a, s.b to joe", "a s.b"},
		{"analyze a, b", "a b"},
		{"create trigger g after insert on t execute function f()", "t!"},
		{"create rule r as on insert to t do also insert into u select * from v", "t! u! v"},
		{"explain select * from t", "t"},
		{"prepare p as select * from t", "t"},
		{"declare c cursor for select * from t", "t"},
		{"create function f() returns int language sql begin atomic select * from t; end", "t"},
		{"create publication p for table a, b", "a b"},
		{"refresh materialized view v", "v!"},
		{"call p((select 1 from t))", "t"},
		{"select * from t tablesample system (1)", "t"},
		{"select * from json_table('{}', '$' columns (a int path '$')) j, t", "t"},
	}
	for _, row := range rows {
		t.Run(row.statement, func(t *testing.T) {
			want := strings.Fields(row.relations)
			var got []string
			for _, r := range parseOne(t, row.statement).Relations {
				name := relationName{r.Schema, r.Name}.String()
				if r.Write {
					name += "!"
				}
				got = append(got, name)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestFunctionsThatSelectDoesNotImply lists what is not built in, or is built in and not harmless.
func TestFunctionsThatSelectDoesNotImply(t *testing.T) {
	rows := []struct{ statement, functions string }{
		{"select lower(a), now(), count(*), pg_catalog.upper(a), random(), gen_random_uuid() from t", ""},
		{"select extract(year from a), trim(a), substring(a from 1), a at time zone 'x', overlay(a placing b from 1), position(a in b) from t", ""},
		{"select a like b escape 'c', a similar to b, a is normalized, (a, b) overlaps (c, d), a in (1), a between 1 and 2 from t", ""},
		{"select coalesce(a), greatest(a), nullif(a, b), current_user, xmlelement(name a), json_object('a': 1), grouping(a) from t group by a", ""},
		{"select a::int, cast(a as text), a::numeric(5, 2)[], interval '1 day', a::pg_catalog.date from t", ""},
		{"select 'x'::citext, $1::mood, 'x'::s.y", ""},
		{"select a || b, a -> 'b', a @> b, a operator(pg_catalog.+) b, -a, a = any (b), a <-> b from t", ""},
		{"select set_config('a.b', 'c', true), pg_notify('a', 'b')", ""},
		{"select * from generate_series(1, 10), unnest(array[1]), json_to_recordset('[]') as x(a int)", ""},
		{"select row_number() over (order by a), lag(a) over w from t window w as ()", ""},
		{"select * from t tablesample bernoulli (5)", ""},

		{"select f(a) from t", "f"},
		{"select s.lower(a), public.f(b) from t", "s.lower public.f"},
		{`select "LOWER"(a) from t`, "LOWER"},
		{"select nextval('s'), setval('s', 1), currval('s')", "nextval setval"},
		{"select pg_sleep(1), pg_sleep_for('1s')", "pg_sleep pg_sleep_for"},
		{"select query_to_xml('select 1', true, true, ''), table_to_xml('t', true, true, '')", "query_to_xml table_to_xml"},
		{"select schema_to_xml('s', true, true, ''), database_to_xml(true, true, ''), cursor_to_xml('c', 1, true, true, '')",
			"schema_to_xml database_to_xml cursor_to_xml"},
		{"select ts_stat('select 1'), ts_rewrite('a', 'select 1')", "ts_stat ts_rewrite"},
		{"select pg_read_file('x'), pg_read_binary_file('x'), pg_ls_dir('x'), pg_stat_file('x')", "pg_read_file pg_read_binary_file pg_ls_dir pg_stat_file"},
		{"select lo_import('x'), lo_export(1, 'x'), lo_get(1), lo_put(1, 1, ''), loread(1, 1), lowrite(1, ''), lo_unlink(1)",
			"lo_import lo_export lo_get lo_put loread lowrite lo_unlink"},
		{"select pg_terminate_backend(1), pg_cancel_backend(1), pg_reload_conf(), pg_promote(), pg_switch_wal()",
			"pg_terminate_backend pg_cancel_backend pg_reload_conf pg_promote pg_switch_wal"},
		{"select pg_advisory_lock(1), pg_try_advisory_xact_lock(1), pg_advisory_unlock_all()", "pg_advisory_lock pg_try_advisory_xact_lock pg_advisory_unlock_all"},
		{"select pg_logical_slot_get_changes('s', null, null), pg_create_logical_replication_slot('s', 'p'), pg_drop_replication_slot('s')",
			"pg_logical_slot_get_changes pg_create_logical_replication_slot pg_drop_replication_slot"},
		{"select pg_logical_emit_message(true, 'a', 'b'), pg_replication_origin_create('x')", "pg_logical_emit_message pg_replication_origin_create"},
		{"select pg_stat_get_activity(null), pg_stat_reset(), pg_export_snapshot()", "pg_stat_get_activity pg_stat_reset pg_export_snapshot"},
		{"select dblink('c', 'select 1'), crosstab('select 1')", "dblink crosstab"},
		{"select * from f(1), rows from (g(1), h(2))", "f g h"},
		{"select a @#@ b, @#@ a from t", "@#@"},
		{"select a operator(public.+) b from t", "public.+"},
		{"select a operator(s.=) any (select 1) from t order by a using operator(s.<)", "s.= s.<"},
		{"select a::citext, b::s.mood, cast(lower(c) as hstore) from t", "citext s.mood hstore"},
		{"select * from t tablesample system_rows (5)", "system_rows"},
		{"call p(f(1))", "p f"},
		{"insert into t values (f(1)) returning g(a)", "f g"},
		{"update t set a = f(1) where g(b)", "f g"},
		{"execute p (f(1))", "f"},
		{"create table t (a int default f())", "f"},
		{"copy t from stdin where f(a)", "f"},
		{"select count(*) filter (where f(a)), sum(a) over (partition by g(a)) from t", "f g"},
		{"select 1 limit f()", "f"},
	}
	for _, row := range rows {
		t.Run(row.statement, func(t *testing.T) {
			want := strings.Fields(row.functions)
			var got []string
			for _, f := range parseOne(t, row.statement).Functions {
				if !f.Builtin {
					got = append(got, relationName{f.Schema, f.Name}.String())
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestHasWhereNeedsAConditionOnRows(t *testing.T) {
	rows := []struct {
		statement string
		want      bool
	}{
		{"delete from t where id = 1", true},
		{"delete from t", false},
		{"delete from t where true", false},
		{"delete from t where 1 = 1", false},
		{"delete from t where $1", false},
		{"delete from t where 'a' = 'a' and 2 > 1", false},
		{"delete from t where random() < 2", false},
		{"delete from t where id = 1 or true", false},
		{"delete from t where id = 1 or (2 = 2 or a = b)", false},
		{"delete from t where id = 1 and true", true},
		{"delete from t where exists (select 1)", false},
		{"delete from t where exists (select 1 from u where u.id = t.id)", true},
		{"delete from t where current of c", true},
		{"delete from t where id in (1, 2)", true},
		{"update t set a = 1", false},
		{"update t set a = 1 where b is null", true},
		{"with d as (delete from t) update u set a = 1 where id = 1", false},
		{"with d as (delete from t where id = 1) update u set a = 1 where id = 1", true},
		{"with d as (delete from t) select * from d where a = 1", false},
		{"explain analyze delete from t", false},
		{"prepare p as delete from t where id = $1", true},
		{"merge into t using u on true when matched then delete", false},
		{"merge into t using u on t.id = u.id when matched then delete", true},
		{"select * from t where id = 1", true},
		{"select * from t", false},
		{"insert into t values (1)", false},
	}
	for _, row := range rows {
		if got := parseOne(t, row.statement).HasWhere; got != row.want {
			t.Errorf("%s: got %v, want %v", row.statement, got, row.want)
		}
	}
}

func TestReturnsRowsTellsWhetherAReplyHasAny(t *testing.T) {
	with := []string{"select 1", "values (1)", "table t", "insert into t values (1) returning a", "update t set a = 1 returning a", "delete from t returning a",
		"show all", "fetch 1 from c", "explain select 1", "execute p", "call p()"}
	without := []string{"insert into t values (1)", "update t set a = 1", "delete from t", "begin", "set a = 1", "move 1 in c", "select 1 into t",
		"create table t as select 1", "declare c cursor for select 1", "prepare p as select 1", "copy t to stdout", "truncate t"}
	for _, statement := range with {
		if !parseOne(t, statement).ReturnsRows {
			t.Errorf("%s: got none, want rows", statement)
		}
	}
	for _, statement := range without {
		if parseOne(t, statement).ReturnsRows {
			t.Errorf("%s: got rows, want none", statement)
		}
	}
}

func TestKindsThatNameStatementsAndCursors(t *testing.T) {
	rows := []struct {
		statement string
		kind      Kind
		name      string
		inner     string // the words of Inner
	}{
		{`prepare "P" as delete from t`, Prepare, "P", "DELETE"},
		{"execute P", Execute, "p", ""},
		{"deallocate p", Deallocate, "p", ""},
		{"deallocate all", Deallocate, "", ""},
		{"declare c cursor for select 1", Declare, "c", "SELECT"},
		{"fetch all from c", Fetch, "c", ""},
		{"move 1 in c", Fetch, "c", ""},
		{"close c", CloseCursor, "c", ""},
		{"close all", CloseCursor, "", ""},
		{"discard all", Discard, "", ""},
		{"discard plans", Discard, "plans", ""},
		{"discard sequences", Discard, "sequences", ""},
		{"discard temp", Discard, "temp", ""},
		{"discard temporary", Discard, "temp", ""},
		{"explain update t set a = 1", Explain, "", "UPDATE"},
		{"explain execute p", Explain, "", "SESSION"},
		{"commit", Transaction, "", ""},
		{"set a = 1", SetParameter, "", ""},
		{"reset a", SetParameter, "", ""},
		{"show a", Show, "", ""},
		{"copy t to stdout", Copy, "", ""},
		{"call p()", CallProcedure, "", ""},
		{"do 'x'", DoBlock, "", ""},
		{"select 1", Other, "", ""},
	}
	for _, row := range rows {
		s := parseOne(t, row.statement)
		inner := ""
		if s.Inner != nil {
			inner = strings.Join(s.Inner.Words, " ")
		}
		if s.Kind != row.kind || s.Name != row.name || inner != row.inner {
			t.Errorf("%s: got %d %q %q, want %d %q %q", row.statement, s.Kind, s.Name, inner, row.kind, row.name, row.inner)
		}
	}
}

func TestSettingsTellWhatWillBeSet(t *testing.T) {
	rows := []struct {
		statement string
		want      []Setting
	}{
		{"set Search_Path = evil, \"Public\"", []Setting{{"search_path", []string{"evil", "Public"}, true, false}}},
		{"set local work_mem to '1GB'", []Setting{{"work_mem", []string{"1GB"}, true, true}}},
		{"set time zone 'UTC'", []Setting{{"timezone", []string{"UTC"}, true, false}}},
		{"set names 'latin1'", []Setting{{"client_encoding", []string{"latin1"}, true, false}}},
		{"set role admin", []Setting{{"role", []string{"admin"}, true, false}}},
		{"set session authorization default", []Setting{{"session_authorization", nil, true, false}}},
		{"set search_path to default", []Setting{{"search_path", nil, true, false}}},
		{"reset search_path", []Setting{{"search_path", nil, true, false}}},
		{"reset all", []Setting{{"all", nil, false, false}}},
		{"set standard_conforming_strings = off", []Setting{{"standard_conforming_strings", []string{"off"}, true, false}}},
		{"set a.b = 5", []Setting{{"a.b", []string{"5"}, true, false}}},
		{"select set_config('Role', 'x', true)", []Setting{{"role", []string{"x"}, true, true}}},
		{"select set_config('role', a, false) from t", []Setting{{"role", nil, false, false}}},
		{"select set_config(a, 'x', false) from t", []Setting{{"", nil, false, false}}},
		{"select set_config($1, $2, false)", []Setting{{"", nil, false, false}}},
		{"select set_config('a.b'::text, 'x'::text, false), set_config('c.d', 'y', true)",
			[]Setting{{"a.b", []string{"x"}, true, false}, {"c.d", []string{"y"}, true, true}}},
		{"select set_config(variadic array['role', 'x'])", []Setting{{"", nil, false, false}}},
		{"explain analyze select set_config('role', 'x', false)", []Setting{{"role", []string{"x"}, true, false}}},
		{"update pg_settings set setting = 'off' where name = 'standard_conforming_strings'", []Setting{{"", nil, false, false}}},
		{"update pg_catalog.pg_settings s set setting = $1 where name = 'search_path'", []Setting{{"", nil, false, false}}},
		{"with u as (update pg_settings set setting = 'x') select 1", []Setting{{"", nil, false, false}}},
		{"merge into pg_settings using t on true when matched then update set setting = 'x'", []Setting{{"", nil, false, false}}},
		{"explain analyze update pg_settings set setting = 'x'", []Setting{{"", nil, false, false}}},
		{"select * from pg_settings", nil},
		{"update public.pg_settings set setting = 'x'", nil},
		{"alter role r set search_path = x", nil},
		{"create function f() returns int language sql set search_path = x as 'select 1'", nil},
	}
	for _, row := range rows {
		got := parseOne(t, row.statement).Settings
		if fmt.Sprint(got) != fmt.Sprint(row.want) {
			t.Errorf("%s: got %v, want %v", row.statement, got, row.want)
		}
	}
}

func TestPasswordsAreNoticed(t *testing.T) {
	with := []string{"create role r password 'x'", "create user u with encrypted password 'x' login", "alter role r password 'x'", "alter user u password null",
		"create user mapping for u server s options (user 'a', password 'x')", "alter user mapping for u server s options (set password 'x')",
		"create server s foreign data wrapper w options (password 'x')", "create subscription s connection 'password=x' publication p",
		"alter subscription s connection 'password=x'", "alter system set primary_conninfo = 'password=x'",
		"select dblink_connect('password=x')", "select * from dblink('password=x', 'select 1') as t(a int)",
		"select public.pgp_sym_encrypt('data', 'key')", "insert into t values (crypt('x', gen_salt('bf')))"}
	without := []string{"select password from t", "create role r login", "alter role r createdb", "select 'password'", "drop role r"}
	for _, statement := range with {
		if !parseOne(t, statement).HasPasswords {
			t.Errorf("%s: got none, want it noticed", statement)
		}
	}
	for _, statement := range without {
		if parseOne(t, statement).HasPasswords {
			t.Errorf("%s: got a password, want none", statement)
		}
	}
}

func TestForeignDataIsNoticed(t *testing.T) {
	with := []string{"create foreign table t (a text) server s", "create foreign table t (a text options (column_name 'ssn')) server s",
		"create foreign table t partition of p default server s", "import foreign schema a from server s into b",
		"create server s foreign data wrapper w", "alter server s options (set dbname 'x')", "create foreign data wrapper w",
		"create user mapping for u server s", "alter user mapping for u server s options (set user 'x')", "drop user mapping for u server s",
		"alter foreign table t add column ssn text", "alter foreign table t options (set table_name 'x')",
		"alter table t options (set table_name 'x')", "alter table t alter column a options (set column_name 'ssn')",
		"alter foreign table t rename column a to ssn", "alter foreign table t rename to u"}
	without := []string{"create table t (a text)", "alter table t add column a text", "alter table t alter column a set (n_distinct = 5)",
		"alter table t set (fillfactor = 50)", "alter table t rename column a to b", "select * from t", "drop foreign table t"}
	for _, statement := range with {
		if !parseOne(t, statement).Foreign {
			t.Errorf("%s: got none, want it noticed", statement)
		}
	}
	for _, statement := range without {
		if parseOne(t, statement).Foreign {
			t.Errorf("%s: got foreign data, want none", statement)
		}
	}
}

// TestBackslashesTellOfAnotherLexer takes what standard_conforming_strings decides about, and what it does not.
func TestBackslashesTellOfAnotherLexer(t *testing.T) {
	rows := []struct {
		text string
		want bool
	}{
		{`select '\'`, true},
		{`select n'a\b', 1`, true},
		{`select 1; select 'a'
			'b\'`, true},
		{`select '\', email from users --'`, true},
		{`selec '\'`, true},
		{`select '\`, true}, // not read at all
		{`select 'a', e'\'', E'\n', $$\$$, "\", 1 /* '\' */ -- '\'`, false},
		{`select u&'d\0061t'`, false},
		{`select 'a' || chr(92)`, false},
	}
	for _, row := range rows {
		script, err := shared.Parse(t.Context(), row.text)
		if err != nil {
			t.Fatal(err)
		}
		if script.Backslashes != row.want {
			t.Errorf("%s: got %v, want %v", row.text, script.Backslashes, row.want)
		}
	}
}

// TestDangerousFunctionsAreNotBuiltin takes the families that SELECT must never imply.
func TestDangerousFunctionsAreNotBuiltin(t *testing.T) {
	families := regexp.MustCompile(`_to_xml|_to_xmlschema|^pg_read_|^pg_ls_|^pg_stat_file|^lo_|^loread|^lowrite|^pg_logical_|^pg_replication_|` +
		`^pg_(create|drop|copy|sync)_|^pg_sleep|nextval|setval|advisory|^pg_(terminate|cancel|reload|rotate|promote|switch|backup)|^pg_wal_replay_|` +
		`^binary_upgrade|^ts_stat$|^ts_rewrite|dblink|^pg_stat_reset|^pg_(export|import)|^pg_hba|_get_(backend_)?activity$`)
	for name := range builtinFunctions() {
		if families.MatchString(name) {
			t.Errorf("got %s as built-in, want it to need a rule of its own", name)
		}
	}
}

package sql

import (
	"context"
	"slices"
	"strings"
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// classified holds statements with their words, sorted and joined by blanks.
var classified = []struct{ statement, words string }{
	{"select 1", "SELECT"},
	{"table t", "SELECT"},
	{"values (1), (2)", "SELECT"},
	{"select from t", "SELECT"},
	{"select * from t union select * from u", "SELECT"},
	{"with q as (select 1) select * from q", "SELECT"},
	{"select * from t for update", "LOCK SELECT"},
	{"select * from t for key share of t nowait", "LOCK SELECT"},
	{"select * from (select * from t for share) s", "LOCK SELECT"},
	{"select * into u from t", "DDL SELECT"},
	{"insert into t values (1)", "INSERT"},
	{"insert into t default values", "INSERT"},
	{"insert into t values ((select 1))", "INSERT SELECT"},
	{"insert into t select * from u", "INSERT SELECT"},
	{"insert into t values (1) returning id", "INSERT SELECT"},
	{"insert into t values (1) on conflict do nothing", "INSERT"},
	{"insert into t values (1) on conflict (a) do update set a = 2", "INSERT UPDATE"},
	{"with q as (insert into u values (1)) insert into t values (1)", "INSERT"},
	{"update t set a = 1", "UPDATE"},
	{"update t set a = 1 returning a", "SELECT UPDATE"},
	{"update t set a = u.a from u where u.id = t.id", "SELECT UPDATE"},
	{"update t set a = (select 1)", "SELECT UPDATE"},
	{"delete from t", "DELETE"},
	{"delete from t using u where t.id = u.id", "DELETE SELECT"},
	{"delete from t where id = 1 returning *", "DELETE SELECT"},
	{"with d as (delete from t) select 1", "DELETE SELECT"},
	{"with d as (delete from t), i as (insert into u values (1)) update v set a = 1", "DELETE INSERT UPDATE"},
	{"select * from (with q as (select 1) select * from q) s", "SELECT"},
	{"merge into t using u on t.id = u.id when matched then do nothing", "MERGE SELECT"},
	{"merge into t using u on t.id = u.id when matched then delete", "DELETE MERGE SELECT"},
	{"merge into t using u on t.id = u.id when not matched then insert values (1) when matched then update set a = 1", "INSERT MERGE SELECT UPDATE"},
	{"truncate t, u restart identity cascade", "TRUNCATE"},
	{"lock table t in exclusive mode", "LOCK"},

	{"copy t to stdout", "COPY-OUT"},
	{"copy t (a) to stdout with (format csv)", "COPY-OUT"},
	{"copy (select * from t) to stdout", "COPY-OUT SELECT"},
	{"copy (delete from t returning *) to stdout", "COPY-OUT DELETE SELECT"},
	{"copy t from stdin", "COPY-IN"},
	{"copy t from stdin where a > 1", "COPY-IN"},
	{"copy t to '/tmp/x'", "UNKNOWN"},
	{"copy t from '/etc/passwd'", "UNKNOWN"},
	{"copy t to program 'sh'", "UNKNOWN"},
	{"copy t from program 'sh'", "UNKNOWN"},
	{"copy (select 1) to '/tmp/x'", "UNKNOWN"},

	{"explain select 1", "SELECT"},
	{"explain analyze delete from t", "DELETE"},
	{"explain (analyze, format json) insert into t select * from u", "INSERT SELECT"},
	{"explain create table x as select 1", "DDL SELECT"},
	{"explain declare c cursor for select 1", "SELECT"},
	{"explain execute p", "UNKNOWN"},
	{"prepare p as select 1", "SELECT"},
	{"prepare p (int) as update t set a = $1", "UPDATE"},
	{"execute p (1, 'a')", "SESSION"},
	{"create table x as execute p", "UNKNOWN"},
	{"deallocate p", "SESSION"},
	{"deallocate all", "SESSION"},
	{"declare c cursor with hold for select * from t", "SELECT"},
	{"declare c cursor for select * from t for update", "LOCK SELECT"},
	{"fetch 5 from c", "SESSION"},
	{"move all in c", "SESSION"},
	{"close c", "SESSION"},
	{"close all", "SESSION"},

	{"begin", "SESSION"},
	{"begin isolation level serializable read only deferrable", "SESSION"},
	{"start transaction", "SESSION"},
	{"commit and chain", "SESSION"},
	{"rollback", "SESSION"},
	{"end", "SESSION"},
	{"abort", "SESSION"},
	{"savepoint a", "SESSION"},
	{"release a", "SESSION"},
	{"rollback to a", "SESSION"},
	{"prepare transaction 'x'", "MAINTENANCE"},
	{"commit prepared 'x'", "MAINTENANCE"},
	{"rollback prepared 'x'", "MAINTENANCE"},
	{"set constraints all deferred", "SESSION"},
	{"discard all", "SESSION"},
	{"discard temp", "SESSION"},

	{"show search_path", "SESSION"},
	{"show all", "SESSION"},
	{"set application_name = 'x'", "SESSION"},
	{"set timezone to 'UTC'", "SESSION"},
	{"set time zone local", "SESSION"},
	{"set local statement_timeout = 5", "SESSION"},
	{"set datestyle = iso, mdy", "SESSION"},
	{"set extra_float_digits = 3", "SESSION"},
	{"reset extra_float_digits", "SESSION"},
	{"set transaction isolation level serializable", "SESSION"},
	{"set session characteristics as transaction read only", "SESSION"},
	{"set client_min_messages = warning", "SESSION"},
	{"set client_min_messages = debug5", "SET"},
	{"set client_encoding = 'UTF8'", "SESSION"},
	{"set names 'utf-8'", "SESSION"},
	{"set names 'SJIS'", "SET"},
	{"set standard_conforming_strings = on", "SESSION"},
	{"set standard_conforming_strings = off", "SET"},
	{"set STANDARD_conforming_strings to 'OFF'", "SET"},
	{"set search_path = evil, public", "SET"},
	{"set schema 'evil'", "SET"},
	{"set role admin", "SET"},
	{"reset role", "SET"},
	{"set session authorization joe", "SET"},
	{"set row_security = off", "SET"},
	{"set app.tenant = '1'", "SET"},
	{"set transaction snapshot '000003A1-1'", "SET"},
	{"reset all", "SET"},
	{"select set_config('application_name', 'x', false)", "SELECT SESSION"},
	{"select set_config('search_path', 'x', false)", "SELECT SET"},
	{"select set_config('role', name, false) from t", "SELECT SET"},
	{"select set_config(name, 'x', false) from t", "SELECT SET"},
	{"select pg_catalog.set_config('role', 'x', true)", "SELECT SET"},

	{"listen c", "LISTEN"},
	{"unlisten *", "LISTEN"},
	{"notify c, 'payload'", "NOTIFY"},
	{"select pg_notify('c', 'payload')", "NOTIFY SELECT"},

	{"vacuum", "MAINTENANCE"},
	{"vacuum (full, analyze) t (a)", "MAINTENANCE"},
	{"analyze t", "MAINTENANCE"},
	{"reindex table t", "MAINTENANCE"},
	{"reindex database d", "MAINTENANCE"},
	{"cluster t using i", "MAINTENANCE"},
	{"checkpoint", "MAINTENANCE"},
	{"refresh materialized view concurrently v", "MAINTENANCE"},
	{"alter database d refresh collation version", "MAINTENANCE"},

	{"grant select on t to joe", "DCL"},
	{"grant select (a), update (b) on t to joe with grant option", "DCL"},
	{"grant all on all tables in schema s to joe", "DCL"},
	{"revoke all on t from public", "DCL"},
	{"grant admin to joe", "DCL"},
	{"revoke admin from joe", "DCL"},
	{"alter default privileges in schema s grant select on tables to joe", "DCL"},
	{"create role r", "DCL"},
	{"create user u password 'x'", "DCL"},
	{"alter role r superuser", "DCL"},
	{"alter user u with password 'x'", "DCL"},
	{"alter group g add user u", "DCL"},
	{"alter role r set search_path = 'x'", "DCL"},
	{"drop role r", "DCL"},
	{"reassign owned by a to b", "DCL"},
	{"drop owned by a", "DCL DDL"},
	{"alter table t owner to joe", "DDL"},
	{"alter schema s owner to joe", "DCL DDL"},
	{"create policy p on t using (a = 1)", "DCL DDL"},
	{"alter policy p on t using (true)", "DCL DDL"},
	{"drop policy p on t", "DDL"},
	{"security label on table t is 'x'", "DCL DDL"},
	{"alter system set work_mem = '1GB'", "DCL"},
	{"alter system reset all", "DCL"},
	{"create user mapping for u server s options (password 'x')", "DCL DDL"},
	{"alter user mapping for u server s options (set password 'x')", "DCL DDL"},
	{"drop user mapping for u server s", "DCL DDL"},

	{"create table t (a int primary key, b text default now())", "DDL"},
	{"create temp table t (like u including all)", "DDL"},
	{"create table t partition of u for values in (1)", "DDL"},
	{"create table t as select * from u", "DDL SELECT"},
	{"create table t as values (1)", "DDL SELECT"},
	{"create unlogged table t ()", "DDL"},
	{"alter table t add column c int", "DDL"},
	{"alter table t rename to u", "DDL"},
	{"alter table t rename column a to b", "DDL"},
	{"alter table t set schema s", "DDL"},
	{"alter table t attach partition u for values from (1) to (2)", "DDL"},
	{"alter table t enable row level security", "DDL"},
	{"alter table all in tablespace a set tablespace b", "DDL"},
	{"alter table t replica identity full", "DDL"},
	{"drop table t cascade", "DDL"},
	{"drop schema s cascade", "DDL"},
	{"drop database d", "DDL"},
	{"drop function f(int)", "DDL"},
	{"create view v as select * from t", "DDL SELECT"},
	{"create or replace recursive view v (n) as select 1", "DDL SELECT"},
	{"create materialized view v as select * from t", "DDL SELECT"},
	{"create index concurrently i on t (lower(a))", "DDL"},
	{"create unique index on t (a) where b", "DDL"},
	{"create sequence s", "DDL"},
	{"alter sequence s restart", "DDL"},
	{"create schema s create table t () create view v as select 1", "DDL SELECT"},
	{"create database d", "DDL"},
	{"alter database d set search_path = 'x'", "DDL"},
	{"alter database d connection limit 5", "DDL"},
	{"create function f() returns int language sql as 'select 1'", "DDL"},
	{"create function f() returns int return 1 + 1", "DDL"},
	{"create procedure p() language sql begin atomic delete from t; insert into u values (1); end", "DDL DELETE INSERT"},
	{"create or replace function f() returns trigger language plpgsql as $$ begin return new; end $$", "DDL"},
	{"alter function f() security definer", "DDL"},
	{"create trigger g before insert on t for each row when (new.a > 1) execute function f()", "DDL"},
	{"create event trigger g on ddl_command_start execute function f()", "DDL"},
	{"alter event trigger g disable", "DDL"},
	{"create rule r as on insert to t do instead delete from u", "DDL DELETE"},
	{"create type y as enum ('a', 'b')", "DDL"},
	{"create type y as (a int)", "DDL"},
	{"create type y as range (subtype = int)", "DDL"},
	{"create type y", "DDL"},
	{"alter type y add value 'c'", "DDL"},
	{"alter type y set (receive = f)", "DDL"},
	{"create domain d as int check (value > 0)", "DDL"},
	{"alter domain d drop not null", "DDL"},
	{"create aggregate a (int) (sfunc = f, stype = int)", "DDL"},
	{"create operator + (leftarg = int, rightarg = int, function = f)", "DDL"},
	{"alter operator + (int, int) set (restrict = none)", "DDL"},
	{"create operator class c for type int using btree as operator 1 <", "DDL"},
	{"create operator family f using btree", "DDL"},
	{"alter operator family f using btree add operator 1 < (int, int)", "DDL"},
	{"create cast (int as text) with function f(int)", "DDL"},
	{"create transform for int language l (from sql with function f(internal))", "DDL"},
	{"create conversion c for 'UTF8' to 'LATIN1' from f", "DDL"},
	{"create collation c (locale = 'C')", "DDL"},
	{"alter collation c refresh version", "DDL"},
	{"create text search configuration c (copy = simple)", "DDL"},
	{"alter text search configuration c add mapping for word with simple", "DDL"},
	{"alter text search dictionary d (a = b)", "DDL"},
	{"create extension e", "DDL"},
	{"alter extension e update", "DDL"},
	{"alter extension e add table t", "DDL"},
	{"create language l", "DDL"},
	{"create access method a type index handler f", "DDL"},
	{"create statistics s on a, b from t", "DDL"},
	{"alter statistics s set statistics 5", "DDL"},
	{"create foreign data wrapper w", "DDL"},
	{"alter foreign data wrapper w options (set a 'x')", "DDL"},
	{"create server s foreign data wrapper w options (password 'x')", "DDL"},
	{"alter server s options (set password 'x')", "DDL"},
	{"create foreign table t (a int) server s", "DDL"},
	{"import foreign schema a from server s into b", "DDL"},
	{"create tablespace s location '/x'", "DDL"},
	{"alter tablespace s set (seq_page_cost = 1)", "DDL"},
	{"drop tablespace s", "DDL"},
	{"comment on table t is 'x'", "DDL"},
	{"alter index i depends on extension e", "DDL"},
	{"create publication p for table t", "DDL REPLICATION"},
	{"alter publication p add table t", "DDL REPLICATION"},
	{"create subscription s connection 'password=x' publication p", "DDL REPLICATION"},
	{"alter subscription s connection 'password=x'", "DDL REPLICATION"},
	{"drop subscription s", "DDL REPLICATION"},

	{"do $$ begin end $$", "DO"},
	{"do language plpython3u 'x'", "DO"},
	{"call p(1)", "CALL"},
	{"call p((select 1))", "CALL SELECT"},
	{"load 'x'", "UNKNOWN"},
	{"select from where", "UNKNOWN"},
	{"START_REPLICATION SLOT s LOGICAL 0/0", "UNKNOWN"},
	{"IDENTIFY_SYSTEM", "UNKNOWN"},
}

func classifiedTexts() []string {
	var texts []string
	for _, row := range classified {
		texts = append(texts, row.statement)
	}
	return texts
}

func TestStatementNeedsEveryWordThatApplies(t *testing.T) {
	for _, row := range classified {
		t.Run(row.statement, func(t *testing.T) {
			script, err := shared.Parse(context.Background(), row.statement)
			if err != nil {
				t.Fatal(err)
			}
			if len(script.Statements) != 1 {
				t.Fatalf("got %d statements, want 1", len(script.Statements))
			}
			s := script.Statements[0]
			if got := strings.Join(s.Words, " "); got != row.words {
				t.Errorf("got %s, want %s", got, row.words)
			}
			if unknown := row.words == Unknown; unknown != (s.Unknown != "") {
				t.Errorf("got the reason %q, want one exactly with UNKNOWN", s.Unknown)
			}
		})
	}
}

// TestEveryNodeHasAVerdict walks libpg_query's own list of node types: a new one must
// be given a verdict before it can be anything but UNKNOWN.
func TestEveryNodeHasAVerdict(t *testing.T) {
	messages := pg.File_pg_query_proto.Messages()
	seen := 0
	for i := range messages.Len() {
		name := messages.Get(i).Name()
		_, judged := verdicts[name]
		if strings.HasSuffix(string(name), "Stmt") && !judged {
			t.Errorf("got no verdict for %s, want one", name)
		}
		if judged && parts[name] {
			t.Errorf("got %s as a statement and as a part, want one", name)
		}
		if judged || parts[name] {
			seen++
		}
	}
	if seen != len(verdicts)+len(parts) {
		t.Errorf("got %d of %d entries in libpg_query's list, want all", seen, len(verdicts)+len(parts))
	}
}

func TestEmptyTextHasNoStatement(t *testing.T) {
	for _, text := range []string{"", ";", " ; ;", "-- nothing", "/* nothing */"} {
		script, err := shared.Parse(context.Background(), text)
		if err != nil || len(script.Statements) != 0 {
			t.Errorf("%q: got %d statements, %v, want none", text, len(script.Statements), err)
		}
	}
}

func TestEachStatementOfATextIsToldApart(t *testing.T) {
	script, err := shared.Parse(context.Background(), "begin; select 1; delete from t; commit")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range script.Statements {
		got = append(got, strings.Join(s.Words, " "))
	}
	if want := []string{"SESSION", "SELECT", "DELETE", "SESSION"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

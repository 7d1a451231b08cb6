package sql

import (
	"context"
	"strings"
	"testing"
)

// sensitive is a catalog of two relations with sensitive columns.
func sensitive(schema, name string) []string {
	if schema != "" && schema != "public" {
		return nil
	}
	switch name {
	case "customers":
		return []string{"email", "ssn"}
	case "staff":
		return []string{"salary", "Email", "contact()"}
	}
	return nil
}

// plainUses are statements whose sensitive columns are output columns alone, so
// that the masks of the result's columns cover them.
var plainUses = []string{
	"select email from customers",
	"select contact, o.contact from orders o",
	"select c.contact from customers c",
	"select c.email, c.id from customers c",
	"select public.customers.email from public.customers",
	"select email as contact from customers",
	"select (email) from customers",
	"select * from customers",
	"select c.* from customers as c where c.id = 3 order by c.id desc limit 10",
	"select customers.* from customers join orders on orders.customer = customers.id",
	"table customers",
	"select e from (select email as e from customers) s",
	"select s.e from (select email as e, id from customers) s where s.id = 1",
	"with q as (select email, id from customers) select * from q where q.id > 5",
	"with q as materialized (select email e from customers) select e from q",
	"with recursive r as (select 1 as n union all select n + 1 from r) select r.n, c.email from r join customers c on c.id = r.n",
	"select x.* from customers c, lateral (select c.email) x",
	"select l.z from customers c, lateral (select c.ssn as z) l",
	"select l.* from customers c, lateral (select c.*) l where c.id = 3",
	"select lower(l.z), c.ssn from customers c, lateral (select c.id as z) l",
	"select c.email, lower(s.name) from customers c, (select name from orders) s",
	"select lower(n), c.ssn from customers c, lateral (select * from orders o where o.id = c.id) l (n)",
	"with w as (select * from orders) select lower(w.name), c.email from w, customers c",
	"select distinct name from customers",
	"select distinct id, name from (select id, name, email from customers) s",
	"select distinct o.*, c.id from orders o join customers c on c.id = o.customer",
	"select email from (select distinct id from orders) o join customers using (id)",
	"select id, email from customers group by id",
	"select c.email, count(*) from customers c join orders o using (id) group by c.id",
	"select c.email from customers c join orders o using (id) where o.total > 5",
	"select o.email from orders o where o.email like 'a%'",
	"select c.email, upper(o.email) from customers c join orders o on o.id = c.id",
	"select count(*) from customers",
	"select count(*) from customers where id = 1",
	"select max(id), lower(name) from customers group by name order by name",
	"select id from customers where exists (select 1 from orders o where o.customer = customers.id)",
	"select id from orders where exists (select * from customers c where c.id = orders.customer)",
	"select id from orders where customer in (select id from customers)",
	"select (select name from customers where id = 1)",
	"select id from customers union select id from staff",
	"select name from customers order by 1",
	"select name, email from customers order by 1, id",
	"select id, email from customers for update of customers skip locked",
	"select email from only customers",
	"select email from customers tablesample bernoulli (10)",
	"select ctid, tableoid, xmin, email from customers",
	"select email from customers limit 5 offset 2",
	"insert into customers (email, ssn) values ('a@b', $1)",
	"insert into customers values (1, 'a@b') returning id, email as e",
	"insert into customers (id, email) values (1, 'x') on conflict (id) do update set email = 'y', name = excluded.name",
	"insert into customers (id) values (1) on conflict do nothing",
	"insert into customers (id, name) select id, name from orders",
	"insert into customers (id, email) select id, email from orders where email like 'a%'",
	"insert into orders (customer) select id from customers",
	"update customers set email = 'x', ssn = $1 where id = 3 returning *",
	"update customers set email = default where id = 3",
	"update customers set email = 'x' where id = 3 returning old.email, new.id, lower(old.name)",
	"update customers set id = 1 where id = 3 returning old.*, new.*",
	"update orders set id = 1 returning to_json(old), new",
	"update customers c set name = o.name from orders o where o.id = c.id returning c.email",
	"update customers set email = 'x' where current of cur",
	"delete from customers where id = 3 returning email",
	"delete from customers using orders o where o.id = customers.id",
	"with d as (delete from customers where id = 1 returning id, email) select * from d",
	"declare cur cursor for select email from customers",
	"prepare p as select email from customers where id = $1",
	"explain select email from customers",
	"explain (analyze) select * from customers where id = 1",
	"create table x as select id, name from customers",
	"create view v as select id from customers",
	"select id into x from customers",
	"create table x (like customers)",
	"create index on customers (email)",
	"alter table customers rename column email to mail",
	"alter table customers alter column email set not null",
	"truncate customers",
	"lock table customers",
	"analyze customers",
	"vacuum customers (email)",
	"grant select (email) on customers to joe",
	"comment on column customers.email is 'x'",
	"drop table customers",
	`select "Email" from staff`,
	`select email, lower(email) from staff`,
	"select 1",
	"select lower(email) from orders",
	"values (1), (2)",
	"with m as (merge into orders using items on orders.id = items.id when matched then update set total = items.total returning *) select email from customers",
	"merge into orders using items on orders.id = items.id when matched then do nothing",
}

// misuses are the ways around masks of result columns, and what only looks like one.
var misuses = []struct{ statement, column, use string }{
	{"select lower(email) from customers", "email", useFunction},
	{"select email || '' from customers", "email", useExpression},
	{"select email::text from customers", "email", useExpression},
	{"select email::varchar(50) from customers", "email", useExpression},
	{"select cast(email as bytea) from customers", "email", useExpression},
	{"select email collate \"C\" from customers", "email", useExpression},
	{"select coalesce(email, '') from customers", "email", useExpression},
	{"select case when email is null then 1 end from customers", "email", useExpression},
	{"select nullif(email, 'x'), greatest(email, 'a') from customers", "email", useExpression},
	{"select email is null from customers", "email", useExpression},
	{"select array[email] from customers", "email", useExpression},
	{"select row(email) from customers", "email", useExpression},
	{"select (id, email) from customers", "email", useExpression},
	{"select email[1] from customers", "email", useExpression},
	{"select max(email) from customers", "email", useAggregate},
	{"select string_agg(email, ',') from customers", "email", useAggregate},
	{"select array_agg(c.email order by c.id) from customers c", "email", useAggregate},
	{"select count(*) filter (where email like 'a%') from customers", "email", useAggregate},
	{"select count(distinct email) from customers", "email", useAggregate},
	{"select percentile_disc(0.5) within group (order by email) from customers", "email", useOrdering},
	{"select first_value(email) over (order by id) from customers", "email", useFunction},
	{"select rank() over (order by email) from customers", "email", useOrdering},
	{"select rank() over (partition by email) from customers", "email", useWindow},
	{"select rank() over w from customers window w as (order by ssn)", "ssn", useOrdering},
	{"select unnest(array[email]) from customers", "email", useFunction},
	{"select x from customers c, unnest(array[c.email]) x", "email", useFunction},
	{"select xmlelement(name a, email) from customers", "email", useExpression},
	{"select xmlforest(email) from customers", "email", useExpression},
	{"select json_object('e': email) from customers", "email", useExpression},
	{"select json_array(email) from customers", "email", useExpression},
	{"select json_arrayagg(email) from customers", "email", useExpression},
	{"select * from customers c, json_table(c.email, '$' columns (a text path '$')) j", "email", useFunction},
	{"select * from customers c, xmltable('/' passing c.email columns a text) x", "email", useFunction},
	{"select (select email from customers limit 1)", "email", useSubquery},
	{"select (select * from customers limit 1)", "", useSubquery},
	{"select array(select email from customers)", "email", useSubquery},
	{"select id from orders where contact in (select email from customers)", "email", useSubquery},
	{"select id from orders where contact = any (select email from customers)", "email", useSubquery},
	{"select id from orders where (1, contact) = (select id, email from customers)", "email", useSubquery},

	{"select id from customers where email = 'a@b'", "email", usePredicate},
	{"select id from customers where email like 'a%'", "email", usePredicate},
	{"select id from customers where $1 = email", "email", usePredicate},
	{"select id from customers where (id, email) = (1, 'x')", "email", usePredicate},
	{"select id from customers where id in (select id from customers where ssn < '5')", "ssn", usePredicate},
	{"select id from orders where exists (select 1 from customers where email like 'a%')", "email", usePredicate},
	{"select count(*) from customers having max(email) > 'a'", "email", useAggregate},
	{"select o.id from orders o join customers c on c.email = o.contact", "email", usePredicate},
	{"select o.id from orders o left join customers c on lower(c.email) = o.contact", "email", useFunction},
	{"select id from orders join customers using (email)", "email", usePredicate},
	{"select email from orders full join customers using (email)", "email", usePredicate},
	{"select id from orders natural join customers", "", useNatural},
	{"select id from orders natural join (select email from customers) s", "", useNatural},
	{"select e from (select email as e from customers) s where e like 'a%'", "", usePredicate},
	{"select s.e from (select email as e from customers) s where s.e like 'a%'", "", usePredicate},
	{"with q as (select email as e from customers), r as (select e as f from q) select id from orders join r on r.f = orders.contact", "", usePredicate},
	{"with q as (select email from customers) select 1 from q where q.email > 'm'", "email", usePredicate},
	{"select 1 from orders o, lateral (select c.email as e from customers c where c.id = o.id) x where x.e = 'a'", "", usePredicate},
	{"select email as x from customers order by x", "", useOrdering},
	{"select email from customers order by email", "email", useOrdering},
	{"select id from customers order by customers.ssn desc", "ssn", useOrdering},
	{"select email from customers order by 1", "email", useOrdering},
	{"select id, email from customers order by id, 2", "email", useOrdering},
	{"select * from customers order by 3", "", useOrdering},
	{"select id, c.* from customers c order by 4", "", useOrdering},
	{"select id from customers order by length(email)", "email", useFunction},
	{"select email from customers group by email", "email", useGrouping},
	{"select email from customers group by 1", "email", useGrouping},
	{"select id, email from customers group by grouping sets ((1), (2))", "email", useGrouping},
	{"select id, email from customers group by rollup (1, 2)", "email", useGrouping},
	{"select distinct on (email) id from customers", "email", useDistinct},
	{"select distinct on (1) email, id from customers", "email", useDistinct},
	{"select distinct email from customers", "email", useDistinct},
	{"select distinct c.id, c.email from customers c order by c.id", "email", useDistinct},
	{"select distinct * from customers", "", useDistinct},
	{"select distinct c.* from customers c join orders o on true", "", useDistinct},
	{"select distinct e from (select email as e from customers) s", "", useDistinct},
	{"select count(*) from (select distinct ssn from customers) s", "ssn", useDistinct},
	{"with q as (select distinct ssn as s from customers) select count(*) from q", "ssn", useDistinct},
	{"select distinct l.z from customers c, lateral (select c.ssn as z) l", "", useDistinct},
	{"select id from customers limit (select length(email) from customers limit 1)", "email", useFunction},

	{"select lower(c.ssn) from customers c, orders c", "ssn", useFunction},
	{"select lower(c.ssn) from orders c, customers c", "ssn", useFunction},
	{"select lower(c.ssn) from staff c, customers c", "ssn", useFunction},
	{"select lower(c.email) from customers c, staff c", "email", useFunction},
	{"select c from customers c", "", useRow},
	{"select customers from customers", "", useRow},
	{"select customers from public.customers", "", useRow},
	{"select c as x from customers c", "", useRow},
	{"select c.*::text from customers c", "", useExpression},
	{"select (c.*)::text from customers c", "", useExpression},
	{"select c::text from customers c", "", useRow},
	{"select row(c.*) from customers c", "", useExpression},
	{"select (c).email from customers c", "", useRow},
	{"select (c).* from customers c", "", useRow},
	{"select row_to_json(c) from customers c", "", useRow},
	{"select to_jsonb(c) ->> 'email' from customers c", "", useRow},
	{"select email(c) from customers c", "", useRow},
	{"select count(c) from customers c", "", useRow},
	{"select count(c.*) from customers c", "", useAggregate},
	{"select json_agg(s) from (select email from customers) s", "", useRow},
	{"select s from (select email from customers) s", "", useRow},
	{"with q as (select email from customers) select q from q", "", useRow},
	{"with q as (select email from customers) select x from q x", "", useRow},
	{"select j from (customers c join orders o on true) j", "", useRow},
	{"select id from customers c where c is not null", "", useRow},
	{"select id from customers c order by c", "", useRow},
	{"select c.row_to_json from customers c", "", useRow},
	{"select customers.to_jsonb from customers", "", useRow},
	{"select s.quote_literal from (select email from customers) s", "", useRow},
	{"select 1 from customers c, to_json(c) j", "", useRow},
	{"select s.contact from staff s", "", useRow},
	{"select x.contact from (select id from staff) x", "", useRow},
	{"update customers c set name = (c).email where id = 1", "", useRow},

	{"select email from customers union select 'x'", "email", useSet},
	{"select 'x' union all select email from customers", "email", useSet},
	{"select email from customers union all select email from customers", "email", useSet},
	{"select * from customers union all select * from customers", "", useSet},
	{"select email from customers intersect select contact from orders", "email", useSet},
	{"select contact from orders except select email from customers", "email", useSet},
	{"(select 'a' union (select 'b' union select ssn from customers))", "ssn", useSet},
	{"select a from (select id as a from orders union select email from customers) s", "email", useSet},
	{"with recursive r as (select email from customers union all select email from r) select * from r", "email", useSet},
	{"with recursive r(a) as (select id from customers union all select a + 1 from r) select a from r", "", useAliases},
	{"select a from customers as c(a, b)", "", useAliases},
	{"select a from (select email from customers) s(a)", "", useAliases},
	{"with q(a) as (select email from customers) select a from q", "", useAliases},
	{"select a from (customers c join orders o on true) as j(a, b, c)", "", useAliases},
	{"values ((select email from customers))", "email", useSubquery},
	{"select lower(l.z) from customers c, lateral (select c.ssn as z) l", "", useFunction},
	{"select lower(l.ssn) from customers c, lateral (select c.*) l", "ssn", useFunction},
	{"select lower(l.z) from customers c cross join lateral (select ssn as z) l", "", useFunction},
	{"select (select string_agg(z, ',') from (select c.ssn) as w(z)) from customers c", "", useAliases},
	{"select (with w as (select c.*) select lower(w.ssn) from w) from customers c", "ssn", useFunction},
	{"select (with w as (select c.ssn as z), v as (select z as y from w) select lower(v.y) from v) from customers c", "", useFunction},
	{"select (with w(y) as (select c.ssn) select lower(y) from w) from customers c", "", useAliases},
	{"select lower(l.z) from (select ssn as y from customers) s, lateral (select y as z) l", "", useFunction},
	{"select l from customers c, lateral (select c.ssn) l", "", useRow},
	{"select l.z from customers c, lateral (select c as z) l", "", useRow},
	{"select * from customers c, lateral (select c) l", "", useRow},
	{"select (with w as (select c) select w from w) from customers c", "", useRow},
	{"select 1 from customers c, lateral (select c.ssn as z) l where l.z like '9%'", "", usePredicate},
	{"select lower(l.z) from customers c left join lateral (select x.* from (select c.ssn as z) x) l on true", "", useFunction},
	{"select * from customers c, lateral (values (c.email)) v(a)", "email", useExpression},

	{"copy customers to stdout", "", useCopy},
	{"copy customers (id, name) to stdout", "", useCopy},
	{"copy customers from stdin", "", useCopy},
	{"copy (select email from customers) to stdout", "email", useCopy},
	{"copy (select * from customers) to stdout", "", useCopy},
	{"copy (table customers) to stdout (format binary)", "", useCopy},
	{"copy (delete from customers where id = 1 returning email) to stdout", "email", useCopy},
	{"create table x as select email from customers", "email", useDefinition},
	{"create table x as table customers", "", useDefinition},
	{"create temp table x as select * from customers", "", useDefinition},
	{"create table x as with q as (select email from customers) select * from q", "", useDefinition},
	{"select email into x from customers", "email", useDefinition},
	{"select * into temp x from customers", "", useDefinition},
	{"create view v as select email from customers", "email", useDefinition},
	{"create view v as select * from customers", "", useDefinition},
	{"create materialized view v as select ssn from customers", "ssn", useDefinition},
	{"create rule r as on insert to orders do also select email from customers", "email", useDefinition},
	{"insert into orders select * from customers", "", useInsert},
	{"insert into orders (contact) select email from customers", "email", useInsert},
	{"insert into orders (contact) select c.email from customers c returning contact", "email", useInsert},
	{"insert into orders (contact) values ((select email from customers limit 1))", "email", useSubquery},
	{"insert into orders (contact) with q as (select email as e from customers) select e from q", "", useInsert},
	{"insert into customers (email) select email from customers", "email", useInsert},
	{"insert into customers (email) values ('x') on conflict (email) do nothing", "email", useConflict},
	{"insert into customers (email) values ('x') on conflict (lower(email)) do nothing", "email", useFunction},
	{"insert into customers (email) values ('x') on conflict on constraint customers_email_key do nothing", "", useConflict},
	{"insert into customers (id) values (1) on conflict (id) do update set name = customers.email", "email", useAssignment},
	{"insert into customers (id) values (1) on conflict (id) do update set email = excluded.email", "email", useAssignment},
	{"insert into customers (id) values (1) on conflict (id) do update set name = 'x' where customers.email = 'x'", "email", usePredicate},
	{"insert into customers (id) values (1) on conflict (id) where email is null do nothing", "email", usePredicate},
	{"insert into customers (id) values (1) returning lower(email)", "email", useFunction},
	{"update customers set name = email where id = 1", "email", useAssignment},
	{"update customers set email = email || 'x' where id = 1", "email", useAssignment},
	{"update customers set (name, id) = (select email, 1 from customers where id = 1)", "email", useSubquery},
	{"update orders set contact = c.email from customers c where c.id = orders.id", "email", useAssignment},
	{"update customers set name = 'x' where email = 'y'", "email", usePredicate},
	{"update customers set name = 'x' returning old", "", useRow},
	{"update customers set name = 'x' returning old::text", "", useRow},
	{"update customers c set name = 'x' returning to_json(new)", "", useRow},
	{"update customers set name = 'x' returning old.to_json", "", useRow},
	{"update customers set name = 'x' returning row(old.*)", "", useExpression},
	{"update customers set name = 'x' returning upper(old.ssn)", "ssn", useFunction},
	{"delete from customers returning (old).ssn", "", useRow},
	{"insert into customers (id) values (1) returning new || ''", "", useRow},
	{"insert into customers (id) values (1) on conflict (id) do update set id = 2 returning old::text", "", useRow},
	{"with u as (update customers set id = 1 returning new as n) select n from u", "", useRow},
	{"update customers set name = 'x' returning upper(ssn)", "ssn", useFunction},
	{"delete from customers where ssn like '1%'", "ssn", usePredicate},
	{"delete from orders using customers c where c.email = orders.contact", "email", usePredicate},
	{"with d as (delete from customers returning email as e) select 1 from d where e like 'a%'", "", usePredicate},
	{"with d as (update customers set id = 1 returning email) insert into orders select * from d", "", useInsert},
	{"merge into customers c using orders o on o.id = c.id when matched then update set name = 'x'", "", useMerge},
	{"merge into orders o using customers c on o.id = c.id when matched then update set contact = c.email", "", useMerge},

	{"declare cur cursor for select lower(email) from customers", "email", useFunction},
	{"prepare p as select id from customers where email = $1", "email", usePredicate},
	{"explain select id from customers where email = 'x'", "email", usePredicate},
	{"explain create table x as select email from customers", "email", useDefinition},
	{"create index on customers (lower(email))", "email", useFunction},
	{"create index on customers (id) where email is null", "email", useExpression},
	{"alter table customers add column e text generated always as (lower(email)) stored", "email", useFunction},
	{"alter table customers add check (email like 'a%')", "email", useExpression},
	{"alter table customers alter column name type text using email", "email", useExpression},
	{"create policy p on customers using (email = current_user)", "email", useExpression},
	{"create statistics s on (lower(email)), id from customers", "email", useFunction},
	{"create function f() returns setof text language sql begin atomic select email from customers; end", "", useUndecided},
	{"create publication p for table customers", "", useUndecided},
	{"copy customers to '/tmp/x'", "", useUndecided},
	{"create table x as select * from customers; ", "", useDefinition},
	{`select lower("Email") from staff`, "Email", useFunction},
	{"with c as (select 1), customers as (select email from customers) select * from customers where email = 'x'", "email", usePredicate},
	{"with q as (with p as (select email from customers) select * from p) select lower(email) from q", "email", useFunction},
	{"with recursive a as (select * from b), b as (select email from customers) select lower(email) from a", "email", useFunction},
	{"with recursive q as (select email, id from customers union all select email, id from q) cycle id set c using p select 1 from q", "", useUndecided},
}

func TestPlainOutputColumnsAreNoMisuse(t *testing.T) {
	for _, statement := range plainUses {
		t.Run(statement, func(t *testing.T) {
			if got := parseOne(t, statement).Misuse(sensitive); got != nil {
				t.Errorf("got %+v, want none", *got)
			}
		})
	}
}

func TestEveryOtherUseOfASensitiveColumnIsMisuse(t *testing.T) {
	for _, row := range misuses {
		t.Run(row.statement, func(t *testing.T) {
			got := parseOne(t, row.statement).Misuse(sensitive)
			if got == nil {
				t.Fatalf("got none, want %s of %s", row.use, row.column)
			}
			if got.Use != row.use || got.Column != row.column {
				t.Errorf("got %s of %s.%s, want %s of %s", got.Use, got.Relation, got.Column, row.use, row.column)
			}
			if got.Relation == "" {
				t.Errorf("got no relation, want one")
			}
		})
	}
}

// TestNoMisuseWithoutSensitiveColumns takes every statement again in a database that has none.
func TestNoMisuseWithoutSensitiveColumns(t *testing.T) {
	for _, row := range misuses {
		if got := parseOne(t, row.statement).Misuse(func(string, string) []string { return nil }); got != nil {
			t.Errorf("%s: got %+v, want none", row.statement, *got)
		}
	}
}

// TestItemsOfOneNameAreOne takes n columns of n relations that all have one name.
func TestItemsOfOneNameAreOne(t *testing.T) {
	const n = 5_000
	columns, items := strings.Repeat(", c.id", n), strings.Repeat(", customers c", n)
	for column, want := range map[string]bool{"c.id": false, "c.email": false, "lower(c.email)": true} {
		s := parseOne(t, "select "+column+columns+" from orders c"+items)
		if got := s.Misuse(sensitive); got != nil != want {
			t.Errorf("%s: got %v, want a misuse: %v", column, got, want)
		}
	}
	s := scope{}
	for range n {
		s.add(item{name: "c", touches: true, columns: map[string]bool{"email": true}})
	}
	if got := len(s.named("c")); got != 1 {
		t.Errorf("got %d items of one name, want 1", got)
	}
}

var shared = New(Options{})

func parseOne(t testing.TB, statement string) *Statement {
	t.Helper()
	script, err := shared.Parse(context.Background(), statement)
	if err != nil {
		t.Fatal(err)
	}
	if len(script.Statements) != 1 {
		t.Fatalf("got %d statements, want 1", len(script.Statements))
	}
	if s := script.Statements[0]; s.tree == nil {
		t.Fatalf("got %q, want a statement that parses", s.Unknown)
	}
	return script.Statements[0]
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/policy"
)

// sensitiveColumns gives the sensitive columns of a Target that names these.
func sensitiveColumns(t testing.TB, columns ...string) *policy.Sensitive {
	t.Helper()
	set, err := policy.Parse("policy.yaml", fmt.Appendf(nil, `apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec:
  protocol: postgres
  hosts: [db.internal]
  credential: {client: true}
  sensitive: [{columns: ['%s'], mask: redact}]
`, strings.Join(columns, "', '")))
	if err != nil {
		t.Fatal(err)
	}
	return set.Targets()[0].Sensitive()
}

// catalogOf gives a catalog of a database, and counts its connections.
func catalogOf(t testing.TB, db *testDatabase, columns ...string) (c *catalog, connections *atomic.Int32) {
	t.Helper()
	connections = new(atomic.Int32)
	c = newCatalog(func(ctx context.Context) (*pgconn.PgConn, error) {
		connections.Add(1)
		return pgconn.Connect(ctx, db.URL(db.database))
	}, sensitiveColumns(t, columns...))
	t.Cleanup(c.close)
	return c, connections
}

// exec runs SQL as the superuser.
func (db *testDatabase) exec(t testing.TB, sql string) {
	t.Helper()
	db.MustExec(t, db.database, sql)
}

// expire makes the last answer as old as an answer may be.
func (c *catalog) expire() {
	a := *c.last.Load()
	a.asked = a.asked.Add(-catalogMaxAge)
	c.last.Store(&a)
}

func mustSnapshot(t testing.TB, c *catalog) *snapshot {
	t.Helper()
	s, err := c.snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const everyShape = `
CREATE TABLE users (id int PRIMARY KEY, gone text, email text, name text, shout text GENERATED ALWAYS AS (upper(email)) STORED,
    double int GENERATED ALWAYS AS (2 * id) STORED);
ALTER TABLE users DROP COLUMN gone;
CREATE SCHEMA other;
CREATE TABLE other.users (email text, phone text);
CREATE SCHEMA "Odd ""schema""";
CREATE TABLE "Odd ""schema"""."Tä.ble $1" ("E-Mail, or so" text, "e-mail, or so" text);
CREATE TEMP TABLE scratch (ssn text, x int);

CREATE TABLE parted (id int, ssn text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE part2 (x text, ssn text, id int);
ALTER TABLE part2 DROP COLUMN x;
ALTER TABLE parted ATTACH PARTITION part2 FOR VALUES FROM (10) TO (20);
CREATE TABLE part3 PARTITION OF parted FOR VALUES FROM (20) TO (30) PARTITION BY RANGE (id);
CREATE TABLE part31 PARTITION OF part3 FOR VALUES FROM (20) TO (25);
CREATE TABLE heir (extra text) INHERITS (users);
CREATE TABLE base (code text, note text);
CREATE TABLE child (secret text) INHERITS (base);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE remote (id int, ssn text) SERVER nowhere;

CREATE VIEW v_alias AS SELECT id, email AS contact FROM users;
CREATE VIEW v_nested AS SELECT contact AS c, id FROM v_alias;
CREATE VIEW v_clean AS SELECT id, upper(name) AS n, count(*) OVER () FROM users;
CREATE VIEW v_computed AS SELECT id, lower(email) AS e, 1 AS one FROM users;
CREATE VIEW v_predicate AS SELECT id, upper(name) AS n FROM users WHERE email LIKE 'a%';
CREATE VIEW v_row AS SELECT users, id FROM users;
CREATE VIEW v_hidden_row AS SELECT id, users::text AS r FROM users;
CREATE VIEW v_union AS SELECT id, name FROM users UNION SELECT 1, email FROM users;
CREATE VIEW v_cte AS WITH x AS MATERIALIZED (SELECT * FROM users) SELECT id, email FROM x;
CREATE VIEW v_subquery AS SELECT id, (SELECT max(email) FROM users u WHERE u.id = o.id) AS m FROM users o;
CREATE FUNCTION peek() RETURNS text LANGUAGE sql AS 'SELECT email FROM users LIMIT 1';
CREATE VIEW v_function AS SELECT id, peek() AS p FROM users;
CREATE FUNCTION rows() RETURNS SETOF text LANGUAGE sql AS 'SELECT email FROM users';
CREATE VIEW v_from_function AS SELECT r FROM rows() AS r;
CREATE VIEW v_xml AS SELECT query_to_xml('SELECT email FROM users', true, true, '') AS x, 1 AS one;
CREATE VIEW v_stats AS SELECT tablename, most_common_vals::text AS v FROM pg_stats;
CREATE VIEW v_statistic AS SELECT stavalues1::text AS v FROM pg_statistic;
CREATE MATERIALIZED VIEW m_alias AS SELECT email AS contact, id FROM users;
CREATE VIEW v_settings AS SELECT name, setting FROM pg_settings;

CREATE TABLE holds_row (id int, u users);
CREATE TABLE holds_array (id int, u users[]);
CREATE DOMAIN a_user AS users CHECK ((VALUE).id > 0);
CREATE TABLE holds_domain (id int, u a_user);
CREATE TYPE pair AS (a int, b holds_row);
CREATE TABLE holds_pair (id int, p pair);
CREATE VIEW v_holds AS SELECT id, u FROM holds_array;

CREATE TABLE quiet (id int, t text);
CREATE RULE quiet_off AS ON DELETE TO quiet DO INSTEAD NOTHING;
CREATE TABLE logged (id int, t text);
CREATE RULE log AS ON INSERT TO logged DO ALSO INSERT INTO quiet SELECT 1, email FROM users;
CREATE VIEW returning_rule AS SELECT 1 AS id, ''::text AS t;
CREATE RULE answer AS ON INSERT TO returning_rule DO INSTEAD UPDATE users SET name = NEW.t WHERE id = NEW.id RETURNING id, email;
`

func TestCatalogFollowsSensitiveColumns(t *testing.T) {
	db := startServer(t)
	// A temporary table is there as long as its session.
	conn, err := pgconn.Connect(t.Context(), db.URL(db.database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), everyShape).ReadAll(); err != nil {
		t.Fatal(err)
	}
	c, _ := catalogOf(t, db,
		`public.users.email`, `*.ssn`, `"Odd ""schema"""."Tä.ble $1"."E-Mail, or so"`, `public.child.code`)
	s := mustSnapshot(t, c)
	tests := []struct {
		schema, name string
		want         []string
	}{
		{"public", "users", []string{"email", "shout"}},
		{"other", "users", nil},
		{"", "users", []string{"email", "shout"}},
		{`Odd "schema"`, "Tä.ble $1", []string{"E-Mail, or so"}},
		{"pg_temp", "scratch", []string{"ssn"}},
		{"", "scratch", []string{"ssn"}},
		{"", "parted", []string{"ssn"}},
		{"", "part1", []string{"ssn"}},
		{"", "part2", []string{"ssn"}},
		{"", "part31", []string{"ssn"}},
		{"", "heir", []string{"email", "shout"}},
		{"", "base", []string{"code"}}, // its rows are the child's too
		{"", "child", []string{"code"}},
		{"", "remote", []string{"ssn"}},
		{"", "v_alias", []string{"contact"}},
		{"", "v_nested", []string{"c"}},
		{"", "v_clean", nil},
		{"", "v_computed", []string{"e", "one"}},
		{"", "v_predicate", []string{"n"}},
		{"", "v_row", []string{"users"}},
		{"", "v_hidden_row", []string{"r"}},
		{"", "v_union", []string{"id", "name"}},
		{"", "v_cte", []string{"email"}},
		{"", "v_subquery", []string{"m"}},
		{"", "v_function", []string{"p"}},
		{"", "v_from_function", []string{"r"}},
		{"", "v_xml", []string{"x", "one"}},
		{"", "v_stats", []string{"v"}},
		{"", "v_statistic", []string{"v"}},
		{"", "m_alias", []string{"contact"}},
		{"", "v_settings", nil},
		{"", "holds_row", []string{"u"}},
		{"", "holds_array", []string{"u"}},
		{"", "holds_domain", []string{"u"}},
		{"", "holds_pair", []string{"p"}},
		{"", "v_holds", []string{"u"}},
		{"", "quiet", nil},
		{"", "logged", nil},
		{"", "returning_rule", []string{"id", "t"}},
		{"pg_catalog", "pg_stats", []string{"most_common_vals", "most_common_freqs", "histogram_bounds", "most_common_elems", "most_common_elem_freqs", "elem_count_histogram"}},
		{"", "pg_class", nil},
	}
	for _, test := range tests {
		if !s.known(test.schema, test.name) {
			t.Errorf("%s.%s: got an unknown relation, want a known one", test.schema, test.name)
		}
		if got := s.sensitive(test.schema, test.name); !slices.Equal(got, test.want) {
			t.Errorf("%s.%s: got %q, want %q", test.schema, test.name, got, test.want)
		}
	}
	for _, name := range []string{"nothing", "Users", "a_user", "pair"} {
		if s.known("", name) || s.known("public", name) {
			t.Errorf("%s: got a known relation, want none", name)
		}
	}
}

func TestCatalogKnowsFunctionsThatPassForColumns(t *testing.T) {
	db := startServer(t)
	db.exec(t, `CREATE TABLE users (id int, email text); CREATE TABLE heirs () INHERITS (users); CREATE TABLE others (id int);
CREATE DOMAIN a_user AS users;
CREATE FUNCTION of_row(users) RETURNS text LANGUAGE sql AS 'SELECT $1.email';
CREATE FUNCTION of_row(others) RETURNS text LANGUAGE sql AS 'SELECT $1.id::text';
CREATE FUNCTION of_domain(a_user, int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION of_rows(VARIADIC users[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION of_anything(anyelement) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
CREATE FUNCTION of_many(VARIADIC anyarray) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
CREATE FUNCTION of_others(others) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION of_two(users, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION of_text(text) RETURNS int LANGUAGE sql AS 'SELECT 1'`)
	c, _ := catalogOf(t, db, "public.users.email")
	want := []string{"email", "of_anything()", "of_domain()", "of_many()", "of_row()", "of_rows()"}
	for _, relation := range []string{"users", "heirs"} {
		if got := mustSnapshot(t, c).sensitive("", relation); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", relation, got, want)
		}
	}
	if got := mustSnapshot(t, c).sensitive("", "others"); got != nil {
		t.Errorf("others: got %q, want nothing", got)
	}
	s := mustSnapshot(t, c)
	db.exec(t, "CREATE FUNCTION later(users) RETURNS int LANGUAGE sql AS 'SELECT 1'")
	c.expire()
	if got := mustSnapshot(t, c); got == s || !slices.Contains(got.sensitive("", "users"), "later()") {
		t.Error("got no function that was made later, want it")
	}
}

func TestCatalogOfAnotherDatabaseMasksWhatTheServerKeepsOfThisOne(t *testing.T) {
	db := startServer(t)
	db.exec(t, "CREATE TABLE plain (id int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
	c, _ := catalogOf(t, db, "public.users.email")
	s := mustSnapshot(t, c)
	if !s.clear() {
		t.Error("got a sensitive column, want none")
	}
	if got := s.sensitive("", "pg_stat_activity"); !slices.Contains(got, "query") {
		t.Errorf("got %q of pg_stat_activity, want query among them", got)
	}
	tests := []struct {
		text string
		want bool // an objection
	}{
		{"SELECT query, state FROM pg_stat_activity", false},
		{"SELECT lower(query) FROM pg_stat_activity", true},
		{"SELECT f() FROM plain", false},
		{"SELECT 1 FROM made_in_this_transaction", false},
		{"DO 'BEGIN END'", false},
	}
	for _, test := range tests {
		script, err := parser(t).Parse(t.Context(), test.text)
		if err != nil {
			t.Fatal(err)
		}
		if _, o, err := c.judge(t.Context(), nil, script.Statements); err != nil || (o != nil) != test.want {
			t.Errorf("%s: got %v, %v, want an objection: %v", test.text, o, err, test.want)
		}
	}
	if p, err := c.plan(t.Context(), nil, []field{{table: 99999, attribute: 1, typeOID: textOID}}, nil); p != nil || err != nil {
		t.Errorf("got %v, %v for a relation that is not known, want no plan and no error", p, err)
	}
}

func TestCatalogNoticesChanges(t *testing.T) {
	db := startServer(t)
	db.exec(t, `CREATE TABLE users (id int, email text, note text);
CREATE TABLE parted (id int, ssn text) PARTITION BY LIST (id); CREATE TABLE later (id int, ssn text);
CREATE VIEW v AS SELECT id AS c FROM users; CREATE TABLE t (a text)`)
	c, connections := catalogOf(t, db, "*.users.email", "public.parted.ssn", "*.*.credit_card", "*.kept.ssn")
	tests := []struct {
		change, relation string
		before, after    []string
	}{
		{"ALTER TABLE parted ATTACH PARTITION later FOR VALUES IN (1)", "later", nil, []string{"ssn"}},
		{"CREATE VIEW fresh AS SELECT email AS e FROM users", "fresh", nil, []string{"e"}},
		{"CREATE OR REPLACE VIEW v AS SELECT length(email) AS c FROM users", "v", nil, []string{"c"}},
		{"ALTER TABLE t RENAME COLUMN a TO credit_card", "t", nil, []string{"credit_card"}},
		{"ALTER TABLE t RENAME COLUMN credit_card TO a", "t", []string{"credit_card"}, nil},
		{"DROP TABLE t; CREATE TABLE t (b int, credit_card text)", "t", nil, []string{"credit_card"}},
		{"DROP VIEW v, fresh; ALTER TABLE users DROP COLUMN email", "users", []string{"email"}, nil},
		{"ALTER TABLE users ADD COLUMN email text", "users", nil, []string{"email"}},
		{"CREATE TABLE heir () INHERITS (users)", "heir", nil, []string{"email"}},
		{"ALTER TABLE users RENAME TO people", "users", []string{"email"}, nil},
		{"ALTER TABLE later RENAME TO kept; ALTER TABLE parted DETACH PARTITION kept", "kept", nil, []string{"ssn"}},
	}
	for _, test := range tests {
		s := mustSnapshot(t, c)
		if got := s.sensitive("", test.relation); !slices.Equal(got, test.before) {
			t.Errorf("%s: got %q before, want %q", test.change, got, test.before)
		}
		db.exec(t, test.change)
		if mustSnapshot(t, c) != s {
			t.Errorf("%s: got another snapshot within a second, want the same", test.change)
		}
		c.expire()
		if got := mustSnapshot(t, c).sensitive("", test.relation); !slices.Equal(got, test.after) {
			t.Errorf("%s: got %q after, want %q", test.change, got, test.after)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}

func TestCatalogStaysWhileNothingChanges(t *testing.T) {
	db := startServer(t)
	db.exec(t, "CREATE TABLE users (id int, email text); INSERT INTO users SELECT i, i FROM generate_series(1, 1000) i")
	c, _ := catalogOf(t, db, "*.email")
	s := mustSnapshot(t, c)
	for _, harmless := range []string{
		"SELECT 1", "INSERT INTO users VALUES (1, 'x')", "DELETE FROM users WHERE id < 500", "ANALYZE users", "VACUUM users", "VACUUM FREEZE pg_class",
		"CREATE ROLE catalog_tester; DROP ROLE catalog_tester", "COMMENT ON TABLE users IS 'x'",
	} {
		db.exec(t, harmless)
		c.expire()
		if mustSnapshot(t, c) != s {
			t.Errorf("%s: got another snapshot, want the same", harmless)
		}
	}
	c.invalidate()
	if mustSnapshot(t, c) != s {
		t.Error("invalidated without a change: got another snapshot, want the same")
	}
	db.exec(t, "ALTER TABLE users ADD COLUMN x int")
	c.invalidate()
	if mustSnapshot(t, c) == s {
		t.Error("invalidated: got the old snapshot within the second, want a new one")
	}
}

func TestCatalogAsksAgainForWhatItDoesNotKnow(t *testing.T) {
	db := startServer(t)
	db.exec(t, "CREATE TABLE users (id int, email text)")
	c, _ := catalogOf(t, db, "*.email")
	mustSnapshot(t, c)
	conn, err := pgconn.Connect(t.Context(), db.URL(db.database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	fieldsOf := func(sql string) (fields []field) {
		t.Helper()
		described, err := conn.Prepare(t.Context(), "", sql, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range described.Fields {
			fields = append(fields, field{table: f.TableOID, attribute: f.TableAttributeNumber, typeOID: f.DataTypeOID, modifier: f.TypeModifier})
		}
		return fields
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE made (id int, email text); ALTER TABLE users ADD COLUMN more int").ReadAll(); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"SELECT email, id FROM made", "SELECT email, more FROM users"} {
		p, err := c.plan(t.Context(), nil, fieldsOf(sql), nil)
		if err != nil || p == nil || p.columns[0] == nil || p.columns[1] != nil {
			t.Errorf("%s: got %v, %v, want the first column masked", sql, p, err)
		}
	}
	if _, err := conn.Exec(t.Context(), "BEGIN; CREATE TABLE unseen (email text)").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if p, err := c.plan(t.Context(), nil, fieldsOf("SELECT email FROM unseen"), nil); !errors.Is(err, errUnknownRelation) {
		t.Errorf("not committed: got %v, %v, want %v", p, err, errUnknownRelation)
	}
	var refused *objection
	if p, err := c.plan(t.Context(), nil, fieldsOf("SELECT u FROM users u"), nil); !errors.As(err, &refused) {
		t.Errorf("whole row: got %v, %v, want it refused", p, err)
	}
}

func TestCatalogIsAskedOnceByManySessions(t *testing.T) {
	db := startServer(t)
	db.exec(t, "CREATE TABLE users (id int, email text)")
	c, connections := catalogOf(t, db, "*.email")
	seen := make([]*snapshot, 50)
	var sessions sync.WaitGroup
	for i := range seen {
		sessions.Go(func() { seen[i], _ = c.snapshot(t.Context()) })
	}
	sessions.Wait()
	for i, s := range seen {
		if s == nil || s != seen[0] {
			t.Errorf("session %d: got another answer, want the same for all", i)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}

func TestCatalogThatCannotBeReachedRefuses(t *testing.T) {
	db := startServer(t)
	db.exec(t, "CREATE TABLE users (id int, email text)")
	c, connections := catalogOf(t, db, "*.email")
	dial := c.connect
	c.connect = func(context.Context) (*pgconn.PgConn, error) { return nil, errors.New("dial db.internal: refused") }
	if s, err := c.snapshot(t.Context()); !errors.Is(err, errCatalog) || s != nil {
		t.Errorf("got %v, %v, want %v", s, err, errCatalog)
	}
	c.connect = dial
	c.expire()
	first := mustSnapshot(t, c)

	t.Run("a dead connection is replaced", func(t *testing.T) {
		db.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
		c.expire()
		if got := mustSnapshot(t, c); got != first {
			t.Error("got another snapshot, want the same")
		}
		if got := connections.Load(); got != 2 {
			t.Errorf("got %d connections, want 2", got)
		}
	})
	t.Run("an idle connection is closed", func(t *testing.T) {
		c.rest()
		c.expire()
		if got := mustSnapshot(t, c); got != first || connections.Load() != 3 {
			t.Errorf("got %d connections, want 3 and the same snapshot", connections.Load())
		}
	})
	t.Run("a session that gave up does not take the answer with it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c.connect = func(context.Context) (*pgconn.PgConn, error) {
			cancel()
			return dial(t.Context())
		}
		c.rest()
		c.expire()
		if s, err := c.snapshot(ctx); err != nil || s != first {
			t.Errorf("got %v, %v, want the same snapshot", s, err)
		}
	})
}

func TestCatalogOfAThousandTables(t *testing.T) {
	db := startServer(t)
	db.exec(t, thousandTables)
	c, _ := catalogOf(t, db, "*.ssn")
	s := mustSnapshot(t, c)
	for i := range 1000 {
		table, view := fmt.Sprintf("t%d", i+1), fmt.Sprintf("v%d", i+1)
		if got := s.sensitive("public", table); !slices.Equal(got, []string{"ssn"}) {
			t.Fatalf("%s: got %q, want ssn", table, got)
		}
		if got := s.sensitive("public", view); i < 200 && !slices.Equal(got, []string{"s", "c"}) {
			t.Fatalf("%s: got %q, want s and c", view, got)
		}
	}
}

// thousandTables is a database of some size: 1,000 tables of 20 columns, 200 views.
const thousandTables = `DO $$ BEGIN
    FOR i IN 1..1000 LOOP
        EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, ssn text, %s)', i, (SELECT string_agg(format('c%s text', n), ', ') FROM generate_series(1, 18) n));
    END LOOP;
    FOR i IN 1..200 LOOP
        EXECUTE format('CREATE VIEW v%s AS SELECT a.id, a.ssn AS s, upper(b.c2) AS c FROM t%s a JOIN t%s b USING (id)', i, i, i + 1);
    END LOOP;
END $$`

func BenchmarkCatalog(b *testing.B) {
	db := startServer(b)
	db.exec(b, thousandTables)
	c, _ := catalogOf(b, db, "*.ssn")
	mustSnapshot(b, c)
	b.Run("epoch", func(b *testing.B) {
		for b.Loop() {
			if _, err := readEpoch(b.Context(), c.conn); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f, err := readFacts(b.Context(), c.conn)
			if err != nil {
				b.Fatal(err)
			}
			f.resolve(c.sensitive)
		}
	})
}

package postgres

import "github.com/jackc/pgx/v5/pgproto3"

// fate is what becomes of an attempt under guard.
type fate string

const (
	masked   fate = "masked"   // rows come, with masks
	denied   fate = "refused"  // 42501 and a record
	silenced fate = "silenced" // it runs, and what the server says of it has no values
)

// attempt is one way to a sentinel.
type attempt struct {
	name string
	want fate
	run  steps
}

func attempts() []attempt {
	var all []attempt
	for _, group := range [][]attempt{
		plainColumns(), otherFormats(), views(), relatives(), expressions(), wholeRows(), combinations(), functions(),
		laundering(), copying(), talkative(), probing(), systemRelations(), tricks(),
	} {
		all = append(all, group...)
	}
	return all
}

// plainColumns come out masked under whatever name.
func plainColumns() []attempt {
	return []attempt{
		{"column", masked, simple("SELECT email FROM users")},
		{"alias", masked, simple("SELECT email AS id FROM users AS notes")},
		{"star", masked, simple("SELECT * FROM users")},
		{"table star", masked, simple("SELECT u.* FROM users u JOIN claims c ON c.id = u.id")},
		{"TABLE", masked, simple("TABLE users")},
		{"parentheses", masked, simple("SELECT (email) FROM users")},
		{"qualified", masked, simple("SELECT public.users.email FROM public.users")},
		{"quoted", masked, simple(`SELECT "email" FROM "public"."users"`)},
		{"upper case", masked, simple("SELECT EMAIL FROM USERS")},
		{"Unicode escape", masked, simple(`SELECT U&"\0065mail" FROM U&"\0075sers"`)},
		{"comment", masked, simple("SELECT/**/email--x\nFROM/*;*/users")},
		{"odd names", masked, simple(`SELECT "E-Mail" FROM "Odd ""Name"""`)},
		{"subquery", masked, simple("SELECT e FROM (SELECT email AS e FROM users) q")},
		{"CTE", masked, simple("WITH q AS (SELECT email FROM users) SELECT * FROM q")},
		{"materialized CTE", masked, simple("WITH q AS MATERIALIZED (SELECT id, email AS e FROM users) SELECT e, id FROM q")},
		{"lateral", masked, simple("SELECT l.e FROM notes n, LATERAL (SELECT email AS e FROM users u WHERE u.id = n.id) l")},
		{"outer join", masked, simple("SELECT n.t, u.email FROM notes n LEFT JOIN users u ON u.id = n.id")},
		{"limit", masked, simple("SELECT ssn FROM users ORDER BY id LIMIT 1")},
		{"for update", masked, simple("SELECT ssn FROM users WHERE id = 1 FOR UPDATE")},
		{"every type", masked, simple("SELECT salary, born, card, meta, photo, token, phones, home, bio, loud FROM users")},
		{"several statements", masked, simple("SELECT name FROM users; SELECT email FROM users; SELECT id, ssn FROM users")},
		{"INSERT RETURNING", masked, simple("INSERT INTO users (id, name, email) VALUES (50, 'x', 'Zqvx0817Wkjyp'), (51, 'y', 'Zqvx0817Wkjyp') RETURNING id, email")},
		{"UPDATE RETURNING", masked, simple("UPDATE users SET note = 'x' WHERE id = 1 RETURNING *")},
		{"DELETE RETURNING", masked, simple("BEGIN", "DELETE FROM users WHERE id = 3 RETURNING email", "ROLLBACK")},
		{"RETURNING of a view", masked, simple("UPDATE contacts SET id = id WHERE id = 1 RETURNING contact")},
		{"name that is cut", masked, simple("SELECT ssn FROM a_table_with_a_name_of_exactly_as_many_bytes_as_postgresql_keeps_of_it")},
		{"search_path", masked, simple("SET search_path = hidden", "SELECT email FROM people")},
		{"temporary copy of the name", masked, simple("CREATE TEMP TABLE others (id int)", "SELECT email FROM hidden.people")},
	}
}

// otherFormats are the same columns by other messages.
func otherFormats() []attempt {
	columns := "SELECT id, email, ssn, salary, born, card, meta, photo, token, phones, home, bio FROM users"
	return []attempt{
		{"prepared, text, three times", masked, extended{text: columns, times: 3}.steps},
		{"prepared, binary, three times", masked, extended{text: columns, binary: true, times: 3}.steps},
		{"described, binary, twice", masked, extended{text: columns, binary: true, describe: true, times: 2}.steps},
		{"portal in pieces", masked, extended{text: columns, limit: 1, binary: true}.steps},
		{"a format for each column", masked, func(w *wire) answers {
			return w.ask(&pgproto3.Parse{Query: "SELECT salary, salary, email FROM users"}, &pgproto3.Bind{ResultFormatCodes: []int16{1, 0, 1}},
				&pgproto3.Execute{}, &pgproto3.Sync{})
		}},
		{"two portals in turn", masked, func(w *wire) answers {
			return w.ask(&pgproto3.Parse{Name: "a", Query: "SELECT id, name FROM users"}, &pgproto3.Parse{Name: "b", Query: "SELECT ssn, salary FROM users"},
				&pgproto3.Bind{PreparedStatement: "a", DestinationPortal: "a"}, &pgproto3.Bind{PreparedStatement: "b", DestinationPortal: "b", ResultFormatCodes: []int16{1}},
				&pgproto3.Execute{Portal: "a", MaxRows: 1}, &pgproto3.Execute{Portal: "b", MaxRows: 1}, &pgproto3.Execute{Portal: "a", MaxRows: 1},
				&pgproto3.Execute{Portal: "b"}, &pgproto3.Sync{})
		}},
		{"pipeline", masked, func(w *wire) answers {
			var m []pgproto3.FrontendMessage
			for _, text := range []string{"SELECT name FROM users", "SELECT email FROM users", "SELECT t FROM notes", "SELECT card FROM users"} {
				m = append(m, &pgproto3.Parse{Query: text}, &pgproto3.Bind{}, &pgproto3.Execute{})
			}
			return w.ask(append(m, &pgproto3.Sync{})...)
		}},
		{"unnamed after a query", masked, func(w *wire) (a answers) {
			a.add(w.ask(&pgproto3.Query{String: "SELECT id FROM users"}))
			a.add(w.ask(&pgproto3.Parse{Query: "SELECT email FROM users"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}))
			return a
		}},
		{"PREPARE and EXECUTE", masked, simple("PREPARE p AS SELECT email FROM users", "EXECUTE p", "EXECUTE p")},
		{"PREPARE, then Bind", masked, func(w *wire) (a answers) {
			a.add(w.ask(&pgproto3.Query{String: "PREPARE p AS SELECT salary FROM users"}))
			a.add(w.ask(&pgproto3.Bind{PreparedStatement: "p", ResultFormatCodes: []int16{1}}, &pgproto3.Execute{}, &pgproto3.Sync{}))
			return a
		}},
		{"Parse, then EXECUTE", masked, func(w *wire) (a answers) {
			a.add(w.ask(&pgproto3.Parse{Name: "p", Query: "SELECT ssn FROM users"}, &pgproto3.Sync{}))
			a.add(w.ask(&pgproto3.Query{String: "EXECUTE p"}))
			return a
		}},
		{"cursor", masked, simple("BEGIN", "DECLARE c CURSOR FOR SELECT email, id FROM users", "FETCH 1 FROM c", "FETCH ALL FROM c", "COMMIT")},
		{"binary cursor", masked, simple("BEGIN", "DECLARE c BINARY CURSOR FOR SELECT salary, email FROM users", "FETCH ALL FROM c", "COMMIT")},
		{"cursor with hold", masked, simple("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT ssn FROM users", "FETCH 1 FROM c", "CLOSE c")},
		{"cursor by Execute", masked, func(w *wire) (a answers) {
			a.add(w.ask(&pgproto3.Query{String: "BEGIN; DECLARE c CURSOR FOR SELECT salary FROM users"}))
			a.add(w.ask(&pgproto3.Parse{Query: "FETCH ALL FROM c"}, &pgproto3.Bind{ResultFormatCodes: []int16{1}}, &pgproto3.Execute{}, &pgproto3.Sync{}))
			return a
		}},
		{"cursor as a portal", masked, func(w *wire) (a answers) {
			a.add(w.ask(&pgproto3.Query{String: "BEGIN; DECLARE c CURSOR FOR SELECT email FROM users"}))
			a.add(w.ask(&pgproto3.Execute{Portal: "c"}, &pgproto3.Sync{}))
			return a
		}},
	}
}

// views and other relations that show the column of another.
func views() []attempt {
	return []attempt{
		{"view", masked, simple("SELECT contact FROM contacts")},
		{"view of a view", masked, simple("SELECT * FROM contacts_again")},
		{"view that computes", masked, simple("SELECT id, shout FROM loud_contacts")},
		{"view with UNION", masked, simple("SELECT t FROM all_texts")},
		{"view of whole rows", masked, simple("SELECT t FROM whole")},
		{"view that calls a function", masked, simple("SELECT p FROM peeked")},
		{"materialized view", masked, simple("SELECT contact FROM kept")},
		{"view in an expression", denied, simple("SELECT lower(contact) FROM contacts")},
		{"new view", denied, simple("CREATE VIEW mine AS SELECT lower(email) AS e FROM users", "SELECT e FROM mine")},
		{"new temporary view", denied, simple("CREATE TEMP VIEW mine AS SELECT email || '' AS e FROM users", "SELECT e FROM mine")},
	}
}

func relatives() []attempt {
	return []attempt{
		{"partitioned table", masked, simple("SELECT ssn FROM parted")},
		{"partition", masked, simple("SELECT ssn, region FROM parted_north")},
		{"child by its parent", masked, simple("SELECT email FROM users WHERE id = 9")},
		{"child", masked, simple("SELECT email, extra FROM heirs")},
		{"only the parent", masked, simple("SELECT email FROM ONLY users")},
		{"sample", masked, simple("SELECT email FROM users TABLESAMPLE system (100)")},
		{"foreign table", masked, simple("SELECT email FROM far_users")},
		{"domain", masked, simple("SELECT ssn FROM domained")},
		{"generated column", masked, simple("SELECT loud FROM users")},
		{"rows kept in a column", masked, simple("SELECT u FROM archive")},
		{"field of a row kept in a column", denied, simple("SELECT (u).email FROM archive")},
		{"partition attached later", denied, simple("CREATE TABLE parted_south (id int, region text, ssn text)",
			"INSERT INTO parted_south VALUES (5, 'south', '9K7-W4-3V84')",
			"ALTER TABLE parted ATTACH PARTITION parted_south FOR VALUES IN ('south')", "SELECT ssn FROM parted_south")},
	}
}

func expressions() []attempt {
	return []attempt{
		{"function", denied, simple("SELECT lower(email) FROM users")},
		{"concatenation", denied, simple("SELECT email || '' FROM users")},
		{"name that is cut, in an expression", denied, simple("SELECT upper(ssn) FROM a_table_with_a_name_of_exactly_as_many_bytes_as_postgresql_keeps_of_it")},
		{"cast", denied, simple("SELECT email::varchar(50) FROM users")},
		{"cast of a number", denied, simple("SELECT salary::bigint FROM users")},
		{"arithmetic", denied, simple("SELECT salary + 0 FROM users")},
		{"coalesce", denied, simple("SELECT coalesce(email, 'x') FROM users")},
		{"CASE", denied, simple("SELECT CASE WHEN id > 0 THEN email END FROM users")},
		{"substring", denied, simple("SELECT substring(email, 1, 6) FROM users")},
		{"reverse", denied, simple("SELECT reverse(ssn) FROM users")},
		{"hex", denied, simple("SELECT encode(convert_to(email, 'UTF8'), 'hex') FROM users")},
		{"base64", denied, simple("SELECT encode(email::bytea, 'base64') FROM users")},
		{"aggregate", denied, simple("SELECT max(email) FROM users")},
		{"array_agg", denied, simple("SELECT array_agg(email ORDER BY id) FROM users")},
		{"string_agg", denied, simple("SELECT string_agg(ssn, ', ') FROM users")},
		{"window function", denied, simple("SELECT first_value(email) OVER (ORDER BY id) FROM users")},
		{"scalar subquery", denied, simple("SELECT (SELECT email FROM users WHERE id = 1)")},
		{"VALUES", denied, simple("VALUES ((SELECT email FROM users WHERE id = 1))")},
		{"ARRAY of a subquery", denied, simple("SELECT ARRAY(SELECT email FROM users)")},
		{"jsonb member", denied, simple("SELECT meta->>'iban' FROM users")},
		{"array element", denied, simple("SELECT phones[1] FROM users")},
		{"unnest", denied, simple("SELECT unnest(phones) FROM users")},
		{"composite field", denied, simple("SELECT (home).street FROM users")},
		{"xml", denied, simple("SELECT xmlelement(name e, email) FROM users")},
		{"user's operator", denied, simple("SELECT email ### '' FROM users")},
		{"collation", denied, simple(`SELECT email COLLATE "C" FROM users`)},
		{"ordered-set aggregate", denied, simple("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY email) FROM users")},
		{"greatest", denied, simple("SELECT greatest(email, '') FROM users")},
		{"nullif in a CTE", denied, simple("WITH q AS (SELECT nullif(email, '') AS e FROM users) SELECT e FROM q")},
		{"expression in a subquery", denied, simple("SELECT e FROM (SELECT upper(email) AS e FROM users) q")},
		{"expression prepared, binary", denied, extended{text: "SELECT upper(email) FROM users", binary: true}.steps},
		{"expression under EXECUTE", denied, simple("PREPARE p AS SELECT upper(email) FROM users", "EXECUTE p")},
		{"expression under a cursor", denied, simple("BEGIN", "DECLARE c CURSOR FOR SELECT upper(email) FROM users", "FETCH ALL FROM c", "ROLLBACK")},
		{"expression in RETURNING", denied, simple("UPDATE users SET note = 'y' WHERE id = 1 RETURNING upper(email)")},
		{"expression as the second statement", denied, simple("SELECT 1; SELECT upper(email) FROM users")},
		{"toast-sized value in parts", denied, simple("SELECT left(bio, 20) FROM users")},
	}
}

func wholeRows() []attempt {
	return []attempt{
		{"row", denied, simple("SELECT u FROM users u")},
		{"row, by the table's name", denied, simple("SELECT users FROM users")},
		{"row as text", denied, simple("SELECT u::text FROM users u")},
		{"ROW()", denied, simple("SELECT ROW(id, email) FROM users")},
		{"ROW(u.*)", denied, simple("SELECT ROW(u.*) FROM users u")},
		{"(u.*)::text", denied, simple("SELECT (u.*)::text FROM users u")},
		{"field of a row", denied, simple("SELECT (u).email FROM users u")},
		{"row_to_json", denied, simple("SELECT row_to_json(u) FROM users u")},
		{"to_jsonb", denied, simple("SELECT to_jsonb(u)->>'email' FROM users u")},
		{"json_agg of a subquery", denied, simple("SELECT json_agg(q) FROM (SELECT id, email FROM users) q")},
		{"row of a CTE", denied, simple("WITH q AS (SELECT email FROM users) SELECT q FROM q")},
		{"row, binary", denied, extended{text: "SELECT u FROM users u", binary: true}.steps},
		{"computed field", denied, simple("SELECT u.full_contact FROM users u")},
		{"computed field of a subquery", denied, simple("SELECT q.full_contact AS x FROM (SELECT * FROM users) q", "SELECT h.full_contact FROM heirs h")},
		{"function as a column of a row", denied, simple("SELECT u.row_to_json FROM users u")},
		{"aggregate as a column of a row", denied, simple("SELECT users.array_agg FROM users")},
		{"function as a column of a subquery", denied, simple("SELECT q.concat FROM (SELECT email FROM users) q")},
		{"row in a predicate", denied, simple("SELECT '9K7-W4' FROM users u WHERE u::text LIKE '%9K7-W4%'")},
		{"row of a view", denied, simple("SELECT c::text FROM contacts c")},
	}
}

func combinations() []attempt {
	return []attempt{
		{"UNION", denied, simple("SELECT email FROM users UNION SELECT t FROM notes")},
		{"UNION ALL with itself", denied, simple("SELECT email FROM users UNION ALL SELECT email FROM users")},
		{"UNION hidden in a subquery", denied, simple("SELECT x FROM (SELECT t AS x FROM notes UNION ALL SELECT ssn FROM users) q")},
		{"EXCEPT", denied, simple("SELECT email FROM users EXCEPT SELECT t FROM notes")},
		{"UNION of stars", denied, simple("SELECT id, email FROM others UNION ALL SELECT id, contact FROM contacts")},
		{"recursive CTE", denied, simple("WITH RECURSIVE q (n, e) AS (SELECT 1, email FROM users WHERE id = 1 UNION ALL SELECT n + 1, e FROM q WHERE n < 3) SELECT e FROM q")},
		{"FULL JOIN USING", denied, simple("SELECT ssn FROM users FULL JOIN claims USING (ssn)")},
		{"JOIN USING, by the other table", denied, simple("SELECT ssn, amount FROM claims JOIN users USING (ssn)")},
		{"NATURAL JOIN", denied, simple("SELECT ssn FROM claims NATURAL JOIN users")},
		{"column alias list", denied, simple("SELECT b FROM contacts AS c (a, b)")},
		{"alias of a join", masked, simple("SELECT j.email FROM (users u JOIN notes n ON n.id = u.id) AS j")},
		{"lateral query without FROM", masked, simple("SELECT l.x FROM users u CROSS JOIN LATERAL (SELECT u.email AS x) l")},
		{"function over a lateral query without FROM", denied, simple("SELECT lower(l.z) FROM users u, LATERAL (SELECT u.ssn AS z) l")},
		{"function over a lateral star", denied, simple("SELECT lower(l.ssn) FROM users u, LATERAL (SELECT u.*) l")},
		{"function over a lateral row", denied, simple("SELECT to_json(l) FROM users u, LATERAL (SELECT u) l")},
		{"aggregate of an outer column", denied, simple("SELECT (SELECT string_agg(z, ',') FROM (SELECT u.ssn) AS w (z)) FROM users u")},
		{"CTE of an outer row's columns", denied, simple("SELECT (WITH w AS (SELECT u.*) SELECT lower(w.ssn) FROM w) FROM users u")},
		{"lateral VALUES", denied, simple("SELECT v.x FROM users u, LATERAL (VALUES (u.email)) AS v (x)")},
		{"subquery without FROM", denied, simple("SELECT (SELECT u.email) FROM users u")},
		{"CTE that changes", masked, simple("WITH q AS (UPDATE users SET note = 'z' WHERE id = 1 RETURNING email) SELECT email FROM q")},
		{"grouping", denied, simple("SELECT email, count(*) FROM users GROUP BY ROLLUP (email)")},
		{"DISTINCT", denied, simple("SELECT DISTINCT email FROM users")},
		{"DISTINCT star", denied, simple("SELECT DISTINCT q.* FROM (SELECT ssn, email FROM users) q")},
		{"ordinal", denied, simple("SELECT email FROM users ORDER BY 1 LIMIT 1")},
		{"CTE of the table's name", denied, simple("WITH users AS (SELECT upper(email) AS e FROM users) SELECT e FROM users")},
		{"expression over a CTE of the table's name", denied, simple("WITH users AS (SELECT email AS e FROM users) SELECT upper(e) FROM users")},
		{"shadowed by a CTE's name", masked, simple("WITH notes AS (SELECT id, email AS t FROM users) SELECT t FROM notes")},
		{"CTE that an inner one shadows", denied, simple("WITH t AS (SELECT 1 AS x) SELECT (WITH t AS (SELECT email FROM users) SELECT max(email) FROM t) FROM t")},
	}
}

func functions() []attempt {
	return []attempt{
		{"user's function", denied, simple("SELECT peek()")},
		{"user's function in FROM", denied, simple("SELECT email FROM peek_all()")},
		{"user's function, qualified", denied, simple(`SELECT "public"."peek"()`)},
		{"function that opens a cursor", denied, simple("BEGIN", "SELECT peek_cursor()", `FETCH ALL FROM open_cursor`, "COMMIT")},
		{"notice in a predicate", denied, simple("SELECT id FROM users WHERE peek_notice(ssn)")},
		{"procedure", denied, simple("CALL tell()")},
		{"DO", denied, simple("DO $$ BEGIN RAISE NOTICE '%', (SELECT email FROM users LIMIT 1); END $$")},
		{"new function", denied, simple("CREATE FUNCTION mine() RETURNS text LANGUAGE sql AS 'SELECT email FROM users LIMIT 1'", "SELECT mine()")},
		{"query_to_xml", denied, simple("SELECT query_to_xml('SELECT email FROM users', true, false, '')")},
		{"table_to_xml", denied, simple("SELECT table_to_xml('users', true, false, '')")},
		{"ts_stat", denied, simple("SELECT word FROM ts_stat('SELECT to_tsvector(''simple'', replace(email, ''@'', '' '')) FROM users')")},
		{"dblink", denied, simple("SELECT e FROM dblink('host=127.0.0.1 port=%PORT% user=postgres password=%PASSWORD% dbname=%DATABASE%', 'SELECT email FROM users') AS t (e text)")},
		{"large object", denied, simple("SELECT lo_get(4711)")},
		{"the table's file", denied, simple("SELECT pg_read_binary_file('base/' || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || (SELECT relfilenode FROM pg_class WHERE relname = 'users'))")},
		{"set_config", denied, simple("SELECT set_config('application_name', email, false) FROM users LIMIT 1")},
		{"set_config, then SHOW", denied, simple("SELECT set_config('my.mail', ssn, false) FROM users LIMIT 1", "SHOW my.mail")},
		{"pg_notify", denied, simple("LISTEN news", "SELECT pg_notify('news', email) FROM users LIMIT 1")},
		{"generate_series", denied, simple("SELECT n FROM users, generate_series(salary, salary) n LIMIT 1")},
	}
}

func laundering() []attempt {
	return []attempt{
		{"CREATE TABLE AS", denied, simple("CREATE TABLE copy1 AS SELECT email AS e FROM users", "SELECT e FROM copy1")},
		{"CREATE TEMP TABLE AS TABLE", denied, simple("CREATE TEMP TABLE copy2 AS TABLE users", "SELECT * FROM copy2")},
		{"CREATE TABLE AS EXECUTE", denied, simple("PREPARE p AS SELECT email FROM users", "CREATE TABLE copy3 AS EXECUTE p", "SELECT * FROM copy3")},
		{"SELECT INTO", denied, simple("SELECT email INTO copy4 FROM users", "SELECT * FROM copy4")},
		{"CREATE MATERIALIZED VIEW", denied, simple("CREATE MATERIALIZED VIEW copy5 AS SELECT email AS e FROM users", "SELECT upper(e) FROM copy5")},
		{"INSERT SELECT", denied, simple("INSERT INTO notes (t) SELECT email FROM users", "SELECT t FROM notes")},
		{"INSERT of a subquery", denied, simple("INSERT INTO notes (t) VALUES ((SELECT email FROM users WHERE id = 1)) RETURNING t")},
		{"INSERT in a CTE", denied, simple("WITH q AS (INSERT INTO notes (t) SELECT ssn FROM users RETURNING t) SELECT t FROM q")},
		{"UPDATE of another column", denied, simple("UPDATE users SET note = email WHERE id = 2 RETURNING note")},
		{"UPDATE FROM", denied, simple("UPDATE notes SET t = u.email FROM users u WHERE u.id = notes.id RETURNING t")},
		{"ON CONFLICT DO UPDATE", denied, simple("INSERT INTO users (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET note = users.email RETURNING note")},
		{"MERGE", denied, simple("MERGE INTO notes USING users u ON u.id = notes.id WHEN MATCHED THEN UPDATE SET t = u.email", "SELECT t FROM notes")},
		{"ALTER TABLE USING", denied, simple("ALTER TABLE users ALTER COLUMN note TYPE text USING email", "SELECT note FROM users")},
		{"rename the column", denied, simple("ALTER TABLE domained RENAME COLUMN ssn TO s", "SELECT s FROM domained")},
		{"rename the table", denied, simple("ALTER TABLE far_users RENAME TO folk", "SELECT email FROM folk")},
		{"leave the parent", denied, simple("ALTER TABLE heirs NO INHERIT users", "SELECT email FROM heirs")},
		{"move to another schema", denied, simple("CREATE SCHEMA elsewhere", `ALTER TABLE "Odd ""Name""" SET SCHEMA elsewhere`, `SELECT "E-Mail" FROM elsewhere."Odd ""Name"""`)},
		{"view replaced in a transaction", denied, simple("CREATE VIEW tame AS SELECT id, name AS t FROM users", "BEGIN",
			"CREATE OR REPLACE VIEW tame AS SELECT id, email AS t FROM users", "SELECT t FROM tame", "COMMIT")},
		{"parent found in a transaction", denied, simple("CREATE TABLE tame_parent (LIKE parted_north) PARTITION BY LIST (region)",
			"ALTER TABLE parted DETACH PARTITION parted_north", "BEGIN", "ALTER TABLE tame_parent ATTACH PARTITION parted_north DEFAULT",
			"SELECT ssn FROM tame_parent", "ROLLBACK", "ALTER TABLE parted ATTACH PARTITION parted_north FOR VALUES IN ('north')")},
		{"view made of a table", denied, simple("CREATE TABLE hollow (id int, t text)", `CREATE RULE "_RETURN" AS ON SELECT TO hollow DO INSTEAD SELECT id, email AS t FROM users`, "SELECT t FROM hollow")},
		{"default that calls a function", denied, simple("CREATE TABLE filled (id int, t text DEFAULT peek())", "INSERT INTO filled VALUES (1)", "SELECT t FROM filled")},
		{"schema with a view", denied, simple("CREATE SCHEMA mine CREATE VIEW v AS SELECT upper(email) AS e FROM public.users", "SELECT e FROM mine.v")},
		{"rename the schema", denied, simple("ALTER SCHEMA hidden RENAME TO shown", "SELECT email FROM shown.people")},
		{"trigger", denied, simple(`CREATE FUNCTION hand() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.t := (SELECT email FROM users WHERE id = 1); RETURN NEW; END'`,
			"CREATE TRIGGER hand BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION hand()", "INSERT INTO notes (n) VALUES (7) RETURNING t")},
		{"foreign table", denied, simple("CREATE FOREIGN TABLE near (x text OPTIONS (column_name 'email')) SERVER loop OPTIONS (table_name 'users')", "SELECT lower(x) FROM near")},
		{"rule", denied, simple("CREATE RULE hand AS ON INSERT TO others DO INSTEAD SELECT id, upper(email) FROM users", "INSERT INTO others VALUES (4, 'x')")},
	}
}

func copying() []attempt {
	return []attempt{
		{"COPY TO", denied, simple("COPY users TO STDOUT")},
		{"COPY of columns", denied, simple("COPY users (id, email) TO STDOUT")},
		{"COPY of a query", denied, simple("COPY (SELECT email FROM users) TO STDOUT WITH (FORMAT csv)")},
		{"COPY, binary", denied, simple("COPY (SELECT salary FROM users) TO STDOUT WITH (FORMAT binary)")},
		{"COPY of a partition", denied, simple("COPY parted_north TO STDOUT")},
		{"COPY of a view's query", denied, simple("COPY (SELECT * FROM contacts) TO STDOUT")},
		{"COPY of statistics", denied, simple("COPY (SELECT histogram_bounds FROM pg_stats) TO STDOUT")},
		{"COPY of large objects", denied, simple("COPY pg_largeobject TO STDOUT")},
		{"COPY of TOAST", denied, simple("COPY (SELECT chunk_data FROM %TOAST%) TO STDOUT WITH (FORMAT binary)")},
		{"COPY by Execute", denied, extended{text: "COPY users (ssn) TO STDOUT"}.steps},
	}
}

// talkative statements make the server speak of values beside the rows.
func talkative() []attempt {
	return []attempt{
		{"unique violation", silenced, simple("INSERT INTO users (id, name, ssn) VALUES (70, 'x', '9K7-W4-3V81')")},
		{"check violation", silenced, simple("UPDATE users SET salary = -1 WHERE id = 1")},
		{"not-null violation", silenced, simple("UPDATE users SET name = NULL WHERE id = 1")},
		{"foreign key violation", silenced, simple("UPDATE users SET ssn = NULL WHERE id = 1")},
		{"foreign key violation, prepared", silenced, extended{text: "DELETE FROM users WHERE id = 1"}.steps},
		{"deferred violation", silenced, simple("BEGIN", "UPDATE later SET ssn = '9K7-W4-3V86'", "COMMIT")},
		{"unique index on old rows", silenced, simple("INSERT INTO later VALUES (3, '9K7-W4-3V86'); SELECT 1")},
		{"notice of a trigger", silenced, simple("INSERT INTO noisy VALUES (1, 'notice')")},
		{"error of a trigger", silenced, simple("INSERT INTO noisy VALUES (1, 'error')")},
		{"error with a code of its choice", silenced, simple("INSERT INTO noisy VALUES (1, 'code')")},
		{"error with a code that is a value", silenced, simple("INSERT INTO noisy VALUES (1, 'value as code')")},
		{"error of dynamic SQL", silenced, simple("INSERT INTO noisy VALUES (1, 'dynamic')")},
		{"error with names of its choice", silenced, simple("INSERT INTO noisy VALUES (1, 'names')")},
		{"notice with names of its choice", silenced, simple("INSERT INTO noisy VALUES (1, 'noticed names')")},
		{"error of a cast in a trigger", silenced, simple("INSERT INTO noisy VALUES (1, 'number')")},
		{"notification", silenced, simple("LISTEN news", "INSERT INTO noisy VALUES (1, 'notify')")},
		{"parameter status", silenced, simple("INSERT INTO noisy VALUES (1, 'setting')")},
		{"error of a cast", denied, simple("SELECT email::int FROM users")},
		{"error of a function", denied, simple("SELECT pg_size_bytes(email) FROM users")},
		{"error of jsonb", denied, simple("SELECT (email || '')::jsonb FROM users")},
		{"error of a comparison", denied, simple("SELECT 1 FROM users WHERE email = id::text OR ssn::int = 1")},
	}
}

// probing asks for a value without showing the column.
func probing() []attempt {
	return []attempt{
		{"predicate", denied, simple("SELECT 'Zqvx0817' FROM users WHERE email LIKE 'Zqvx0817%' LIMIT 1")},
		{"EXISTS", denied, simple("SELECT '9K7-W4' WHERE EXISTS (SELECT FROM users WHERE ssn > '9K7-W4')")},
		{"join", denied, simple("SELECT g.guess FROM (VALUES ('9K7-W4-3V81'), ('9K7-W4-3V82')) AS g (guess) JOIN users ON users.ssn = g.guess")},
		{"prepared predicate", denied, extended{text: "SELECT '9K7-W4' FROM users WHERE ssn = '9K7-W4-3V81'"}.steps},
		{"DELETE", denied, simple("BEGIN", "DELETE FROM users WHERE email LIKE '%bqzwmx%' AND id = 3 RETURNING 'bqzwmx'", "ROLLBACK")},
		{"HAVING", denied, simple("SELECT '9K7-W4' FROM users GROUP BY name HAVING min(ssn) LIKE '9K7-W4%'")},
		{"JOIN USING", denied, simple("SELECT '9K7-W4-3V81' FROM users JOIN claims USING (ssn) WHERE claims.id = 1")},
		{"FILTER", denied, simple("SELECT CASE WHEN count(*) FILTER (WHERE ssn LIKE '9K7-W4%') > 0 THEN '9K7-W4' END FROM users")},
		{"index on an expression", denied, simple("CREATE INDEX probe ON users ((email::int))")},
	}
}

func systemRelations() []attempt {
	return []attempt{
		{"pg_stats", masked, simple("SELECT attname, histogram_bounds FROM pg_stats WHERE tablename = 'users'")},
		{"pg_stats as text", denied, simple("SELECT histogram_bounds::text FROM pg_stats WHERE tablename = 'users'")},
		{"values that columns had before they were added", masked, simple("SELECT attname, attmissingval FROM pg_attribute WHERE atthasmissing")},
		{"the same as text", denied, simple("SELECT attmissingval::text FROM pg_attribute WHERE atthasmissing")},
		{"pg_statistic", masked, simple("SELECT * FROM pg_statistic")},
		{"pg_stat_activity", masked, simple("SELECT pid, query FROM pg_stat_activity WHERE state = 'idle'")},
		{"pg_stat_get_activity", denied, simple("SELECT query FROM pg_stat_get_activity(NULL)")},
		{"pg_largeobject", masked, simple("SELECT data FROM pg_largeobject")},
		{"pg_largeobject, hex", denied, simple("SELECT encode(data, 'hex') FROM pg_largeobject")},
		{"TOAST", masked, simple("SELECT chunk_data FROM %TOAST%")},
		{"password of a user mapping", masked, simple("SELECT umoptions FROM pg_user_mapping")},
		{"the same, option by option", masked, simple("SELECT * FROM information_schema.user_mapping_options")},
		{"what that is made of", masked, simple("SELECT umoptions FROM information_schema._pg_user_mappings")},
	}
}

func tricks() []attempt {
	return []attempt{
		{"FunctionCall of lo_get", denied, func(w *wire) answers {
			return w.ask(&pgproto3.FunctionCall{Function: 3458, Arguments: [][]byte{{0, 0, 0x12, 0x67}}, ArgFormatCodes: []uint16{1}, ResultFormatCode: 1})
		}},
		{"backslashes read another way", denied, simple("SET standard_conforming_strings = off", `SELECT '\', email FROM users --'`, `SELECT '\'' || email FROM users --'`)},
		{"log to the client", masked, simple("SET client_min_messages = debug1", "SET debug_print_parse = on", "SELECT email FROM users")},
		{"EXPLAIN ANALYZE of a probe", denied, simple("EXPLAIN (ANALYZE, TIMING off, SUMMARY off) SELECT id FROM users WHERE email LIKE 'Zqvx0817%'")},
	}
}

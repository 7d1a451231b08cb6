package postgres

import (
	"fmt"
	"testing"
	"time"

	"postern.dev/postern/internal/sql"
)

func TestFunctionWithTheNameOfABuiltInIsNone(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, `GRANT CREATE ON SCHEMA public TO app;
		CREATE TABLE people (id int, ssn text); INSERT INTO people VALUES (1, '123-45-6789'); GRANT SELECT ON people TO app;
		CREATE FUNCTION public.age(int) RETURNS text LANGUAGE sql AS 'SELECT ssn FROM people WHERE id = $1'`)
	reads := `{name: reads, allow: [SELECT]}`
	conn := guard(t, db, "", "", reads).connect(t, "sslmode=disable")
	_, err := conn.Exec(t.Context(), "SELECT age(1)").ReadAll()
	mustRefuse(t, err)
	must(t, conn, "SELECT pg_catalog.age(now())")
	must(t, conn, "SELECT abs(-1)")

	masking := guard(t, db, `sensitive: [{columns: ["public.people.ssn"], mask: redact}]`, "", allowAll).connect(t, "sslmode=disable")
	must(t, masking, "SELECT lower('X')")
	_, err = masking.Exec(t.Context(), "SELECT age(1)").ReadAll()
	mustRefuse(t, err)
	db.MustExec(t, db.database, "CREATE FUNCTION public.lower(int) RETURNS text LANGUAGE sql AS 'SELECT ssn FROM people WHERE id = $1'")
	time.Sleep(catalogMaxAge)
	_, err = masking.Exec(t.Context(), "SELECT lower(1)").ReadAll()
	mustRefuse(t, err)

	g := guard(t, db, "", "", `{name: changes, allow: [SELECT, DDL]}`)
	first, second := g.connect(t, "sslmode=disable"), g.connect(t, "sslmode=disable")
	must(t, second, "SELECT abs(-1)")
	must(t, first, "CREATE FUNCTION public.abs(text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
	_, err = second.Exec(t.Context(), "SELECT abs('x'::text)").ReadAll()
	mustRefuse(t, err)
	_, err = first.Exec(t.Context(), "CREATE FUNCTION public.upper(int) RETURNS text LANGUAGE sql AS 'SELECT $1::text'; SELECT upper(1)").ReadAll()
	mustRefuse(t, err)
}

func TestDefinedFunctions(t *testing.T) {
	for text, want := range map[string]string{
		`CREATE FUNCTION public.Abs(text)`:            "[abs]",
		`create or replace function "a"."B""c" (int)`: `[B"c]`,
		`ALTER FUNCTION f(int) RENAME TO abs`:         "[f abs]",
		`CREATE AGGREGATE sum (text) (sfunc = f)`:     "[sum]",
		`CREATE TABLE t (n int)`:                      "[]",
	} {
		if got := fmt.Sprint(defined(&sql.Script{Redacted: text})); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

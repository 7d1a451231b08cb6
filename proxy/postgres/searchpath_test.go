package postgres

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/sql"
)

func TestNamesWithoutASchemaAreLookedForOnTheSearchPath(t *testing.T) {
	usual := &searchPath{schemas: []string{"pg_catalog", "public"}}
	for _, row := range []struct {
		name     string
		path     *searchPath
		relation sql.Relation
		want     string // places
		recorded string
	}{
		{"one schema", usual, sql.Relation{Name: "users"}, "[{public users false}]", "public.users"},
		{"written with its schema", usual, sql.Relation{Schema: "app", Name: "users"}, "[{app users false}]", "app.users"},
		{"like a system relation", usual, sql.Relation{Name: "pg_class"}, "[{pg_catalog pg_class false} {public pg_class false}]", "pg_class"},
		{"several schemas", &searchPath{schemas: []string{"app", "pg_catalog", "public"}}, sql.Relation{Name: "users"}, "[{app users false} {public users false}]", "users"},
		{"path not known", nil, sql.Relation{Name: "users"}, "[{ users false}]", "users"},
		{"empty path", &searchPath{schemas: []string{"pg_catalog"}}, sql.Relation{Name: "users"}, "[{ users false}]", "users"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := fmt.Sprint(row.path.places(row.relation)); got != row.want {
				t.Errorf("got places %s, want %s", got, row.want)
			}
			if got := row.path.name(row.relation); got != row.recorded {
				t.Errorf("got name %s, want %s", got, row.recorded)
			}
		})
	}
}

func TestSearchPathDecidesWhatAPolicyIsAskedAbout(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, `
		CREATE SCHEMA hidden; GRANT USAGE ON SCHEMA hidden TO app;
		CREATE TABLE public.notes (id int); GRANT SELECT ON public.notes TO app;
		CREATE TABLE hidden.notes (id int); GRANT SELECT ON hidden.notes TO app;`)
	g := guard(t, db, "", "", `{name: reads, allow: [SELECT, SET], relations: ["public.*"]}`)

	conn := g.connect(t, "sslmode=disable")
	for _, row := range []struct {
		name, query string
		code        string // "" where it runs
	}{
		{"found in the one schema", "SELECT * FROM notes", ""},
		{"written with it", "SELECT * FROM public.notes", ""},
		{"of another schema", "SELECT * FROM hidden.notes", "42501"},
		{"a driver's look at a type", "SELECT oid, typarray FROM pg_type t WHERE t.oid = to_regtype('hstore')", ""},
		{"that is more than a look", "DELETE FROM pg_type", "42501"},
		{"a catalog of columns", "SELECT attname FROM pg_attribute", "42501"},
		{"the path is moved", "SET search_path = hidden", ""},
		{"and the name could mean anything", "SELECT * FROM notes", "42501"},
		{"but not with its schema", "SELECT * FROM public.notes", ""},
		{"nor is it known after a reset", "RESET search_path", ""},
		{"still not known", "SELECT * FROM notes", "42501"},
	} {
		_, err := conn.Exec(t.Context(), row.query).ReadAll()
		code := ""
		if answer := new(pgconn.PgError); errors.As(err, &answer) {
			code = answer.Code
		} else if err != nil {
			t.Fatal(err)
		}
		if code != row.code {
			t.Errorf("%s: got SQLSTATE %q, want %q", row.name, code, row.code)
		}
	}
	if got := g.trail.of(t, audit.KindRequest, 1)[0].Request.Relations; fmt.Sprint(got) != "[public.notes]" {
		t.Errorf("got relations %v in the record, want [public.notes]", got)
	}

	_, err := g.connect(t, "sslmode=disable").Exec(t.Context(), "SET search_path TO hidden; SELECT * FROM notes").ReadAll()
	mustRefuse(t, err)

	several := g.connect(t, "sslmode=disable&search_path=hidden,public")
	if _, err := several.Exec(t.Context(), "SELECT * FROM notes").ReadAll(); !errors.As(err, new(*pgconn.PgError)) {
		t.Errorf("got %v for a name that is in an allowed schema and in another, want it refused", err)
	}
}

// What a text does not show may call set_config.
func TestCodeMovesTheSearchPath(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, `
		CREATE SCHEMA hidden; GRANT USAGE ON SCHEMA hidden TO app;
		CREATE TABLE public.notes (id int); GRANT SELECT ON public.notes TO app;
		CREATE TABLE hidden.notes (id int); GRANT SELECT ON hidden.notes TO app;
		CREATE FUNCTION public.away() RETURNS text LANGUAGE sql AS $$SELECT set_config('search_path', 'hidden', false)$$;
		CREATE PROCEDURE public.off() LANGUAGE sql AS $$SELECT set_config('search_path', 'hidden', false)$$;`)
	g := guard(t, db, "", "", `{name: code, allow: [DO, CALL], functions: ["*.*"]}`, `{name: reads, allow: [SELECT], relations: ["public.*"], functions: ["*.*"]}`)
	for _, row := range []struct {
		text  string
		moves bool
	}{
		{"SELECT 1", false},
		{"SELECT pg_sleep(0)", false},
		{"SELECT query_to_xml('SELECT set_config(''search_path'', ''hidden'', false)', true, true, '')", true},
		{"SELECT public.away() FROM notes", true},
		{"CALL public.off()", true},
		{"DO $$ BEGIN SET search_path = hidden; END $$", true},
	} {
		conn := g.connect(t, "sslmode=disable")
		must(t, conn, row.text)
		if _, err := conn.Exec(t.Context(), "SELECT * FROM notes").ReadAll(); (err != nil) != row.moves {
			t.Errorf("%s: got %v behind it, want refused=%v", row.text, err, row.moves)
		}
	}
}

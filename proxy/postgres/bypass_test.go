package postgres

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/audit"
)

func asQuery(text string) *pgproto3.Query { return &pgproto3.Query{String: text} }

// Whatever name a statement is run by, it is decided, and recorded.
func TestStatementsRunByNameAreDecided(t *testing.T) {
	const deletes = "DELETE FROM secret.t RETURNING v"
	for _, row := range []struct {
		name string
		runs [][]pgproto3.FrontendMessage
	}{
		{"FETCH from a portal", [][]pgproto3.FrontendMessage{
			{asQuery("BEGIN")},
			{&pgproto3.Parse{Query: deletes}, &pgproto3.Bind{DestinationPortal: "c"}, &pgproto3.Sync{}},
			{asQuery("FETCH ALL FROM c")},
		}},
		{"FETCH from a portal under a cursor's name", [][]pgproto3.FrontendMessage{
			{asQuery("BEGIN")},
			{asQuery("DECLARE c CURSOR FOR SELECT 1")},
			{
				&pgproto3.Close{ObjectType: 'P', Name: "c"}, &pgproto3.Parse{Query: deletes}, &pgproto3.Bind{DestinationPortal: "c"},
				&pgproto3.Parse{Query: "FETCH ALL FROM c"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{},
			},
		}},
		{"EXECUTE of an EXECUTE", [][]pgproto3.FrontendMessage{
			{&pgproto3.Parse{Name: "p", Query: deletes}, &pgproto3.Sync{}},
			{&pgproto3.Parse{Name: "q", Query: "EXECUTE p"}, &pgproto3.Sync{}},
			{asQuery("EXECUTE q")},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			db := startServer(t)
			db.MustExec(t, db.database, "CREATE SCHEMA secret; CREATE TABLE secret.t (v int); INSERT INTO secret.t VALUES (1); GRANT USAGE ON SCHEMA secret TO app; GRANT ALL ON secret.t TO app")
			g := guard(t, db, "", "", allowAll)
			w := dialWire(t, g.url("sslmode=disable"), strings.NewReplacer())
			var rows int
			for _, messages := range row.runs {
				rows += w.ask(messages...).rows
			}
			requests := g.trail.of(t, audit.KindRequest, 1)
			recorded := slices.ContainsFunc(requests, func(r audit.Record) bool {
				return slices.Contains(r.Request.Operations, "DELETE") || slices.Contains(r.Request.Operations, "UNKNOWN")
			})
			if !recorded {
				t.Errorf("got %d rows and no DELETE in the trail, want it recorded", rows)
			}
		})
	}
}

// The server reads '\\' in another way once standard_conforming_strings is off, and
// says so only before ReadyForQuery.
func TestBackslashesWaitForWhatTheServerSays(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, `CREATE FUNCTION public.off() RETURNS text LANGUAGE sql AS $$SELECT set_config('standard_conforming_strings', 'off', false)$$;
		CREATE VIEW public.v AS SELECT public.off(); GRANT SELECT ON public.v TO app;
		CREATE TABLE public.t (n int); GRANT ALL ON public.t TO app`)
	g := guard(t, db, "", "", allowAll)
	const hidden = `SELECT '\' AS x, ' , v FROM secret.t --'`
	run := func(text string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: text}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	}
	for _, row := range []struct {
		name, first string
		sync        bool // between the two
		want        string
	}{
		{"pg_settings is not written to", "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'", true, "postern: a parameter is set"},
		{"a function", "SELECT public.off()", false, "postern: a literal holds a backslash"},
		{"a view", "SELECT * FROM public.v", false, "postern: a literal holds a backslash"},
		{"a view, synchronised", "SELECT * FROM public.v", true, "postern: standard_conforming_strings must stay on"},
		{"a change of rows, synchronised", "INSERT INTO public.t VALUES (1)", true, ""},
		{"nothing that matters", "SELECT 1", false, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := dialWire(t, g.url("sslmode=disable"), strings.NewReplacer())
			messages := run(row.first)
			if row.sync {
				messages = append(messages, &pgproto3.Sync{})
			}
			messages = append(append(messages, run(hidden)...), &pgproto3.Sync{})
			got := w.ask(messages...)
			if row.sync && !got.closed {
				got.add(w.ask())
			}
			said := strings.Join(got.errors, "; ")
			if row.want == "" && said != "" || !strings.Contains(said, row.want) {
				t.Errorf("got %q, want %q", said, row.want)
			}
		})
	}
}

func TestBoundPortalsAreFetchedFrom(t *testing.T) {
	g := guard(t, startServer(t), "", "", `{name: reads, allow: [SELECT]}`)
	w := dialWire(t, g.url("sslmode=disable"), strings.NewReplacer())
	w.ask(asQuery("BEGIN"))
	w.ask(&pgproto3.Parse{Query: "SELECT generate_series(1, 3)"}, &pgproto3.Bind{DestinationPortal: "c"}, &pgproto3.Sync{})
	if got := w.ask(asQuery("FETCH 2 FROM c")); got.rows != 2 {
		t.Errorf("got %+v, want two rows of a portal", got)
	}
}

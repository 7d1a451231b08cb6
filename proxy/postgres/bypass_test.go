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

func TestBoundPortalsAreFetchedFrom(t *testing.T) {
	g := guard(t, startServer(t), "", "", `{name: reads, allow: [SELECT]}`)
	w := dialWire(t, g.url("sslmode=disable"), strings.NewReplacer())
	w.ask(asQuery("BEGIN"))
	w.ask(&pgproto3.Parse{Query: "SELECT generate_series(1, 3)"}, &pgproto3.Bind{DestinationPortal: "c"}, &pgproto3.Sync{})
	if got := w.ask(asQuery("FETCH 2 FROM c")); got.rows != 2 {
		t.Errorf("got %+v, want two rows of a portal", got)
	}
}

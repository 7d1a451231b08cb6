package postgres

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/audit"
)

// people is a table with a sensitive column.
const people = `CREATE TABLE people (id int, name text, ssn text); INSERT INTO people VALUES (1, 'Ada', '123-45-6789');
	GRANT ALL ON people TO app`

const peopleSensitive = `sensitive: [{columns: ["public.people.ssn"], mask: redact}]`

func TestMaskedOnEveryExecution(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, people)
	g := guard(t, db, peopleSensitive, "", allowAll)
	conn := g.connect(t, "sslmode=disable")
	if _, err := conn.Prepare(t.Context(), "p", "SELECT name, ssn AS harmless FROM people", nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, format := range []int16{pgproto3.TextFormat, pgproto3.BinaryFormat} {
			r := conn.ExecPrepared(t.Context(), "p", nil, nil, []int16{format}).Read()
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			if got, want := string(r.Rows[0][0])+" "+string(r.Rows[0][1]), "Ada ***"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
	if got := must(t, conn, "SELECT ssn FROM people")[0]; got != "***" {
		t.Errorf("got %q, want ***", got)
	}
	outcome := g.trail.of(t, audit.KindOutcome, 7)[6].Outcome
	if outcome.Masked["public.people.ssn"] != 1 || outcome.Rows != 1 {
		t.Errorf("got %+v, want one value of public.people.ssn masked", outcome)
	}
	request := g.trail.of(t, audit.KindRequest, 7)[6]
	if got := strings.Join(request.Decision.Masks, " "); got != "public.people.ssn" {
		t.Errorf("got masks %q in the record, want public.people.ssn", got)
	}
	if !g.trail.waitedFor(audit.KindRequest, 6) {
		t.Error("got a reply with a sensitive column before its record was durable, want it held")
	}
}

// A portal is planned when it runs: what it was bound to may have another meaning by then.
func TestPortalThatChangesItsMeaningIsMasked(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, people)
	g := guard(t, db, peopleSensitive, "", allowAll)
	for _, row := range []struct{ name, prepare, run, change string }{
		{"EXECUTE", "PREPARE p AS SELECT name FROM people", "EXECUTE p", "DEALLOCATE p; PREPARE p AS SELECT ssn FROM people"},
		{"FETCH", "DECLARE c CURSOR FOR SELECT name FROM people", "FETCH c", "CLOSE c; DECLARE c CURSOR FOR SELECT ssn FROM people"},
	} {
		attempt := func(t *testing.T, url string) string {
			conn, err := pgconn.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			must(t, conn, "BEGIN; "+row.prepare)
			frontend := conn.Frontend()
			frontend.Send(&pgproto3.Parse{Query: row.run})
			frontend.Send(&pgproto3.Bind{DestinationPortal: "x"})
			frontend.Send(&pgproto3.Sync{})
			if err := frontend.Flush(); err != nil {
				t.Fatal(err)
			}
			readRows(t, conn)
			must(t, conn, row.change)
			frontend.Send(&pgproto3.Execute{Portal: "x"})
			frontend.Send(&pgproto3.Sync{})
			if err := frontend.Flush(); err != nil {
				t.Fatal(err)
			}
			return readRows(t, conn)
		}
		t.Run(row.name, func(t *testing.T) {
			if got, want := attempt(t, db.URL(db.database)), "123-45-6789"; got != want {
				t.Errorf("got %q without Postern, want %q", got, want)
			}
			if got, want := attempt(t, g.url("sslmode=disable")), "***"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// readRows reads to ReadyForQuery, and gives the first column of the last row.
func readRows(t *testing.T, conn *pgconn.PgConn) string {
	t.Helper()
	value := ""
	for {
		received, err := conn.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		switch m := received.(type) {
		case *pgproto3.DataRow:
			value = string(m.Values[0])
		case *pgproto3.ErrorResponse:
			t.Errorf("got %s %s, want rows", m.Code, m.Message)
		case *pgproto3.ReadyForQuery:
			return value
		}
	}
}

func TestUsesThatNoMaskCoversAreRefused(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, people)
	g := guard(t, db, peopleSensitive, "", allowAll)
	conn := g.connect(t, "sslmode=disable")
	for _, text := range []string{
		"SELECT upper(ssn) FROM people",
		"SELECT name FROM people WHERE ssn LIKE '1%'",
		"COPY people TO STDOUT",
		"DO $$ BEGIN END $$",
		"FETCH nowhere",
	} {
		_, err := conn.Exec(t.Context(), text).ReadAll()
		answer := mustRefuse(t, err)
		t.Log(answer.Message)
	}
	if got := must(t, conn, "SELECT name FROM people")[0]; got != "Ada" {
		t.Errorf("got %q, want Ada: the column is not sensitive", got)
	}
	_, err := conn.Exec(t.Context(), "SELECT 1/0").ReadAll()
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != "22012" || !strings.Contains(answer.Message, "withheld") {
		t.Errorf("got %v, want the error's text withheld", err)
	}
}

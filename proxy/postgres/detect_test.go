package postgres

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/mask"
	"postern.dev/postern/internal/policy"
)

// detectAll lets every detector look, and declares no column.
const detectAll = `sensitive: [{detect: [email, credit-card, iban, ssn, phone, jwt, private-key, api-token], mask: redact}]`

// found is what the values of the tests below must never show.
var hidden = []string{"ada@example.com", "4111111111111111", "123-45-6789", "+4915112345678"}

const notes = `CREATE TABLE notes (id int, body text, code char(30), short varchar(40), doc jsonb, raw json, tags text[], page xml, pair point, at timestamptz, n bigint);
	INSERT INTO notes VALUES (1, 'write to ada@example.com, or call +4915112345678', '123-45-6789', 'card 4111111111111111',
		'{"mail": "ada@example.com", "card": 4111111111111111, "n": 1}', '{"m": "ada\u0040example.com"}', '{plain,"ada@example.com",NULL}',
		'<a>ada@example.com</a>', '(1,2)', '2026-11-23 10:11:12.123456+00', 4711),
		(2, 'nothing', 'x', 'y', '{}', '{}', '{}', '<b/>', '(1,2)', '2026-11-23', 1);
	CREATE TYPE label AS (id int, mail text); GRANT ALL ON notes TO app`

func TestDetectorsNameWhatPoliciesCanName(t *testing.T) {
	for _, name := range mask.DetectorNames() {
		set, err := policy.Parse("f", []byte(strings.Replace(`apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec: {protocol: postgres, hosts: [db], credential: {file: /l}, sensitive: [{detect: [NAME], mask: redact}]}
`, "NAME", name, 1)))
		if err != nil {
			t.Errorf("got %v, want a policy that names %s", err, name)
			continue
		}
		target, _ := set.Target("db")
		if d, err := newDetection(target.Sensitive()); err != nil || d.names[0] != "detect:"+name {
			t.Errorf("got %+v and %v, want a detector %s", d, err, name)
		}
	}
}

func TestDetectorsMaskUnderAnyExpression(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, notes)
	g := guard(t, db, detectAll, "", allowAll)
	conn := g.connect(t, "sslmode=disable")
	for _, row := range []struct {
		text string
		want string // of the first row, in text
	}{
		{"SELECT body FROM notes ORDER BY id", "write to ***, or call ***"},
		{"SELECT upper(body) AS x FROM notes ORDER BY id", "WRITE TO ***, OR CALL ***"},
		{"SELECT body || '' FROM notes ORDER BY id", "write to ***, or call ***"},
		{"SELECT max(short) FROM notes WHERE id = 1", "card ***"},
		{"SELECT code FROM notes ORDER BY id", "***" + strings.Repeat(" ", 27)},
		{"SELECT doc FROM notes ORDER BY id", `{"n": 1, "card": 0, "mail": "***"}`},
		{"SELECT raw FROM notes ORDER BY id", `{"m": "***"}`},
		{"SELECT tags FROM notes ORDER BY id", `{plain,***,NULL}`},
		{"SELECT page FROM notes ORDER BY id", `<a>***</a>`},
		{"SELECT ROW(1, 'ada@example.com')::label", `(1,***)`},
		{"SELECT '4111111111111111'::varchar(16)", "***"},
		{"SELECT 'x'::text FROM (SELECT 1) a UNION ALL SELECT 'ada@example.com' ORDER BY 1", "***"},
		{"SELECT at FROM notes ORDER BY id", "2026-11-23 10:11:12.123456+00"},
		{"SELECT n FROM notes ORDER BY id", "4711"},
		{"SELECT body FROM notes WHERE id = 2", "nothing"},
		{"WITH c AS (SELECT string_agg(body, ',') s FROM notes) SELECT s FROM c", "write to ***, or call ***,nothing"},
	} {
		must(t, conn, "SET TimeZone = 'UTC'")
		if got := must(t, conn, row.text)[0]; got != row.want {
			t.Errorf("%s: got %q, want %q", row.text, got, row.want)
		}
		for _, format := range []int16{pgproto3.TextFormat, pgproto3.BinaryFormat} {
			r := conn.ExecParams(t.Context(), row.text, nil, nil, nil, []int16{format}).Read()
			if r.Err != nil {
				t.Fatalf("%s: %v", row.text, r.Err)
			}
			for _, value := range hidden {
				if strings.Contains(strings.ToLower(string(r.Rows[0][0])), value) {
					t.Errorf("%s in format %d: got %q, want no %s", row.text, format, r.Rows[0][0], value)
				}
			}
			if format == pgproto3.TextFormat && string(r.Rows[0][0]) != row.want {
				t.Errorf("%s, extended: got %q, want %q", row.text, r.Rows[0][0], row.want)
			}
		}
	}
}

func TestWhatDetectorsFindIsCountedInTheOutcome(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, notes)
	g := guard(t, db, `sensitive:
    - {detect: [email, phone], mask: redact}
    - {detect: [credit-card], mask: "null"}
    - {columns: ["public.notes.code"], mask: redact}`, "", allowAll)
	conn := g.connect(t, "sslmode=disable")
	r := conn.ExecParams(t.Context(), "SELECT body, short, code, doc FROM notes ORDER BY id", nil, nil, nil, nil).Read()
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if got, want := string(r.Rows[0][0]), "write to ***, or call ***"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if r.Rows[0][1] != nil || r.Rows[0][3] != nil || string(r.Rows[1][1]) != "y" {
		t.Errorf("got %q, want NULL where there is a card", r.Rows)
	}
	want := map[string]int64{"detect:email": 2, "detect:phone": 1, "detect:credit-card": 2, "public.notes.code": 2}
	if got := g.trail.of(t, audit.KindOutcome, 1)[0].Outcome.Masked; !maps.Equal(got, want) {
		t.Errorf("got %v masked, want %v", got, want)
	}
}

// Only where something is found does the reply wait for its record.
func TestRepliesWithFindingsWaitForTheirRecord(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, notes)
	g := guard(t, db, detectAll, "", allowAll)
	conn := g.connect(t, "sslmode=disable")
	must(t, conn, "SELECT body FROM notes WHERE id = 2")
	must(t, conn, "SELECT body FROM notes WHERE id = 1")
	if g.trail.waitedFor(audit.KindRequest, 0) || !g.trail.waitedFor(audit.KindRequest, 1) {
		t.Error("got another wait, want one for the second request alone")
	}
}

func TestCopyIsMaskedByDetectors(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, notes)
	g := guard(t, db, detectAll, "", allowAll)
	conn := g.connect(t, "sslmode=disable")
	for _, row := range []struct{ text, want string }{
		{"COPY (SELECT id, body, short FROM notes ORDER BY id) TO STDOUT", "1\twrite to ***, or call ***\tcard ***\n2\tnothing\ty\n"},
		{"COPY (SELECT id, body FROM notes ORDER BY id) TO STDOUT (FORMAT csv, HEADER)", "id,body\n1,\"write to ***, or call ***\"\n2,nothing\n"},
		{"COPY (SELECT id, body FROM notes ORDER BY id) TO STDOUT (FORMAT binary)", ""},
	} {
		var out strings.Builder
		if _, err := conn.CopyTo(t.Context(), &out, row.text); err != nil {
			t.Fatal(err)
		}
		if row.want != "" && out.String() != row.want {
			t.Errorf("%s: got %q, want %q", row.text, out.String(), row.want)
		}
		if strings.Contains(out.String(), "ada@example.com") || row.want == "" && !strings.Contains(out.String(), "write to ***************, or call **************") {
			t.Errorf("%s: got %q, want as many stars", row.text, out.String())
		}
	}
	for i, outcome := range g.trail.of(t, audit.KindOutcome, 3)[:3] {
		if got := outcome.Outcome.Masked["detect:email"]; got != 1 {
			t.Errorf("got %d e-mail addresses in COPY %d, want 1", got, i)
		}
	}
}

func TestErrorsNoticesAndNotificationsAreMaskedByDetectors(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, notes+"; CREATE UNIQUE INDEX ON notes (short)")
	g := guard(t, db, detectAll, "", allowAll, "{name: unread, allow: [UNKNOWN]}")
	var notices []string
	heard := make(chan string, 1)
	config, err := pgconn.ParseConfig(g.url("sslmode=disable"))
	if err != nil {
		t.Fatal(err)
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	config.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { heard <- n.Payload }
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	run := func(text string) *pgconn.PgError {
		_, err := conn.Exec(t.Context(), text).ReadAll()
		answer, _ := err.(*pgconn.PgError)
		return answer
	}
	answer := run("INSERT INTO notes (short) VALUES ('card 4111111111111111')")
	if answer == nil || answer.Code != "23505" || answer.Detail != "Key (short)=(card ***) already exists." {
		t.Errorf("got %+v, want the card masked and the rest kept", answer)
	}
	r := conn.ExecParams(t.Context(), "SELECT body::int FROM notes", nil, nil, nil, nil).Read()
	if r.Err == nil || strings.Contains(r.Err.Error(), "ada@") || !strings.Contains(r.Err.Error(), "write to ***") {
		t.Errorf("got %v, want the address masked", r.Err)
	}
	outcomes := g.trail.of(t, audit.KindOutcome, 2)
	if outcomes[0].Outcome.Masked["detect:credit-card"] != 1 || outcomes[1].Outcome.Masked["detect:email"] != 1 {
		t.Errorf("got %+v and %+v, want what was masked in the errors", outcomes[0].Outcome, outcomes[1].Outcome)
	}
	run("DO $$ BEGIN RAISE NOTICE 'to %', 'ada@example.com'; END $$")
	if !slices.Equal(notices, []string{"to ***"}) {
		t.Errorf("got %q, want the address masked", notices)
	}
	run("LISTEN mail; NOTIFY mail, 'from ada@example.com'")
	if got := <-heard; got != "from ***" {
		t.Errorf("got %q, want the address masked", got)
	}
	run("SELECT set_config('application_name', 'ada@example.com', false)")
	if got := conn.ParameterStatus("application_name"); got != "***" {
		t.Errorf("got %q, want the address masked", got)
	}
}

// What a redacted record keeps of a text are names, and a name can be any text.
func TestTheTrailHoldsNothingThatDetectorsFind(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, `CREATE TABLE "4111 1111 1111 1111" (a int); GRANT ALL ON "4111 1111 1111 1111" TO app`)
	for _, mode := range []string{"redacted", "full"} {
		g := guard(t, db, detectAll, "record: "+mode, allowAll)
		conn := g.connect(t, "sslmode=disable&application_name=ada@example.com")
		must(t, conn, `SELECT 1 AS "ada@example.com"`)
		if _, err := conn.Exec(t.Context(), `SELECT count(*) FROM "4111 1111 1111 1111"`).ReadAll(); err != nil {
			t.Fatal(err)
		}
		requests := g.trail.of(t, audit.KindRequest, 2)
		whole, err := json.Marshal(g.trail.all())
		if err != nil {
			t.Fatal(err)
		}
		kept := strings.Contains(string(whole), "ada@example.com") && strings.Contains(string(whole), "4111 1111 1111 1111")
		if kept != (mode == "full") {
			t.Errorf("got values kept=%v in mode %s: %s", kept, mode, whole)
		}
		if want := `SELECT $1 AS "***"`; mode == "redacted" && requests[0].Request.Text != want {
			t.Errorf("got %q, want %q", requests[0].Request.Text, want)
		}
	}
}

// allDetectors is what a session with every detector looks for.
func allDetectors(t testing.TB) *detection {
	t.Helper()
	set, err := policy.Parse("f", []byte("apiVersion: postern.dev/v1alpha1\nkind: Target\nmetadata: {name: db}\nspec: {protocol: postgres, hosts: [db], credential: {file: /l}, "+detectAll+"}"))
	if err != nil {
		t.Fatal(err)
	}
	target, _ := set.Target("db")
	d, err := newDetection(target.Sensitive())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// cleanRow is a row of 100 bytes with nothing to find, though a time and a UUID in it are looked at.
func cleanRow() ([]field, []byte) {
	fields := []field{{typeOID: int4OID}, {typeOID: 1184}, {typeOID: 2950}, {typeOID: textOID}, {typeOID: 3802}}
	return fields, dataRow([]byte("4711"), []byte("2026-11-23 10:11:12.123456+00"), []byte("550e8400-e29b-41d4-a716-446655440000"),
		[]byte("to be shipped on Monday"), []byte(`{"n": 12, "price": 12.50}`))
}

func TestACleanRowIsLookedThroughWithoutAllocation(t *testing.T) {
	fields, body := cleanRow()
	p := allDetectors(t).plan(nil, fields)
	dst := make([]byte, 0, 1024)
	allocations := testing.AllocsPerRun(100, func() {
		p.mayFind(body)
		out, err := p.rewrite(dst[:0], body)
		if err != nil || len(out) != len(body) {
			t.Errorf("got %d bytes and %v, want the row", len(out), err)
		}
	})
	if found := p.detection.taken(); allocations > 0 || found != nil {
		t.Errorf("got %v allocations and %v found, want none", allocations, found)
	}
}

func BenchmarkCleanRow(b *testing.B) {
	fields, body := cleanRow()
	p := allDetectors(b).plan(nil, fields)
	prose := dataRow([]byte("4711"), []byte("to be shipped on Monday by the usual carrier, if it is there in time"))
	text := allDetectors(b).plan(nil, []field{{typeOID: int4OID}, {typeOID: textOID}})
	for _, row := range []struct {
		name string
		plan *plan
		body []byte
	}{{"suspected", p, body}, {"prose", text, prose}} {
		b.Run(row.name, func(b *testing.B) {
			b.SetBytes(int64(len(row.body)))
			b.ReportAllocs()
			dst := make([]byte, 0, 1024)
			for b.Loop() {
				if row.plan.mayFind(row.body) {
					if _, err := row.plan.rewrite(dst[:0], row.body); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

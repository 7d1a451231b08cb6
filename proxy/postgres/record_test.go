package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/policy"
)

func TestEveryExecutionIsARequestWithAnOutcome(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, "CREATE TABLE t (n int, s text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) AS i; GRANT ALL ON t TO app")
	g := guard(t, db, "", "record: full", allowAll, noDDL)
	conn := g.connect(t, "sslmode=disable&application_name=reports")
	if _, err := conn.Prepare(t.Context(), "p", "SELECT s FROM t WHERE n <= $1", nil); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if r := conn.ExecPrepared(t.Context(), "p", [][]byte{fmt.Append(nil, i%11)}, nil, nil).Read(); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	_, _ = conn.Exec(t.Context(), "SELECT 1/0").ReadAll()
	_, _ = conn.Exec(t.Context(), "DROP TABLE t").ReadAll()
	_, _ = conn.Exec(t.Context(), "ALTER ROLE nobody_there PASSWORD 'top-secret'").ReadAll()
	conn.Close(t.Context())
	g.trail.of(t, audit.KindSessionClose, 1)

	requests, outcomes := g.trail.of(t, audit.KindRequest, 103), map[string]audit.Record{}
	for _, o := range g.trail.of(t, audit.KindOutcome, 103) {
		if _, twice := outcomes[o.RequestID]; twice {
			t.Errorf("got two outcomes of request %s, want one", o.RequestID)
		}
		outcomes[o.RequestID] = o
	}
	if got, want := len(requests), 103; got != want {
		t.Fatalf("got %d requests, want %d", got, want)
	}
	for i, r := range requests {
		o, ok := outcomes[r.ID]
		if !ok || r.Seq != int64(i+1) {
			t.Fatalf("got request %d with outcome %v, want request %d with one", r.Seq, ok, i+1)
		}
		if i >= 100 {
			continue
		}
		if got, want := o.Outcome.Rows, int64(i%11); got != want || o.Outcome.Status != audit.StatusOK || o.Outcome.Code != "00000" {
			t.Errorf("request %d: got %+v, want %d rows and 00000", i+1, o.Outcome, want)
		}
		if got, want := r.Request.Parameters, []string{fmt.Sprintf("$1: '%d'", i%11)}; !slices.Equal(got, want) {
			t.Errorf("request %d: got parameters %q, want %q", i+1, got, want)
		}
		asked := r.Request
		if asked.Text != "SELECT s FROM t WHERE n <= $1" || !slices.Equal(asked.Operations, []string{"SELECT"}) ||
			!slices.Equal(asked.Relations, []string{"public.t"}) {
			t.Errorf("request %d: got %+v, want the statement", i+1, asked)
		}
		if r.Workload.User != "linux:ada" || r.Claimed.ApplicationName != "reports" || r.Target.Name != "db" ||
			r.Target.User != "app" || r.Decision.Rule != "all" {
			t.Errorf("request %d: got %+v %+v %+v %+v, want who, where and why", i+1, r.Workload, r.Claimed, r.Target, r.Decision)
		}
	}
	for i, want := range []struct {
		status audit.Status
		code   string
	}{{audit.StatusError, "22012"}, {audit.StatusRefused, stateDenied}, {audit.StatusError, "42704"}} {
		if got := outcomes[requests[100+i].ID].Outcome; got.Status != want.status || got.Code != want.code {
			t.Errorf("request %d: got %s %s, want %s %s", 101+i, got.Status, got.Code, want.status, want.code)
		}
	}
	trail, err := json.Marshal(g.trail.all())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{appPassword, "top-secret", `"wrong"`} {
		if strings.Contains(string(trail), secret) {
			t.Errorf("got %q in the trail, want no password in it", secret)
		}
	}
	first, last := g.trail.all()[0], g.trail.all()[len(g.trail.all())-1]
	if first.Kind != audit.KindSessionOpen || last.Kind != audit.KindSessionClose || last.Outcome.Status != audit.StatusOK {
		t.Errorf("got %s … %s %+v, want session.open … session.close that is well", first.Kind, last.Kind, last.Outcome)
	}
}

func TestRecordedBeforeForwarded(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, "CREATE TABLE t (n int); GRANT ALL ON t TO app")
	for _, row := range []struct {
		durability  policy.Durability
		read, write bool // whether the reply waits for the disk
	}{
		{policy.Strict, true, true},
		{policy.Reply, true, true},
		{policy.Balanced, false, true},
		{policy.Relaxed, false, false},
	} {
		t.Run(string(row.durability), func(t *testing.T) {
			g := guard(t, db, "", "durability: "+string(row.durability), allowAll)
			conn := g.connect(t, "sslmode=disable")
			for _, step := range []struct {
				text  string
				waits bool
			}{{"SELECT 1", row.read}, {"INSERT INTO t VALUES (1)", row.write}} {
				before := len(g.trail.of(t, audit.KindRequest, 0))
				must(t, conn, step.text)
				g.trail.of(t, audit.KindRequest, before+1)
				if got := g.trail.waitedFor(audit.KindRequest, before); got != step.waits {
					t.Errorf("%s: got waited=%v, want %v", step.text, got, step.waits)
				}
			}
		})
	}
	t.Run("a disk that fails ends the session before the reply", func(t *testing.T) {
		g := guard(t, db, "", "", allowAll)
		conn := g.connect(t, "sslmode=disable")
		g.trail.losing(errors.New("input/output error"))
		_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1) RETURNING 'a reply'").ReadAll()
		var answer *pgconn.PgError
		if !errors.As(err, &answer) || answer.Code != stateTrail || answer.Severity != "FATAL" {
			t.Errorf("got %v, want FATAL %s and no reply", err, stateTrail)
		}
	})
	t.Run("a trail that fails ends the session", func(t *testing.T) {
		g := guard(t, db, "", "", allowAll)
		conn := g.connect(t, "sslmode=disable")
		rows := must(t, conn, "SELECT count(*) FROM t")[0]
		g.trail.failing(errors.New("disk full"))
		_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1)").ReadAll()
		var answer *pgconn.PgError
		if !errors.As(err, &answer) || answer.Code != stateTrail || answer.Severity != "FATAL" {
			t.Errorf("got %v, want FATAL %s", err, stateTrail)
		}
		g.trail.failing(nil)
		if got := must(t, g.connect(t, "sslmode=disable"), "SELECT count(*) FROM t")[0]; got != rows {
			t.Errorf("got %s rows, want %s: what is not recorded is not forwarded", got, rows)
		}
	})
}

func TestRecordsHoldWhatThePolicyLetsThem(t *testing.T) {
	db := startServer(t)
	for _, row := range []struct {
		record     policy.Record
		text       string
		parameters []string
	}{
		{policy.RecordFull, "SELECT 'literal', $1::int", []string{"$1: '42'"}},
		{policy.RecordRedacted, "SELECT $2, $1::int", []string{"$2: string, 7 bytes", "$1: 2 bytes"}},
		{policy.RecordNone, "", nil},
	} {
		t.Run(string(row.record), func(t *testing.T) {
			g := guard(t, db, "", "record: "+string(row.record), `{name: reads, allow: [SELECT]}`)
			conn := g.connect(t, "sslmode=disable")
			if r := conn.ExecParams(t.Context(), "SELECT 'literal', $1::int", [][]byte{[]byte("42")}, nil, nil, nil).Read(); r.Err != nil {
				t.Fatal(r.Err)
			}
			_, _ = conn.Exec(t.Context(), "DELETE FROM nothing WHERE secret = 'literal'").ReadAll()
			_, _ = conn.Exec(t.Context(), "literal nonsense").ReadAll()
			requests := g.trail.of(t, audit.KindRequest, 3)
			if got := requests[0].Request; got.Text != row.text || !slices.Equal(got.Parameters, row.parameters) {
				t.Errorf("got %q with %q, want %q with %q", got.Text, got.Parameters, row.text, row.parameters)
			}
			for _, refused := range requests[1:] {
				if got := refused.Request; got.Text != "" || got.Parameters != nil || got.Fingerprint == "" {
					t.Errorf("got %+v of a refused statement, want its fingerprint alone", got)
				}
			}
		})
	}
}

func TestPasswordsOfPreparedStatementsAreNotRecorded(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, "CREATE FUNCTION public.crypt(text, text) RETURNS text LANGUAGE sql AS 'SELECT $2'")
	g := guard(t, db, "", "record: full", allowAll)
	conn := g.connect(t, "sslmode=disable")
	must(t, conn, "PREPARE p AS SELECT crypt($1, 'x')")
	must(t, conn, "EXECUTE p('HUNTER2')")
	if got := g.trail.of(t, audit.KindRequest, 2)[1].Request; got.Text != "" || got.Parameters != nil {
		t.Errorf("got %+v, want no text: it holds a password", got)
	}
}

func TestObservedPoliciesOnlySayWhatTheyWouldDo(t *testing.T) {
	g := guard(t, startServer(t), "", "mode: observe", `{name: reads, allow: [SELECT]}`)
	conn := g.connect(t, "sslmode=disable")
	must(t, conn, "CREATE TABLE seen (n int)")
	got := g.trail.of(t, audit.KindRequest, 1)[0].Decision
	if got.Action != "allow" || len(got.Would) != 1 || got.Would[0].Action != "deny" || got.Would[0].Policy != "agents" {
		t.Errorf("got %+v, want it allowed, and that agents would deny it", got)
	}
}

func TestObservedPoliciesSayWhatWouldBeMasked(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, "CREATE TABLE people (id int, email text); GRANT SELECT ON people TO app; INSERT INTO people VALUES (1, 'ada@example.com')")
	g := guard(t, db, `sensitive: [{columns: ["public.people.email"], mask: redact}]`, "mode: observe", `{name: reads, allow: [SELECT], relations: ["public.*"]}`)
	conn := g.connect(t, "sslmode=disable")
	rows, err := conn.Exec(t.Context(), "SELECT * FROM people").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(rows[0].Rows[0][1]); got != "***" {
		t.Errorf("got %q, want it masked: masks are the target's", got)
	}
	want := []audit.Verdict{{Action: "allow", Policy: "agents", Rule: "reads"}, {Action: "mask", Policy: "agents", Reason: "public.people.email"}}
	if got := g.trail.of(t, audit.KindRequest, 1)[0].Decision.Would; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

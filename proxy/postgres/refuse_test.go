package postgres

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/audit"
)

// mustRefuse gives the refusal that ended a statement.
func mustRefuse(t *testing.T, err error) *pgconn.PgError {
	t.Helper()
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != stateDenied || !strings.HasPrefix(answer.Message, "postern: ") {
		t.Fatalf("got %v, want a refusal of Postern", err)
	}
	return answer
}

const noDDL = `{name: no-ddl, deny: [DDL], reason: schema changes go through migrations}`

// refusing is a table t, guarded by a policy that refuses DDL and function calls.
func refusing(t *testing.T) *guarded {
	t.Helper()
	db := startServer(t)
	db.MustExec(t, db.database, "CREATE TABLE t (n int); GRANT ALL ON t TO app")
	return guard(t, db, "", "", allowAll, noDDL, `{name: no-calls, deny: [FUNCTION-CALL]}`)
}

// count counts the rows of t in a session of its own.
func (g *guarded) count(t *testing.T) string {
	t.Helper()
	return must(t, g.connect(t, "sslmode=disable"), "SELECT count(*) FROM t")[0]
}

func TestRefusedStatementSaysWhy(t *testing.T) {
	g := refusing(t)
	conn := g.connect(t, "sslmode=disable")
	_, err := conn.Exec(t.Context(), "DROP TABLE t").ReadAll()
	answer := mustRefuse(t, err)
	for _, want := range []string{"policy agents", "rule no-ddl", "schema changes go through migrations", "record "} {
		if !strings.Contains(answer.Message, want) {
			t.Errorf("got %q, want it to say %q", answer.Message, want)
		}
	}
	if got, want := conn.TxStatus(), byte('I'); got != want {
		t.Errorf("got transaction status %c, want %c", got, want)
	}
	g.count(t)
}

func TestMessageIsRefusedAsAWhole(t *testing.T) {
	g := refusing(t)
	conn := g.connect(t, "sslmode=disable")
	_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1); DROP TABLE t; INSERT INTO t VALUES (2)").ReadAll()
	mustRefuse(t, err)
	if got := g.count(t); got != "0" {
		t.Errorf("got %s rows, want none: the message is refused as a whole", got)
	}
	if got := g.trail.of(t, audit.KindRequest, 1)[0].Request.Text; got != "" {
		t.Errorf("got %q in the record of a refused statement, want no text", got)
	}
}

func TestRefusalFailsTheTransaction(t *testing.T) {
	g := refusing(t)
	conn := g.connect(t, "sslmode=disable")
	must(t, conn, "BEGIN; INSERT INTO t VALUES (1)")
	_, err := conn.Exec(t.Context(), "DROP TABLE t").ReadAll()
	mustRefuse(t, err)
	if got, want := conn.TxStatus(), byte('E'); got != want {
		t.Errorf("got transaction status %c, want %c", got, want)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1").ReadAll(); err == nil {
		t.Error("got a SELECT run in a failed transaction, want it refused by the server")
	}
	results, err := conn.Exec(t.Context(), "COMMIT").ReadAll()
	if err != nil || results[0].CommandTag.String() != "ROLLBACK" {
		t.Errorf("got %v, %v, want COMMIT to roll back", results, err)
	}
	if got := g.count(t); got != "0" {
		t.Errorf("got %s rows, want none", got)
	}
}

func TestRefusalRollsThePipelineBack(t *testing.T) {
	g := refusing(t)
	conn := g.connect(t, "sslmode=disable")
	denials := g.trail.denials()
	pipe := conn.StartPipeline(t.Context())
	pipe.SendQueryParams("INSERT INTO t VALUES (1)", nil, nil, nil, nil)
	pipe.SendQueryParams("DROP TABLE t", nil, nil, nil, nil)
	pipe.SendQueryParams("INSERT INTO t VALUES (2)", nil, nil, nil, nil)
	if err := pipe.Sync(); err != nil {
		t.Fatal(err)
	}
	pipe.SendQueryParams("SELECT 'after'", nil, nil, nil, nil)
	if err := pipe.Sync(); err != nil {
		t.Fatal(err)
	}
	got := describePipeline(t, pipe)
	if n := g.trail.denials() - denials; n != 1 {
		t.Errorf("got %d refused requests, want one: what comes behind it never runs", n)
	}
	if want := "result 42501 sync result sync "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := pipe.Close(); err != nil {
		t.Error(err)
	}
	if got := g.count(t); got != "0" {
		t.Errorf("got %s rows, want none: the batch is one transaction", got)
	}
}

func TestEachExecutionIsDecided(t *testing.T) {
	g := refusing(t)
	conn := g.connect(t, "sslmode=disable")
	if _, err := conn.Prepare(t.Context(), "ins", "INSERT INTO t VALUES (3)", nil); err != nil {
		t.Fatal(err)
	}
	old := g.policy.Load()
	defer g.policy.Store(old)
	g.load(t, strings.Replace(g.loaded, "deny: [DDL]", "deny: [DDL, INSERT]", 1))
	result := conn.ExecPrepared(t.Context(), "ins", nil, nil, nil).Read()
	mustRefuse(t, result.Err)
	if got := must(t, conn, "SELECT count(*) FROM t")[0]; got != "0" {
		t.Errorf("got %s rows, want none: each execution is decided", got)
	}
	g.policy.Store(old)
	if result := conn.ExecPrepared(t.Context(), "ins", nil, nil, nil).Read(); result.Err != nil {
		t.Errorf("got %v, want the policy of this moment to decide", result.Err)
	}
	must(t, conn, "DELETE FROM t WHERE n = 3")
}

func TestNamesOfSQLAreDecidedByWhatTheyCarry(t *testing.T) {
	g := refusing(t)
	conn := g.connect(t, "sslmode=disable")
	_, err := conn.Exec(t.Context(), "PREPARE d AS SELECT 1; EXECUTE d; EXECUTE other").ReadAll()
	mustRefuse(t, err)
	must(t, conn, "PREPARE d AS INSERT INTO t VALUES (4)")
	old := g.policy.Load()
	defer g.policy.Store(old)
	g.load(t, strings.Replace(g.loaded, "deny: [DDL]", "deny: [DDL, INSERT]", 1))
	_, err = conn.Exec(t.Context(), "EXECUTE d").ReadAll()
	mustRefuse(t, err)
	mustRefuse(t, conn.ExecPrepared(t.Context(), "d", nil, nil, nil).Read().Err)
}

func TestFunctionCallIsRefused(t *testing.T) {
	g := refusing(t)
	conn := g.connect(t, "sslmode=disable")
	frontend := conn.Frontend()
	frontend.Send(&pgproto3.FunctionCall{Function: 1598}) // random()
	if err := frontend.Flush(); err != nil {
		t.Fatal(err)
	}
	received, err := conn.ReceiveMessage(t.Context())
	if e, ok := received.(*pgproto3.ErrorResponse); err != nil || !ok || e.Code != stateDenied {
		t.Errorf("got %#v, %v, want it refused", received, err)
	}
	if ready, err := conn.ReceiveMessage(t.Context()); err != nil {
		t.Errorf("got %#v, %v, want ReadyForQuery", ready, err)
	}
}

// describePipeline reads a pipeline to its end.
func describePipeline(t *testing.T, pipe *pgconn.Pipeline) string {
	t.Helper()
	var got strings.Builder
	for {
		results, err := pipe.GetResults()
		var answer *pgconn.PgError
		switch {
		case errors.As(err, &answer):
			got.WriteString(answer.Code + " ")
			continue
		case err != nil:
			t.Fatal(err)
		}
		switch r := results.(type) {
		case *pgconn.ResultReader:
			if _, err := r.Close(); errors.As(err, &answer) {
				got.WriteString(answer.Code + " ")
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			got.WriteString("result ")
		case *pgconn.PipelineSync:
			got.WriteString("sync ")
		case nil:
			return got.String()
		}
	}
}

func TestSubjectThatMatchesNoMoreLosesItsSession(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"another subject": func(p string) string { return strings.Replace(p, "linux:ada", "linux:eve", 1) },
		"another target": func(p string) string {
			return strings.Replace(p, "hosts: [127.0.0.1]", "hosts: [127.0.0.1, 127.0.0.2]", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := guard(t, startServer(t), "", "", allowAll)
			conn := g.connect(t, "sslmode=disable")
			g.load(t, change(g.loaded))
			_, err := conn.Exec(t.Context(), "SELECT 1").ReadAll()
			var answer *pgconn.PgError
			if !errors.As(err, &answer) || answer.Code != stateShutdown {
				t.Errorf("got %v, want FATAL %s", err, stateShutdown)
			}
		})
	}
}

func TestTextsAreReadAsTheServerReadsThem(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	for _, text := range []string{
		"SET standard_conforming_strings = off",
		"SET SESSION standard_conforming_strings TO 'false'",
		"SET client_encoding = 'SJIS'",
		"SET NAMES 'GBK'",
		"SELECT set_config('standard_conforming_strings', 'off', false)",
		"SELECT set_config('client_' || 'encoding', 'SJIS', false)",
	} {
		_, err := g.connect(t, "sslmode=disable").Exec(t.Context(), text).ReadAll()
		mustRefuse(t, err)
	}
	for _, text := range []string{"SET standard_conforming_strings = on", "SET NAMES 'UTF8'", "RESET client_encoding", "SET work_mem = '8MB'"} {
		must(t, g.connect(t, "sslmode=disable"), text)
	}

	g.MustExec(t, g.database, `CREATE FUNCTION turn() RETURNS text LANGUAGE sql AS $$ SELECT set_config('standard_conforming_strings', 'off', false) $$`)
	_, err := g.connect(t, "sslmode=disable").Exec(t.Context(), "SELECT turn()").ReadAll()
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Severity != "FATAL" {
		t.Errorf("got %v, want the session to end when a function does it", err)
	}
	g.MustExec(t, g.database, "ALTER DATABASE "+g.database+" SET standard_conforming_strings = off")
	g.refusedAs(t, g.url("sslmode=disable"))
}

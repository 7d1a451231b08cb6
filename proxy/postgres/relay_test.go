package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/proxy"
)

func TestClientsReachTheServerWithoutItsPassword(t *testing.T) {
	db := startServer(t)
	g := guard(t, db, "", "", allowAll)
	for _, options := range []string{"sslmode=disable", "sslmode=require"} {
		t.Run(options, func(t *testing.T) {
			conn := g.connect(t, options)
			results, err := conn.Exec(t.Context(), "SELECT current_user, 1+1").ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(results[0].Rows[0][0])+string(results[0].Rows[0][1]), "app2"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			result := conn.ExecParams(t.Context(), "SELECT $1::int + 1", [][]byte{[]byte("41")}, nil, nil, nil).Read()
			if result.Err != nil {
				t.Fatal(result.Err)
			}
			if got, want := string(result.Rows[0][0]), "42"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	g.trail.of(t, audit.KindSessionOpen, 2)
	g.trail.of(t, audit.KindOutcome, 4)
}

// must runs statements and gives the values of the last one's first column.
func must(t *testing.T, conn *pgconn.PgConn, text string) []string {
	t.Helper()
	results, err := conn.Exec(t.Context(), text).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var values []string
	for _, row := range results[len(results)-1].Rows {
		values = append(values, string(row[0]))
	}
	return values
}

// refusal gives the refusal that ended a statement.
func mustRefuse(t *testing.T, err error) *pgconn.PgError {
	t.Helper()
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != stateDenied || !strings.HasPrefix(answer.Message, "postern: ") {
		t.Fatalf("got %v, want a refusal of Postern", err)
	}
	return answer
}

const noDDL = `{name: no-ddl, deny: [DDL], reason: schema changes go through migrations}`

func TestRefusedStatementsEndAsTheServerWouldEndThem(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, "CREATE TABLE t (n int); GRANT ALL ON t TO app")
	g := guard(t, db, "", "", allowAll, noDDL, `{name: no-calls, deny: [FUNCTION-CALL]}`)
	count := func(t *testing.T) string {
		t.Helper()
		return must(t, g.connect(t, "sslmode=disable"), "SELECT count(*) FROM t")[0]
	}

	t.Run("alone", func(t *testing.T) {
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
		count(t)
	})

	t.Run("with others in one message", func(t *testing.T) {
		conn := g.connect(t, "sslmode=disable")
		_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1); DROP TABLE t; INSERT INTO t VALUES (2)").ReadAll()
		mustRefuse(t, err)
		if got := count(t); got != "0" {
			t.Errorf("got %s rows, want none: the message is refused as a whole", got)
		}
	})

	t.Run("in a transaction", func(t *testing.T) {
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
		if got := count(t); got != "0" {
			t.Errorf("got %s rows, want none", got)
		}
	})

	t.Run("in a pipeline", func(t *testing.T) {
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
		if got := count(t); got != "0" {
			t.Errorf("got %s rows, want none: the batch is one transaction", got)
		}
	})

	t.Run("prepared before the policy changed", func(t *testing.T) {
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
	})

	t.Run("under a name of SQL", func(t *testing.T) {
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
	})

	t.Run("by function number", func(t *testing.T) {
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
	})

	for _, refused := range g.trail.of(t, audit.KindRequest, 0) {
		if refused.Decision.Action == "deny" && refused.Request.Text != "" {
			t.Errorf("got %q in the record of a refused statement, want no text", refused.Request.Text)
		}
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

func TestCancelReachesOnlyOnesOwnSession(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	for _, options := range []string{"sslmode=disable", "sslmode=require"} {
		t.Run(options, func(t *testing.T) {
			conn := g.connect(t, options)
			sleep := func() error {
				result := conn.Exec(t.Context(), "SELECT pg_sleep(30)")
				g.whenSleeping(t)
				if err := conn.CancelRequest(t.Context()); err != nil {
					t.Fatal(err)
				}
				_, err := result.ReadAll()
				return err
			}
			var answer *pgconn.PgError
			if err := sleep(); !errors.As(err, &answer) || answer.Code != stateQueryCanceled {
				t.Errorf("got %v, want SQLSTATE %s", err, stateQueryCanceled)
			}
			must(t, conn, "SELECT 1")
		})
	}
	cancels := g.trail.of(t, audit.KindCancel, 2)
	outcomes := g.trail.of(t, audit.KindOutcome, 4)
	if cancels[0].RequestID != outcomes[0].RequestID || outcomes[0].Outcome.Status != audit.StatusCanceled {
		t.Errorf("got a cancel of %s and outcome %+v, want them to be of one request", cancels[0].RequestID, outcomes[0])
	}

	t.Run("of another workload", func(t *testing.T) {
		conn := g.connect(t, "sslmode=disable")
		mine := *g.origin.Load()
		for _, change := range []func(*proxy.Origin){
			func(o *proxy.Origin) { o.Workload.LinuxUID++ },
			func(o *proxy.Origin) { o.Workload.Cgroup++ },
		} {
			other := mine
			change(&other)
			refusals := len(g.trail.of(t, audit.KindRefusal, 0))
			g.origin.Store(&other)
			if err := conn.CancelRequest(t.Context()); err != nil {
				t.Fatal(err)
			}
			g.trail.of(t, audit.KindRefusal, refusals+1)
			g.origin.Store(&mine)
		}
		if got := len(g.trail.of(t, audit.KindCancel, 0)); got != 2 {
			t.Errorf("got %d cancels, want none of another workload", got-2)
		}
	})
}

// whenSleeping returns when the server runs pg_sleep.
func (g *guarded) whenSleeping(t *testing.T) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), g.URL(g.database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for deadline := time.Now().Add(10 * time.Second); ; {
		const sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
		if n := must(t, conn, sleeping)[0]; n != "0" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("got no session that sleeps, want one")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestClientThatLeavesEndsItsQuery(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	g.logIn(t, conn)
	if _, err := conn.Write(message('Q', []byte("SELECT pg_sleep(60)\x00")...)); err != nil {
		t.Fatal(err)
	}
	g.whenSleeping(t)
	conn.Close()
	outcome := g.trail.of(t, audit.KindOutcome, 1)[0]
	if got, want := outcome.Outcome.Status, audit.StatusUnknown; got != want {
		t.Errorf("got outcome %s, want %s", got, want)
	}
	g.trail.of(t, audit.KindSessionClose, 1)
	admin, err := pgconn.Connect(t.Context(), g.URL(g.database))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	const left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()"
	for deadline := time.Now().Add(10 * time.Second); must(t, admin, left)[0] != "0"; {
		if time.Now().After(deadline) {
			t.Fatal("got a query that goes on, want it cancelled with its client")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDrainSaysGoodbye(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	conn := g.connect(t, "sslmode=require")
	g.drain()
	_, err := conn.ReceiveMessage(t.Context())
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != stateShutdown || !strings.Contains(answer.Message, "the agent restarts") {
		t.Errorf("got %v, want FATAL %s with the reason", err, stateShutdown)
	}
	if got := g.trail.of(t, audit.KindSessionClose, 1)[0].Outcome; got.Code != stateShutdown {
		t.Errorf("got %+v, want session.close with %s", got, stateShutdown)
	}
}

func TestServerThatEndsTheSessionIsHeard(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	conn := g.connect(t, "sslmode=disable")
	pid := must(t, conn, "SELECT pg_backend_pid()")[0]
	g.MustExec(t, g.database, "SELECT pg_terminate_backend("+pid+")")
	_, err := conn.ReceiveMessage(t.Context())
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != stateShutdown || strings.HasPrefix(answer.Message, "postern") {
		t.Errorf("got %v, want the server's own FATAL %s", err, stateShutdown)
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

func TestLargeValuesAreStreamed(t *testing.T) {
	const size = 64 << 20
	g := guard(t, startServer(t), "", "", allowAll)
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g.logIn(t, conn)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := conn.Write(message('Q', fmt.Appendf(nil, "SELECT repeat('x', %d)\x00", size)...)); err != nil {
		t.Fatal(err)
	}
	if got, want := readUntilReady(t, conn), "TDCZ"; got != want {
		t.Errorf("got messages %q, want %q", got, want)
	}
	runtime.ReadMemStats(&after)
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(8<<20); got > limit {
		t.Errorf("got %d bytes allocated for a row of %d, want at most %d", got, size, limit)
	}
	if got := g.trail.of(t, audit.KindOutcome, 1)[0].Outcome; got.Rows != 1 || got.Bytes < size {
		t.Errorf("got %+v, want one row of %d bytes or more", got, size)
	}

	big := make([]byte, size)
	for i := range big {
		big[i] = 'y'
	}
	client := g.connect(t, "sslmode=disable")
	result := client.ExecParams(t.Context(), "SELECT length($1)", [][]byte{big}, nil, nil, nil).Read()
	if result.Err != nil || string(result.Rows[0][0]) != fmt.Sprint(size) {
		t.Errorf("got %v, %v, want a parameter of %d bytes passed on", result.Rows, result.Err, size)
	}
}

func TestDeepPipelinesDoNotStall(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g.logIn(t, conn)
	var batch []byte // one statement, far more executions than replies may be due
	batch = append(batch, message('P', []byte("s\x00SELECT 1\x00\x00\x00")...)...)
	const n = 2 * maxExpected
	for range n {
		batch = append(batch, message('B', []byte("\x00s\x00\x00\x00\x00\x00\x00\x00")...)...)
		batch = append(batch, message('E', 0, 0, 0, 0, 0)...)
	}
	batch = append(batch, message('S')...)
	sent := make(chan error, 1)
	go func() { _, err := conn.Write(batch); sent <- err }()
	if got, want := strings.Count(readUntilReady(t, conn), "C"), n; got != want {
		t.Errorf("got %d executions, want %d", got, want)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	db := startServer(t)
	parser(t)
	before := runtime.NumGoroutine()
	t.Run("sessions", func(t *testing.T) {
		g := guard(t, db, `sensitive: [{columns: ["public.people.name"], mask: redact}]`, "", allowAll)
		for _, options := range []string{"sslmode=disable", "sslmode=require"} {
			for range 5 {
				must(t, g.connect(t, options), "SELECT 1")
			}
		}
		for _, payload := range hostile() {
			g.attack(t, true, payload)
		}
		idle, err := net.Dial("tcp", g.address) // says nothing until the end
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { idle.Close() })
	})
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("got %d goroutines, want %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(time.Millisecond)
	}
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

func TestObservedPoliciesOnlySayWhatTheyWouldDo(t *testing.T) {
	g := guard(t, startServer(t), "", "mode: observe", `{name: reads, allow: [SELECT]}`)
	conn := g.connect(t, "sslmode=disable")
	must(t, conn, "CREATE TABLE seen (n int)")
	got := g.trail.of(t, audit.KindRequest, 1)[0].Decision
	if got.Action != "allow" || len(got.Would) != 1 || got.Would[0].Action != "deny" || got.Would[0].Policy != "agents" {
		t.Errorf("got %+v, want it allowed, and that agents would deny it", got)
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

func TestRepliesAreTheServersToTheByte(t *testing.T) {
	db := startServer(t)
	db.MustExec(t, db.database, `CREATE TABLE t (n int PRIMARY KEY, s text); GRANT ALL ON t TO app;
		INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 5) AS i`)
	plain := guard(t, db, "", "", allowAll)
	masking := guard(t, db, `sensitive: [{columns: ["public.nothing.here"], mask: redact}]`, "", allowAll)
	text := func(kind byte, s string) []byte { return message(kind, []byte(s)...) }
	join := func(messages ...[]byte) []byte { return slices.Concat(messages...) }
	parse := func(name, query string) []byte { return text('P', name+"\x00"+query+"\x00\x00\x00") }
	bind := func(portal, name string) []byte { return text('B', portal+"\x00"+name+"\x00\x00\x00\x00\x00\x00\x00") }
	execute := func(portal string, limit byte) []byte { return text('E', portal+"\x00\x00\x00\x00"+string(limit)) }
	sync := message('S')
	for _, row := range []struct {
		name string
		sent []byte
		ends int // ReadyForQuery
	}{
		{"queries", join(text('Q', "SELECT * FROM t\x00"), text('Q', "SELECT 1; SELECT nothing\x00"), text('Q', "\x00"), text('Q', "SELECT 1; SELECT 2\x00")), 4},
		{"extended", join(parse("", "SELECT n FROM t WHERE n > 2"), message('D', 'S', 0), bind("", ""), message('D', 'P', 0),
			execute("", 0), sync), 1},
		{"a portal in pieces", join(text('Q', "BEGIN\x00"), parse("s", "SELECT n FROM t"), bind("p", "s"), execute("p", 2), execute("p", 2), sync,
			execute("p", 2), message('C', 'P', 'p', 0), message('C', 'S', 's', 0), sync, text('Q', "COMMIT\x00")), 4},
		{"two portals in turn", join(text('Q', "BEGIN\x00"), parse("", "SELECT n FROM t"), bind("a", ""), parse("", "SELECT s FROM t"), bind("b", ""),
			execute("a", 1), execute("b", 1), execute("a", 1), execute("b", 1), sync, text('Q', "ROLLBACK\x00")), 3},
		{"an error in a pipeline", join(parse("", "SELECT 1/0"), bind("", ""), execute("", 0), parse("", "SELECT 1"), bind("", ""), execute("", 0), sync,
			parse("", "SELECT 2"), bind("", ""), execute("", 0), sync), 2},
		{"what is not there", join(bind("", "nowhere"), execute("", 0), sync, message('D', 'S', 'x', 0), sync, message('C', 'S', 'x', 0), sync), 3},
		{"a failed transaction", join(text('Q', "BEGIN\x00"), text('Q', "SELECT nothing\x00"), text('Q', "SELECT 1\x00"),
			parse("", "SELECT 1"), sync, text('Q', "COMMIT\x00")), 5},
		{"COPY out", text('Q', "COPY t TO STDOUT\x00"), 1},
		{"COPY in", join(text('Q', "BEGIN; COPY t FROM STDIN\x00"), text('d', "6\tsix\n"), text('d', "7\tseven\n"), message('c'), text('Q', "ROLLBACK\x00")), 2},
		{"COPY in that the client gives up", join(text('Q', "COPY t FROM STDIN\x00"), text('d', "6\tsix\n"), text('f', "no\x00"), text('Q', "SELECT 1\x00")), 2},
		{"COPY in, extended, with a Sync that is not read", join(parse("", "COPY t FROM STDIN"), bind("", ""), execute("", 0), sync,
			text('d', "1\tone\n"), message('c'), sync), 1},
		{"a deferred error at Sync", join(text('Q', "CREATE TEMP TABLE d (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)\x00"),
			parse("", "INSERT INTO d VALUES (1), (1)"), bind("", ""), execute("", 0), sync, text('Q', "DROP TABLE IF EXISTS d\x00")), 3},
		{"a function by its number", text('F', "\x00\x00\x03\x5d\x00\x00\x00\x00\x00\x00"), 1}, // current_database
	} {
		t.Run(row.name, func(t *testing.T) {
			want := replies(t, db.UserURL("app", appPassword, db.database), row.sent, row.ends)
			for name, g := range map[string]*guarded{"plain": plain, "masking": masking} {
				if g == masking && row.sent[0] == 'F' {
					continue // refused: what the function reads is not known
				}
				if got := replies(t, g.url("sslmode=disable"), row.sent, row.ends); got != want {
					t.Errorf("%s: got\n%q, want\n%q", name, got, want)
				}
			}
		})
	}
}

// replies logs in, sends bytes as they are, and gives what comes back.
func replies(t *testing.T, url string, sent []byte, ends int) string {
	t.Helper()
	client, err := pgconn.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.SyncConn(t.Context()); err != nil {
		t.Fatal(err)
	}
	hijacked, err := client.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	conn := hijacked.Conn
	defer conn.Close()
	if _, err := conn.Write(sent); err != nil {
		t.Fatal(err)
	}
	in := newReader(conn, serverBuffer, nil)
	var got strings.Builder
	for range ends {
		for kind := byte(0); kind != 'Z'; {
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			f, err := in.next()
			if err != nil {
				t.Fatalf("got %v after %q, want ReadyForQuery", err, got.String())
			}
			whole, err := in.message(f, maxText)
			if err != nil {
				t.Fatal(err)
			}
			got.Write(whole)
			kind = f.kind
		}
	}
	return got.String()
}

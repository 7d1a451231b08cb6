package postgres

import (
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/audit"
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

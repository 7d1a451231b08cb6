package postgres

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/proxy"
	"postern.dev/postern/testenv"
)

// startOwnServer gives a server that a test may do harm to.
func startOwnServer(t *testing.T) *testDatabase {
	t.Helper()
	s := &testDatabase{Postgres: testenv.StartPostgres(t), database: "own"}
	s.MustExec(t, "postgres", "CREATE ROLE app LOGIN PASSWORD '"+appPassword+"'")
	s.MustExec(t, "postgres", "CREATE DATABASE own OWNER app")
	return s
}

// backend is the server's process for a session.
func backend(t *testing.T, conn *pgconn.PgConn) int {
	t.Helper()
	pid, err := strconv.Atoi(must(t, conn, "SELECT pg_backend_pid()")[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// sleep has a session run a statement until it is ended, and gives how that was.
func sleep(t *testing.T, db *testDatabase, conn *pgconn.PgConn) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)").ReadAll()
		ended <- err
	}()
	watch, err := pgconn.Connect(t.Context(), db.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(t.Context())
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if must(t, watch, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'")[0] == "1" {
			return ended
		}
		if time.Now().After(deadline) {
			t.Fatal("got no statement running for 20 s")
		}
	}
}

// fatal is the FATAL that a session was ended with.
func fatal(t *testing.T, err error) *pgconn.PgError {
	t.Helper()
	var said *pgconn.PgError
	if !errors.As(err, &said) || said.Severity != "FATAL" {
		t.Fatalf("got %v, want a FATAL", err)
	}
	return said
}

// closed gives the last record of a session, and the outcome of its last request.
func (g *guarded) closed(t *testing.T, requests int) (end, last *audit.Outcome) {
	t.Helper()
	end = g.trail.of(t, audit.KindSessionClose, 1)[0].Outcome
	return end, g.trail.of(t, audit.KindOutcome, requests)[requests-1].Outcome
}

func TestServerThatEndsASessionHasTheLastWord(t *testing.T) {
	db := startOwnServer(t)
	for name, target := range map[string]string{"plain": "", "masked": `sensitive: [{columns: ["*.ssn"], mask: redact}]`} {
		t.Run(name, func(t *testing.T) {
			db.MustExec(t, "own", "DROP TABLE IF EXISTS people; CREATE TABLE people (ssn text)")
			g := guard(t, db, target, "", allowAll)
			conn := g.connect(t, "sslmode=disable")
			pid := backend(t, conn)
			ended := sleep(t, db, conn)
			db.MustExec(t, "postgres", fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid))
			if said := fatal(t, <-ended); said.Code != "57P01" {
				t.Errorf("got %s (%s), want the server's 57P01", said.Code, said.Message)
			}
			end, last := g.closed(t, 2)
			if end.Status != audit.StatusError || end.Code != "57P01" || last.Status != audit.StatusUnknown || last.Code != "57P01" {
				t.Errorf("got %+v of the session and %+v of the statement, want the server's code, and that nobody knows what became of it", end, last)
			}
		})
	}
}

func TestServerThatVanishesEndsASessionWithAFatal(t *testing.T) {
	for _, idle := range []bool{false, true} {
		t.Run(fmt.Sprintf("idle %t", idle), func(t *testing.T) {
			db := startOwnServer(t)
			g := guard(t, db, "", "", allowAll)
			conn := g.connect(t, "sslmode=disable")
			pid := backend(t, conn)
			requests, ended := 1, make(<-chan error)
			if !idle {
				requests, ended = 2, sleep(t, db, conn)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // which makes the server end every session and start anew
				t.Fatal(err)
			}
			var err error
			if idle {
				_, err = conn.ReceiveMessage(t.Context())
			} else {
				err = <-ended
			}
			said := fatal(t, err)
			if said.Code != "08006" || !strings.Contains(said.Message, "closed the connection unexpectedly") {
				t.Errorf("got %s (%s), want 08006 in words that clients know", said.Code, said.Message)
			}
			end, last := g.closed(t, requests)
			if end.Status != audit.StatusError || end.Code != "08006" {
				t.Errorf("got %+v of the session, want an error 08006", end)
			}
			if !idle && (last.Status != audit.StatusUnknown || last.Code != "08006") {
				t.Errorf("got %+v of the statement, want that nobody knows, for 08006", last)
			}
		})
	}
}

func TestSilentClientOfAnUnknownServerIsRefusedSoon(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	origin := *g.origin.Load()
	origin.Dialled = netip.MustParseAddrPort("192.0.2.7:5432")
	g.origin.Store(&origin)
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(startupTimeout - time.Second)) // it takes less than anybody else gets
	if got, err := io.ReadAll(conn); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v, want the connection closed without a word", got, err)
	}
	r := g.trail.of(t, audit.KindRefusal, 1)[0]
	if r.Refusal.Reason != string(metrics.UnknownHost) || !strings.Contains(r.Refusal.Message, "192.0.2.7:5432 belongs to no target") ||
		!strings.Contains(r.Refusal.Message, "said nothing for 3s") {
		t.Errorf("got %+v, want that the address is unknown and its client silent", r.Refusal)
	}
}

func TestClientOfAnUnknownServerThatSpeaksIsAnswered(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	origin := *g.origin.Load()
	origin.Dialled = netip.MustParseAddrPort("192.0.2.7:5432")
	g.origin.Store(&origin)
	_, err := pgconn.Connect(t.Context(), g.url("sslmode=disable"))
	var said *pgconn.PgError
	if !errors.As(err, &said) || said.Code != stateDenied || !strings.Contains(said.Message, "belongs to no target") {
		t.Errorf("got %v, want it refused by name", err)
	}
}

func TestClientThatNeverAsksIsRefusedWhenItsTimeIsOver(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	g := guard(t, startServer(t), "", "", allowAll)
	s := newSession(g.handler, proxy.NewSession(server, *g.origin.Load(), g.trail, metrics.New()))
	s.client.SetReadDeadline(time.Unix(1, 0)) // as it is at the end of its time
	_, err := s.negotiate(t.Context())
	var r *refusal
	if !errors.As(err, &r) || r.reason != metrics.Protocol || !strings.Contains(r.message, "has not asked for a database") {
		t.Errorf("got %v, want a refusal that says what was missing", err)
	}
}

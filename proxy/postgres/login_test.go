package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/testenv"
)

// refusedAs is the error that a client gets who cannot log in.
func (g *guarded) refusedAs(t *testing.T, url string) *pgconn.PgError {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), url)
	if err == nil {
		conn.Close(t.Context())
	}
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		t.Fatalf("got %v, want an error of the protocol", err)
	}
	if answer.Severity != "FATAL" || !strings.HasPrefix(answer.Message, "postern: ") {
		t.Errorf("got %s %q, want FATAL of Postern", answer.Severity, answer.Message)
	}
	return answer
}

func TestLoginThatFailsIsRefusedAndRecorded(t *testing.T) {
	db := startServer(t)
	// It has no role app, and a certificate of another CA.
	stranger := &testDatabase{Postgres: testenv.StartPostgres(t), database: "postgres"}
	for _, row := range []struct {
		name   string
		target string
		access string
		change func(*guarded)
		state  string
		says   string
	}{
		{"no policy matches", "", "", func(g *guarded) { who := identity.Linux("eve", nil); g.who.Store(&who) }, stateNotAuthorized, "linux:eve"},
		{"identity is not proven", "", "", func(g *guarded) { g.who.Store(nil) }, stateNotAuthorized, "the token has expired"},
		{"a token is demanded", "", "requireToken: true", func(*guarded) {}, stateNotAuthorized, "token"},
		{"the address belongs to nobody", "", "", func(g *guarded) {
			origin := *g.origin.Load()
			origin.Dialled = netip.MustParseAddrPort(stranger.Address())
			g.origin.Store(&origin)
		}, stateDenied, "belongs to no target"},
		{"the server is another", "", "", func(g *guarded) { g.instead.Store(stranger.Address()) }, stateNoConnection, "does not prove its name"},
		{"the server's name is another", "tls: {serverName: other.test, ca: {file: " + db.CAFile + "}}", "", func(*guarded) {}, stateNoConnection, "does not prove its name"},
		{"the server is not there", "", "", func(g *guarded) { g.instead.Store("127.0.0.1:1") }, stateNoConnection, "cannot be reached"},
		{"the credential is refused", "tls: {mode: require}", "", func(g *guarded) { g.instead.Store(stranger.Address()) }, stateNotAuthorized, "refuses the credential"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := guard(t, db, row.target, row.access, allowAll)
			row.change(g)
			answer := g.refusedAs(t, g.url("sslmode=disable"))
			if answer.Code != row.state || !strings.Contains(answer.Message, row.says) {
				t.Errorf("got %s %q, want %s that says %q", answer.Code, answer.Message, row.state, row.says)
			}
			refusals := g.trail.of(t, audit.KindRefusal, 1)
			if !strings.Contains(answer.Message, refusals[0].ID) || refusals[0].Refusal.Reason == "" {
				t.Errorf("got %q and record %+v, want the record's ID and a reason", answer.Message, refusals[0])
			}
			if strings.Contains(answer.Message, appPassword) || strings.Contains(answer.Message, "app") {
				t.Errorf("got %q, want neither role nor password in it", answer.Message)
			}
			if n := len(g.trail.of(t, audit.KindSessionOpen, 0)); n != 0 {
				t.Errorf("got %d sessions opened, want none", n)
			}
		})
	}
}

func TestOnlySCRAMLogsInWhereTheServerIsNotVerified(t *testing.T) {
	db := startServer(t)
	for _, row := range []struct {
		name    string
		request []byte // for authentication
	}{
		{"password in clear", []byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}},
		{"MD5", []byte{'R', 0, 0, 0, 12, 0, 0, 0, 5, 1, 2, 3, 4}},
		{"none at all", []byte{'R', 0, 0, 0, 8, 0, 0, 0, 0, 'Z', 0, 0, 0, 5, 'I'}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := guard(t, db, "tls: {mode: disable}", "", allowAll)
			received := make(chan []byte, 1)
			g.instead.Store(impostor(t, row.request, received))
			g.refusedAs(t, g.url("sslmode=disable"))
			if got := <-received; len(got) != 0 {
				t.Errorf("got %d bytes in answer to a demand for %s, want none", len(got), row.name)
			}
		})
	}
}

// impostor answers a startup packet with a demand, and gives what it gets for it.
func impostor(t *testing.T, demand []byte, received chan<- []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		size := make([]byte, 4)
		io.ReadFull(conn, size)
		io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(size))-4)
		conn.Write(demand)
		got, _ := io.ReadAll(conn)
		received <- got
	}()
	return l.Addr().String()
}

func TestWeakerTLSModesLogInBySCRAM(t *testing.T) {
	db := startServer(t)
	for _, mode := range []policy.TLSMode{policy.Require, policy.Disable} {
		g := guard(t, db, "tls: {mode: "+string(mode)+"}", "", allowAll)
		g.connect(t, "sslmode=disable")
		if got := g.trail.of(t, audit.KindSessionOpen, 1)[0].Target.TLS; got != string(mode) {
			t.Errorf("got %q in the record, want %q", got, mode)
		}
	}
}

func TestClientsOwnPasswordLogsIn(t *testing.T) {
	db := startServer(t)
	g := guard(t, db, "credential: {client: true}", "", allowAll)
	url := strings.Replace(g.url("sslmode=require"), "anybody:wrong", "app:"+appPassword, 1)
	conn, err := pgconn.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(context.Background())
	if got := g.trail.of(t, audit.KindSessionOpen, 1)[0].Target.User; got != "app" {
		t.Errorf("got user %q in the record, want app", got)
	}
	if answer := g.refusedAs(t, g.url("sslmode=require")); answer.Code != stateNotAuthorized {
		t.Errorf("got %s for a wrong password, want %s", answer.Code, stateNotAuthorized)
	}
}

func TestTooManySessionsAreRefused(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	g.handler.config.MaxSessions = 1
	first := g.connect(t, "sslmode=disable")
	if answer := g.refusedAs(t, g.url("sslmode=disable")); answer.Code != stateTooManySessions {
		t.Errorf("got %s, want %s", answer.Code, stateTooManySessions)
	}
	first.Close(t.Context())
	g.trail.of(t, audit.KindSessionClose, 1)
	g.connect(t, "sslmode=disable")
}

// rotated is a login that is exchanged while nobody looks.
type rotated struct {
	*credential.Files
	passwords []string
}

func (r *rotated) Login(context.Context, credential.Reference) (credential.Login, error) {
	return credential.Login{User: "app", Password: r.passwords[0], Version: r.passwords[0]}, nil
}

func (r *rotated) Refused(_ credential.Reference, version string) {
	if version == r.passwords[0] && len(r.passwords) > 1 {
		r.passwords = r.passwords[1:]
	}
}

func TestLoginThatWasExchangedIsTriedOnce(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	g.handler.config.Credentials = &rotated{Files: credential.NewFiles(65534), passwords: []string{"old", appPassword}}
	g.connect(t, "sslmode=disable")
	if got := g.trail.of(t, audit.KindSessionOpen, 1)[0].Target.CredentialVersion; got != appPassword {
		t.Errorf("got version %q in the record, want the newer one", got)
	}
	g.handler.config.Credentials = &rotated{Files: credential.NewFiles(65534), passwords: []string{"old", "older", appPassword}}
	if answer := g.refusedAs(t, g.url("sslmode=disable")); answer.Code != stateNotAuthorized {
		t.Errorf("got %s, want %s after two tries", answer.Code, stateNotAuthorized)
	}
}

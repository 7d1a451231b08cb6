package postgres

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/audit"
)

func TestParseStartup(t *testing.T) {
	version := func(v uint32, rest string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, v), rest...)
	}
	for _, row := range []struct {
		name   string
		packet []byte
		want   *startup // nil: malformed
	}{
		{"parameters in order", version(3<<16, "user\x00ada\x00database\x00db\x00\x00"),
			&startup{version: 3 << 16, parameters: []parameter{{"user", "ada"}, {"database", "db"}}}},
		{"none", version(3<<16, "\x00"), &startup{version: 3 << 16}},
		{"an empty value", version(3<<16, "options\x00\x00\x00"), &startup{version: 3 << 16, parameters: []parameter{{"options", ""}}}},
		{"protocol options", version(3<<16|2, "_pq_.a\x001\x00user\x00u\x00\x00"),
			&startup{version: 3<<16 | 2, parameters: []parameter{{"user", "u"}}, unknown: []string{"_pq_.a"}}},
		{"no end", version(3<<16, "user\x00ada\x00"), nil},
		{"a name without a value", version(3<<16, "user\x00\x00"), nil},
		{"nothing", version(3<<16, ""), nil},
		{"an empty name", version(3<<16, "\x00x\x00\x00"), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := parseStartup(row.packet)
			if row.want == nil {
				if !errors.Is(err, errMalformed) {
					t.Errorf("got %v, %v, want %v", got, err, errMalformed)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, row.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, row.want)
			}
		})
	}
}

func TestParseOptions(t *testing.T) {
	for _, row := range []struct {
		options string
		want    []parameter // nil: refused
	}{
		{"-c search_path=a", []parameter{{"search_path", "a"}}},
		{"-csearch_path=a --work-mem=1MB", []parameter{{"search_path", "a"}, {"work_mem", "1MB"}}},
		{`-c search_path=a\ b\\c`, []parameter{{"search_path", `a b\c`}}},
		{"  ", []parameter{}},
		{"-c geqo=", []parameter{{"geqo", ""}}},
		{"-d 5", nil},
		{"-c", nil},
		{"-c geqo", nil},
		{"-E -c geqo=off", nil},
		{"geqo=off", nil},
	} {
		got, err := parseOptions(row.options)
		switch {
		case row.want == nil && err == nil:
			t.Errorf("%q: got %v, want it refused", row.options, got)
		case row.want != nil && (err != nil || len(got) != len(row.want)):
			t.Errorf("%q: got %v, %v, want %v", row.options, got, err, row.want)
		}
		for i := range row.want {
			if got[i] != row.want[i] {
				t.Errorf("%q: got %v, want %v", row.options, got[i], row.want[i])
			}
		}
	}
}

func TestSettingsThatChangeWhoOrWhatIsReadAreRefused(t *testing.T) {
	for _, row := range []struct {
		name, value string
		refused     bool
	}{
		{"application_name", "psql", false},
		{"DateStyle", "ISO", false},
		{"role", "postgres", true},
		{"Session_Authorization", "postgres", true},
		{"options", "-c role=postgres", true},
		{"options", "--session-authorization=postgres", true},
		{"options", "-c standard_conforming_strings=off", true},
		{"options", "-d 5", true},
		{"options", "-c geqo=off", false},
		{"standard_conforming_strings", "off", true},
		{"standard_conforming_strings", "on", false},
		{"standard_conforming_strings", "TRUE", false},
		{"standard_conforming_strings", "", true},
		{"client_encoding", "UTF8", false},
		{"client_encoding", "utf-8", false},
		{"client_encoding", "'unicode'", false},
		{"client_encoding", "SQL_ASCII", false},
		{"client_encoding", "SJIS", true},
		{"client_encoding", "GB18030", true},
		{"client_encoding", "LATIN1", true},
		{"replication", "database", true},
		{"replication", "true", true},
		{"replication", "1", true},
		{"replication", "off", false},
		{"replication", "o", true},
	} {
		_, err := (&startup{parameters: []parameter{{row.name, row.value}}}).settings()
		if got := err != nil; got != row.refused {
			t.Errorf("%s=%q: got refused=%v (%v), want %v", row.name, row.value, got, err, row.refused)
		}
	}
}

// dialTLS asks for TLS, and returns the connection inside.
func (g *guarded) dialTLS(t *testing.T, config *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	exchange(t, conn, []byte{0, 0, 0, 8, 4, 210, 22, 47}, "S")
	inside := tls.Client(conn, config)
	if err := inside.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return inside
}

// exchange sends a request and reads its answer.
func exchange(t *testing.T, conn net.Conn, request []byte, want string) {
	t.Helper()
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

func TestTLSWithTheClient(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(g.ca.PEM())
	for _, name := range []string{"db.internal", "127.0.0.1"} {
		conn := g.dialTLS(t, &tls.Config{RootCAs: roots, ServerName: name, NextProtos: []string{alpn}})
		if got := conn.ConnectionState().NegotiatedProtocol; got != alpn {
			t.Errorf("%s: got protocol %q, want %q", name, got, alpn)
		}
		g.logIn(t, conn)
	}

	conn := g.dialTLS(t, &tls.Config{RootCAs: roots, ServerName: "db.internal"})
	exchange(t, conn, []byte{0, 0, 0, 8, 4, 210, 22, 47}, "E") // a second SSLRequest

	plain, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	exchange(t, plain, []byte{0, 0, 0, 8, 4, 210, 22, 48}, "N") // GSSENCRequest
	exchange(t, plain, []byte{0, 0, 0, 8, 4, 210, 22, 47}, "S") // and then SSLRequest, as libpq does
}

func TestNewerProtocolIsNegotiatedDown(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	for _, minor := range []byte{2, 1, 0xff} {
		conn, err := net.Dial("tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		packet := append([]byte{0, 0, 0, 0, 0, 3, 0, minor}, "user\x00u\x00database\x00"+g.database+"\x00_pq_.grease\x00on\x00\x00"...)
		binary.BigEndian.PutUint32(packet, uint32(len(packet)))
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		frontend := pgproto3.NewFrontend(conn, conn)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		first, err := frontend.Receive()
		if err != nil {
			t.Fatal(err)
		}
		negotiated, ok := first.(*pgproto3.NegotiateProtocolVersion)
		if !ok || negotiated.NewestMinorProtocol != protocol30 || len(negotiated.UnrecognizedOptions) != 1 {
			t.Errorf("got %#v for 3.%d, want 3.0 and the option that is unknown", first, minor)
		}
		for ready := false; !ready; {
			next, err := frontend.Receive()
			if err != nil {
				t.Fatal(err)
			}
			_, ready = next.(*pgproto3.ReadyForQuery)
		}
		conn.Close()
	}
}

func TestStartupIsRefusedInTheProtocol(t *testing.T) {
	g := guard(t, startServer(t), "", "", `{name: reads, allow: [SELECT]}`)
	for _, row := range []struct {
		name    string
		options string
		state   string
		says    string
	}{
		{"replication", "replication=database", stateDenied, "replication"},
		{"a role", "options=-c%20role%3Dpostgres", stateDenied, "role cannot be set"},
		{"another encoding", "client_encoding=SJIS", stateDenied, "client_encoding"},
		{"a parameter that no rule allows", "search_path=secret", stateDenied, "search_path"},
		{"a database that is not there", "dbname=nowhere", "3D000", "no such database"},
		{"a parameter that the server does not know", "no.such=1", stateDenied, "no.such"},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := len(g.trail.of(t, audit.KindRefusal, 0))
			_, err := pgconn.Connect(t.Context(), g.url("sslmode=disable&"+row.options))
			var answer *pgconn.PgError
			if !errors.As(err, &answer) {
				t.Fatalf("got %v, want an error of the protocol", err)
			}
			if answer.Code != row.state || answer.Severity != "FATAL" || !strings.Contains(answer.Message, row.says) {
				t.Errorf("got %s %s %q, want FATAL %s that says %q", answer.Severity, answer.Code, answer.Message, row.state, row.says)
			}
			refusals := g.trail.of(t, audit.KindRefusal, before+1)
			if got := refusals[before]; got.Refusal.Code != row.state || !strings.Contains(answer.Message, got.ID) {
				t.Errorf("got record %s with %+v, want the one that the client was told of in %q", got.ID, got.Refusal, answer.Message)
			}
		})
	}
}

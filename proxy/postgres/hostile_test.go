package postgres

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/audit"
)

// message frames a body.
func message(kind byte, body ...byte) []byte {
	framed := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
	return append(framed, body...)
}

// claiming is a message that says it is as long as a message can be.
func claiming(kind byte) []byte { return []byte{kind, 0x7f, 0xff, 0xff, 0xff} }

// hostile are messages with which one workload could end the sessions of others,
// or make the agent hold what it has no memory for, were they decoded as pgproto3 v2 does.
func hostile() map[string][]byte {
	return map[string][]byte{
		"Bind with a negative length":                message('B', 0, 0, 0, 0, 0, 2, 0xff, 0, 0, 0),
		"FunctionCall without a body":                message('F'),
		"Query without a body":                       message('Q'),
		"CopyFail without a body":                    message('f'),
		"SASLInitialResponse of one byte":            message('p', 0),
		"AuthenticationSASL without an end":          message('R', 0, 0, 0, 10, 0, 0, 0, 0),
		"DataRow with a negative length":             message('D', 0, 1, 0xff, 0xff, 0xff, 0xfe),
		"CommandComplete without a body":             message('C'),
		"NotificationResponse of one byte":           message('A', 0),
		"Query of 2 GiB":                             claiming('Q'),
		"Parse of 2 GiB":                             claiming('P'),
		"Execute of 2 GiB":                           claiming('E'),
		"password of 2 GiB":                          claiming('p'),
		"length below its own":                       {'Q', 0, 0, 0, 3},
		"length of 0":                                {'Q', 0, 0, 0, 0},
		"length beyond 31 bits":                      {'Q', 0xff, 0xff, 0xff, 0xff},
		"Query without a NUL":                        message('Q', 'S'),
		"Query with two texts":                       message('Q', 'a', 0, 'b', 0),
		"Parse with more types than bytes":           message('P', 0, 0, 0xff, 0xff),
		"Bind with more values than bytes":           message('B', 0, 0, 0, 0, 0xff, 0xff),
		"Describe of neither":                        message('D', 'X', 0),
		"Close without a name's end":                 message('C', 'S', 'a'),
		"Execute without a row limit":                message('E', 0),
		"a type that there is none of":               message('j'),
		"an HTTP request":                            []byte("GET / HTTP/1.1\r\nHost: db\r\n\r\n"),
		"a TLS handshake":                            {0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0},
		"SSLRequest with plain text behind it":       append([]byte{0, 0, 0, 8, 4, 210, 22, 47}, "hello"...),
		"startup packet of 4 GiB":                    {0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0},
		"startup packet of 11,000 bytes":             {0, 0, 0x2a, 0xf8, 0, 3, 0, 0},
		"startup packet without an end":              {0, 0, 0, 13, 0, 3, 0, 0, 'u', 's', 'e', 'r', 'x'},
		"startup packet without a user":              {0, 0, 0, 9, 0, 3, 0, 0, 0},
		"CancelRequest of nobody":                    {0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2},
		"CancelRequest without a key":                {0, 0, 0, 8, 4, 210, 22, 46},
		"the protocol's version 2":                   {0, 0, 0, 8, 0, 2, 0, 0},
		"a stream of zeros":                          make([]byte, 4096),
		"CopyData that nobody asked for, unfinished": claiming('d'),
	}
}

func TestHostileMessagesEndOnlyTheSession(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	other := g.connect(t, "sslmode=disable")
	check := func(t *testing.T) {
		t.Helper()
		if _, err := other.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
			t.Fatalf("got %v in another session, want it to go on", err)
		}
	}
	for name, bytes := range hostile() {
		t.Run(name, func(t *testing.T) {
			g.attack(t, false, bytes)
			check(t)
			g.attack(t, true, bytes)
			check(t)
		})
	}
}

// attack sends bytes and waits until the agent has closed the connection.
func (g *guarded) attack(t *testing.T, loggedIn bool, payload []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if loggedIn {
		g.logIn(t, conn)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := conn.Write(payload); err != nil {
		t.Fatal(err)
	}
	// What is announced and does not come is over when the client is.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("got %v, want the session to end", err)
	}
	runtime.ReadMemStats(&after)
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(8<<20); got > limit {
		t.Errorf("got %d bytes allocated for %d that were sent, want at most %d", got, len(payload), limit)
	}
}

// logIn logs in by hand.
func (g *guarded) logIn(t *testing.T, conn net.Conn) {
	t.Helper()
	startup, err := (&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": "anybody", "database": g.database},
	}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(startup); err != nil {
		t.Fatal(err)
	}
	readUntilReady(t, conn)
}

// readUntilReady reads messages up to ReadyForQuery, and gives their types.
func readUntilReady(t *testing.T, conn net.Conn) string {
	t.Helper()
	var kinds bytes.Buffer
	head := make([]byte, header)
	for {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatalf("got %v after %q, want ReadyForQuery", err, kinds.String())
		}
		kinds.WriteByte(head[0])
		if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil {
			t.Fatal(err)
		}
		if head[0] == 'Z' {
			return kinds.String()
		}
	}
}

func TestEveryConnectionLeavesARecord(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	for name, payload := range hostile() {
		t.Run(name, func(t *testing.T) {
			before := len(g.trail.all())
			g.attack(t, false, payload)
			deadline := time.Now().Add(10 * time.Second)
			for len(g.trail.all()) == before {
				if time.Now().After(deadline) {
					t.Fatal("got no record of the connection, want one")
				}
				time.Sleep(time.Millisecond)
			}
			if got, want := g.trail.all()[before].Kind, audit.KindRefusal; got != want {
				t.Errorf("got a record of kind %s, want %s", got, want)
			}
		})
	}
}

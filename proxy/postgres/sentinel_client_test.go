package postgres

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// tap keeps everything that was received.
type tap struct {
	net.Conn
	received bytes.Buffer
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.received.Write(b[:n])
	return n, err
}

// wire is a client that sends what it likes.
type wire struct {
	*pgproto3.Frontend
	tap   *tap
	names *strings.Replacer // of what differs between servers, in texts
}

// dialWire logs in without TLS, so that the tap sees the messages.
func dialWire(t *testing.T, url string, names *strings.Replacer) *wire {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	w := wire{names: names}
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		w.tap = &tap{Conn: conn}
		return w.tap, err
	}
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	w.Frontend = hijacked.Frontend
	w.tap.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { w.tap.Close() })
	return &w
}

// answers is what came back for one or several messages.
type answers struct {
	rows   int
	copied int      // CopyData messages
	errors []string // SQLSTATE and text
	closed bool     // the connection ended
}

func (a *answers) add(b answers) {
	a.rows += b.rows
	a.copied += b.copied
	a.errors = append(a.errors, b.errors...)
	a.closed = a.closed || b.closed
}

// ask sends messages and reads up to ReadyForQuery. A COPY that asks for data gets none.
func (w *wire) ask(messages ...pgproto3.FrontendMessage) (a answers) {
	for _, m := range messages {
		w.Send(m)
	}
	if err := w.Flush(); err != nil {
		return answers{closed: true}
	}
	for {
		message, err := w.Receive()
		if err != nil {
			a.closed = true
			return a
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			a.rows++
		case *pgproto3.CopyData:
			a.copied++
		case *pgproto3.ErrorResponse:
			a.errors = append(a.errors, m.Code+" "+m.Message)
		case *pgproto3.CopyInResponse:
			w.Send(&pgproto3.CopyDone{})
			if err := w.Flush(); err != nil {
				a.closed = true
				return a
			}
		case *pgproto3.ReadyForQuery:
			return a
		}
	}
}

// steps are what a client does in one session.
type steps func(*wire) answers

// simple sends each text as a Query.
func simple(texts ...string) steps {
	return func(w *wire) (all answers) {
		for _, text := range texts {
			all.add(w.ask(&pgproto3.Query{String: w.names.Replace(text)}))
		}
		return all
	}
}

// extended is a statement that is prepared once and executed several times.
type extended struct {
	text     string
	binary   bool
	describe bool   // the portal, each time
	limit    uint32 // rows an Execute; it is repeated until they are out
	times    int    // 1
}

func (e extended) steps(w *wire) (all answers) {
	format := []int16{0}
	if e.binary {
		format[0] = 1
	}
	all.add(w.ask(&pgproto3.Parse{Name: "s", Query: e.text}, &pgproto3.Sync{}))
	for range max(1, e.times) {
		messages := []pgproto3.FrontendMessage{&pgproto3.Bind{PreparedStatement: "s", ResultFormatCodes: format}}
		if e.describe {
			messages = append(messages, &pgproto3.Describe{ObjectType: 'P'})
		}
		messages = append(messages, &pgproto3.Execute{MaxRows: e.limit})
		if e.limit > 0 {
			messages = append(messages, &pgproto3.Execute{MaxRows: e.limit}, &pgproto3.Execute{})
		}
		all.add(w.ask(append(messages, &pgproto3.Sync{})...))
	}
	return all
}

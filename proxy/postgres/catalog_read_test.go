package postgres

import (
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// answering gives a connection whose server answers any Query with these messages.
func answering(t *testing.T, messages ...pgproto3.BackendMessage) *pgconn.PgConn {
	t.Helper()
	client, server := net.Pipe()
	backend := pgproto3.NewBackend(server, server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		if _, err := backend.Receive(); err != nil {
			return
		}
		for _, m := range messages {
			backend.Send(m)
		}
		_ = backend.Flush() // the client hangs up on what it does not like
	}()
	config, err := pgconn.ParseConfig("host=db.internal")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgconn.Construct(&pgconn.HijackedConn{
		Conn: client, Frontend: pgproto3.NewFrontend(client, client), TxStatus: 'I', Config: config,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	return conn
}

func TestHostileCatalogsAreErrors(t *testing.T) {
	described := func(columns int) *pgproto3.RowDescription {
		return &pgproto3.RowDescription{Fields: make([]pgproto3.FieldDescription, columns)}
	}
	row := func(values ...string) *pgproto3.DataRow {
		d := &pgproto3.DataRow{}
		for _, v := range values {
			d.Values = append(d.Values, []byte(v))
		}
		return d
	}
	complete, ready := &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}
	tests := []struct {
		name     string
		messages []pgproto3.BackendMessage
	}{
		{"nothing", []pgproto3.BackendMessage{ready}},
		{"the connection ends", nil},
		{"an error", []pgproto3.BackendMessage{&pgproto3.ErrorResponse{Code: "42501", Message: "permission denied"}, ready}},
		{"other columns", []pgproto3.BackendMessage{described(2), complete, ready}},
		{"an answer too many", []pgproto3.BackendMessage{described(6), complete, described(6), complete, ready}},
		{"a row that is too short", []pgproto3.BackendMessage{described(6), row("1", "public"), complete, ready}},
		{"NULL", []pgproto3.BackendMessage{described(6), &pgproto3.DataRow{Values: make([][]byte, 6)}, complete, ready}},
		{"an OID that is none", []pgproto3.BackendMessage{described(6), row("x", "public", "t", "r", "1", "2"), complete, ready}},
		{"an OID out of range", []pgproto3.BackendMessage{described(6), row("4294967296", "public", "t", "r", "1", "2"), complete, ready}},
		{"a negative width", []pgproto3.BackendMessage{described(6), row("1", "public", "t", "r", "-1", "2"), complete, ready}},
		{"a kind that is none", []pgproto3.BackendMessage{described(6), row("1", "public", "t", "rr", "1", "2"), complete, ready}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f, err := readFacts(t.Context(), answering(t, test.messages...))
			if err == nil {
				t.Errorf("got %+v, want an error", f)
			}
		})
	}
}

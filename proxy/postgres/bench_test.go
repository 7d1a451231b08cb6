package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// BenchmarkRelay compares a session with the server and one through the handler, over loopback:
// one row at a time, and a large result.
func BenchmarkRelay(b *testing.B) {
	db := startServer(b)
	db.MustExec(b, db.database, `CREATE TABLE small (id int PRIMARY KEY, email text, note text);
		INSERT INTO small SELECT i, 'user' || i || '@example.com', repeat('n', 60) FROM generate_series(1, 100000) AS i;
		GRANT ALL ON small TO app; ANALYZE small`)
	plain := guard(b, db, "", "", allowAll)
	masked := guard(b, db, `sensitive: [{columns: ["public.small.email"], mask: redact}]`, "", allowAll)
	looking := guard(b, db, detectAll, "", allowAll)
	for _, way := range []struct {
		name string
		url  string
	}{
		{"direct", db.UserURL("app", appPassword, db.database)},
		{"proxied", plain.url("sslmode=disable")},
		{"masked", masked.url("sslmode=disable")},
		{"detected", looking.url("sslmode=disable")},
	} {
		b.Run("row/"+way.name, func(b *testing.B) {
			conn := dialBench(b, way.url)
			if _, err := conn.Prepare(b.Context(), "p", "SELECT id, email, note FROM small WHERE id = $1", nil); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if r := conn.ExecPrepared(b.Context(), "p", [][]byte{[]byte("4711")}, nil, nil).Read(); r.Err != nil || len(r.Rows) != 1 {
					b.Fatal(r.Err)
				}
			}
		})
		b.Run("result/"+way.name, func(b *testing.B) {
			conn := dialBench(b, way.url)
			var bytes int64
			b.ReportAllocs()
			for b.Loop() {
				bytes = 0
				rows := conn.ExecParams(b.Context(), "SELECT id, email, note FROM small", nil, nil, nil, nil)
				for rows.NextRow() {
					for _, value := range rows.Values() {
						bytes += int64(4 + len(value))
					}
				}
				if _, err := rows.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(bytes)
		})
	}
}

func dialBench(b *testing.B, url string) *pgconn.PgConn {
	b.Helper()
	conn, err := pgconn.Connect(b.Context(), url)
	if err != nil {
		b.Fatal(fmt.Errorf("connect: %w", err))
	}
	b.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

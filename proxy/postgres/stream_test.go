package postgres

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/audit"
)

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
		{"a deferred error at Sync", join(text('Q', "CREATE TABLE d (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)\x00"),
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
	in := newReader(conn, serverBuffer, nil, nil)
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

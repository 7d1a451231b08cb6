package postgres

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/lib/pq"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/testenv"
)

// run runs a program as a client of g, without any configuration but where the server is.
func (g *guarded) run(t *testing.T, stdin, program string, args ...string) string {
	t.Helper()
	out, err := g.try(t, stdin, program, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return out
}

func (g *guarded) try(t *testing.T, stdin, program string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(program)
	testenv.Need(t, err == nil, program)
	cmd := exec.CommandContext(t.Context(), path, args...)
	host, port, _ := net.SplitHostPort(g.address)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LANG=C.UTF-8",
		"PGHOST=" + host, "PGPORT=" + port, "PGUSER=anybody", "PGPASSWORD=wrong", "PGDATABASE=" + g.database,
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestPsqlRunsUnchanged(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	for _, row := range []struct {
		name  string
		stdin string
		want  string
	}{
		{"a query", "SELECT 1 + 1 AS two", "two\n2\n"},
		{"several in one message", `SELECT 1 \; SELECT 2 \g`, "?column?\n1\n?column?\n2\n"},
		{"an empty one", ";", ""},
		{"parameters", `SELECT $1 || $2 AS joined \bind 'a' 'b' \g`, ""},
		{"a description", `SELECT 1::int4 AS n \gdesc`, "Column|Type\nn|integer\n"},
		{"a cursor", "BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1,3); FETCH 2 FROM c; COMMIT;",
			"BEGIN\nDECLARE CURSOR\ngenerate_series\n1\n2\nCOMMIT\n"},
		{"an error that leaves the session", "SELECT 1/0;\nSELECT 3 AS three;", "ERROR:  division by zero\nthree\n3\n"},
		{"COPY in and out", "CREATE TEMP TABLE t (a int, b text);\nCOPY t FROM STDIN;\n1\tone\n2\ttwo\n\\.\nCOPY t TO STDOUT;",
			"CREATE TABLE\nCOPY 2\n1\tone\n2\ttwo\n"},
		{"COPY that fails", "CREATE TEMP TABLE u (a int);\nCOPY u FROM STDIN;\nnone\n\\.\nSELECT 4 AS four;",
			"CREATE TABLE\nERROR:  invalid input syntax for type integer: \"none\"\nCONTEXT:  COPY u, line 1, column a: \"none\"\nfour\n4\n"},
		{"a notice", "DROP TABLE IF EXISTS nothing_there;",
			"NOTICE:  table \"nothing_there\" does not exist, skipping\nDROP TABLE\n"},
		{"NOTIFY", "LISTEN news;\nNOTIFY news, 'hello';",
			"LISTEN\nNOTIFY\nAsynchronous notification \"news\" with payload \"hello\" received from server process with PID"},
		{"its own catalogue queries", "CREATE TEMP TABLE w (a int);\n\\d w", "Table \""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if strings.Contains(row.stdin, `\bind`) && g.Version < 16 {
				row.stdin, row.want = "SELECT 'ab' AS joined", "joined\nab\n"
			}
			out := g.run(t, row.stdin+"\n", "psql", "-X", "-A", "-P", "footer=off")
			if row.want == "" && out != "" || !strings.Contains(out, row.want) {
				t.Errorf("got %q, want %q", out, row.want)
			}
		})
	}
	if out, err := g.try(t, "SELECT 1", "psql", "-X", "postgres://u@"+g.address+"/"+g.database+"?sslmode=verify-full"); err == nil {
		t.Errorf("got %q, want a client that verifies without the agent's CA to fail", out)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, g.ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run(t, "SELECT 1", "psql", "-X", "postgres://u@"+g.address+"/"+g.database+"?sslmode=verify-full&sslrootcert="+file)
}

func TestPgbenchRunsUnchanged(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	g.run(t, "", "pgbench", "-i", "-q", "-s", "1")
	for _, mode := range []string{"simple", "extended", "prepared"} {
		t.Run(mode, func(t *testing.T) {
			before := len(g.trail.of(t, audit.KindRequest, 0))
			out := g.run(t, "", "pgbench", "-n", "-S", "-M", mode, "-c", "4", "-t", "50")
			if !strings.Contains(out, "number of transactions actually processed: 200/200") {
				t.Errorf("got %s, want 200 transactions", out)
			}
			out = g.run(t, "", "pgbench", "-n", "-M", mode, "-c", "2", "-t", "10")
			if !strings.Contains(out, "number of transactions actually processed: 20/20") {
				t.Errorf("got %s, want 20 transactions", out)
			}
			if got := len(g.trail.of(t, audit.KindRequest, 0)) - before; got < 200+20*7 {
				t.Errorf("got %d requests in the trail, want every execution: %d or more", got, 200+20*7)
			}
		})
	}
	requests := g.trail.of(t, audit.KindRequest, 0)
	g.trail.of(t, audit.KindOutcome, len(requests))
}

func TestPgxRunsUnchanged(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			conn, err := pgx.Connect(t.Context(), g.url("sslmode=require&default_query_exec_mode="+mode))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			for i := range 3 {
				var got int
				if err := conn.QueryRow(t.Context(), "SELECT $1::int + 1", i).Scan(&got); err != nil {
					t.Fatal(err)
				}
				if want := i + 1; got != want {
					t.Errorf("got %d, want %d", got, want)
				}
			}
			batch := &pgx.Batch{}
			for i := range 100 {
				batch.Queue("SELECT $1::int", i)
			}
			results := conn.SendBatch(t.Context(), batch)
			for want := range 100 {
				var got int
				if err := results.QueryRow().Scan(&got); err != nil || got != want {
					t.Fatalf("got %d, %v, want %d", got, err, want)
				}
			}
			if err := results.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(t.Context(), "CREATE TEMP TABLE t (n int, s text)"); err != nil {
				t.Fatal(err)
			}
			copied, err := conn.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n", "s"},
				pgx.CopyFromSlice(1000, func(i int) ([]any, error) { return []any{i, fmt.Sprint(i)}, nil }))
			if err != nil || copied != 1000 {
				t.Errorf("got %d rows, %v, want 1000", copied, err)
			}
			var out bytes.Buffer
			if _, err := conn.PgConn().CopyTo(t.Context(), &out, "COPY t TO STDOUT"); err != nil {
				t.Fatal(err)
			}
			if got, want := bytes.Count(out.Bytes(), []byte("\n")), 1000; got != want {
				t.Errorf("got %d rows, want %d", got, want)
			}
		})
	}
}

func TestLibPqRunsUnchanged(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	connector, err := pq.NewConnector(g.url("sslmode=require"))
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	stmt, err := db.Prepare("SELECT $1::text || '!'")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var got string
		if err := stmt.QueryRow("hey").Scan(&got); err != nil || got != "hey!" {
			t.Errorf("got %q, %v, want hey!", got, err)
		}
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("CREATE TEMP TABLE t (n int)"); err != nil {
		t.Fatal(err)
	}
	in, err := tx.Prepare("COPY t (n) FROM STDIN")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := in.Exec(i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Exec(); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow("SELECT count(*) FROM t").Scan(&n); err != nil || n != 100 {
		t.Errorf("got %d, %v, want 100", n, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
}

// python runs a program with an interpreter that has the modules.
func (g *guarded) python(t *testing.T, program string, modules ...string) string {
	t.Helper()
	for _, interpreter := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(interpreter, "-c", "import "+strings.Join(modules, ", ")).Run() == nil {
			return g.run(t, program, interpreter, "-")
		}
	}
	testenv.Need(t, false, "python3 with "+strings.Join(modules, " and "))
	return ""
}

func TestPsycopgRunsUnchanged(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	got := g.python(t, `
import psycopg
with psycopg.connect("", autocommit=False) as conn:
    with conn.cursor() as cur:
        for i in range(8):                      # prepared by the driver from the sixth on
            cur.execute("SELECT %s::int + 1", (i,))
            assert cur.fetchone() == (i + 1,)
        cur.execute("SELECT %b::int", (7,))
        cur.execute("CREATE TEMP TABLE t (n int, s text)")
        cur.executemany("INSERT INTO t VALUES (%s, %s)", [(i, str(i)) for i in range(50)])
        with cur.copy("COPY t FROM STDIN") as copy:
            for i in range(50):
                copy.write_row((i, None))
        with cur.copy("COPY t TO STDOUT") as copy:
            assert len(list(copy.rows())) == 100
    conn.commit()
    with conn.cursor(name="server_side") as cur:
        cur.execute("SELECT n FROM t ORDER BY n")
        assert len(cur.fetchmany(30)) == 30 and len(cur.fetchall()) == 70
    with conn.pipeline(), conn.cursor() as cur:
        for i in range(200):
            cur.execute("INSERT INTO t VALUES (%s, 'piped')", (i,))
    with conn.cursor(binary=True) as cur:
        assert cur.execute("SELECT count(*) FROM t WHERE s = 'piped'").fetchone() == (200,)
    try:
        conn.execute("SELECT 1/0")
    except psycopg.errors.DivisionByZero:
        conn.rollback()
    print(conn.execute("SELECT 'done'").fetchone()[0])
`, "psycopg")
	if want := "done\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSQLAlchemyRunsUnchanged(t *testing.T) {
	g := guard(t, startServer(t), "", "", allowAll)
	got := g.python(t, `
import sqlalchemy as sa
from sqlalchemy.orm import Session, declarative_base
Base = declarative_base()
class Order(Base):
    __tablename__ = "orders"
    id = sa.Column(sa.Integer, primary_key=True)
    item = sa.Column(sa.String)
driver = "psycopg" if int(sa.__version__.split(".")[0]) > 1 else "psycopg2"
engine = sa.create_engine(f"postgresql+{driver}://", future=True)
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([Order(item=f"item {i}") for i in range(20)])
    session.commit()
    order = session.scalars(sa.select(Order).where(Order.item == "item 7")).one()
    order.item = "changed"
    session.commit()
    print(session.scalar(sa.select(sa.func.count()).select_from(Order).where(Order.item == "changed")))
print(sa.inspect(engine).get_table_names())
Base.metadata.drop_all(engine)
`, "sqlalchemy")
	if want := "1\n['orders']\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

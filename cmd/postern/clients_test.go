package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"postern.dev/postern/testenv"
)

// clients are unmodified programs that find their server in libpq's environment.
// Each prints whom the server takes it for.
var clients = []struct{ name, command string }{
	{"psql", `psql -X -At -c 'SELECT current_user'`},
	{"pgbench simple", `pgbench -n -S -M simple -t 20 >/dev/null 2>&1 && echo postgres`},
	{"pgbench extended", `pgbench -n -S -M extended -t 20 >/dev/null 2>&1 && echo postgres`},
	{"pgbench prepared", `pgbench -n -S -M prepared -t 20 >/dev/null 2>&1 && echo postgres`},
	{"pgx", workerVariable + "=" + pgxJob + " ./worker"},
	{"psycopg 3", `/usr/bin/python3 psycopg_program.py`},
	{"SQLAlchemy", `/usr/bin/python3 sqlalchemy_program.py`},
}

func TestUnmodifiedClientsByNameAndAddressWithAndWithoutTLS(t *testing.T) {
	w := newWorld(t, "linux:"+guest)
	testenv.Need(t, exec.Command("/usr/bin/python3", "-c", "import psycopg, psycopg2, sqlalchemy").Run() == nil,
		"psycopg, psycopg2 and SQLAlchemy for /usr/bin/python3 (apt-get install python3-psycopg python3-psycopg2 python3-sqlalchemy)")
	shared.server.MustExec(t, "postgres", "CREATE DATABASE clients")
	fill := exec.Command("pgbench", "--initialize", "--quiet", shared.server.URL("clients"))
	if out, err := fill.CombinedOutput(); err != nil {
		t.Fatalf("pgbench: %v\n%s", err, out)
	}
	if err := os.CopyFS(shared.dir, os.DirFS("testdata/clients")); err != nil {
		t.Fatal(err)
	}

	text, err := os.ReadFile(w.policy)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "policy.yaml", strings.Replace(string(text), "[localhost]", `[localhost, "127.0.0.1", "::1"]`, 1))

	var script strings.Builder
	fmt.Fprintf(&script, "cd %s; export PGPORT=%d PGUSER=anyone PGPASSWORD=wrong PGDATABASE=clients\n", shared.dir, w.port)
	var names []string
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		for _, mode := range []string{"disable", "require"} {
			for _, c := range clients {
				names = append(names, fmt.Sprintf("%s, %s, sslmode %s", c.name, host, mode))
				fmt.Fprintf(&script, "export PGHOST=%s PGSSLMODE=%s; echo \"%s: $(%s)\"\n", host, mode, names[len(names)-1], c.command)
			}
		}
	}
	got := w.run(t, "bash", "-c", script.String())
	for _, name := range names {
		if !strings.Contains(got.stdout, name+": "+testenv.Superuser+"\n") {
			t.Errorf("got no answer for %s, want the server to take it for %s", name, testenv.Superuser)
		}
	}
	if t.Failed() {
		t.Logf("standard output:\n%s\nstandard error:\n%s", got.stdout, got.stderr)
	}
	opened := strings.Count(w.trail(t), `"kind":"session.open"`)
	if want := len(names); opened < want {
		t.Errorf("got %d sessions in the trail, want at least %d", opened, want)
	}
}

// workAsPgx is a program with pgx as one writes it: parameters, a batch, a transaction.
func workAsPgx() int {
	ctx := context.Background()
	if err := usePgx(ctx); err != nil {
		fmt.Fprintln(os.Stderr, filepath.Base(os.Args[0])+":", err)
		return 1
	}
	return 0
}

func usePgx(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, "")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	batch := new(pgx.Batch)
	for number := range 10 {
		batch.Queue("SELECT $1::int * 2", number).QueryRow(func(row pgx.Row) error {
			var twice int
			if err := row.Scan(&twice); err != nil {
				return err
			}
			if twice != 2*number {
				return fmt.Errorf("got %d, want %d", twice, 2*number)
			}
			return nil
		})
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var user string
		if err := tx.QueryRow(ctx, "SELECT current_user").Scan(&user); err != nil {
			return err
		}
		fmt.Println(user)
		return nil
	})
}

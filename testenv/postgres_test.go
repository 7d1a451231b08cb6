package testenv_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/testenv"
)

func TestPostgresTakesOnlyTheRightPasswordAndLeavesNothing(t *testing.T) {
	var dir string
	t.Run("server", func(t *testing.T) {
		server := testenv.StartPostgres(t)
		dir = server.Dir
		server.MustExec(t, "postgres", "CREATE ROLE ada LOGIN PASSWORD 'right'")
		if conn, err := pgconn.Connect(t.Context(), server.UserURL("ada", "wrong", "postgres")); err == nil {
			conn.Close(t.Context())
			t.Error("got a session with the wrong password, want none")
		}
		url := "postgres://ada:right@localhost:" + server.Address()[len("127.0.0.1:"):] + "/postgres?sslmode=verify-full&sslrootcert=" + server.CAFile
		conn, err := pgconn.Connect(t.Context(), url)
		if err != nil {
			t.Fatalf("got %v, want a verified session", err)
		}
		conn.Close(t.Context())
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("got %v for the data directory, want it gone", err)
	}
}

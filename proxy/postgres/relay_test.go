package postgres

import (
	"testing"

	"postern.dev/postern/internal/audit"
)

func TestClientsReachTheServerWithoutItsPassword(t *testing.T) {
	server := startServer(t)
	g := guard(t, server, "", "", allowAll, `{name: unknown, allow: [UNKNOWN]}`)
	for _, options := range []string{"sslmode=disable", "sslmode=require"} {
		t.Run(options, func(t *testing.T) {
			conn := g.connect(t, options)
			results, err := conn.Exec(t.Context(), "SELECT current_user, 1+1").ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(results[0].Rows[0][0])+string(results[0].Rows[0][1]), "app2"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			result := conn.ExecParams(t.Context(), "SELECT $1::int + 1", [][]byte{[]byte("41")}, nil, nil, nil).Read()
			if result.Err != nil {
				t.Fatal(result.Err)
			}
			if got, want := string(result.Rows[0][0]), "42"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	g.trail.of(t, audit.KindSessionOpen, 2)
	g.trail.of(t, audit.KindOutcome, 4)
}

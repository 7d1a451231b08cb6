package postgres

import (
	"slices"
	"sync/atomic"
	"testing"

	"postern.dev/postern/internal/policy"
)

func TestLogInTellsWhichSensitiveColumnsThereAre(t *testing.T) {
	db := startServer(t)
	db.exec(t, `CREATE TABLE users (id int, email text, phone text)`)
	c, _ := catalogOf(t, db, "public.users.email", "*.phone", "*.*.phone", "public.users.emial")
	if got, want := mustSnapshot(t, c).found, []string{"*.*.phone", "*.phone", "public.users.email"}; !slices.Equal(got, want) {
		t.Errorf("got %q found, want %q", got, want)
	}
	db.exec(t, `ALTER TABLE users RENAME email TO emial`)
	c.expire()
	if got, want := mustSnapshot(t, c).found, []string{"*.*.phone", "*.phone", "public.users.emial"}; !slices.Equal(got, want) {
		t.Errorf("got %q found after the column was renamed, want %q", got, want)
	}
}

func TestLogInTellsTheAgentWhatWasFound(t *testing.T) {
	db := startServer(t)
	db.exec(t, `CREATE TABLE seen (email text)`)
	g := guard(t, db, `sensitive: [{columns: ["public.seen.email", "public.seen.phone"], mask: redact}]`, "", allowAll)
	var told atomic.Pointer[[]string]
	g.handler.config.Looked = func(target *policy.Target, database string, found []string) {
		said := append([]string{target.Name(), database}, found...)
		told.Store(&said)
	}
	g.connect(t, "")
	if got := told.Load(); got == nil || !slices.Equal(*got, []string{"db", g.database, "public.seen.email"}) {
		t.Errorf("got %v told, want the Target, the database and the one column that is there", got)
	}
}

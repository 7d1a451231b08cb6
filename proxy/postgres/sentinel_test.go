package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/testenv"
)

// declaredColumns are the sensitive columns that the policy names; views, partitions,
// children and generated columns it does not.
const declaredColumns = `"public.users.email", "*.ssn", "public.users.salary", "public.users.born", "public.users.card",
      "public.users.photo", "public.users.token", "public.users.phones", "public.users.home", "public.users.bio",
      "public.far_users.email", "hidden.people.email", 'public."Odd ""Name"""."E-Mail"'`

// TestNoSentinelReachesTheClient runs every attempt twice: against the server, where it must
// show a sentinel, and guarded, where no byte of any message may be part of one.
//
// The policy allows everything and the login is the superuser's: what is refused is
// refused for the sensitive columns alone.
func TestNoSentinelReachesTheClient(t *testing.T) {
	// Two databases of the same content, so that what one half of an attempt does is
	// not there for the other.
	direct, guardedDB := startServer(t), startServer(t)
	openNames, names := createSentinels(t, direct), createSentinels(t, guardedDB)
	neighbour(t, direct)
	needles := needles()
	for i := 0; i+8 <= len(direct.Password); i++ {
		needles[direct.Password[i:i+8]] = "the server's password"
	}
	login := filepath.Join(t.TempDir(), "superuser.yaml")
	if err := os.WriteFile(login, fmt.Appendf(nil, "{username: %s, password: %s}", testenv.Superuser, direct.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	g := guard(t, guardedDB, `sensitive:
    - {columns: [`+declaredColumns+`], mask: redact}
    - {columns: ["public.users.meta"], mask: "null"}
  credential: {file: `+login+`}`, "", allowAll, "{name: unread, allow: [UNKNOWN]}")

	fates := map[fate]int{}
	for _, a := range attempts() {
		t.Run(a.name, func(t *testing.T) {
			open := dialWire(t, direct.URL(direct.database), openNames)
			said := a.run(open)
			if _, _, found := leak(needles, open.tap.received.Bytes()); !found {
				t.Errorf("got no sentinel without Postern, want one: %+v", said)
			}
			client := dialWire(t, g.url("sslmode=disable"), names)
			got := a.run(client)
			if part, value, found := leak(needles, client.tap.received.Bytes()); found {
				t.Errorf("got %q, a part of %q, want nothing of it\n%+v", part, value, got)
			}
			switch a.want {
			case masked:
				if got.rows == 0 || len(got.errors) > 0 || got.closed {
					t.Errorf("got %+v, want rows and no error", got)
				}
			case silenced:
				if got.closed || !slices.EqualFunc(got.errors, said.errors, sameState) {
					t.Errorf("got %+v, want what the server says without values: %+v", got, said)
				}
			case denied:
				t.Log(reasonOf(t, g.trail, got))
			}
			fates[a.want]++
		})
	}
	t.Log(fates)
	if fates[masked] < 20 || len(attempts()) < 60 {
		t.Errorf("got %d attempts, %d of them with rows, want 60 and 20", len(attempts()), fates[masked])
	}
	for _, record := range g.trail.all() {
		line, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if part, value, found := leak(needles, line); found {
			t.Errorf("got %q, a part of %q, in the trail: %s", part, value, line)
		}
	}
}

// sameState tells that an error kept its SQLSTATE, unless a function made that up.
func sameState(got, said string) bool { return got[:5] == said[:5] || got[:5] == raised }

// reasonOf gives the reason for which the first failure of a session was refused.
func reasonOf(t *testing.T, trail *trail, got answers) string {
	t.Helper()
	if len(got.errors) == 0 || !strings.HasPrefix(got.errors[0], stateDenied+" ") {
		t.Errorf("got %+v, want it refused by Postern", got)
		return ""
	}
	records := trail.all()
	i := slices.IndexFunc(records, func(r audit.Record) bool {
		return r.Kind == audit.KindRequest && strings.Contains(got.errors[0], r.ID)
	})
	if i < 0 {
		t.Errorf("got %q, want the ID of a request in the trail", got.errors[0])
		return ""
	}
	if d := records[i].Decision; d == nil || d.Action != policy.Deny.String() || d.Reason == "" {
		t.Errorf("got %+v in the trail, want a denial with its reason", d)
	}
	return got.errors[0]
}

// createSentinels fills a database, and returns what stands for its own names in the attempts.
func createSentinels(t *testing.T, db *testDatabase) *strings.Replacer {
	t.Helper()
	text, err := os.ReadFile("testdata/sentinel/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"%PORT%", fmt.Sprint(db.Port), "%PASSWORD%", db.Password, "%DATABASE%", db.database}
	db.exec(t, strings.NewReplacer(names...).Replace(string(text)))
	conn, err := pgconn.Connect(t.Context(), db.URL(db.database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	answer, err := conn.Exec(t.Context(), "SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'users'::regclass").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(append(names, "%TOAST%", string(answer[0].Rows[0][0]))...)
}

// neighbour is a session of somebody else, whose statement has a sentinel in it.
func neighbour(t *testing.T, db *testDatabase) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), db.URL(db.database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "SELECT 'Zqvx0817Wkjyp1@bqzwmx.test'").ReadAll(); err != nil {
		t.Fatal(err)
	}
}

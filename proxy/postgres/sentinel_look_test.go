package postgres

import (
	"strings"
	"testing"
)

// What psql, drivers and ORMs ask to find out what there is must not be refused
// for the sensitive columns that they do not read.
func TestClientsLookAroundInADatabaseWithSensitiveColumns(t *testing.T) {
	db := startServer(t)
	createSentinels(t, db)
	db.exec(t, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app")
	g := guard(t, db, `sensitive: [{columns: [`+declaredColumns+`], mask: redact}]`, "", allowAll)
	commands := []string{
		`\d`, `\d+`, `\d users`, `\d+ users`, `\d+ contacts`, `\d+ parted`, `\dt+ *.*`, `\di+`, `\dv+`, `\dm+`, `\ds`, `\df+`, `\dn+`, `\du+`, `\l+`, `\dT+`,
		`\dp`, `\dx`, `\des+`, `\det+`, `\dO`, `\dC`, `\do`, `\dy`, `\dRp+`, `\drds`, `\dX`, `\sf peek`, `\sv contacts`, `\conninfo`, `\encoding`,
		"SHOW server_version;",
		"SELECT table_schema, table_name, column_name, data_type, column_default FROM information_schema.columns WHERE table_name = 'users';",
		"SELECT count(*) FROM users;",
		"SELECT id, name, email FROM users WHERE id IN (1, 2) ORDER BY name LIMIT 5;",
	}
	out, err := g.try(t, strings.Join(commands, "\n"), "psql", "-X", "-A", "-q", "-b")
	if err != nil || strings.Contains(out, "ERROR") {
		t.Errorf("got %v and errors, want none: %s", err, out)
	}
	if want := "1|user 1|***\n"; !strings.Contains(out, want) {
		t.Errorf("got %s, want the row %q", out, want)
	}
}

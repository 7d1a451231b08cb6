package postgres

import (
	"strings"
	"testing"
)

func TestObjections(t *testing.T) {
	tests := []struct {
		text    string
		want    string // in the objection; "" where there is none
		unknown bool
	}{
		{text: "SELECT email, id FROM users"},
		{text: "SELECT lower(status) FROM orders WHERE id = 7"},
		{text: "SELECT nextval('orders_id_seq'), pg_advisory_lock(1)"},
		{text: "BEGIN"},
		{text: "INSERT INTO users (id, email) VALUES (1, 'x') RETURNING email"},
		{text: "CREATE TABLE fresh (id int)"},
		{text: "CREATE INDEX ON orders (id)"},
		{text: "DROP TABLE orders"},
		{text: "GRANT SELECT ON users TO ada"},
		{text: "TRUNCATE users"},
		{text: "SELECT lower(email) FROM users", want: "sensitive column users.email"},
		{text: "SELECT id FROM public.users WHERE ssn = 'x'", want: "ssn"},
		{text: "SELECT u FROM users u", want: "users"},
		{text: "PREPARE p AS SELECT lower(email) FROM users", want: "email"},
		{text: "EXPLAIN SELECT lower(email) FROM users", want: "email"},
		{text: "SELECT 1; SELECT max(age) FROM users", want: "age"},
		{text: "SELECT peek()", want: "what peek reads"},
		{text: "SELECT public.nextval('x')", want: "what nextval reads"},
		{text: "SELECT query_to_xml('SELECT 1', true, true, '')", want: "what query_to_xml reads"},
		{text: "SELECT id === 1 FROM orders", want: "what === reads"},
		{text: "DO 'BEGIN END'", want: "DO runs code"},
		{text: "CALL peek()", want: "CALL runs code"},
		{text: "SELEC 1", want: "cannot be read"},
		{text: "SELECT 1 FROM nothing", want: "no such relation", unknown: true},
		{text: "INSERT INTO nothing VALUES (1)", want: "no such relation", unknown: true},
		{text: "ALTER TABLE users RENAME COLUMN email TO e", want: "sensitive column users.email"},
		{text: "ALTER TABLE users RENAME TO people", want: "sensitive column users.email"},
		{text: "CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION f()", want: "sensitive column users.email"},
		{text: "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", want: "only tables"},
		{text: "ALTER SCHEMA public RENAME TO private", want: "only tables"},
	}
	s := usersSnapshot()
	for _, test := range tests {
		script, err := parser(t).Parse(t.Context(), test.text)
		if err != nil {
			t.Fatal(err)
		}
		o, unknown := s.object(script.Statements)
		switch {
		case test.want == "" && o != nil:
			t.Errorf("%s: got %q, want no objection", test.text, o)
		case test.want != "" && (o == nil || !strings.Contains(o.Error(), test.want)):
			t.Errorf("%s: got %v, want one with %q", test.text, o, test.want)
		case unknown != test.unknown:
			t.Errorf("%s: got unknown %v, want %v", test.text, unknown, test.unknown)
		}
		if o, _ := (&snapshot{bare: true}).object(script.Statements); o != nil {
			t.Errorf("%s: got %q in a database without sensitive columns, want no objection", test.text, o)
		}
	}
}

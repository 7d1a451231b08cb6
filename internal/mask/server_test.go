package mask_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"postern.dev/postern/internal/mask"
	"postern.dev/postern/testenv"
)

// values holds for each type a value and its redacted form, as PostgreSQL prints
// it; "" is NULL.
var values = []struct{ kind, value, redacted string }{
	{"bool", "true", "f"},
	{"bytea", `\xdeadbeef`, `\x`},
	{`"char"`, "x", "*"},
	{"name", "ada", "***"},
	{"int8", "9000000000", "0"},
	{"int2", "-7", "0"},
	{"int4", "123456", "0"},
	{"text", "ada@example.com", "***"},
	{"oid", "12345", "0"},
	{"json", `{"ssn":"123-45-6789"}`, "null"},
	{"xml", "<a>ada</a>", "***"},
	{"cidr", "10.1.0.0/16", "0.0.0.0/32"},
	{"float4", "1.5", "0"},
	{"float8", "-2.5", "0"},
	{"macaddr8", "08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00"},
	{"money", "12.34", "$0.00"},
	{"macaddr", "08:00:2b:01:02:03", "00:00:00:00:00:00"},
	{"inet", "fe80::1/64", "0.0.0.0"},
	{"bpchar", "ada", "***"},
	{"char(1)", "a", "*"},
	{"char(6)", "ada", "***   "},
	{"varchar", "ada", "***"},
	{"varchar(2)", "ad", "**"},
	{"varchar(40)", "ada", "***"},
	{"date", "1815-12-10", "1970-01-01"},
	{"time", "12:34:56.789", "00:00:00"},
	{"timestamp", "1815-12-10 01:02:03", "1970-01-01 00:00:00"},
	{"timestamptz", "1815-12-10 01:02:03+00", "1970-01-01 00:00:00+00"},
	{"interval", "1 year 2 days 3 seconds", "00:00:00"},
	{"timetz", "12:34:56+02", "00:00:00+00"},
	{"bit(3)", "101", "000"},
	{"bit(11)", "10110110111", "00000000000"},
	{"varbit", "1011", ""},
	{"varbit(9)", "1011", ""},
	{"numeric", "1234567890.12345", "0"},
	{"numeric(9,2)", "123.45", "0"},
	{"uuid", "6f3c1a5e-8a3c-4c0e-9b1a-0f1e2d3c4b5a", "00000000-0000-0000-0000-000000000000"},
	{"jsonb", `{"ssn":"123-45-6789"}`, "null"},

	{"text[]", `{ada,NULL,"x, \"y\" \\ {z}",""}`, `{***,NULL,***,***}`},
	{"text[]", "{}", "{}"},
	{"text[]", "[2:3]={a,b}", "[2:3]={***,***}"},
	{"text[]", "{{a,b},{c,NULL}}", "{{***,***},{***,NULL}}"},
	{"text[]", `{"NULL",null}`, "{***,NULL}"},
	{"varchar(2)[]", "{ab,c}", "{**,**}"},
	{"char(4)[]", "{ab}", `{"*** "}`},
	{"int4[]", "{{1,2,3},{4,5,6}}", "{{0,0,0},{0,0,0}}"},
	{"int8[]", "{1,NULL}", "{0,NULL}"},
	{"int2[]", "{1}", "{0}"},
	{"numeric(9,2)[]", "{1.25,2}", "{0,0}"},
	{"float8[]", "{1.5}", "{0}"},
	{"float4[]", "{1.5}", "{0}"},
	{"bool[]", "{t,f}", "{f,f}"},
	{"date[]", "{1815-12-10}", "{1970-01-01}"},
	{"timestamp[]", `{"1815-12-10 01:02:03"}`, `{"1970-01-01 00:00:00"}`},
	{"timestamptz[]", `{"1815-12-10 01:02:03+00"}`, `{"1970-01-01 00:00:00+00"}`},
	{"time[]", "{12:34:56}", "{00:00:00}"},
	{"timetz[]", "{12:34:56+02}", "{00:00:00+00}"},
	{"interval[]", `{"1 day"}`, "{00:00:00}"},
	{"uuid[]", "{6f3c1a5e-8a3c-4c0e-9b1a-0f1e2d3c4b5a}", "{00000000-0000-0000-0000-000000000000}"},
	{"bytea[]", `{"\\xdead"}`, `{"\\x"}`},
	{"json[]", `{"{\"a\": 1}"}`, `{"null"}`},
	{"jsonb[]", `{"{\"a\": 1}"}`, `{"null"}`},
	{"inet[]", "{10.0.0.1}", "{0.0.0.0}"},
	{"cidr[]", "{10.0.0.0/8}", "{0.0.0.0/32}"},
	{"macaddr[]", "{08:00:2b:01:02:03}", "{00:00:00:00:00:00}"},
	{"macaddr8[]", "{08:00:2b:01:02:03:04:05}", "{00:00:00:00:00:00:00:00}"},
	{"bit(3)[]", "{101}", "{000}"},
	{"varbit[]", "{101}", `{""}`},
	{"money[]", "{12.34}", "{$0.00}"},
	{"xml[]", "{<a/>}", "{***}"},
	{"name[]", "{ada}", "{***}"},
	{"oid[]", "{7}", "{0}"},
	{`"char"[]`, "{x}", "{*}"},

	{"point", "(1,2)", "NULL"},
	{"int4range", "[1,5)", "NULL"},
	{"int4multirange", "{[1,5)}", "NULL"},
	{"tsvector", "ada", "NULL"},
	{"mood", "happy", "NULL"},
	{"mood[]", "{happy}", "NULL"},
	{"pair", "(1,ada)", "NULL"},
	{"positive", "3", "0"}, // a domain: the wire has int4
	{"positive[]", "{3}", "NULL"},
	{"point[]", `{"(1,2)"}`, "NULL"},
}

// TestServerAcceptsMaskedValues takes each value through a real server in both formats:
// what is masked must be read by pgx and by PostgreSQL as the redacted value, in the column's own type.
func TestServerAcceptsMaskedValues(t *testing.T) {
	conn := connect(t)
	for _, row := range values {
		for _, format := range []int16{pgx.TextFormatCode, pgx.BinaryFormatCode} {
			name := row.kind + " " + row.value + map[int16]string{0: " as text", 1: " in binary"}[format]
			t.Run(name, func(t *testing.T) {
				field, value := read(t, conn, row.kind, row.value, format)
				f := mask.New(mask.Redact, mask.Column{TypeOID: field.DataTypeOID, TypeModifier: field.TypeModifier, Binary: format == 1})
				masked, null := f([]byte("before"), value)
				if string(masked[:6]) != "before" {
					t.Fatalf("got %q, want it appended", masked)
				}
				if null {
					if row.redacted != "NULL" || len(masked) != 6 {
						t.Errorf("got NULL with %q, want %s", masked[6:], row.redacted)
					}
					return
				}
				if got := back(t, conn, field.DataTypeOID, masked[6:], format); got != row.redacted {
					t.Errorf("got %q from the server, want %q", got, row.redacted)
				}
				decode(t, field.DataTypeOID, format, masked[6:])
			})
		}
	}
}

func connect(t *testing.T) *pgconn.PgConn {
	t.Helper()
	server := testenv.StartPostgres(t)
	server.MustExec(t, "postgres", `CREATE TYPE mood AS ENUM ('sad', 'happy');
		CREATE TYPE pair AS (a int, b text);
		CREATE DOMAIN positive AS int4 CHECK (VALUE >= 0);`)
	conn, err := pgconn.Connect(context.Background(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for _, set := range []string{"SET timezone = 'UTC'", "SET lc_monetary = 'C'", "SET intervalstyle = 'postgres'"} {
		if err := conn.Exec(context.Background(), set).Close(); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// read gives a column of the type kind, and a value in it.
func read(t *testing.T, conn *pgconn.PgConn, kind, value string, format int16) (pgconn.FieldDescription, []byte) {
	t.Helper()
	// A table, because an expression has no type modifier for arrays.
	table := "DROP TABLE IF EXISTS v; CREATE TEMPORARY TABLE v (x " + kind + ")"
	if err := conn.Exec(context.Background(), table).Close(); err != nil {
		t.Fatal(err)
	}
	insert := conn.ExecParams(context.Background(), "INSERT INTO v VALUES ($1::text::"+kind+")", [][]byte{[]byte(value)}, nil, nil, nil)
	if _, err := insert.Close(); err != nil {
		t.Fatal(err)
	}
	result := conn.ExecParams(context.Background(), "SELECT x FROM v", nil, nil, nil, []int16{format}).Read()
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.FieldDescriptions[0], result.Rows[0][0]
}

// back sends a masked value to the server and gives how it prints it.
func back(t *testing.T, conn *pgconn.PgConn, oid uint32, masked []byte, format int16) string {
	t.Helper()
	// Not through a cast to the type with its modifier, which would hide that the value does not fit it.
	read := conn.ExecParams(context.Background(), "SELECT $1", [][]byte{masked}, []uint32{oid}, []int16{format}, nil).Read()
	if read.Err != nil {
		t.Fatalf("got %v, want the server to take %q", read.Err, masked)
	}
	insert := conn.ExecParams(context.Background(), "INSERT INTO v VALUES ($1)", [][]byte{masked}, []uint32{oid}, []int16{format}, nil)
	if _, err := insert.Close(); err != nil {
		t.Fatalf("got %v, want the column to take %q", err, masked)
	}
	return string(read.Rows[0][0])
}

// decode reads a masked value as pgx does for a program.
func decode(t *testing.T, oid uint32, format int16, masked []byte) {
	t.Helper()
	types := pgtype.NewMap()
	if known, ok := types.TypeForOID(oid); ok {
		if _, err := known.Codec.DecodeValue(types, oid, format, masked); err != nil {
			t.Errorf("got %v from pgx, want it to read %q", err, masked)
		}
	}
}

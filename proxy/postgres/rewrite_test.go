package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"postern.dev/postern/internal/policy"
)

func TestWithholdKeepsOnlyWhatHoldsNoValue(t *testing.T) {
	for _, row := range []struct {
		name string
		in   pgproto3.ErrorResponse
		want pgproto3.ErrorResponse
	}{
		{"a syntax error", pgproto3.ErrorResponse{Code: "42601", Message: `syntax error at or near "x"`, Position: 4, Hint: "hint"},
			pgproto3.ErrorResponse{Code: "42601", Message: `syntax error at or near "x"`, Position: 4}},
		{"a name of the text", pgproto3.ErrorResponse{Code: "42703", Message: `column "x" does not exist`, Position: 8},
			pgproto3.ErrorResponse{Code: "42703", Message: `column "x" does not exist`, Position: 8}},
		{"a name that was looked up for a value", pgproto3.ErrorResponse{Code: "42P01", Message: `relation "secret" does not exist`},
			pgproto3.ErrorResponse{Code: "42P01", Message: "error text withheld by policy (SQLSTATE 42P01)"}},
		{"no right", pgproto3.ErrorResponse{Code: "42501", Message: "permission denied for table t"},
			pgproto3.ErrorResponse{Code: "42501", Message: "permission denied for table t"}},
		{"a duplicate", pgproto3.ErrorResponse{Code: "23505", Message: "duplicate", Detail: "Key (ssn)=(secret)", TableName: "t", ConstraintName: "t_key"},
			pgproto3.ErrorResponse{Code: "23505", Message: "error text withheld by policy (SQLSTATE 23505)", TableName: "t", ConstraintName: "t_key"}},
		{"raised in a function", pgproto3.ErrorResponse{Code: "42601", Message: "secret", Position: 1, Where: "function f", ColumnName: "secret"},
			pgproto3.ErrorResponse{Code: "42601", Message: "error text withheld by policy (SQLSTATE 42601)", Position: 1}},
		{"a code that a function made up", pgproto3.ErrorResponse{Code: "12345", Message: "secret", Where: "function f"},
			pgproto3.ErrorResponse{Code: "P0001", Message: "error text withheld by policy (SQLSTATE P0001)"}},
		{"a query of a function", pgproto3.ErrorResponse{Code: "42703", Message: "secret", InternalQuery: "SELECT secret", InternalPosition: 8},
			pgproto3.ErrorResponse{Code: "42703", Message: "error text withheld by policy (SQLSTATE 42703)"}},
		{"cancelled", pgproto3.ErrorResponse{Code: "57014", Message: "canceling statement due to user request"},
			pgproto3.ErrorResponse{Code: "57014", Message: "canceling statement due to user request"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.in.Severity, row.in.SeverityUnlocalized = "ERROR", "ERROR"
			row.want.Severity, row.want.SeverityUnlocalized = "ERROR", "ERROR"
			encoded, err := row.in.Encode(nil)
			if err != nil {
				t.Fatal(err)
			}
			want, err := row.want.Encode(nil)
			if err != nil {
				t.Fatal(err)
			}
			shown, err := withhold(nil, encoded)
			if err != nil {
				t.Fatal(err)
			}
			var got pgproto3.ErrorResponse
			if err := got.Decode(shown[header:]); err != nil {
				t.Fatal(err)
			}
			again, err := got.Encode(nil)
			if err != nil || string(again) != string(want) {
				t.Errorf("got %q, %v, want %q", again, err, want)
			}
		})
	}
}

func TestReadBindShowsWhatThePolicyLetsTheTrailHold(t *testing.T) {
	body := []byte("portal\x00statement\x00\x00\x02\x00\x00\x00\x01\x00\x03" +
		"\x00\x00\x00\x03it's"[:7] + "\x00\x00\x00\x02\xca\xfe" + "\xff\xff\xff\xff" + "\x00\x00")
	for _, row := range []struct {
		name string
		head int
		mode policy.Record
		want string
		cut  bool
	}{
		{"full", len(body), policy.RecordFull, `$1: 'it''' $2: '\xcafe' $3: NULL`, false},
		{"redacted", len(body), policy.RecordRedacted, `$1: 3 bytes $2: 2 bytes $3: NULL`, false},
		{"none", len(body), policy.RecordNone, "", false},
		{"the head alone", len(body) - 9, policy.RecordFull, `$1: 'it'''`, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			portal, name, got, err := readBind(body[:row.head], len(body), row.mode)
			if err != nil || portal != "portal" || name != "statement" {
				t.Fatalf("got %q %q, %v, want portal and statement", portal, name, err)
			}
			if shown := strings.Join(got.shown, " "); shown != row.want || got.truncated != row.cut {
				t.Errorf("got %q (truncated=%v), want %q (%v)", shown, got.truncated, row.want, row.cut)
			}
		})
	}
}

func TestNamesThatTheServerWouldCutAreMalformed(t *testing.T) {
	long := strings.Repeat("n", maxName+1)
	if _, _, err := readTarget([]byte("S" + long + "\x00")); err == nil {
		t.Error("got a name of 64 bytes taken, want it refused: the server sees 63 of them")
	}
	if _, _, err := readTarget([]byte("S" + long[1:] + "\x00")); err != nil {
		t.Errorf("got %v for a name of 63 bytes, want it taken", err)
	}
	if _, _, _, err := readBind([]byte(long+"\x00\x00\x00\x00\x00\x00\x00\x00"), 72, policy.RecordNone); err == nil {
		t.Error("got a portal of 64 bytes bound, want it refused")
	}
}

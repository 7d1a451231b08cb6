package mask_test

import (
	"bytes"
	"strings"
	"testing"

	"postern.dev/postern/internal/mask"
)

func TestNullLeavesNothing(t *testing.T) {
	for _, oid := range []uint32{25, 23, 1009, 3802, 0, 99999} {
		for _, binary := range []bool{false, true} {
			f := mask.New(mask.Null, mask.Column{TypeOID: oid, TypeModifier: -1, Binary: binary})
			if masked, null := f([]byte("x"), []byte("secret")); !null || string(masked) != "x" {
				t.Errorf("type %d: got %q, %v, want nothing appended and NULL", oid, masked, null)
			}
		}
	}
}

func TestUnknownTypeBecomesNull(t *testing.T) {
	for _, oid := range []uint32{0, 600, 3904, 3614, 16385, 4294967295} {
		f := mask.New(mask.Redact, mask.Column{TypeOID: oid, TypeModifier: -1})
		if masked, null := f(nil, []byte("secret")); !null || len(masked) != 0 {
			t.Errorf("type %d: got %q, %v, want NULL", oid, masked, null)
		}
	}
}

func TestParseKindNamesEveryKind(t *testing.T) {
	for _, kind := range []mask.Kind{mask.Null, mask.Redact} {
		if got, err := mask.ParseKind(kind.String()); err != nil || got != kind {
			t.Errorf("got %v, %v, want %v", got, err, kind)
		}
	}
	if got, err := mask.ParseKind("partial"); err == nil || got != mask.Null {
		t.Errorf("got %v, %v, want an error and the kind that leaves least", got, err)
	}
}

// TestMalformedArrayBecomesNull feeds what no server sends: none of it may pass.
func TestMalformedArrayBecomesNull(t *testing.T) {
	rows := []struct {
		name   string
		binary bool
		value  string
	}{
		{"nothing", true, ""},
		{"short header", true, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"},
		{"other element type", true, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x17"},
		{"dimensions that are not there", true, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19"},
		{"seven dimensions", true, "\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x19" + strings.Repeat("\x00", 56)},
		{"length beyond the end", true, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\x00\x00\x00\x01\x00\x00\x00\x01\x7f\xff\xff\xffsecret"},
		{"cut length", true, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00"},
		{"no text", false, ""},
		{"no brace", false, "secret"},
		{"bounds without an end", false, "[1:2"},
		{"bounds with a value", false, "[secret]={a}"},
		{"open quote", false, `{"secret`},
		{"open quote after a backslash", false, `{"secret\`},
		{"open braces", false, "{secret"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := mask.New(mask.Redact, mask.Column{TypeOID: 1009, TypeModifier: -1, Binary: row.binary})
			if masked, null := f([]byte("before"), []byte(row.value)); !null || string(masked) != "before" {
				t.Errorf("got %q, %v, want NULL and nothing appended", masked, null)
			}
		})
	}
}

func TestMaskAllocatesNothingPerRow(t *testing.T) {
	rows := []struct {
		column mask.Column
		value  string
	}{
		{mask.Column{TypeOID: 25, TypeModifier: -1}, "ada@example.com"},
		{mask.Column{TypeOID: 1009, TypeModifier: -1}, `{ada,"b \" c",NULL}`},
		{mask.Column{TypeOID: 1007, TypeModifier: -1, Binary: true},
			"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x17\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x2a"},
	}
	for _, row := range rows {
		f, value, dst := mask.New(mask.Redact, row.column), []byte(row.value), make([]byte, 0, 256)
		if got := testing.AllocsPerRun(100, func() { dst, _ = f(dst[:0], value) }); got != 0 {
			t.Errorf("type %d: got %v allocations, want 0", row.column.TypeOID, got)
		}
	}
}

// FuzzArray feeds hostile arrays: no panic, and no letter of an element comes through.
func FuzzArray(f *testing.F) {
	f.Add([]byte(`[1:2]={"a\"b",NULL}`), false)
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01a"), true)
	f.Fuzz(func(t *testing.T, value []byte, binary bool) {
		column := mask.Column{TypeOID: 1009, TypeModifier: -1, Binary: binary}
		masked, null := mask.New(mask.Redact, column)(nil, value)
		if null && len(masked) != 0 {
			t.Fatalf("got %q with NULL, want nothing", masked)
		}
		if left := bytes.Trim(masked, "NUL{},*\"[]:=-+0123456789"); !binary && len(left) != 0 {
			t.Fatalf("got %q in %q, want none of the value", left, masked)
		}
	})
}

func BenchmarkRedact(b *testing.B) {
	for _, row := range []struct {
		name  string
		oid   uint32
		value string
	}{{"text", 25, "ada@example.com"}, {"array", 1009, `{ada,grace,"b c",NULL}`}} {
		b.Run(row.name, func(b *testing.B) {
			f, value, dst := mask.New(mask.Redact, mask.Column{TypeOID: row.oid, TypeModifier: -1}), []byte(row.value), make([]byte, 0, 256)
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = f(dst[:0], value)
			}
		})
	}
}

package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"postern.dev/postern/internal/mask"
)

// A database of one table: public.users(id, email, ssn, age), of which all but id are sensitive.
const (
	usersOID = 16400
	usersRow = 16402 // its row type
	int4OID  = 23
	textOID  = 25
)

func usersSnapshot() *snapshot {
	users := &shown{schema: "public", name: "users", width: 4, sensitive: []string{"email", "ssn", "age"}, marks: map[uint16]mark{
		2: {mask.Redact, "public.users.email"},
		3: {mask.Null, "public.users.ssn"},
		4: {mask.Redact, "public.users.age"},
	}}
	orders := &shown{schema: "public", name: "orders", width: 2}
	return &snapshot{
		epoch:     "1",
		relations: map[uint32]*shown{usersOID: users, 16410: orders},
		names:     map[string][]*shown{"users": {users}, "orders": {orders}},
		carriers:  map[uint32]bool{usersRow: true},
	}
}

func plain(attribute uint16, typeOID uint32) field {
	return field{table: usersOID, attribute: attribute, typeOID: typeOID, modifier: -1}
}

// dataRow gives the body of a DataRow; nil is NULL.
func dataRow(values ...[]byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		if v == nil {
			body = append(body, nullLength...)
			continue
		}
		body = binary.BigEndian.AppendUint32(body, uint32(len(v)))
		body = append(body, v...)
	}
	return body
}

func TestPlanMasksByOriginTypeAndFormat(t *testing.T) {
	id, email, ssn, age := plain(1, int4OID), plain(2, textOID), plain(3, textOID), plain(4, int4OID)
	computed := field{typeOID: textOID, modifier: -1}
	inBinary := age
	inBinary.binary = true
	tests := []struct {
		name    string
		fields  []field
		formats []int16
		in, out [][]byte
		masked  []maskedColumn
	}{
		{name: "nothing is sensitive", fields: []field{id, computed}},
		{
			name: "redact and null, text", fields: []field{id, email, ssn, age},
			in:     [][]byte{[]byte("7"), []byte("ada@example.org"), []byte("078-05-1120"), []byte("36")},
			out:    [][]byte{[]byte("7"), []byte("***"), nil, []byte("0")},
			masked: []maskedColumn{{"public.users.email", 1}, {"public.users.ssn", 1}, {"public.users.age", 1}},
		},
		{
			name: "NULL stays and is not counted", fields: []field{email, id},
			in: [][]byte{nil, nil}, out: [][]byte{nil, nil},
		},
		{
			name: "an empty value is masked", fields: []field{email},
			in: [][]byte{{}}, out: [][]byte{[]byte("***")}, masked: []maskedColumn{{"public.users.email", 1}},
		},
		{
			name: "one format for all", fields: []field{age, id}, formats: []int16{1},
			in: [][]byte{{0, 0, 0, 36}, {0, 0, 0, 7}}, out: [][]byte{{0, 0, 0, 0}, {0, 0, 0, 7}},
			masked: []maskedColumn{{"public.users.age", 1}},
		},
		{
			name: "a format for each", fields: []field{age, age}, formats: []int16{1, 0},
			in: [][]byte{{0, 0, 0, 36}, []byte("36")}, out: [][]byte{{0, 0, 0, 0}, []byte("0")},
			masked: []maskedColumn{{"public.users.age", 1}, {"public.users.age", 1}},
		},
		{
			name: "the description's format, as of a binary cursor", fields: []field{inBinary},
			in: [][]byte{{0, 0, 0, 36}}, out: [][]byte{{0, 0, 0, 0}}, masked: []maskedColumn{{"public.users.age", 1}},
		},
		{
			name: "a system column is shown", fields: []field{plain(0xffff, 27), email},
			in: [][]byte{[]byte("(0,1)"), []byte("x")}, out: [][]byte{[]byte("(0,1)"), []byte("***")},
			masked: []maskedColumn{{"public.users.email", 1}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := usersSnapshot().plan(test.fields, test.formats)
			if err != nil {
				t.Fatalf("got %v, want a plan", err)
			}
			if test.in == nil {
				if p != nil {
					t.Fatalf("got %v, want no plan", p.masks)
				}
				return
			}
			out, err := p.rewrite([]byte("before"), dataRow(test.in...))
			if want := append([]byte("before"), dataRow(test.out...)...); err != nil || !bytes.Equal(out, want) {
				t.Errorf("got %q, %v, want %q", out, err, want)
			}
			masked := p.masked()
			if len(masked) != len(test.masked) {
				t.Fatalf("got %v, want %v", masked, test.masked)
			}
			for i := range masked {
				if masked[i] != test.masked[i] {
					t.Errorf("got %v, want %v", masked[i], test.masked[i])
				}
			}
			if again := p.masked(); again != nil {
				t.Errorf("got %v when asked again, want nothing", again)
			}
		})
	}
}

func TestPlanRefusesWhatItCannotMask(t *testing.T) {
	var refused *objection
	tests := []struct {
		name    string
		field   field
		formats []int16
		want    func(error) bool
	}{
		{"a relation that is not known", field{table: 99999, attribute: 1, typeOID: textOID}, nil,
			func(err error) bool { return errors.Is(err, errUnknownRelation) }},
		{"a column added since", plain(5, textOID), nil,
			func(err error) bool { return errors.Is(err, errUnknownRelation) }},
		{"a whole row", plain(0, usersRow), nil,
			func(err error) bool { return errors.As(err, &refused) }},
		{"a whole row as some other type", plain(0, textOID), nil,
			func(err error) bool { return errors.As(err, &refused) }},
		{"a row type without origin", field{typeOID: usersRow}, nil,
			func(err error) bool { return errors.As(err, &refused) }},
		{"a row type in a column that is not sensitive", plain(1, usersRow), nil,
			func(err error) bool { return errors.As(err, &refused) }},
		{"formats for another number of columns", plain(1, int4OID), []int16{0, 1},
			func(err error) bool { return errors.Is(err, errMalformed) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if p, err := usersSnapshot().plan([]field{test.field}, test.formats); !test.want(err) {
				t.Errorf("got %v, %v, want it refused", p, err)
			}
		})
	}
}

func TestHostileRowsAreMalformed(t *testing.T) {
	p, err := usersSnapshot().plan([]field{plain(1, int4OID), plain(2, textOID)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"empty":                   {},
		"half a count":            {0},
		"fewer columns":           dataRow([]byte("7")),
		"more columns":            dataRow([]byte("7"), []byte("x"), []byte("y")),
		"no values":               {0, 2},
		"a length is cut off":     {0, 2, 0, 0},
		"a negative length":       {0, 2, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff},
		"the most negative":       {0, 2, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"a length beyond the end": {0, 2, 0, 0, 0, 1, '7', 0x7f, 0xff, 0xff, 0xff, 'x'},
		"bytes behind the end":    append(dataRow([]byte("7"), []byte("x")), 0),
	} {
		if out, err := p.rewrite(nil, body); !errors.Is(err, errMalformed) || len(out) != 0 {
			t.Errorf("%s: got %q, %v, want %v and no bytes", name, out, err, errMalformed)
		}
	}
}

// rowDescription gives the body of a RowDescription whose columns are all named "a".
func rowDescription(fields ...field) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(fields)))
	for _, f := range fields {
		body = append(body, "a\x00"...)
		body = binary.BigEndian.AppendUint32(body, f.table)
		body = binary.BigEndian.AppendUint16(body, f.attribute)
		body = binary.BigEndian.AppendUint32(body, f.typeOID)
		body = binary.BigEndian.AppendUint16(body, 0xffff)
		body = binary.BigEndian.AppendUint32(body, uint32(f.modifier))
		format := uint16(0)
		if f.binary {
			format = 1
		}
		body = binary.BigEndian.AppendUint16(body, format)
	}
	return body
}

func TestReadFields(t *testing.T) {
	want := []field{{usersOID, 2, textOID, -1, false}, {0, 0, int4OID, -1, true}, {usersOID, 0xffff, 27, 8, false}}
	body := rowDescription(want...)
	got, err := readFields(nil, body)
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %v, %v, want %v", got, err, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
	}
	for n := range body {
		if got, err := readFields(nil, body[:n]); !errors.Is(err, errMalformed) || len(got) != 0 {
			t.Errorf("%d bytes: got %v, %v, want %v", n, got, err, errMalformed)
		}
	}
	if _, err := readFields(nil, append(body, 0)); !errors.Is(err, errMalformed) {
		t.Errorf("a byte too many: got %v, want %v", err, errMalformed)
	}
}

// cutValue takes one value off the front of values.
func cutValue(values []byte) (value []byte, null bool, rest []byte, ok bool) {
	if len(values) < 4 {
		return nil, false, nil, false
	}
	n := int32(binary.BigEndian.Uint32(values))
	values = values[4:]
	if n == -1 {
		return nil, true, values, true
	}
	if n < 0 || int(n) > len(values) {
		return nil, false, nil, false
	}
	return values[:n], false, values[n:], true
}

// FuzzRewrite checks that whatever comes out of rewrite is a row of the same
// width, with the plain columns' bytes unchanged and none of the masked ones.
func FuzzRewrite(f *testing.F) {
	f.Add(dataRow([]byte("7"), []byte("secret"), nil), true)
	f.Add([]byte{0, 3, 0xff, 0xff, 0xff, 0xfe}, false)
	f.Fuzz(func(t *testing.T, body []byte, inBinary bool) {
		fields := []field{plain(1, int4OID), plain(2, textOID), plain(4, int4OID)}
		for i := range fields {
			fields[i].binary = inBinary
		}
		p, err := usersSnapshot().plan(fields, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.rewrite(nil, body)
		if err != nil {
			return
		}
		in, masked := body[2:], out[2:]
		for i := range fields {
			var before, after []byte
			var nullBefore, nullAfter, okBefore, okAfter bool
			before, nullBefore, in, okBefore = cutValue(in)
			after, nullAfter, masked, okAfter = cutValue(masked)
			if !okBefore || !okAfter {
				t.Fatalf("column %d: got a row that cannot be read: %x", i, out)
			}
			if i == 0 && (nullBefore != nullAfter || !bytes.Equal(before, after)) {
				t.Errorf("got %x, want the plain column as it was: %x", after, before)
			}
			if i == 1 && !nullBefore && string(after) != "***" {
				t.Errorf("got %x, want it redacted", after)
			}
		}
		if len(masked) != 0 {
			t.Errorf("got %x behind the last column, want nothing", masked)
		}
	})
}

func FuzzReadFields(f *testing.F) {
	f.Add(rowDescription(plain(2, textOID), field{binary: true}))
	f.Add([]byte{0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		fields, err := readFields(nil, body)
		if err != nil {
			return
		}
		if 2+19*len(fields) > len(body) {
			t.Errorf("got %d fields of %d bytes, want as many as fit", len(fields), len(body))
		}
		p, err := usersSnapshot().plan(fields, nil)
		if err == nil && p != nil && len(p.columns) != len(fields) {
			t.Errorf("got a plan of %d columns, want %d", len(p.columns), len(fields))
		}
	})
}

func BenchmarkRewrite(b *testing.B) {
	fields := make([]field, 10)
	values := make([][]byte, 10)
	for i := range fields {
		fields[i] = plain(1, int4OID)
		values[i] = []byte("1234567890")
	}
	fields[4] = plain(2, textOID)
	p, err := usersSnapshot().plan(fields, nil)
	if err != nil {
		b.Fatal(err)
	}
	body := dataRow(values...)
	dst := make([]byte, 0, 2*len(body))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if dst, err = p.rewrite(dst[:0], body); err != nil {
			b.Fatal(err)
		}
	}
}

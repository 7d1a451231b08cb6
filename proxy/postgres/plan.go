package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"postern.dev/postern/internal/mask"
)

// plan masks the rows of one result. It belongs to one portal of one session.
type plan struct {
	snapshot *snapshot   // what it was made of: not valid with any other
	columns  []mask.Func // nil where a column is not masked
	masks    []string    // by column: the sensitive column's name, "public.users.email"; "" where it is not masked
	cells    []int64     // by column: values masked since the last call of masked

	detection *detection  // nil where nothing is looked for
	forms     []mask.Form // by column: what is looked into
	escapes   bool        // a form is one whose letters can be written as escapes
	bare      bool        // no column is masked; a row that nothing is found in stays as it is
}

// field is what RowDescription says of a column.
//
// Source: PostgreSQL 17 documentation, 53.7 Message Formats, RowDescription.
type field struct {
	table     uint32 // OID, 0 where the column is computed
	attribute uint16 // number in the table, 0 of a whole row
	typeOID   uint32
	modifier  int32
	binary    bool
}

// plan tells how the rows of a result are masked, nil where no column is.
//
// Shape: formats are those of Bind: none, one for all, or one for each field. Where
// there are none, or there was no Bind, the fields' own hold.
// Errors: [errUnknownRelation], [errMalformed] where formats do not fit, an [*objection].
func (s *snapshot) plan(fields []field, formats []int16) (*plan, error) {
	if len(formats) > 1 && len(formats) != len(fields) {
		return nil, fmt.Errorf("%w: %d result formats for %d columns", errMalformed, len(formats), len(fields))
	}
	var p *plan
	for i, f := range fields {
		m, masked, err := s.judge(f)
		if err != nil {
			return nil, err
		}
		if !masked {
			continue
		}
		if p == nil {
			p = &plan{
				snapshot: s,
				columns:  make([]mask.Func, len(fields)),
				masks:    make([]string, len(fields)),
				cells:    make([]int64, len(fields)),
			}
		}
		binary := f.binary
		switch len(formats) {
		case 0:
		case 1:
			binary = formats[0] != 0
		default:
			binary = formats[i] != 0
		}
		p.columns[i] = mask.New(m.kind, mask.Column{TypeOID: f.typeOID, TypeModifier: f.modifier, Binary: binary})
		p.masks[i] = m.name
	}
	return p, nil
}

// judge tells whether and how a column of a result is masked.
func (s *snapshot) judge(f field) (m mark, masked bool, err error) {
	if f.table == 0 {
		if s.carriers[f.typeOID] {
			return mark{}, false, &objection{Relation: "a result", Use: "a value of a row type with sensitive columns"}
		}
		return mark{}, false, nil // computed of columns that are not sensitive, or the statement was refused
	}
	on := s.relations[f.table]
	if on == nil && s.clear() {
		return mark{}, false, nil
	}
	if on == nil || !s.clear() && int16(f.attribute) > int16(on.width) {
		return mark{}, false, errUnknownRelation
	}
	if m, ok := on.marks[f.attribute]; ok {
		return m, true, nil
	}
	if f.attribute == 0 && len(on.marks) > 0 || s.carriers[f.typeOID] {
		return mark{}, false, &objection{Relation: on.schema + "." + on.name, Use: "a whole row"}
	}
	return mark{}, false, nil
}

// rewrite appends the masked form of a DataRow's body to dst.
//
// Errors: [errMalformed] when the body is not a DataRow of the plan's width; the session must end.
func (p *plan) rewrite(dst, body []byte) ([]byte, error) {
	if len(body) < 2 || int(binary.BigEndian.Uint16(body)) != len(p.columns) {
		return dst, fmt.Errorf("%w: DataRow is not as wide as its description", errMalformed)
	}
	before, look := len(dst), p.mayFind(body)
	kept, at := 0, 2 // body[kept:at] is to be copied as it is
	for i, hide := range p.columns {
		end := at + 4
		if end > len(body) {
			return dst[:before], fmt.Errorf("%w: DataRow is cut off", errMalformed)
		}
		n := int32(binary.BigEndian.Uint32(body[at:]))
		if n < -1 || int64(n) > int64(len(body)-end) {
			return dst[:before], fmt.Errorf("%w: DataRow is cut off", errMalformed)
		}
		if n == -1 { // NULL
			at = end
			continue
		}
		value := body[end : end+int(n)]
		end += int(n)
		if hide != nil {
			dst = append(dst, body[kept:at]...)
			dst = appendMasked(dst, hide, value)
			p.cells[i]++
			kept = end
		} else if look && p.forms[i] != mask.Opaque {
			d := p.detection
			masked, found, null := d.MaskValue(d.value[:0], value, p.forms[i], d.counts)
			d.value = masked
			if found {
				dst = append(dst, body[kept:at]...)
				dst = appendValue(dst, masked, null)
				kept = end
			}
		}
		at = end
	}
	if at != len(body) {
		return dst[:before], fmt.Errorf("%w: DataRow is longer than its values", errMalformed)
	}
	return append(dst, body[kept:]...), nil
}

// nullLength is the length of a value that is NULL, -1.
const nullLength = "\xff\xff\xff\xff"

// appendMasked appends what mask leaves of value, and its length before it.
func appendMasked(dst []byte, mask mask.Func, value []byte) []byte {
	at := len(dst)
	dst = append(dst, nullLength...)
	dst, null := mask(dst, value)
	if null {
		return dst[:at+4]
	}
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// appendValue appends a value with its length before it.
func appendValue(dst, value []byte, null bool) []byte {
	if null {
		return append(dst, nullLength...)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(value)))
	return append(dst, value...)
}

// maskedColumn tells the trail what was masked.
type maskedColumn struct {
	name  string
	cells int64
}

// masked tells what was masked since it was last asked.
func (p *plan) masked() []maskedColumn {
	var all []maskedColumn
	for i, n := range p.cells {
		if n > 0 {
			all = append(all, maskedColumn{p.masks[i], n})
			p.cells[i] = 0
		}
	}
	return all
}

// readFields appends the fields of a RowDescription's body to dst.
//
// Errors: [errMalformed] when the body is not a RowDescription; the session must end.
func readFields(dst []field, body []byte) ([]field, error) {
	const fixed = 18 // bytes behind the name: table, attribute, type, size, modifier, format
	if len(body) < 2 {
		return dst, fmt.Errorf("%w: RowDescription is cut off", errMalformed)
	}
	count := int(binary.BigEndian.Uint16(body))
	rest := body[2:]
	start := len(dst)
	for range count {
		name := bytes.IndexByte(rest, 0)
		if name < 0 || len(rest) < name+1+fixed {
			return dst[:start], fmt.Errorf("%w: RowDescription is cut off", errMalformed)
		}
		f := rest[name+1:]
		dst = append(dst, field{
			table:     binary.BigEndian.Uint32(f),
			attribute: binary.BigEndian.Uint16(f[4:]),
			typeOID:   binary.BigEndian.Uint32(f[6:]),
			modifier:  int32(binary.BigEndian.Uint32(f[12:])),
			binary:    binary.BigEndian.Uint16(f[16:]) != 0,
		})
		rest = f[fixed:]
	}
	if len(rest) != 0 {
		return dst[:start], fmt.Errorf("%w: RowDescription is longer than its fields", errMalformed)
	}
	return dst, nil
}

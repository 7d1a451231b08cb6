package mask

import (
	"encoding/binary"
	"unicode/utf8"
)

// Form says where in a value of a column text may stand, and what it is to be kept like.
type Form uint8

// The forms. The zero Form is the one that everything may be looked for in.
const (
	Text   Form = iota
	Padded      // text of a fixed number of characters, char(n)
	JSON        // JSON stays JSON: a value is replaced within its string, a number by 0
	JSONB       // JSON behind a byte with its version
	Array       // the elements of an array in its binary form
	Fixed       // bytes of an unknown form: what is found is replaced by as many stars
	Opaque      // nothing that is looked for can be in it, or be replaced in it
)

// The types that text may be kept in, by OID.
const (
	textOID    = 25
	nameOID    = 19
	jsonOID    = 114
	xmlOID     = 142
	unknownOID = 705
	cstringOID = 2275
	jsonbOID   = 3802
)

// bare are types that hold numbers, times and addresses, or, bytea, text in hexadecimal
// only, beside those that constants and elements have.
//
// Source: PostgreSQL, src/include/catalog/pg_type.dat.
var bare = map[uint32]bool{
	22: true, 27: true, 28: true, 29: true, 30: true, 600: true, 601: true, 602: true, 603: true, 604: true, 628: true, 718: true,
	2278: true, 3220: true, 3904: true, 3906: true, 3908: true, 3910: true, 3912: true, 3926: true, 5069: true,
}

// FormOf tells the form of a column's values.
func FormOf(c Column) Form {
	element, isArray := elements[c.TypeOID]
	if !isArray {
		element = c.TypeOID
	}
	var form Form
	switch element {
	case textOID, nameOID, varchar, xmlOID, unknownOID, cstringOID:
		form = Text
	case bpchar:
		form = Padded
	case jsonOID:
		form = JSON
	case jsonbOID:
		form = JSON
		if c.Binary {
			form = JSONB
		}
	default:
		switch _, known := constants[element]; {
		case known || bare[element] || element == bit || element == varbit:
			return Opaque
		case c.Binary:
			return Fixed
		}
		return Text
	}
	switch {
	case isArray && c.Binary:
		return Array
	case isArray:
		return Text
	}
	return form
}

// MaskValue appends to dst a value with what is found in it masked, and counts it.
//
// Shape: value is not NULL. Where found is false nothing was appended: the value may
// be sent as it is. Where null is true likewise, and it must be sent as NULL.
// counts has [Detectors.Len] entries, or is nil.
func (d *Detectors) MaskValue(dst, value []byte, form Form, counts []int64) (masked []byte, found, null bool) {
	switch form {
	case Opaque:
		return dst, false, false
	case JSON:
		return d.maskJSON(dst, value, counts)
	case JSONB:
		if len(value) == 0 || value[0] != 1 {
			return dst, false, false // no version that there is
		}
		before := len(dst)
		dst, found, null = d.maskJSON(append(dst, 1), value[1:], counts)
		if !found || null {
			dst = dst[:before]
		}
		return dst, found, null
	case Array:
		return d.maskArray(dst, value, counts)
	}
	var room [8]Span
	spans := d.Find(room[:0], value)
	if len(spans) == 0 {
		return dst, false, false
	}
	if d.nullifies(spans) {
		count(counts, spans)
		return dst, true, true
	}
	before := len(dst)
	if form == Fixed {
		dst = append(dst, value...)
		for _, s := range spans {
			for i := s.Start; i < s.End; i++ {
				dst[before+i] = '*'
			}
		}
		count(counts, spans)
		return dst, true, false
	}
	dst = d.replace(dst, value, spans, counts)
	if form == Padded {
		for n := utf8.RuneCount(value) - utf8.RuneCount(dst[before:]); n > 0; n-- {
			dst = append(dst, ' ')
		}
	}
	return dst, true, false
}

func count(counts []int64, spans []Span) {
	if counts == nil {
		return
	}
	for _, s := range spans {
		counts[s.Detector]++
	}
}

// maskArray masks the elements of an array in its binary form; one that is none becomes NULL.
//
// Source: as of binaryArray.mask.
func (d *Detectors) maskArray(dst, value []byte, counts []int64) (masked []byte, found, null bool) {
	if !d.Suspects(value) {
		return dst, false, false
	}
	if len(value) < 12 {
		return dst, true, true
	}
	dimensions := binary.BigEndian.Uint32(value)
	if dimensions > maxDimensions || len(value) < 12+8*int(dimensions) {
		return dst, true, true
	}
	form := FormOf(Column{TypeOID: binary.BigEndian.Uint32(value[8:]), Binary: true})
	before := len(dst)
	head := 12 + 8*int(dimensions)
	dst = append(dst, value[:head]...)
	for rest := value[head:]; len(rest) > 0; {
		if len(rest) < 4 {
			return dst[:before], true, true
		}
		size := int32(binary.BigEndian.Uint32(rest))
		if size < 0 {
			dst, rest = append(dst, rest[:4]...), rest[4:]
			continue
		}
		if len(rest)-4 < int(size) {
			return dst[:before], true, true
		}
		at := len(dst)
		dst = append(dst, rest[:4]...)
		changed, hit, gone := d.MaskValue(dst, rest[4:4+size], form, counts)
		switch {
		case gone:
			return dst[:before], true, true
		case hit:
			dst, found = changed, true
			binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
		default:
			dst = append(dst, rest[4:4+size]...)
		}
		rest = rest[4+size:]
	}
	if !found {
		dst = dst[:before]
	}
	return dst, found, false
}

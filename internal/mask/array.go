package mask

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// binaryArray replaces the elements of an array in its binary form.
type binaryArray struct {
	element  uint32 // type OID of the elements
	constant string
}

// maxDimensions is PostgreSQL's MAXDIM.
const maxDimensions = 6

// mask keeps dimensions and NULL elements. What is not such an array becomes NULL.
//
// Source: PostgreSQL, src/backend/utils/adt/arrayfuncs.c, array_send: dimensions, has-null flag, element type, for each
// dimension length and lower bound, for each element its length (-1: NULL) and bytes.
func (a binaryArray) mask(dst, value []byte) ([]byte, bool) {
	if len(value) < 12 {
		return dst, true
	}
	dimensions := binary.BigEndian.Uint32(value)
	if dimensions > maxDimensions || binary.BigEndian.Uint32(value[8:]) != a.element || len(value) < 12+8*int(dimensions) {
		return dst, true
	}
	head, rest := value[:12+8*int(dimensions)], value[12+8*int(dimensions):]
	masked := append(dst, head...)
	for len(rest) > 0 {
		if len(rest) < 4 {
			return dst, true
		}
		size := int32(binary.BigEndian.Uint32(rest))
		if size < 0 {
			masked, rest = append(masked, rest[:4]...), rest[4:]
			continue
		}
		if len(rest)-4 < int(size) {
			return dst, true
		}
		masked = binary.BigEndian.AppendUint32(masked, uint32(len(a.constant)))
		masked, rest = append(masked, a.constant...), rest[4+size:]
	}
	return masked, false
}

// textArray replaces the elements of an array in its text form.
type textArray struct {
	constant string // quoted as an element
}

// mask keeps dimensions and NULL elements. What is not such an array becomes NULL.
//
// Source: PostgreSQL 17 documentation, 8.15.6 Array Input and Output Syntax.
func (a textArray) mask(dst, value []byte) ([]byte, bool) {
	masked, rest := dst, value
	if len(rest) > 0 && rest[0] == '[' {
		end := bytes.IndexByte(rest, '=')
		if end < 0 || !isBounds(rest[:end]) {
			return dst, true
		}
		masked, rest = append(masked, rest[:end+1]...), rest[end+1:]
	}
	if len(rest) == 0 || rest[0] != '{' {
		return dst, true
	}
	for len(rest) > 0 {
		switch c := rest[0]; c {
		case '{', '}', ',':
			masked, rest = append(masked, c), rest[1:]
		default:
			size := elementSize(rest)
			if size < 0 {
				return dst, true
			}
			if bytes.EqualFold(rest[:size], []byte("NULL")) {
				masked = append(masked, "NULL"...)
			} else {
				masked = append(masked, a.constant...)
			}
			rest = rest[size:]
		}
	}
	return masked, false
}

// isBounds tells that b is made of what "[1:3][-1:2]" is made of.
func isBounds(b []byte) bool {
	return len(bytes.Trim(b, "0123456789:[]-+")) == 0
}

// elementSize gives the length of the element at the beginning of b, -1 where its quotes do not end.
func elementSize(b []byte) int {
	if b[0] != '"' {
		if i := bytes.IndexAny(b, ",{}"); i >= 0 {
			return i
		}
		return -1
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// quote writes a value as an element of an array's text form.
func quote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

package mask

import (
	"encoding/binary"
	"strings"
)

// constant is the redacted value of a type, in both wire formats.
type constant struct{ text, binary string }

func (c constant) in(binary bool) string {
	if binary {
		return c.binary
	}
	return c.text
}

// stars is what is left of text.
const stars = "***"

// The days and microseconds from PostgreSQL's epoch, 2000-01-01, to 1970-01-01.
//
// Source: PostgreSQL, src/include/datatype/timestamp.h, POSTGRES_EPOCH_JDATE and UNIX_EPOCH_JDATE.
const (
	epochDays         = -10957
	epochMicroseconds = epochDays * 24 * 60 * 60 * 1_000_000
)

// OIDs whose constant depends on the type modifier.
const (
	bpchar  = 1042
	varchar = 1043
	bit     = 1560
	varbit  = 1562
)

// constants holds the redacted values that need no type modifier, by type OID.
//
// Source: PostgreSQL, src/include/catalog/pg_type.dat for OIDs, each type's send function for the binary form.
var constants = map[uint32]constant{
	16:   {"f", "\x00"},                                       // bool
	17:   {`\x`, ""},                                          // bytea
	18:   {"*", "*"},                                          // "char"
	19:   {stars, stars},                                      // name
	20:   {"0", zeros(8)},                                     // int8
	21:   {"0", zeros(2)},                                     // int2
	23:   {"0", zeros(4)},                                     // int4
	25:   {stars, stars},                                      // text
	26:   {"0", zeros(4)},                                     // oid
	114:  {"null", "null"},                                    // json
	142:  {stars, stars},                                      // xml
	650:  {"0.0.0.0/32", "\x02\x20\x01\x04" + zeros(4)},       // cidr: family, bits, is_cidr, length, address
	700:  {"0", zeros(4)},                                     // float4
	701:  {"0", zeros(8)},                                     // float8
	774:  {"00:00:00:00:00:00:00:00", zeros(8)},               // macaddr8
	790:  {"$0.00", zeros(8)},                                 // money
	829:  {"00:00:00:00:00:00", zeros(6)},                     // macaddr
	869:  {"0.0.0.0", "\x02\x20\x00\x04" + zeros(4)},          // inet
	1082: {"1970-01-01", int4(epochDays)},                     // date
	1083: {"00:00:00", zeros(8)},                              // time
	1114: {"1970-01-01 00:00:00", int8(epochMicroseconds)},    // timestamp
	1184: {"1970-01-01 00:00:00+00", int8(epochMicroseconds)}, // timestamptz
	1186: {"00:00:00", zeros(16)},                             // interval: microseconds, days, months
	1266: {"00:00:00+00", zeros(12)},                          // timetz: microseconds, zone
	1700: {"0", zeros(8)},                                     // numeric: digits, weight, sign, scale
	2950: {"00000000-0000-0000-0000-000000000000", zeros(16)}, // uuid
	3802: {"null", "\x01null"},                                // jsonb: version 1
}

// elements holds the element type of each array type whose elements can be redacted.
var elements = map[uint32]uint32{
	143: 142, 199: 114, 651: 650, 775: 774, 791: 790, 1000: 16, 1001: 17, 1002: 18, 1003: 19, 1005: 21, 1007: 23, 1009: 25,
	1014: bpchar, 1015: varchar, 1016: 20, 1021: 700, 1022: 701, 1028: 26, 1040: 829, 1041: 869, 1115: 1114, 1182: 1082, 1183: 1083,
	1185: 1184, 1187: 1186, 1231: 1700, 1270: 1266, 1561: bit, 1563: varbit, 2951: 2950, 3807: 3802,
}

// constantOf gives the redacted value of a type, if it can hold one.
func constantOf(oid uint32, modifier int32) (constant, bool) {
	switch oid {
	case varchar, bpchar:
		return characters(oid, modifier), true
	case varbit:
		return constant{"", int4(0)}, true
	case bit:
		return bitString(modifier)
	}
	c, ok := constants[oid]
	return c, ok
}

// maxWidth is the longest char(n) and bit(n), in characters, for which a constant is made: a
// longer char(n) is not padded, a longer bit(n) becomes NULL.
const maxWidth = 64 << 10

// characters gives the value of varchar(n) and char(n). The modifier is n and four
// bytes of header, or -1.
func characters(oid uint32, modifier int32) constant {
	width, value := int(modifier)-4, stars
	switch {
	case width < 0 || width > maxWidth:
	case width < len(value):
		value = value[:width]
	case oid == bpchar:
		value += strings.Repeat(" ", width-len(value))
	}
	return constant{value, value}
}

// bitString gives the value of bit(n), whose modifier is n.
func bitString(modifier int32) (constant, bool) {
	if modifier < 0 || modifier > maxWidth {
		return constant{}, false
	}
	width := int(modifier)
	return constant{strings.Repeat("0", width), int4(modifier) + zeros((width+7)/8)}, true
}

func zeros(n int) string { return strings.Repeat("\x00", n) }

func int4(v int32) string { return string(binary.BigEndian.AppendUint32(nil, uint32(v))) }

func int8(v int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(v))) }

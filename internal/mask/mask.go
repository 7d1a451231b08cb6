// Package mask turns a value of a result row into its masked form, in the
// type and the wire format that the client was told to expect.
//
// A mask never looks at more of a value than its shape needs, so it cannot
// give any of it away: redact answers a constant of the type, null answers
// NULL. A type that cannot hold the constant becomes NULL.
//
// [Detectors] find values by their form instead, in text of any origin: the second
// net under declared columns, for what nobody declared. They are not complete. What
// is spelt backwards, cut in two, or encoded is not found.
package mask

import "fmt"

// Kind says what is left of a value.
type Kind uint8

// The zero Kind is the one that leaves least.
const (
	Null   Kind = iota // nothing: the value becomes NULL
	Redact             // a constant that the type can hold: "***", 0, false, 1970-01-01 …
)

// ParseKind gives the kind that a Target document calls name.
//
// Errors: name is none of null and redact.
func ParseKind(name string) (Kind, error) {
	switch name {
	case "null":
		return Null, nil
	case "redact":
		return Redact, nil
	}
	return Null, fmt.Errorf("mask %q: want null or redact", name)
}

// String gives the name by which a Target document calls k.
func (k Kind) String() string {
	if k == Redact {
		return "redact"
	}
	return "null"
}

// Column is what RowDescription and the portal's formats say of a column.
type Column struct {
	TypeOID      uint32 // of a domain, the wire has the base type's
	TypeModifier int32  // atttypmod, -1 where there is none
	Binary       bool
}

// Func appends the masked form of value to dst.
//
// Shape: value is the field's bytes without their length and is not NULL; it is
// neither kept nor changed. Where null is true nothing was appended and the
// field must be sent as NULL. A Func may be called by many goroutines.
type Func func(dst, value []byte) (masked []byte, null bool)

// New gives the function that masks a column's values, made once a plan.
//
// Shape: the function depends on the column alone and allocates nothing a row but what dst needs to grow.
func New(kind Kind, column Column) Func {
	if kind != Redact {
		return null
	}
	if c, ok := constantOf(column.TypeOID, column.TypeModifier); ok {
		value := c.in(column.Binary)
		return func(dst, _ []byte) ([]byte, bool) { return append(dst, value...), false }
	}
	element, ok := elements[column.TypeOID]
	if !ok {
		return null
	}
	c, ok := constantOf(element, column.TypeModifier)
	if !ok {
		return null
	}
	if column.Binary {
		return binaryArray{element: element, constant: c.binary}.mask
	}
	return textArray{constant: quote(c.text)}.mask
}

func null(dst, _ []byte) ([]byte, bool) { return dst, true }

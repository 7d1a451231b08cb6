package postgres

import "postern.dev/postern/internal/mask"

// plan masks the rows of one result. It belongs to one portal of one session.
type plan struct {
	snapshot *snapshot   // what it was made of: not valid with any other
	columns  []mask.Func // nil where a column is not masked
	masks    []string    // by column: the sensitive column's name, "public.users.email"; "" where it is not masked
	cells    []int64     // by column: values masked since the last call of masked
}

// maskedColumn tells the trail what was masked.
type maskedColumn struct {
	Name  string
	Cells int64
}

// rewrite appends the masked form of a DataRow's body to dst.
//
// Errors: the body is not a DataRow of the plan's width; the session must end.
func (p *plan) rewrite(dst, body []byte) ([]byte, error) {
	_ = body
	return dst, nil
}

// masked tells what was masked since it was last asked.
func (p *plan) masked() []maskedColumn { return nil }

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

// readFields appends the fields of a RowDescription's body to dst.
//
// Errors: the body is not a RowDescription; the session must end.
func readFields(dst []field, body []byte) ([]field, error) {
	_ = body
	return dst, nil
}

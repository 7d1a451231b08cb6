package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Limits on what a server may make Postern hold.
const (
	maxCatalogRow   = 16 << 20  // bytes
	maxCatalogBytes = 256 << 20 // in all
)

// facts is what the server's catalogs say, before anyone judges it.
type facts struct {
	epoch     string
	relations map[uint32]*relation
	inherits  []inheritance
	types     []typePart
	rules     []rewriteRule
	reads     map[uint32][]columnID // by relation with a rule
	generated []generatedColumn
	builtins  map[uint32]string // functions that initdb created
	onRows    []rowFunction
	shadowed  []string // functions with the name of a built-in
}

// relation is what pg_class and pg_attribute say of a table, view, sequence, index, TOAST table or composite type.
type relation struct {
	oid     uint32
	schema  string
	name    string
	kind    byte   // pg_class.relkind
	width   uint16 // highest attribute number, dropped ones included
	rowType uint32
	columns []column // by attribute number; dropped ones are missing
}

// column is one that is not dropped.
type column struct {
	number  uint16
	name    string
	typeOID uint32
}

// columnID names a column of the database. The zero one stands for code whose reads are not known.
type columnID struct {
	table  uint32
	number uint16
}

// inheritance is a row of pg_inherits.
type inheritance struct{ parent, child uint32 }

// typePart says that values of one type hold values of another.
type typePart struct{ whole, part uint32 }

// rewriteRule is a row of pg_rewrite.
type rewriteRule struct {
	relation uint32
	isView   bool // an ON SELECT rule: what the relation's rows are
	action   string
}

// generatedColumn says that a column is computed of another in its table.
type generatedColumn struct {
	table          uint32
	number, source uint16
}

// rowFunction is a function that can be called as if it were a column of a row.
type rowFunction struct {
	name     string
	argument uint32 // the type that it takes
}

// readEpoch asks whether anything changed.
func readEpoch(ctx context.Context, conn *pgconn.PgConn) (string, error) {
	var f facts
	err := readCatalog(ctx, conn, f.epochQuery())
	return f.epoch, err
}

// readFacts reads the catalogs as they were at one moment.
//
// Errors: the server refused, was too slow, sent more than [maxCatalogBytes] or something else than was asked for. The connection cannot be used again.
func readFacts(ctx context.Context, conn *pgconn.PgConn) (*facts, error) {
	f := &facts{
		relations: map[uint32]*relation{},
		reads:     map[uint32][]columnID{},
		builtins:  map[uint32]string{},
	}
	return f, readCatalog(ctx, conn, append(f.queries(), f.epochQuery())...)
}

// catalogQuery is a statement and what is done with each row of its answer.
type catalogQuery struct {
	text  string
	width int
	read  func(*catalogRow)
}

// readCatalog asks the queries in one transaction and one message.
func readCatalog(ctx context.Context, conn *pgconn.PgConn, queries ...catalogQuery) error {
	var script strings.Builder
	script.WriteString(preamble)
	for _, q := range queries {
		script.WriteString(q.text + ";\n")
	}
	script.WriteString("COMMIT")
	answers := conn.Exec(ctx, script.String())
	budget := maxCatalogBytes
	for answers.NextResult() {
		rows := answers.ResultReader()
		if len(rows.FieldDescriptions()) == 0 {
			continue // of the preamble
		}
		if len(queries) == 0 || len(rows.FieldDescriptions()) != queries[0].width {
			return errors.New("read the catalogs: another answer than was asked for")
		}
		for rows.NextRow() {
			r := catalogRow{values: rows.Values()}
			if len(r.values) != queries[0].width {
				return errors.New("read the catalogs: a row is not as wide as its description")
			}
			queries[0].read(&r)
			if budget -= r.size(); budget < 0 {
				return fmt.Errorf("read the catalogs: more than %d bytes", maxCatalogBytes)
			}
			if r.err != nil {
				return fmt.Errorf("read the catalogs: %w", r.err)
			}
		}
		queries = queries[1:]
	}
	if err := answers.Close(); err != nil {
		return err
	}
	if len(queries) != 0 {
		return errors.New("read the catalogs: an answer is missing")
	}
	return nil
}

// catalogRow reads the values of a row, of a server that may say anything.
type catalogRow struct {
	values [][]byte
	err    error
}

func (r *catalogRow) size() (n int) {
	for _, v := range r.values {
		n += len(v) + 32 // what Go needs around them
	}
	return n
}

func (r *catalogRow) text(i int) string { return string(r.values[i]) }

func (r *catalogRow) char(i int) byte {
	if len(r.values[i]) != 1 {
		r.err = errors.New("a character is missing")
		return 0
	}
	return r.values[i][0]
}

func (r *catalogRow) oid(i int) uint32 {
	n, err := strconv.ParseUint(r.text(i), 10, 32)
	if err != nil {
		r.err = errors.New("an OID is no number")
	}
	return uint32(n)
}

func (r *catalogRow) attribute(i int) uint16 {
	n, err := strconv.ParseUint(r.text(i), 10, 15)
	if err != nil {
		r.err = errors.New("an attribute number is no number")
	}
	return uint16(n)
}

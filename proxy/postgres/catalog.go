package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/mask"
	"postern.dev/postern/internal/sql"
)

// errUnknownRelation means that a result has a column of a relation which the
// catalog does not have, even when asked anew: most often one that was created
// in a transaction which is not committed.
var errUnknownRelation = errors.New("result of a relation that is not in the catalog")

// declared is one pattern of a Target's sensitive columns.
type declared struct {
	pattern string // as written
	matches func(schema, relation, column string) bool
	kind    mask.Kind
}

// catalog knows which columns of one database are sensitive.
//
// It asks the server over a connection of Postern's own, which all sessions of
// the same Target, database and login share. It may be used by many goroutines.
type catalog struct {
	connect  func(context.Context) (*pgconn.PgConn, error)
	declared []declared
}

// newCatalog gives a catalog that connects when it is first asked.
//
// Shape: connect dials and logs in; the catalog closes what it returns.
func newCatalog(connect func(context.Context) (*pgconn.PgConn, error), columns []declared) *catalog {
	return &catalog{connect: connect, declared: columns}
}

// snapshot tells the state of the catalog, at most 1 s old.
//
// Shape: while nothing changed the answer is the same pointer, so what was made of a snapshot stays valid as long as it is.
// Errors: the server cannot be asked; nothing may then be let through.
func (c *catalog) snapshot(ctx context.Context) (*snapshot, error) {
	return nil, ctx.Err()
}

// judge finds what speaks against running statements in a database with sensitive columns. It answers nil where nothing does.
//
// Errors: those of [catalog.snapshot].
func (c *catalog) judge(ctx context.Context, statements []*sql.Statement) (*snapshot, *objection, error) {
	_ = statements
	return nil, nil, ctx.Err()
}

// plan tells how the rows of a result are masked, nil where no column is.
//
// Shape: formats are those of Bind: none (all text), one (for all) or one for each field.
// Errors: [errUnknownRelation], an [*objection], and those of [catalog.snapshot].
func (c *catalog) plan(ctx context.Context, fields []field, formats []int16) (*plan, error) {
	_, _ = fields, formats
	return nil, ctx.Err()
}

// invalidate makes the next question go to the server: DDL went through, when it was relayed and again when it completed.
func (c *catalog) invalidate() {}

// close ends the connection. The catalog opens a new one when it is asked again.
func (c *catalog) close() {}

// objection is why a statement cannot run, or a result cannot be shown, beside a sensitive column.
type objection struct {
	Relation string // as written or, of a result, with its schema
	Column   string // "" where the whole relation is meant
	Use      string // what is done with it
}

// Error says it in words that may be shown to the client.
func (o *objection) Error() string {
	return o.Relation + o.Column + o.Use
}

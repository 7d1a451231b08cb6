package postgres

import (
	"context"
	"errors"
	"slices"

	"postern.dev/postern/internal/sql"
)

// objection is why, in a database with sensitive columns, a statement cannot run or a result cannot be shown.
type objection struct {
	Relation string // as written or, of a result, with its schema; "" where no relation is to blame
	Column   string // "" where the whole relation is meant
	Use      string // what is done with it
	Way      string // what would work
}

// Error says it in words that may be shown to the client.
func (o *objection) Error() string {
	text := o.Use
	switch {
	case o.Column != "":
		text = "sensitive column " + o.Relation + "." + o.Column + " used in: " + o.Use
	case o.Relation != "":
		text = o.Relation + ": " + o.Use
	}
	if o.Way != "" {
		text += "; " + o.Way
	}
	return text
}

// judge finds what speaks against running statements in a database with sensitive
// columns: the first [*objection], or nil.
//
// Shape: snapshot is what was judged by; it is clear where the database has no sensitive column.
// Errors: those of [catalog.snapshot].
func (c *catalog) judge(ctx context.Context, statements []*sql.Statement) (*snapshot, *objection, error) {
	s, err := c.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	o, unknown := s.object(statements)
	if !unknown {
		return s, o, nil
	}
	if s, err = c.refreshed(ctx); err != nil { // created a moment ago, perhaps
		return nil, nil, err
	}
	o, _ = s.object(statements)
	return s, o, nil
}

// plan tells how the rows of a result are masked, nil where no column is.
//
// Shape: as of [snapshot.plan].
// Errors: those of [snapshot.plan] and [catalog.snapshot].
func (c *catalog) plan(ctx context.Context, fields []field, formats []int16) (*plan, error) {
	s, err := c.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(fields, formats)
	if !errors.Is(err, errUnknownRelation) {
		return p, err
	}
	if s, err = c.refreshed(ctx); err != nil {
		return nil, err
	}
	return s.plan(fields, formats)
}

// object finds the first objection to any of the statements. unknown means that
// it is about a relation which the snapshot does not have.
func (s *snapshot) object(statements []*sql.Statement) (o *objection, unknown bool) {
	if s.clear() {
		return nil, false
	}
	for _, st := range statements {
		if o, unknown = s.objectTo(st); o != nil {
			return o, unknown
		}
		if st.Inner == nil {
			continue
		}
		if o, unknown = s.objectTo(st.Inner); o != nil {
			return o, unknown
		}
	}
	return nil, false
}

func (s *snapshot) objectTo(st *sql.Statement) (o *objection, unknown bool) {
	if st.Unknown != "" {
		return &objection{Use: "a statement that cannot be read: " + st.Unknown}, false
	}
	for _, word := range st.Words {
		if word == sql.Do || word == sql.Call {
			return &objection{Use: word + " runs code that Postern does not read", Way: "send its statements one by one"}, false
		}
	}
	for _, f := range st.Functions {
		if !f.Builtin && !silent(f) {
			return &objection{
				Use: "function " + f.Name + "() may read sensitive columns: Postern does not see what it does",
				Way: "select plain columns",
			}, false
		}
	}
	if m := st.Misuse(s.sensitive); m != nil {
		return &objection{Relation: m.Relation, Column: m.Column, Use: m.Use, Way: "select it as a plain column, which is masked"}, false
	}
	for _, r := range st.Relations {
		created := r.Write && slices.Contains(st.Words, sql.DDL)
		if !created && !s.known(r.Schema, r.Name) {
			return &objection{
				Relation: r.Name,
				Use:      "there is no such relation, or it was made in a transaction that is not committed",
				Way:      "commit first, so that Postern can tell which of its columns are sensitive",
			}, true
		}
	}
	return nil, false
}

package postgres

import (
	"context"
	"errors"
	"slices"

	"postern.dev/postern/internal/sql"
	"postern.dev/postern/proxy"
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
func (c *catalog) judge(ctx context.Context, share *proxy.Share, statements []*sql.Statement) (*snapshot, *objection, error) {
	s, err := c.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	o, unknown := s.object(statements)
	if !unknown {
		return s, o, nil
	}
	newer, err := c.refreshed(ctx, share) // created a moment ago, perhaps
	if over := overShare(err); over != nil {
		return s, &objection{Use: over.words()}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	s = newer
	o, _ = s.object(statements)
	return s, o, nil
}

// plan tells how the rows of a result are masked, nil where no column is.
//
// Shape: as of [snapshot.plan].
// Errors: those of [snapshot.plan] and [catalog.refreshed].
func (c *catalog) plan(ctx context.Context, share *proxy.Share, fields []field, formats []int16) (*plan, error) {
	s, err := c.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(fields, formats)
	if !errors.Is(err, errUnknownRelation) {
		return p, err
	}
	if s, err = c.refreshed(ctx, share); err != nil {
		return nil, err
	}
	return s.plan(fields, formats)
}

// object finds the first objection to any of the statements. unknown means that
// it is about a relation which the snapshot does not have.
func (s *snapshot) object(statements []*sql.Statement) (o *objection, unknown bool) {
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

// objectTo finds an objection to one statement.
func (s *snapshot) objectTo(st *sql.Statement) (o *objection, unknown bool) {
	if s.clear() {
		if st.Unknown != "" {
			return nil, false
		}
		return s.objectToUse(st), false
	}
	if o := s.objectToCode(st); o != nil {
		return o, false
	}
	if o := s.objectToUse(st); o != nil {
		return o, false
	}
	defines := slices.Contains(st.Words, sql.DDL)
	if defines {
		if o := s.objectToDefinition(st); o != nil {
			return o, false
		}
	}
	for _, r := range st.Relations {
		if !s.known(r.Schema, r.Name) && !(defines && r.Write) {
			return &objection{
				Relation: r.Name,
				Use:      "there is no such relation, or it was made in a transaction that is not committed",
				Way:      "commit first, so that Postern can tell which of its columns are sensitive",
			}, true
		}
	}
	return nil, false
}

// objectToUse objects to what no mask of a result column covers.
func (s *snapshot) objectToUse(st *sql.Statement) *objection {
	m := st.Misuse(s.sensitive)
	if m == nil {
		return nil
	}
	return &objection{Relation: m.Relation, Column: m.Column, Use: m.Use, Way: "select it as a plain column, which is masked"}
}

// objectToCode objects to what may read any column unseen.
func (s *snapshot) objectToCode(st *sql.Statement) *objection {
	if st.Unknown != "" {
		return &objection{Use: "a statement that cannot be read: " + st.Unknown}
	}
	for _, word := range st.Words {
		if word == sql.Do || word == sql.Call {
			return &objection{Use: word + " runs code that Postern does not read", Way: "send its statements one by one"}
		}
	}
	for _, f := range st.Functions {
		if s.shadowed.has(f) || !f.Builtin && !tellsNothing(f) {
			return &objection{Use: "what " + f.Name + " reads is not known here", Way: "select plain columns"}
		}
	}
	return nil
}

// objectToDefinition lets DDL through only where it makes or changes relations and
// names none that has a sensitive column. No such column can then be renamed, moved,
// or get another parent or view, out of sight of the policy or, until the transaction
// ends, of the catalog; and no function or trigger is made that reads one unseen.
func (s *snapshot) objectToDefinition(st *sql.Statement) *objection {
	const way = "change such definitions with a login of your own, not through Postern"
	named := false
	for _, r := range st.Relations {
		if columns := s.sensitive(r.Schema, r.Name); len(columns) > 0 {
			return &objection{Relation: r.Name, Column: columns[0], Use: "a definition", Way: way}
		}
		named = named || r.Write
	}
	if !named || st.Foreign {
		return &objection{Use: "in a database with sensitive columns only tables, views, indexes and sequences can be defined", Way: way}
	}
	return nil
}

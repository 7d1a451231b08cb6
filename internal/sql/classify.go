package sql

import (
	"errors"
	"fmt"
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// errUnclassified says that a tree is not as this package expects it.
var errUnclassified = errors.New("the statement's tree cannot be read")

// classify reads a tree in libpg_query's protobuf form.
func classify(tree []byte) (script *Script, err error) {
	defer func() {
		// A statement may end in UNKNOWN, the process may not.
		if recover() != nil {
			script, err = nil, errUnclassified
		}
	}()
	result := new(pg.ParseResult)
	if err := proto.Unmarshal(tree, result); err != nil {
		// Protobuf's text may quote.
		return nil, errUnclassified
	}
	script = new(Script)
	for _, raw := range result.Stmts {
		script.Statements = append(script.Statements, newStatement(raw.Stmt))
	}
	return script, nil
}

// newStatement tells what the statement at root does.
func newStatement(root *pg.Node) *Statement {
	r := reader{statement: &Statement{tree: root}}
	top := content(root.ProtoReflect())
	if top == nil {
		r.unknown("an empty statement")
	} else {
		r.top(top)
	}
	return r.finish()
}

// content gives the message that a Node holds, nil for none.
func content(node protoreflect.Message) protoreflect.Message {
	field := node.WhichOneof(node.Descriptor().Oneofs().Get(0))
	if field == nil {
		return nil
	}
	return node.Get(field).Message()
}

// reader collects what one statement does, from all of its tree.
type reader struct {
	statement *Statement
	wheres    []bool                  // for each UPDATE and DELETE: has a WHERE that selects
	quiet     map[*pg.SelectStmt]bool // VALUES lists under INSERT, which are no SELECT
	relations map[relationName]int    // index in statement.Relations
	functions map[Function]bool       // those in statement.Functions
}

// top reads the statement's outermost node.
func (r *reader) top(m protoreflect.Message) {
	s := r.statement
	s.Kind = verdicts[m.Descriptor().Name()].kind
	s.ReturnsRows = returnsRows(m.Interface())
	switch n := m.Interface().(type) {
	case *pg.PrepareStmt:
		s.Name, s.Inner = n.Name, newStatement(n.Query)
	case *pg.DeclareCursorStmt:
		s.Name, s.Inner = n.Portalname, newStatement(n.Query)
	case *pg.ExplainStmt:
		s.Inner = newStatement(n.Query)
	case *pg.ExecuteStmt:
		// The one place where whoever acts on a Statement looks the name up.
		s.Name = n.Name
		r.words(Session)
		r.fields(m, nil)
		return
	case *pg.DiscardStmt:
		s.Name = discards[n.Target]
	case *pg.DeallocateStmt:
		s.Name = n.Name
	case *pg.FetchStmt:
		s.Name = n.Portalname
	case *pg.ClosePortalStmt:
		s.Name = n.Portalname
	}
	r.message(m, nil)
}

// discards names what DISCARD takes of a session; ALL has no name, as with DEALLOCATE. What is
// not here counts as ALL.
var discards = map[pg.DiscardMode]string{
	pg.DiscardMode_DISCARD_PLANS: "plans", pg.DiscardMode_DISCARD_SEQUENCES: "sequences", pg.DiscardMode_DISCARD_TEMP: "temp",
}

// finish puts the collected facts in order.
func (r *reader) finish() *Statement {
	s := r.statement
	if s.Unknown != "" {
		s.Words = []string{Unknown}
	}
	if len(s.Words) == 0 {
		// An EXPLAIN of nothing and the like: nothing may be allowed for having no words.
		s.Words, s.Unknown = []string{Unknown}, "no word applies to it"
	}
	slices.Sort(s.Words)
	s.Words = slices.Compact(s.Words)
	s.HasWhere = len(r.wheres) > 0 && !slices.Contains(r.wheres, false)
	if len(r.wheres) == 0 {
		s.HasWhere = selects(outermost(s.tree).GetWhereClause())
	}
	return s
}

// outermost gives the SELECT that a statement is, nil if it is none.
func outermost(root *pg.Node) *pg.SelectStmt {
	switch n := root.GetNode().(type) {
	case *pg.Node_SelectStmt:
		return n.SelectStmt
	case *pg.Node_PrepareStmt:
		return outermost(n.PrepareStmt.Query)
	case *pg.Node_DeclareCursorStmt:
		return outermost(n.DeclareCursorStmt.Query)
	case *pg.Node_ExplainStmt:
		return outermost(n.ExplainStmt.Query)
	}
	return nil
}

func (r *reader) words(words ...string) {
	r.statement.Words = append(r.statement.Words, words...)
}

func (r *reader) unknown(reason string) {
	if r.statement.Unknown == "" {
		r.statement.Unknown = reason
	}
}

// message reads a node and all below it; visible are the WITH queries whose names it may use.
func (r *reader) message(m protoreflect.Message, visible *with) {
	name := m.Descriptor().Name()
	if v, ok := verdicts[name]; ok {
		r.verdict(name, v)
	} else if !parts[name] {
		r.unknown(fmt.Sprintf("a node of type %s, which is not known here", name))
		return
	}
	switch n := m.Interface().(type) {
	case *pg.Node:
		if inner := content(m); inner != nil {
			r.message(inner, visible)
		}
		return
	case *pg.RangeVar:
		r.relation(n, visible)
	case *pg.LockingClause:
		// It names items of FROM, not relations.
		r.words(Lock)
		return
	default:
		r.expression(m.Interface())
		r.change(m.Interface())
		r.object(m.Interface())
	}
	r.fields(m, r.with(m, visible))
}

// verdict adds what a node's type alone says.
func (r *reader) verdict(name protoreflect.Name, v verdict) {
	if v.unknown != "" {
		r.unknown(v.unknown)
	}
	if name == "SelectStmt" {
		return // VALUES under INSERT is none: see change
	}
	r.words(v.words...)
}

// fields reads what is below a node. A WITH clause was read by [reader.with].
func (r *reader) fields(m protoreflect.Message, visible *with) {
	writes := verdicts[m.Descriptor().Name()].writes
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.Kind() != protoreflect.MessageKind || !m.Has(field) || field.Name() == "with_clause" {
			continue
		}
		if !field.IsList() {
			child := m.Get(field).Message()
			if target, ok := child.Interface().(*pg.RangeVar); ok && writes {
				// The target of a change is a relation even where a WITH query has its name.
				r.add(Relation{Schema: target.Schemaname, Name: target.Relname, Write: true})
				continue
			}
			r.message(child, visible)
			continue
		}
		list := m.Get(field).List()
		for i := range list.Len() {
			r.message(list.Get(i).Message(), visible)
		}
	}
}

// with is the list of WITH queries whose names can be used at some place.
type with struct {
	name   string
	next   *with
	length int
}

// maxWiths bounds that list, which is searched for each relation.
const maxWiths = 1000

func (w *with) add(name string) *with {
	if w == nil {
		return &with{name: name, length: 1}
	}
	return &with{name: name, next: w, length: w.length + 1}
}

func (w *with) has(name string) bool {
	for ; w != nil; w = w.next {
		if w.name == name {
			return true
		}
	}
	return false
}

// with reads the WITH clause of m, and gives what is visible in the rest of m.
//
// A query sees those before it, and with RECURSIVE all of its clause. To hide a relation behind a
// name where PostgreSQL does not would let it pass unseen.
// Source: PostgreSQL 17, src/backend/parser/parse_cte.c.
func (r *reader) with(m protoreflect.Message, visible *with) *with {
	field := m.Descriptor().Fields().ByName("with_clause")
	if field == nil || !m.Has(field) {
		return visible
	}
	clause, ok := m.Get(field).Message().Interface().(*pg.WithClause)
	if !ok {
		r.unknown(errUnclassified.Error())
		return visible
	}
	all := visible
	for _, node := range clause.Ctes {
		all = all.add(node.GetCommonTableExpr().GetCtename())
	}
	if all != nil && all.length > maxWiths {
		r.unknown("more WITH queries than can be followed")
		return visible
	}
	for _, node := range clause.Ctes {
		if clause.Recursive {
			r.message(node.ProtoReflect(), all)
			continue
		}
		r.message(node.ProtoReflect(), visible)
		visible = visible.add(node.GetCommonTableExpr().GetCtename())
	}
	return all
}

// settings are the names of the view whose UPDATE is set_config(), for rows that are not told here.
//
// Source: PostgreSQL 17, src/backend/catalog/system_views.sql, rule pg_settings_u.
var settings = map[relationName]bool{{"", "pg_settings"}: true, {"pg_catalog", "pg_settings"}: true}

func (r *reader) relation(n *pg.RangeVar, visible *with) {
	if n.Schemaname == "" && visible.has(n.Relname) {
		return
	}
	r.add(Relation{Schema: n.Schemaname, Name: n.Relname})
}

func (r *reader) add(relation Relation) {
	name := relationName{relation.Schema, relation.Name}
	if relation.Write && settings[name] {
		r.set(Setting{})
	}
	if i, known := r.relations[name]; known {
		r.statement.Relations[i].Write = r.statement.Relations[i].Write || relation.Write
		return
	}
	if r.relations == nil {
		r.relations = make(map[relationName]int)
	}
	r.relations[name] = len(r.statement.Relations)
	r.statement.Relations = append(r.statement.Relations, relation)
}

// dotted gives the strings of a qualified name.
func dotted(nodes []*pg.Node) []string {
	names := make([]string, 0, len(nodes))
	for _, n := range nodes {
		names = append(names, n.GetString_().GetSval())
	}
	return names
}

// qualified splits a name into schema and name; a database before them is the session's own.
func qualified(nodes []*pg.Node) (schema, name string) {
	names := dotted(nodes)
	if len(names) == 0 {
		return "", ""
	}
	name = names[len(names)-1]
	if len(names) > 1 {
		schema = names[len(names)-2]
	}
	return schema, name
}

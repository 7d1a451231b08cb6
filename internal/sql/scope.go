package sql

import (
	pg "github.com/pganalyze/pg_query_go/v6"
)

// scope is what the expressions of one query can name.
type scope struct {
	items map[string]item // by name
	dirty bool            // one of them touches
	outer *scope
}

// add makes an item known. Of several with one name (a.t and b.t, or none) one is kept that stands for all, so
// that a column is not compared with each of them.
func (s *scope) add(i item) {
	if s.items == nil {
		s.items = make(map[string]item)
	}
	s.dirty = s.dirty || i.touches
	if known := s.items[i.name]; known.touches {
		if i.touches {
			known.columns = nil // any tainted name: those of all relations are
		}
		i = known
	}
	s.items[i.name] = i
}

// item is an entry of FROM, or the target of a change.
type item struct {
	name    string          // alias or relation
	touches bool            // a sensitive relation is in it
	columns map[string]bool // of a relation: its sensitive columns; nil: any tainted name
}

func (i item) taints(column string, tainted map[string]bool) bool {
	switch {
	case !i.touches:
		return false
	case i.columns != nil:
		return i.columns[column]
	}
	return tainted[column]
}

// named gives the items of the name, of all scopes. (PostgreSQL takes the innermost.)
func (s *scope) named(name string) (found []item) {
	for ; s != nil; s = s.outer {
		if i, is := s.items[name]; is {
			found = append(found, i)
		}
	}
	return found
}

// touches tells that any item in any scope does. Where there is no scope, nothing is known.
func (s *scope) touches() bool {
	if s == nil {
		return true
	}
	for ; s != nil; s = s.outer {
		if s.dirty {
			return true
		}
	}
	return false
}

// rowFunctions are the built-in functions of one argument that give a row's values away:
// c.to_json is to_json(c), as if it were a column of c. (hstore is an extension's.)
//
// Source: PostgreSQL 17, src/backend/parser/parse_func.c, ParseFuncOrColumn; PostgreSQL 15's pg_proc, and 16 to 18 added.
var rowFunctions = map[string]bool{
	"any_out": true, "anycompatible_out": true, "anycompatiblenonarray_out": true, "anyelement_out": true, "anynonarray_out": true,
	"any_value": true, "array_agg": true, "concat": true, "hash_record": true, "hstore": true, "json_agg": true, "json_agg_strict": true,
	"json_build_array": true, "json_build_object": true, "jsonb_agg": true, "jsonb_agg_strict": true, "jsonb_build_array": true,
	"jsonb_build_object": true, "max": true, "min": true, "num_nonnulls": true, "num_nulls": true, "pg_column_size": true,
	"quote_literal": true, "quote_nullable": true, "record_out": true, "record_send": true, "row_to_json": true, "to_json": true, "to_jsonb": true,
}

// taint tells whether a reference may reach a sensitive column, and whether it does so through a whole row.
func (j *judge) taint(n *pg.ColumnRef, s *scope) (name string, tainted, row bool) {
	last := len(n.Fields) - 1
	if n.Fields[last].GetAStar() != nil {
		if last == 0 {
			return "", s.touches(), false
		}
		found := s.named(n.Fields[last-1].GetString_().GetSval())
		return "", len(found) == 0 || touching(found), false
	}
	names := dotted(n.Fields)
	name = names[last]
	if last == 0 {
		if touching(s.named(name)) {
			return name, true, true
		}
		return name, j.tainted[name] && s.touches(), false
	}
	found := s.named(names[last-1])
	if len(found) == 0 {
		return name, j.tainted[name], false
	}
	for _, i := range found {
		if i.touches && (rowFunctions[name] || j.functions[name]) {
			return name, true, true
		}
		tainted = tainted || i.taints(name, j.tainted)
	}
	return name, tainted, false
}

func touching(items []item) bool {
	for _, i := range items {
		if i.touches {
			return true
		}
	}
	return false
}

// from adds what an entry of FROM lets expressions name, and looks at what is in it.
func (j *judge) from(node *pg.Node, s *scope) {
	switch n := node.GetNode().(type) {
	case *pg.Node_RangeVar:
		j.relation(n.RangeVar, s)
	case *pg.Node_RangeSubselect:
		j.node(n.RangeSubselect.Subquery, s, plain)
		j.add(item{name: n.RangeSubselect.Alias.GetAliasname(), touches: j.touches(n.RangeSubselect)}, n.RangeSubselect.Alias, s)
	case *pg.Node_JoinExpr:
		j.join(n.JoinExpr, s)
	case *pg.Node_RangeTableSample:
		j.from(n.RangeTableSample.Relation, s)
		j.nodes(n.RangeTableSample.Args, s, useFunction)
		j.node(n.RangeTableSample.Repeatable, s, useFunction)
	case *pg.Node_RangeFunction:
		// Its columns are made by functions, whose arguments are looked at.
		j.nodes(n.RangeFunction.Functions, s, useFunction)
		s.add(item{name: n.RangeFunction.Alias.GetAliasname()})
	case *pg.Node_RangeTableFunc:
		j.children(n.RangeTableFunc.ProtoReflect(), s, useFunction)
		s.add(item{name: n.RangeTableFunc.Alias.GetAliasname()})
	case *pg.Node_JsonTable:
		j.children(n.JsonTable.ProtoReflect(), s, useFunction)
		s.add(item{name: n.JsonTable.Alias.GetAliasname()})
	default:
		j.refuse("", useUndecided)
	}
}

// add makes an item known. A list of aliases would give its columns names that nobody follows.
func (j *judge) add(i item, alias *pg.Alias, s *scope) {
	if i.touches && len(alias.GetColnames()) > 0 {
		j.refuse("", useAliases)
	}
	s.add(i)
}

// relation adds a table, a view, or a WITH query.
func (j *judge) relation(n *pg.RangeVar, s *scope) {
	i := item{name: n.Relname, touches: j.touches(n)}
	if n.Alias != nil {
		i.name = n.Alias.Aliasname
	}
	if !j.withs[n.Relname] || n.Schemaname != "" {
		i.columns = j.relations[relationName{n.Schemaname, n.Relname}]
	}
	j.add(i, n.Alias, s)
}

func (j *judge) join(n *pg.JoinExpr, s *scope) {
	j.from(n.Larg, s)
	j.from(n.Rarg, s)
	touches := j.touches(n)
	if touches && n.IsNatural {
		j.refuse("", useNatural)
	}
	for _, name := range dotted(n.UsingClause) {
		if touches && j.tainted[name] {
			j.refuse(name, usePredicate)
		}
	}
	j.node(n.Quals, s, usePredicate)
	if n.Alias != nil {
		j.add(item{name: n.Alias.Aliasname, touches: touches}, n.Alias, s)
	}
}

// with looks at the WITH queries of a statement.
func (j *judge) with(clause *pg.WithClause, s *scope) {
	for _, node := range clause.GetCtes() {
		query := node.GetCommonTableExpr()
		if j.withs[query.GetCtename()] {
			switch {
			case len(query.Aliascolnames) > 0:
				j.refuse("", useAliases)
			case query.SearchClause != nil || query.CycleClause != nil:
				j.refuse("", useUndecided)
			}
		}
		j.node(query.GetCtequery(), s, plain)
	}
}

package sql

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// selectUses says what becomes of a column in the clauses of a SELECT. A clause that is not here is an expression.
var selectUses = map[protoreflect.Name]string{
	"distinct_clause": useDistinct,
	"where_clause":    usePredicate,
	"group_clause":    useGrouping,
	"having_clause":   usePredicate,
	"window_clause":   useWindow,
	"sort_clause":     useOrdering,
}

// selectStatement looks at a query whose outputs become use.
func (j *judge) selectStatement(n *pg.SelectStmt, outer *scope, use string) {
	j.with(n.WithClause, outer)
	if n.IntoClause != nil {
		use = useDefinition
	}
	s := &scope{outer: outer}
	if n.Op != pg.SetOperation_SETOP_NONE {
		// The names of the outputs are all that ORDER BY can use.
		s.add(item{touches: j.touches(n)})
		use = useSet
	}
	for _, node := range n.FromClause {
		j.from(node, s)
	}
	j.targets(n.TargetList, s, use)
	j.distinct(n, s)
	j.ordinals(n, s)
	m := n.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch field.Name() {
		case "with_clause", "from_clause", "target_list", "into_clause", "locking_clause":
			continue
		case "larg", "rarg":
			yieldField(m, field, func(arm protoreflect.Message) bool { j.visit(arm, outer, useSet); return true })
			continue
		}
		clause, listed := selectUses[field.Name()]
		if !listed {
			clause = useExpression
		}
		yieldField(m, field, func(child protoreflect.Message) bool { j.visit(child, s, clause); return true })
	}
}

// targets looks at a list of outputs. Only a column that stands alone is plain.
func (j *judge) targets(list []*pg.Node, s *scope, use string) {
	for _, node := range list {
		val := node.GetResTarget().GetVal()
		if c := val.GetColumnRef(); c != nil {
			j.column(c, s, use)
			continue
		}
		j.node(val, s, useExpression)
	}
}

// distinct refuses DISTINCT over a sensitive output: how many rows are left tells which values are equal.
// (That of DISTINCT ON names its expressions.)
func (j *judge) distinct(n *pg.SelectStmt, s *scope) {
	if len(n.DistinctClause) != 1 || n.DistinctClause[0].GetNode() != nil {
		return
	}
	for _, target := range n.TargetList {
		if c := target.GetResTarget().GetVal().GetColumnRef(); c != nil {
			if name, tainted, _ := j.taint(c, s); tainted {
				j.refuse(name, useDistinct)
			}
		}
	}
}

// ordinals looks at ORDER BY 2, GROUP BY 2 and DISTINCT ON (2), which name an output by its place.
func (j *judge) ordinals(n *pg.SelectStmt, s *scope) {
	o := outputs{list: n.TargetList, star: len(n.TargetList)}
	for i, target := range n.TargetList {
		if c := target.GetResTarget().GetVal().GetColumnRef(); c != nil && o.star == len(n.TargetList) {
			if name, tainted, _ := j.taint(c, s); tainted && name == "" {
				o.star = i
			}
		}
	}
	for _, node := range n.SortClause {
		j.ordinal(node.GetSortBy().GetNode(), o, s, useOrdering)
	}
	for _, node := range n.DistinctClause {
		j.ordinal(node, o, s, useDistinct)
	}
	for _, node := range n.GroupClause {
		j.ordinal(node, o, s, useGrouping)
	}
}

// outputs is the output list of a query.
type outputs struct {
	list []*pg.Node
	star int // index of the first star over a sensitive relation, which stands for any number of columns
}

func (j *judge) ordinal(node *pg.Node, o outputs, s *scope, use string) {
	for _, member := range node.GetGroupingSet().GetContent() {
		j.ordinal(member, o, s, use)
	}
	for _, member := range node.GetRowExpr().GetArgs() {
		j.ordinal(member, o, s, use)
	}
	constant := node.GetAConst().GetIval()
	if constant == nil {
		return
	}
	place := int(constant.Ival) - 1
	if place >= o.star && o.star < len(o.list) {
		j.refuse("", use)
		return
	}
	if place < 0 || place >= len(o.list) {
		return
	}
	if c := o.list[place].GetResTarget().GetVal().GetColumnRef(); c != nil {
		if name, tainted, _ := j.taint(c, s); tainted {
			j.refuse(name, use)
		}
	}
}

// target makes the relation that a statement changes known under its name or alias, and as
// RETURNING's old and new rows.
//
// Source: PostgreSQL 18 documentation, 6.4 Returning Data from Modified Rows.
func (j *judge) target(n *pg.RangeVar, outer *scope) *scope {
	s := &scope{outer: outer}
	i := j.item(n)
	s.add(i)
	for _, row := range []string{"old", "new"} {
		i.name = row
		s.add(i)
	}
	return s
}

func (j *judge) item(n *pg.RangeVar) item {
	i := item{name: n.GetRelname(), columns: j.relations[relationName{n.GetSchemaname(), n.GetRelname()}]}
	i.touches = i.columns != nil
	if n.GetAlias() != nil {
		i.name = n.Alias.Aliasname
	}
	return i
}

func (j *judge) insert(n *pg.InsertStmt, outer *scope, use string) {
	j.with(n.WithClause, outer)
	for _, node := range n.Cols {
		j.nodes(node.GetResTarget().GetIndirection(), outer, useExpression)
	}
	if n.SelectStmt != nil {
		j.node(n.SelectStmt, outer, useInsert)
	}
	s := j.target(n.Relation, outer)
	if n.OnConflictClause != nil {
		j.conflict(n.OnConflictClause, n.Relation, s)
	}
	j.targets(n.ReturningList, s, use)
}

// conflict looks at ON CONFLICT, which tells whether a value is there already.
func (j *judge) conflict(n *pg.OnConflictClause, target *pg.RangeVar, outer *scope) {
	excluded := j.item(target)
	excluded.name = "excluded"
	s := &scope{outer: outer}
	s.add(excluded)
	if excluded.touches && n.Infer.GetConname() != "" {
		j.refuse("", useConflict)
	}
	for _, node := range n.Infer.GetIndexElems() {
		if name := node.GetIndexElem().GetName(); excluded.taints(name, j.tainted) {
			j.refuse(name, useConflict)
		}
		j.node(node.GetIndexElem().GetExpr(), s, useConflict)
	}
	j.node(n.Infer.GetWhereClause(), s, usePredicate)
	j.nodes(n.TargetList, s, useAssignment)
	j.node(n.WhereClause, s, usePredicate)
}

func (j *judge) update(n *pg.UpdateStmt, outer *scope, use string) {
	j.with(n.WithClause, outer)
	s := j.target(n.Relation, outer)
	for _, node := range n.FromClause {
		j.from(node, s)
	}
	j.nodes(n.TargetList, s, useAssignment)
	j.node(n.WhereClause, s, usePredicate)
	j.targets(n.ReturningList, s, use)
}

func (j *judge) delete(n *pg.DeleteStmt, outer *scope, use string) {
	j.with(n.WithClause, outer)
	s := j.target(n.Relation, outer)
	for _, node := range n.UsingClause {
		j.from(node, s)
	}
	j.node(n.WhereClause, s, usePredicate)
	j.targets(n.ReturningList, s, use)
}

// merge refuses a MERGE of or from a sensitive relation, whose matches tell of its values.
func (j *judge) merge(n *pg.MergeStmt, outer *scope) {
	if j.touches(n) {
		j.refuse("", useMerge)
	}
	j.with(n.WithClause, outer)
	s := j.target(n.Relation, outer)
	j.from(n.SourceRelation, s)
	j.node(n.JoinCondition, s, useMerge)
	j.nodes(n.MergeWhenClauses, s, useMerge)
	j.nodes(n.ReturningList, s, useMerge)
}

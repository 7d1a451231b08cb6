package sql

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Misuse is a use of a sensitive column that masking its result column does not cover.
type Misuse struct {
	Relation string // as written, with its schema where the text has one
	Column   string // "" where all of the relation's sensitive columns are meant
	Use      string // one of the uses below
}

// The uses of a sensitive column that are refused.
const (
	useAggregate  = "an aggregate"
	useAliases    = "a list of column aliases"
	useAssignment = "an assignment"
	useConflict   = "ON CONFLICT"
	useCopy       = "COPY"
	useDefinition = "the definition of another object"
	useDistinct   = "DISTINCT"
	useExpression = "an expression"
	useFunction   = "a function"
	useGrouping   = "grouping"
	useInsert     = "INSERT from a query"
	useMerge      = "MERGE"
	useNatural    = "NATURAL JOIN"
	useOrdering   = "ordering"
	usePredicate  = "a predicate"
	useRow        = "a whole row"
	useSet        = "UNION, INTERSECT or EXCEPT"
	useSubquery   = "a subquery in an expression"
	useUndecided  = "a statement that cannot be decided"
	useWindow     = "a window"
	plain         = "" // an output column: not refused, masked
)

// Misuse finds the first use of a sensitive column that is not a plain output
// column. It answers nil where there is none.
//
// Shape: sensitive gives the names of a relation's sensitive columns, and with "()" behind it
// the name of each function that takes a row and is not built in; schema is "" where the text has none.
// It is asked once for each relation.
//
// Every column reference of the tree is taken for a use of the sensitive column whose name it
// has. It passes only where it is shown to be another relation's, or to stand alone in
// the output list of the statement, of a query in FROM or of a WITH query, whose own outputs are
// then looked at in turn. What is overlooked is refused.
func (s *Statement) Misuse(sensitive func(schema, name string) []string) *Misuse {
	if s.tree == nil {
		return &Misuse{Use: useUndecided}
	}
	j := newJudge(s, sensitive)
	if len(j.relations) == 0 {
		return nil
	}
	top := content(s.tree.ProtoReflect())
	if s.Unknown != "" || !judged[top.Descriptor().Name()] {
		j.refuse("", useUndecided)
	}
	j.visit(top, nil, plain)
	if len(j.seen) != j.references {
		j.refuse("", useUndecided)
	}
	return j.misuse
}

// judged holds the statements over a sensitive relation that are understood; any other is refused.
var judged = map[protoreflect.Name]bool{
	"SelectStmt": true, "InsertStmt": true, "UpdateStmt": true, "DeleteStmt": true, "MergeStmt": true, "CopyStmt": true,
	"ExplainStmt": true, "PrepareStmt": true, "DeclareCursorStmt": true,
	"TruncateStmt": true, "LockStmt": true, "VacuumStmt": true, "ClusterStmt": true, "ReindexStmt": true, "RefreshMatViewStmt": true,
	"GrantStmt": true, "CommentStmt": true, "SecLabelStmt": true, "DropStmt": true, "RenameStmt": true, "AlterOwnerStmt": true,
	"AlterObjectSchemaStmt": true, "AlterObjectDependsStmt": true, "AlterTableStmt": true, "AlterSeqStmt": true, "CreateSeqStmt": true,
	"CreateStmt": true, "IndexStmt": true, "CreateTrigStmt": true, "CreateStatsStmt": true, "CreatePolicyStmt": true, "AlterPolicyStmt": true,
	"ViewStmt": true, "CreateTableAsStmt": true, "RuleStmt": true,
}

// relationName is a relation as the text names it.
type relationName struct{ schema, name string }

func (n relationName) String() string {
	if n.schema == "" {
		return n.name
	}
	return n.schema + "." + n.name
}

// judge looks for the misuse in one statement.
type judge struct {
	relations map[relationName]map[string]bool // those with sensitive columns
	order     []relationName                   // of relations, as in the statement
	tainted   map[string]bool                  // names under which a sensitive column may be known
	withs     map[string]bool                  // WITH queries that read a sensitive relation
	functions map[string]bool                  // of one argument, which may be a row
	touching  map[protoreflect.ProtoMessage]bool

	references int                    // to columns, in all of the tree
	seen       map[*pg.ColumnRef]bool // those that were judged: all, or nothing is known
	misuse     *Misuse
}

// refuse keeps the first misuse.
func (j *judge) refuse(column, use string) {
	if j.misuse != nil {
		return
	}
	j.misuse = &Misuse{Relation: j.order[0].String(), Use: use}
	for _, name := range j.order {
		if j.relations[name][column] {
			j.misuse.Relation, j.misuse.Column = name.String(), column
			return
		}
	}
}

// visit looks at m and all below it. use is what becomes of a column that is found here,
// and of the outputs of a query that is found here.
func (j *judge) visit(m protoreflect.Message, s *scope, use string) {
	if j.misuse != nil {
		return
	}
	switch n := m.Interface().(type) {
	case *pg.ColumnRef:
		j.column(n, s, use)
	case *pg.SelectStmt:
		j.selectStatement(n, s, use)
	case *pg.InsertStmt:
		j.insert(n, s, use)
	case *pg.UpdateStmt:
		j.update(n, s, use)
	case *pg.DeleteStmt:
		j.delete(n, s, use)
	case *pg.MergeStmt:
		j.merge(n, s)
	case *pg.CopyStmt:
		if n.Relation != nil && j.touches(n.Relation) {
			j.refuse("", useCopy)
		}
		j.children(m, s, useCopy)
	case *pg.ViewStmt, *pg.CreateTableAsStmt, *pg.RuleStmt:
		j.children(m, s, useDefinition) // the masks do not know the object that is made
	case *pg.ExplainStmt, *pg.PrepareStmt, *pg.DeclareCursorStmt, *pg.Node, *pg.List:
		j.children(m, s, use)
	case *pg.SubLink:
		j.subquery(n, s)
	default:
		j.children(m, s, refined(m, use))
	}
}

func (j *judge) children(m protoreflect.Message, s *scope, use string) {
	for child := range children(m) {
		j.visit(child, s, use)
	}
}

// subquery looks at a query in an expression. EXISTS does not look at its outputs.
func (j *judge) subquery(n *pg.SubLink, s *scope) {
	j.node(n.Testexpr, s, usePredicate)
	if n.SubLinkType == pg.SubLinkType_EXISTS_SUBLINK {
		j.node(n.Subselect, s, plain)
		return
	}
	j.node(n.Subselect, s, useSubquery)
}

func (j *judge) node(n *pg.Node, s *scope, use string) {
	if n != nil {
		j.visit(n.ProtoReflect(), s, use)
	}
}

func (j *judge) nodes(list []*pg.Node, s *scope, use string) {
	for _, n := range list {
		j.node(n, s, use)
	}
}

// refined gives what becomes of a column below m, which is some part of an expression.
func refined(m protoreflect.Message, use string) string {
	switch n := m.Interface().(type) {
	case *pg.FuncCall:
		if n.AggWithinGroup || n.AggDistinct || n.AggFilter != nil || len(n.AggOrder) > 0 || aggregate(n) {
			return useAggregate
		}
		return useFunction
	case *pg.WindowDef:
		return useWindow
	case *pg.SortBy:
		return useOrdering
	}
	if use == plain {
		return useExpression
	}
	return use
}

// aggregate tells the aggregates by name, which decides a word of a message and no more.
func aggregate(n *pg.FuncCall) bool {
	switch _, name := qualified(n.Funcname); name {
	case "count", "min", "max", "sum", "avg", "string_agg", "array_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "xmlagg",
		"bool_and", "bool_or", "every", "any_value":
		return true
	}
	return false
}

// column judges one reference to a column or row.
func (j *judge) column(n *pg.ColumnRef, s *scope, use string) {
	j.seen[n] = true
	name, tainted, row := j.taint(n, s)
	switch {
	case !tainted:
	case row:
		j.refuse("", useRow)
	case use != plain:
		j.refuse(name, use)
	}
}

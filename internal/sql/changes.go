package sql

import (
	"slices"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// change adds the words that depend on what a statement holds. As PostgreSQL's
// privileges do, it takes RETURNING and the tables of FROM and USING for reading.
func (r *reader) change(node proto.Message) {
	switch n := node.(type) {
	case *pg.SelectStmt:
		r.selectStatement(n)
	case *pg.InsertStmt:
		r.insert(n)
	case *pg.UpdateStmt:
		r.wheres = append(r.wheres, selects(n.WhereClause))
		r.reads(len(n.FromClause)+len(n.ReturningList) > 0)
	case *pg.DeleteStmt:
		r.wheres = append(r.wheres, selects(n.WhereClause))
		r.reads(len(n.UsingClause)+len(n.ReturningList) > 0)
	case *pg.MergeStmt:
		r.merge(n)
	case *pg.CopyStmt:
		r.copy(n)
	case *pg.TransactionStmt:
		r.transaction(n)
	case *pg.VariableSetStmt:
		r.variable(n)
	}
	r.statement.Foreign = r.statement.Foreign || foreign(node)
	r.secrets(node)
}

func (r *reader) reads(it bool) {
	if it {
		r.words(Select)
	}
}

func (r *reader) selectStatement(n *pg.SelectStmt) {
	if !r.quiet[n] {
		r.words(Select)
	}
	if n.IntoClause != nil {
		r.words(DDL)
	}
}

func (r *reader) insert(n *pg.InsertStmt) {
	if source := n.SelectStmt.GetSelectStmt(); len(source.GetValuesLists()) > 0 {
		if r.quiet == nil {
			r.quiet = make(map[*pg.SelectStmt]bool)
		}
		r.quiet[source] = true
	}
	r.reads(len(n.ReturningList) > 0)
	if n.OnConflictClause.GetAction() == pg.OnConflictAction_ONCONFLICT_UPDATE {
		r.words(Update)
	}
}

func (r *reader) merge(n *pg.MergeStmt) {
	for _, node := range n.MergeWhenClauses {
		switch node.GetMergeWhenClause().GetCommandType() {
		case pg.CmdType_CMD_INSERT:
			r.words(Insert)
		case pg.CmdType_CMD_UPDATE:
			r.words(Update)
			r.wheres = append(r.wheres, selects(n.JoinCondition))
		case pg.CmdType_CMD_DELETE:
			r.words(Delete)
			r.wheres = append(r.wheres, selects(n.JoinCondition))
		}
	}
}

func (r *reader) copy(n *pg.CopyStmt) {
	switch {
	case n.IsProgram:
		r.unknown("COPY runs a program on the server")
	case n.Filename != "":
		r.unknown("COPY uses a file of the server")
	case n.IsFrom:
		r.words(CopyIn)
		r.add(Relation{Schema: n.Relation.GetSchemaname(), Name: n.Relation.GetRelname(), Write: true})
	default:
		r.words(CopyOut)
	}
}

// transaction tells two-phase commit from the rest: a prepared transaction belongs to whoever names it.
func (r *reader) transaction(n *pg.TransactionStmt) {
	switch n.Kind {
	case pg.TransactionStmtKind_TRANS_STMT_PREPARE,
		pg.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED,
		pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED:
		r.words(Maintenance)
	default:
		r.words(Session)
	}
}

// variable reads SET and RESET, of the session or (ALTER ROLE, CREATE FUNCTION … SET) of an object.
func (r *reader) variable(n *pg.VariableSetStmt) {
	if r.statement.Kind != SetParameter {
		return
	}
	s := Setting{Name: settingName(n.Name), Local: n.IsLocal}
	switch n.Kind {
	case pg.VariableSetKind_VAR_SET_VALUE:
		s.Constant = true
		for _, argument := range n.Args {
			value, ok := constant(argument)
			s.Values, s.Constant = append(s.Values, value), s.Constant && ok
		}
	case pg.VariableSetKind_VAR_RESET_ALL:
		s.Name = "all"
	case pg.VariableSetKind_VAR_SET_DEFAULT, pg.VariableSetKind_VAR_RESET:
		s.Constant = true
	case pg.VariableSetKind_VAR_SET_MULTI:
		// TRANSACTION, SESSION CHARACTERISTICS, TRANSACTION SNAPSHOT: modes of a transaction.
		s.Constant = true
	}
	r.set(s)
}

// set adds a change of the session's parameters and its word.
func (r *reader) set(s Setting) {
	r.statement.Settings = append(r.statement.Settings, s)
	if s.harmless() {
		r.words(Session)
		return
	}
	r.words(Set)
}

// foreign tells that a node defines foreign data. A foreign table's columns are those of the same names over
// there, unless OPTIONS name others: none of its names says what it shows. ALTER TABLE and RENAME
// do not always say that a table is foreign; OPTIONS of a table or column do.
//
// Source: PostgreSQL 17, src/backend/parser/gram.y, alter_generic_options.
func foreign(node proto.Message) bool {
	switch n := node.(type) {
	case *pg.CreateForeignTableStmt, *pg.ImportForeignSchemaStmt, *pg.CreateForeignServerStmt, *pg.AlterForeignServerStmt,
		*pg.CreateUserMappingStmt, *pg.AlterUserMappingStmt, *pg.DropUserMappingStmt, *pg.CreateFdwStmt, *pg.AlterFdwStmt:
		return true
	case *pg.AlterTableStmt:
		return n.Objtype == pg.ObjectType_OBJECT_FOREIGN_TABLE
	case *pg.AlterTableCmd:
		return n.Subtype == pg.AlterTableType_AT_GenericOptions || n.Subtype == pg.AlterTableType_AT_AlterColumnGenericOptions
	case *pg.RenameStmt:
		return n.RenameType == pg.ObjectType_OBJECT_FOREIGN_TABLE || n.RelationType == pg.ObjectType_OBJECT_FOREIGN_TABLE
	case *pg.ColumnDef:
		return len(n.Fdwoptions) > 0
	}
	return false
}

// secrets notes what takes a password or a connection string.
func (r *reader) secrets(node proto.Message) {
	var options []*pg.Node
	switch n := node.(type) {
	case *pg.CreateRoleStmt:
		options = n.Options
	case *pg.AlterRoleStmt:
		options = n.Options
	case *pg.CreateUserMappingStmt, *pg.AlterUserMappingStmt, *pg.CreateForeignServerStmt, *pg.AlterForeignServerStmt,
		*pg.CreateSubscriptionStmt, *pg.AlterSubscriptionStmt, *pg.CreateFdwStmt, *pg.AlterFdwStmt, *pg.AlterSystemStmt:
		r.statement.HasPasswords = true
		return
	}
	if slices.ContainsFunc(options, func(o *pg.Node) bool { return o.GetDefElem().GetDefname() == "password" }) {
		r.statement.HasPasswords = true
	}
}

// returnsRows tells that a reply may hold rows.
func returnsRows(node proto.Message) bool {
	switch n := node.(type) {
	case *pg.SelectStmt:
		return n.IntoClause == nil
	case *pg.InsertStmt:
		return len(n.ReturningList) > 0
	case *pg.UpdateStmt:
		return len(n.ReturningList) > 0
	case *pg.DeleteStmt:
		return len(n.ReturningList) > 0
	case *pg.MergeStmt:
		return len(n.ReturningList) > 0
	case *pg.FetchStmt:
		return !n.Ismove
	case *pg.ExplainStmt, *pg.VariableShowStmt, *pg.ExecuteStmt, *pg.CallStmt:
		return true
	}
	return false
}

package sql

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// expression adds the functions that a node runs.
func (r *reader) expression(node proto.Message) {
	switch n := node.(type) {
	case *pg.FuncCall:
		r.call(n)
	case *pg.A_Expr:
		if n.Kind != pg.A_Expr_Kind_AEXPR_BETWEEN && n.Kind != pg.A_Expr_Kind_AEXPR_NOT_BETWEEN &&
			n.Kind != pg.A_Expr_Kind_AEXPR_BETWEEN_SYM && n.Kind != pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM {
			r.operator(n.Name)
		}
	case *pg.SubLink:
		r.operator(n.OperName)
	case *pg.SortBy:
		r.operator(n.UseOp)
	case *pg.TypeCast:
		r.cast(n)
	case *pg.RangeTableSample:
		if schema, name := qualified(n.Method); schema != "" && schema != "pg_catalog" || name != "bernoulli" && name != "system" {
			r.function(Function{Schema: schema, Name: name})
		}
	}
}

// call adds a function, and what some of them do that a word speaks for.
func (r *reader) call(n *pg.FuncCall) {
	schema, name := qualified(n.Funcname)
	own := schema == "" || schema == "pg_catalog"
	r.function(Function{Schema: schema, Name: name, Builtin: own && builtinFunctions()[name]})
	r.statement.HasPasswords = r.statement.HasPasswords || secretFunctions[name]
	switch {
	case own && name == "pg_notify":
		r.words(Notify)
	case own && name == "set_config":
		r.set(setConfig(n.Args))
	}
}

// setConfig reads the arguments of set_config(name, value, is_local).
func setConfig(arguments []*pg.Node) Setting {
	if len(arguments) != 3 {
		return Setting{}
	}
	name, named := constant(arguments[0])
	value, valued := constant(arguments[1])
	local, _ := constant(arguments[2])
	if !named {
		return Setting{}
	}
	s := Setting{Name: settingName(name), Local: local == "true"}
	if valued {
		s.Values, s.Constant = []string{value}, true
	}
	return s
}

// operator adds an operator that is not PostgreSQL's own: it runs a function of somebody's.
func (r *reader) operator(name []*pg.Node) {
	if len(name) == 0 {
		return
	}
	schema, sign := qualified(name)
	if (schema == "" || schema == "pg_catalog") && builtinOperators()[sign] {
		return
	}
	r.function(Function{Schema: schema, Name: sign})
}

// cast adds a cast to a type that is not PostgreSQL's own. What is cast from a constant or parameter runs the
// type's input function, which only a superuser can define, and of a domain its CHECKs, which may
// call functions of anyone who could create it. A text does not tell a domain from an enum, to which
// every ORM casts parameters: they pass.
func (r *reader) cast(n *pg.TypeCast) {
	switch n.Arg.GetNode().(type) {
	case *pg.Node_AConst, *pg.Node_ParamRef:
		return
	}
	schema, name := qualified(n.TypeName.GetNames())
	if (schema == "" || schema == "pg_catalog") && builtinTypes()[name] {
		return
	}
	r.function(Function{Schema: schema, Name: name})
}

func (r *reader) function(f Function) {
	if r.functions[f] {
		return
	}
	if r.functions == nil {
		r.functions = make(map[Function]bool)
	}
	r.functions[f] = true
	r.statement.Functions = append(r.statement.Functions, f)
}

// constant gives the text of a constant, through casts of it ('x'::text).
func constant(n *pg.Node) (string, bool) {
	switch n := n.GetNode().(type) {
	case *pg.Node_TypeCast:
		return constant(n.TypeCast.Arg)
	case *pg.Node_AConst:
		return constantText(n.AConst)
	case *pg.Node_String_:
		return n.String_.Sval, true
	}
	return "", false
}

func constantText(c *pg.A_Const) (string, bool) {
	switch v := c.Val.(type) {
	case *pg.A_Const_Sval:
		return v.Sval.Sval, true
	case *pg.A_Const_Ival:
		return itoa(v.Ival.Ival), true
	case *pg.A_Const_Fval:
		return v.Fval.Fval, true
	case *pg.A_Const_Boolval:
		if v.Boolval.Boolval {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

// settingName gives a parameter's name as PostgreSQL compares it.
//
// Source: PostgreSQL 17, src/backend/utils/misc/guc.c, map_old_guc_names and guc_name_compare.
func settingName(name string) string {
	name = strings.ToLower(name)
	if name == "time zone" {
		return "timezone"
	}
	return name
}

// selects tells that a WHERE clause can leave rows out: it depends on a row or a
// query. An OR with an arm that does not, such as "OR true", selects nothing.
func selects(where *pg.Node) bool {
	if where == nil {
		return false
	}
	if or := where.GetBoolExpr(); or != nil && or.Boolop == pg.BoolExprType_OR_EXPR {
		for _, arm := range or.Args {
			if !selects(arm) {
				return false
			}
		}
		return true
	}
	return mentionsRow(where.ProtoReflect())
}

// mentionsRow tells that a column is named anywhere below m.
func mentionsRow(m protoreflect.Message) bool {
	switch m.Interface().(type) {
	case *pg.ColumnRef, *pg.CurrentOfExpr:
		return true
	}
	for child := range children(m) {
		if mentionsRow(child) {
			return true
		}
	}
	return false
}

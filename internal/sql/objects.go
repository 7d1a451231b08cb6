package sql

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// object adds the relations that a statement writes to through a list or below another node, and
// those that DROP, COMMENT and SECURITY LABEL name by strings.
func (r *reader) object(node proto.Message) {
	switch n := node.(type) {
	case *pg.DropStmt:
		for _, object := range n.Objects {
			r.named(n.RemoveType, object)
		}
	case *pg.CommentStmt:
		r.named(n.Objtype, n.Object)
	case *pg.SecLabelStmt:
		r.named(n.Objtype, n.Object)
	case *pg.IntoClause:
		r.add(Relation{Schema: n.Rel.GetSchemaname(), Name: n.Rel.GetRelname(), Write: true})
	case *pg.TruncateStmt:
		for _, relation := range n.Relations {
			v := relation.GetRangeVar()
			r.add(Relation{Schema: v.GetSchemaname(), Name: v.GetRelname(), Write: true})
		}
	}
}

// named adds the relation that object is or belongs to.
func (r *reader) named(kind pg.ObjectType, object *pg.Node) {
	names := object.GetList().GetItems()
	switch kind {
	case pg.ObjectType_OBJECT_TABLE, pg.ObjectType_OBJECT_VIEW, pg.ObjectType_OBJECT_MATVIEW, pg.ObjectType_OBJECT_SEQUENCE,
		pg.ObjectType_OBJECT_FOREIGN_TABLE, pg.ObjectType_OBJECT_INDEX:
	case pg.ObjectType_OBJECT_COLUMN, pg.ObjectType_OBJECT_TRIGGER, pg.ObjectType_OBJECT_RULE, pg.ObjectType_OBJECT_POLICY,
		pg.ObjectType_OBJECT_TABCONSTRAINT:
		if len(names) == 0 {
			return
		}
		names = names[:len(names)-1]
	default:
		return
	}
	if schema, name := qualified(names); name != "" {
		r.add(Relation{Schema: schema, Name: name, Write: true})
	}
}

package sql

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// newJudge finds the sensitive relations of a statement and all names under which their
// columns go on, wherever in the tree they are.
func newJudge(s *Statement, sensitive func(schema, name string) []string) *judge {
	j := &judge{
		relations: make(map[relationName]map[string]bool),
		tainted:   make(map[string]bool),
		withs:     make(map[string]bool),
		functions: make(map[string]bool),
		touching:  make(map[protoreflect.ProtoMessage]bool),
		seen:      make(map[*pg.ColumnRef]bool),
	}
	for _, r := range s.Relations {
		columns := sensitive(r.Schema, r.Name)
		if len(columns) == 0 {
			continue
		}
		name := relationName{r.Schema, r.Name}
		j.order = append(j.order, name)
		j.relations[name] = make(map[string]bool)
		for _, column := range columns {
			if function, is := strings.CutSuffix(column, "()"); is {
				j.functions[function] = true
				continue
			}
			j.relations[name][column] = true
		}
	}
	if len(j.relations) == 0 {
		return j
	}
	var g flow
	g.collect(s.tree.ProtoReflect(), "")
	for name, columns := range j.relations {
		for column := range columns {
			follow(column, g.aliases, j.tainted)
		}
		if name.schema == "" {
			for _, query := range g.readers[name.name] {
				follow(query, g.readers, j.withs)
			}
		}
		for query := range g.qualified[name] {
			follow(query, g.readers, j.withs)
		}
	}
	for column, queries := range g.references {
		if column != "" && !j.tainted[column] {
			continue
		}
		for _, query := range queries {
			follow(query, g.readers, j.withs)
		}
	}
	j.mark(s.tree.ProtoReflect())
	return j
}

// flow is where names go in a statement, regardless of scopes.
type flow struct {
	aliases    map[string][]string              // column → what it is renamed to
	readers    map[string][]string              // relation or WITH query → the WITH queries that read it
	qualified  map[relationName]map[string]bool // relation with a schema → the WITH queries that read it
	references map[string][]string              // column, "" for x.* → the WITH queries that name it, perhaps of a query around them
}

// collect adds what is at and below m; query is the WITH query around it.
func (f *flow) collect(m protoreflect.Message, query string) {
	switch n := m.Interface().(type) {
	case *pg.ResTarget:
		if fields := n.Val.GetColumnRef().GetFields(); n.Name != "" && len(fields) > 0 {
			column := fields[len(fields)-1].GetString_().GetSval()
			f.add(&f.aliases, column, n.Name)
		}
	case *pg.ColumnRef:
		if last := len(n.Fields) - 1; query != "" && (last > 0 || n.Fields[last].GetAStar() == nil) {
			f.add(&f.references, n.Fields[last].GetString_().GetSval(), query)
		}
	case *pg.RangeVar:
		switch {
		case query == "":
		case n.Schemaname == "":
			f.add(&f.readers, n.Relname, query)
		default:
			f.addQualified(relationName{n.Schemaname, n.Relname}, query)
		}
	case *pg.CommonTableExpr:
		if query != "" {
			f.add(&f.readers, n.Ctename, query)
		}
		query = n.Ctename
	}
	for child := range children(m) {
		f.collect(child, query)
	}
}

func (f *flow) add(edges *map[string][]string, from, to string) {
	if *edges == nil {
		*edges = make(map[string][]string)
	}
	(*edges)[from] = append((*edges)[from], to)
}

func (f *flow) addQualified(from relationName, query string) {
	if f.qualified == nil {
		f.qualified = make(map[relationName]map[string]bool)
	}
	if f.qualified[from] == nil {
		f.qualified[from] = make(map[string]bool)
	}
	f.qualified[from][query] = true
}

// follow adds name and all that can be reached from it.
func follow(name string, edges map[string][]string, reached map[string]bool) {
	next := []string{name}
	for len(next) > 0 {
		name, next = next[0], next[1:]
		if !reached[name] {
			reached[name] = true
			next = append(next, edges[name]...)
		}
	}
}

// mark notes which parts of the tree read a sensitive relation, and counts the references to columns.
// A query reads one without naming it where it names a column of the query around it.
func (j *judge) mark(m protoreflect.Message) bool {
	touches := false
	switch n := m.Interface().(type) {
	case *pg.ColumnRef:
		j.references++
		touches = j.reaches(n)
	case *pg.RangeVar:
		touches = j.relations[relationName{n.Schemaname, n.Relname}] != nil || n.Schemaname == "" && j.withs[n.Relname]
	}
	for child := range children(m) {
		touches = j.mark(child) || touches
	}
	if touches {
		j.touching[m.Interface()] = true
	}
	return touches
}

// reaches tells that a reference may be to a sensitive column, whichever query has it.
// A star without a name is over the relations of its own query.
func (j *judge) reaches(n *pg.ColumnRef) bool {
	last := len(n.Fields) - 1
	if n.Fields[last].GetAStar() != nil {
		return last > 0
	}
	return j.tainted[n.Fields[last].GetString_().GetSval()]
}

// touches tells that a sensitive relation is read in n.
func (j *judge) touches(n protoreflect.ProtoMessage) bool { return j.touching[n] }

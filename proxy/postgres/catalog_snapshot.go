package postgres

import (
	"maps"
	"slices"
	"strings"

	"postern.dev/postern/internal/mask"
	"postern.dev/postern/internal/policy"
)

// snapshot is what is sensitive in a database, as it was at one moment. It does not change.
type snapshot struct {
	epoch     string
	bare      bool     // of columns that the Target declares
	found     []string // patterns of the Target that fit a column, sorted
	relations map[uint32]*shown
	names     map[string][]*shown // in any schema
	shadowed  *shadowed           // functions with the name of a built-in
	carriers  map[uint32]bool     // types whose values hold a sensitive column's
}

// shown is a relation as results and statements name it.
type shown struct {
	schema, name string
	width        uint16 // highest attribute number
	marks        map[uint16]mark
	sensitive    []string // names of the marked columns, and of functions as snapshot.sensitive says
}

func (r *resolver) snapshot(bare bool) *snapshot {
	s := &snapshot{
		epoch:     r.epoch,
		bare:      bare,
		found:     slices.Sorted(maps.Keys(r.named)),
		relations: make(map[uint32]*shown, len(r.relations)),
		names:     make(map[string][]*shown, len(r.relations)),
		carriers:  r.carriers,
		shadowed:  (*shadowed)(nil).with(r.shadowed),
	}
	functions := r.rowFunctions()
	for oid, on := range r.relations {
		if on.kind == 'c' {
			continue // a type: no statement reads it
		}
		shown := &shown{schema: on.schema, name: on.name, width: on.width}
		if r.marked[oid] {
			shown.marks = map[uint16]mark{}
			for _, c := range on.columns {
				if m, ok := r.marks[columnID{oid, c.number}]; ok {
					shown.marks[c.number] = m
					shown.sensitive = append(shown.sensitive, c.name)
				}
			}
			shown.sensitive = append(shown.sensitive, functions...)
		}
		s.relations[oid] = shown
		s.names[on.name] = append(s.names[on.name], shown)
	}
	return s
}

// rowFunctions lists the functions that take a row with a sensitive column, or any value at all.
//
// Source: PostgreSQL, src/include/catalog/pg_type.dat: record, any, anyelement, anynonarray,
// anycompatible, anycompatiblenonarray, and, as VARIADIC, anyarray and anycompatiblearray.
func (r *resolver) rowFunctions() []string {
	var names []string
	for _, f := range r.onRows {
		switch f.argument {
		case 2249, 2276, 2283, 2776, 5077, 5079, 2277, 5078:
		default:
			if !r.carriers[f.argument] {
				continue
			}
		}
		names = append(names, f.name+"()")
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// clear tells that the database has none of the sensitive columns. Masked is then
// only what the server keeps of its other databases: pg_stat_activity.query and so on.
func (s *snapshot) clear() bool { return s.bare }

// sensitive gives the names of a relation's sensitive columns, and with "()" behind
// it that of each function of the database which can be called as if it were a column
// of the relation's rows: u.full_name is full_name(u).
//
// Shape: names as the parser folds them; schema is "" where the text gives none,
// and then every relation of that name counts: search_path is the server's business.
func (s *snapshot) sensitive(schema, name string) []string {
	var found []string
	for _, on := range s.names[name] {
		if !inSchema(on.schema, schema) || len(on.sensitive) == 0 {
			continue
		}
		if found == nil {
			found = on.sensitive
			continue
		}
		found = slices.Compact(slices.Sorted(slices.Values(slices.Concat(found, on.sensitive))))
	}
	return found
}

// known tells whether there is such a relation, in any schema where schema is "".
func (s *snapshot) known(schema, name string) bool {
	return slices.ContainsFunc(s.names[name], func(on *shown) bool { return inSchema(on.schema, schema) })
}

// inSchema tells whether a relation of schema may be meant by a text that says written.
// pg_temp is whichever of the schemas pg_temp_1, pg_temp_2 … is the session's own.
func inSchema(schema, written string) bool {
	return written == "" || written == schema || written == "pg_temp" && strings.HasPrefix(schema, "pg_temp_")
}

func kindOf(m policy.Mask) mask.Kind {
	if m == policy.Redact {
		return mask.Redact
	}
	return mask.Null
}

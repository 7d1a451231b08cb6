package postgres

import (
	"postern.dev/postern/internal/mask"
	"postern.dev/postern/internal/policy"
)

// mark says that a column is sensitive.
type mark struct {
	kind mask.Kind
	name string // of the column that was declared, for the trail: "public.users.email"
}

// resolver finds out which columns of a database are sensitive: those that are
// declared, and those whose values come from them.
type resolver struct {
	*facts
	marks    map[columnID]mark
	named    map[string]bool // patterns of the Target that fit a column
	marked   map[uint32]bool // relations with a mark
	carriers map[uint32]bool // types whose values hold a sensitive column's
	actions  []action
	changed  bool
}

// action is a rule whose stored form was read.
type action struct {
	ruleFacts
	on       *relation
	isView   bool
	readable bool
}

// resolve tells what is sensitive. A column stays sensitive through inheritance,
// partitions, views, generated columns and types, however often one leads to another.
func (f *facts) resolve(sensitive *policy.Sensitive) *snapshot {
	r := &resolver{facts: f, marks: map[columnID]mark{}, named: map[string]bool{}, marked: map[uint32]bool{}, carriers: map[uint32]bool{}}
	r.declared(sensitive)
	bare := len(r.marks) == 0
	r.system()
	if bare {
		return r.snapshot(bare)
	}
	for _, rule := range f.rules {
		if on := f.relations[rule.relation]; on != nil {
			a := action{on: on, isView: rule.isView}
			a.ruleFacts, a.readable = readAction(rule.action)
			r.actions = append(r.actions, a)
		}
	}
	for r.changed = true; r.changed; { // marks are only ever added, so this ends
		r.changed = false
		r.spreadInheritance()
		r.spreadGenerated()
		r.spreadTypes()
		r.spreadRules()
	}
	return r.snapshot(bare)
}

// mark makes a column sensitive. The first mark of a column stays.
func (r *resolver) mark(id columnID, m mark) {
	if _, ok := r.marks[id]; ok {
		return
	}
	r.marks[id] = m
	r.marked[id.table] = true
	r.changed = true
}

// derive makes a column sensitive for what its values are made of.
func (r *resolver) derive(on *relation, c column) {
	r.mark(columnID{on.oid, c.number}, mark{mask.Redact, on.schema + "." + on.name + "." + c.name})
}

func (r *resolver) deriveAll(on *relation) {
	for _, c := range on.columns {
		r.derive(on, c)
	}
}

// declared marks the columns that the Target names. Patterns speak of the data,
// not of the server's own catalogs: "*.name" would hide half of them.
func (r *resolver) declared(sensitive *policy.Sensitive) {
	for oid, on := range r.relations {
		if oid < firstUserOID {
			continue
		}
		for _, c := range on.columns {
			if m, ok := sensitive.Match(on.schema, on.name, c.name); ok {
				r.mark(columnID{oid, c.number}, mark{kindOf(m), on.schema + "." + on.name + "." + c.name})
				for _, pattern := range sensitive.Naming(on.schema, on.name, c.name) {
					r.named[pattern] = true
				}
			}
		}
	}
}

// system marks what the server keeps copies of values in, also those of its other databases.
func (r *resolver) system() {
	for _, on := range r.relations {
		if on.kind == 't' {
			r.deriveAll(on) // long values, in pieces
			continue
		}
		if on.schema != "pg_catalog" && on.schema != "information_schema" {
			continue
		}
		for _, c := range on.columns {
			if holdsCopies(on.name, c.name) {
				r.derive(on, c)
			}
		}
	}
}

// spreadInheritance marks columns of the same name in parents and children. A
// parent's rows are its children's, and a child is a table that can be read itself.
func (r *resolver) spreadInheritance() {
	spread := func(from, to *relation) {
		if from == nil || to == nil || !r.marked[from.oid] {
			return
		}
		for _, c := range from.columns {
			m, ok := r.marks[columnID{from.oid, c.number}]
			if !ok {
				continue
			}
			for _, same := range to.columns {
				if same.name == c.name {
					r.mark(columnID{to.oid, same.number}, m)
				}
			}
		}
	}
	for _, edge := range r.inherits {
		parent, child := r.relations[edge.parent], r.relations[edge.child]
		spread(parent, child)
		spread(child, parent)
	}
}

func (r *resolver) spreadGenerated() {
	for _, g := range r.generated {
		if _, ok := r.marks[columnID{g.table, g.source}]; !ok {
			continue
		}
		on := r.relations[g.table]
		for _, c := range on.columns {
			if c.number == g.number {
				r.derive(on, c)
			}
		}
	}
}

// spreadTypes marks columns that hold rows of a table with a sensitive column, or
// arrays, domains or ranges of them.
func (r *resolver) spreadTypes() {
	carry := func(oid uint32) {
		if !r.carriers[oid] {
			r.carriers[oid] = true
			r.changed = true
		}
	}
	for oid := range r.marked {
		if on := r.relations[oid]; on.rowType != 0 {
			carry(on.rowType)
		}
	}
	for _, t := range r.types {
		if r.carriers[t.part] {
			carry(t.whole)
		}
	}
	for _, on := range r.relations {
		for _, c := range on.columns {
			if r.carriers[c.typeOID] {
				r.derive(on, c)
			}
		}
	}
}

// spreadRules marks the columns of views, by where their values come from; a
// computed one is sensitive as soon as the view's query reads anything sensitive
// anywhere, or runs code that nobody looks into.
func (r *resolver) spreadRules() {
	for _, a := range r.actions {
		suspect := r.suspect(a)
		if !a.isView { // its rows are its own, but INSERT … RETURNING may answer with the rule's
			if !a.readable || a.returns && suspect {
				r.deriveAll(a.on)
			}
			continue
		}
		if !a.readable || len(a.columns) != len(a.on.columns) {
			r.deriveAll(a.on)
			continue
		}
		for i, c := range a.on.columns {
			origin := a.columns[i]
			m, ok := r.marks[origin]
			switch {
			case ok:
				r.mark(columnID{a.on.oid, c.number}, m)
			case origin.table == 0 && suspect, origin.table != 0 && origin.number == 0 && r.marked[origin.table]:
				r.derive(a.on, c)
			}
		}
	}
}

// suspect tells whether a rule's query can compute something from a sensitive column.
func (r *resolver) suspect(a action) bool {
	for _, id := range r.reads[a.on.oid] {
		if _, ok := r.marks[id]; ok || id == (columnID{}) {
			return true
		}
	}
	for _, oid := range a.relations {
		if oid != a.on.oid && r.marked[oid] && (a.wholeRow || oid < firstUserOID) {
			return true
		}
	}
	for _, oid := range a.functions {
		if name, ok := r.builtins[oid]; !ok || opaque(name) {
			return true
		}
	}
	return false
}

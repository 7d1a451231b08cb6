package policy

import "slices"

// refusal is the decision of a deny rule that matched.
func (r *rule) refusal(conditionFailed bool) Decision {
	reason := r.reason
	if conditionFailed {
		reason += " (the rule's condition could not be evaluated)"
	}
	return Decision{Policy: r.policy, Rule: r.name, Reason: reason}
}

// concerns tells whether the rule is about a database.
func (r *rule) concerns(database string) bool {
	return len(r.databases) == 0 || slices.Contains(r.databases, database)
}

// matches tells whether a deny rule refuses a statement, and whether it does so
// only because its condition failed.
func (r *rule) matches(f *facts) (matches, failed bool) {
	if f.words&r.words == 0 || !r.concerns(f.database) {
		return false, false
	}
	if f.words&r.words&wordUnknown == 0 && !r.touches(f.statement) {
		return false, false
	}
	if r.when == nil {
		return true, false
	}
	holds, err := f.holds(r.when)
	return holds || err != nil, err != nil
}

// touches tells whether a statement may use a relation and a function that a deny rule gives.
func (r *rule) touches(s *Statement) bool {
	relation := len(r.relations) == 0 || slices.ContainsFunc(s.Relations, func(n Relation) bool {
		return slices.ContainsFunc(r.relations, func(p pattern) bool { return p.touches(n.Schema, n.Name) })
	})
	return relation && (len(r.functions) == 0 || slices.ContainsFunc(s.Functions, func(n Function) bool {
		return slices.ContainsFunc(r.functions, func(p pattern) bool { return p.touches(n.Schema, n.Name) })
	}))
}

// covers tells whether an allow rule permits all of a statement.
func (r *rule) covers(f *facts) bool {
	if !r.concerns(f.database) {
		return false
	}
	if f.words == wordSession && len(f.statement.Relations) == 0 && len(f.statement.Functions) == 0 {
		return true // it comes with any allow rule, on whatever condition
	}
	if f.words&^(r.words|wordSession) != 0 {
		return false
	}
	// A rule that allows UNKNOWN limits neither relations nor functions: Load sees to it.
	if f.words&wordUnknown == 0 && (r.uncoveredRelation(f.statement) != nil || r.uncoveredFunction(f.statement) != nil) {
		return false
	}
	if r.when == nil {
		return true
	}
	holds, err := f.holds(r.when)
	return holds && err == nil
}

// uncoveredRelation finds the first relation of a statement that an allow rule does not cover.
func (r *rule) uncoveredRelation(s *Statement) *Relation {
	if len(r.relations) == 0 {
		return nil
	}
	for i := range s.Relations {
		n := &s.Relations[i]
		if n.Builtin && r.words&wordSelect != 0 {
			continue
		}
		if !slices.ContainsFunc(r.relations, func(p pattern) bool { return p.covers(n.Schema, n.Name) }) {
			return n
		}
	}
	return nil
}

// uncoveredFunction finds the first function of a statement that an allow rule does not cover.
func (r *rule) uncoveredFunction(s *Statement) *Function {
	for i := range s.Functions {
		n := &s.Functions[i]
		if n.Builtin && r.words&wordSelect != 0 {
			continue
		}
		if !slices.ContainsFunc(r.functions, func(p pattern) bool { return p.covers(n.Schema, n.Name) }) {
			return n
		}
	}
	return nil
}

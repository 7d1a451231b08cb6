package policy

import (
	"fmt"
	"slices"
	"strconv"
)

// explain says why no allow rule covers a statement: the first thing that none
// of the rules that come close covers.
func (s *ruleSet) explain(f *facts) string {
	var allowed words
	var near []*rule // allow all words of the statement
	for _, r := range s.allows {
		if !r.concerns(f.database) {
			continue
		}
		allowed |= r.words | wordSession
		if f.words&^(r.words|wordSession) == 0 {
			near = append(near, r)
		}
	}
	missing := f.words &^ allowed
	switch {
	case allowed == 0:
		return "no rule allows anything in this database"
	case missing == wordUnknown && f.statement.Unknown != "":
		return "what the statement does cannot be told (" + clip(f.statement.Unknown) + "), and no rule allows UNKNOWN"
	case missing != 0:
		return fmt.Sprintf("no rule allows %s", missing)
	case len(near) == 0:
		return fmt.Sprintf("no rule allows %s together", f.words)
	}
	if f.words&wordUnknown == 0 {
		if reason := explainNames(near, f); reason != "" {
			return reason
		}
	}
	for _, r := range near {
		if r.when != nil && r.uncoveredRelation(f.statement) == nil && (f.words&wordUnknown != 0 || r.uncoveredFunction(f.statement) == nil) {
			return "the condition of rule " + r.name + " does not hold"
		}
	}
	return "no single rule allows all of the statement"
}

// explainNames finds a relation or function that none of the rules covers.
func explainNames(near []*rule, f *facts) string {
	for i := range f.statement.Relations {
		n := &f.statement.Relations[i]
		one := &Statement{Relations: f.statement.Relations[i : i+1]}
		if !slices.ContainsFunc(near, func(r *rule) bool { return r.uncoveredRelation(one) == nil }) {
			return fmt.Sprintf("no rule allows %s on %s", f.words, spoken(n.Schema, n.Name))
		}
	}
	for i := range f.statement.Functions {
		n := &f.statement.Functions[i]
		one := &Statement{Functions: f.statement.Functions[i : i+1]}
		if slices.ContainsFunc(near, func(r *rule) bool { return r.uncoveredFunction(one) == nil }) {
			continue
		}
		if n.Builtin {
			return "no rule that allows SELECT, with which built-in functions come, covers the call of " + spoken(n.Schema, n.Name)
		}
		return "no rule allows the function " + spoken(n.Schema, n.Name)
	}
	return ""
}

// spoken writes a name for a client, who may have put anything into it.
func spoken(schema, name string) string {
	text := dotted(schema, name)
	if !isPlain(text, maxReason) {
		text = strconv.QuoteToASCII(clip(text))
	}
	if schema == "" {
		text += ", whose schema is not known: write it with its schema"
	}
	return text
}

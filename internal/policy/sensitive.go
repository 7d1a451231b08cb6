package policy

import "slices"

// Sensitive is the columns of a Target that are masked, and how. The zero
// Sensitive masks nothing.
type Sensitive struct {
	columns []sensitiveColumn
}

// sensitiveColumn is one pattern of schema, table and column.
type sensitiveColumn struct {
	parts [3]part
	mask  Mask
	text  string // as the spec writes it
	path  string // of the field that says it
}

// Any tells that there is a sensitive column at all.
func (s *Sensitive) Any() bool { return len(s.columns) > 0 }

// Match tells the mask of a column.
//
// Shape: a schema or table that is "" is not known and may be any.
func (s *Sensitive) Match(schema, table, column string) (mask Mask, ok bool) {
	for i := range s.columns {
		p := &s.columns[i].parts
		if p[0].might(schema) && p[1].might(table) && p[2].is(column) {
			return s.columns[i].mask, true
		}
	}
	return "", false
}

// Patterns lists the patterns of sensitive columns, as the spec writes them, each once, sorted.
func (s *Sensitive) Patterns() []string {
	all := make([]string, 0, len(s.columns))
	for i := range s.columns {
		all = append(all, s.columns[i].text)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Naming lists the patterns that fit a column of the server, as the spec writes them.
func (s *Sensitive) Naming(schema, table, column string) []string {
	var all []string
	for i := range s.columns {
		if p := &s.columns[i].parts; p[0].is(schema) && p[1].is(table) && p[2].is(column) {
			all = append(all, s.columns[i].text)
		}
	}
	return all
}

// check compiles the column patterns and finds those that disagree.
func (s *Sensitive) check(d *document, rules []SensitiveRule) {
	for i, rule := range rules {
		at := index("spec.sensitive", i)
		if len(rule.Columns) == 0 {
			d.wrong(at+".columns", "is missing; name the columns to mask")
		}
		if rule.Mask == "" {
			d.wrong(at+".mask", "is missing; want redact or null")
		}
		for j, text := range rule.Columns {
			path := index(at+".columns", j)
			parts, err := parseColumn(text)
			if err != nil {
				d.wrong(path, "%q %v", clip(text), err)
				continue
			}
			column := sensitiveColumn{parts, rule.Mask, text, path}
			s.compare(d, column, text)
			s.columns = append(s.columns, column)
		}
	}
}

// compare reports the first earlier pattern that masks a column of this one in another way.
func (s *Sensitive) compare(d *document, c sensitiveColumn, text string) {
	for _, earlier := range s.columns {
		if earlier.mask == "" || c.mask == "" || earlier.mask == c.mask || !meet(earlier.parts, c.parts) {
			continue
		}
		d.wrong(c.path, "%q is masked %s here and %s by %s on line %d; give a column one mask",
			clip(text), c.mask, earlier.mask, earlier.path, d.lineOf(earlier.path))
		return
	}
}

func meet(a, b [3]part) bool {
	return a[0].meets(b[0]) && a[1].meets(b[1]) && a[2].meets(b[2])
}

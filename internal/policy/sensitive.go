package policy

import "slices"

// Sensitive is what is masked of a Target, and how: columns, and what detectors
// find. The zero Sensitive masks nothing.
type Sensitive struct {
	columns    []sensitiveColumn
	detections []Detection
}

// Detection is a kind of value that is looked for in all text, and how it is masked.
type Detection struct {
	Detector Detector
	Mask     Mask
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

// Detections lists what is looked for in all text, each detector once. It must not be changed.
func (s *Sensitive) Detections() []Detection { return s.detections }

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

// check compiles the column patterns and the detectors, and finds those that disagree.
func (s *Sensitive) check(d *document, rules []SensitiveRule) {
	for i, rule := range rules {
		at := index("spec.sensitive", i)
		switch {
		case len(rule.Columns) > 0 && len(rule.Detect) > 0:
			d.wrong(at, "has both columns and detect; make two rules of it")
		case len(rule.Columns) == 0 && len(rule.Detect) == 0 && !d.unread(at+".columns") && !d.unread(at+".detect"):
			d.wrong(at, "names nothing; want columns, or detect")
		}
		s.detect(d, at, rule)
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

// detect adds the detectors of the rule at a path.
func (s *Sensitive) detect(d *document, at string, rule SensitiveRule) {
	for j, detector := range rule.Detect {
		if detector == "" {
			continue // it was reported
		}
		path := index(at+".detect", j)
		if k := slices.IndexFunc(s.detections, func(earlier Detection) bool { return earlier.Detector == detector }); k >= 0 {
			if earlier := s.detections[k].Mask; earlier != rule.Mask && earlier != "" && rule.Mask != "" {
				d.wrong(path, "%q is masked %s here and %s before; give a detector one mask", detector, rule.Mask, earlier)
			} else {
				d.wrong(path, "%q is there twice; keep one", detector)
			}
			continue
		}
		s.detections = append(s.detections, Detection{detector, rule.Mask})
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

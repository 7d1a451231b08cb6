package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// report collects what is wrong, and what is only worth a look, over all files.
type report struct {
	mistakes []remark
	warnings []remark
}

// remark is one line of a report. It is the error that Load returns, joined with the others.
type remark struct {
	order int // of the file
	file  string
	line  int // 0: the file as a whole
	title string
	text  string
}

func (r remark) Error() string {
	var b strings.Builder
	if r.file != "" {
		b.WriteString(r.file)
		if r.line != 0 {
			fmt.Fprintf(&b, ":%d", r.line)
		}
		b.WriteString(": ")
	}
	if r.title != "" {
		b.WriteString(r.title + ": ")
	}
	return b.String() + r.text
}

// err joins the mistakes in the order of files and lines.
func (r *report) err() error {
	sortRemarks(r.mistakes)
	errs := make([]error, len(r.mistakes))
	for i, m := range r.mistakes {
		errs[i] = m
	}
	return errors.Join(errs...)
}

// lines gives the warnings in the order of files and lines.
func (r *report) lines() []string {
	sortRemarks(r.warnings)
	lines := make([]string, len(r.warnings))
	for i, w := range r.warnings {
		lines[i] = w.Error()
	}
	return lines
}

func sortRemarks(remarks []remark) {
	slices.SortStableFunc(remarks, func(a, b remark) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.line, b.line))
	})
}

// document is one object as it was read: where its fields stand, and whom to tell what is wrong.
type document struct {
	report   *report
	place    Place
	live     bool      // as the API server holds it; else from a file
	created  time.Time // of a live one
	order    int       // of the file
	file     string    // "": from no file
	line     int
	kind     string
	name     string
	title    string         // "Target/orders-db", clipped
	lines    map[string]int // by path: "spec.rules[0].allow"
	broken   map[string]bool
	mistakes []string
	warnings []string
}

// key is the name by which Compile reports on the document.
func (d *document) key() string { return d.kind + "/" + d.name }

// wrong reports a mistake in the field at path, unless its form was reported already.
func (d *document) wrong(path, format string, args ...any) {
	if d.unread(path) {
		return
	}
	r := d.remark(path, format, args...)
	d.mistakes = append(d.mistakes, r.text)
	d.report.mistakes = append(d.report.mistakes, r)
}

// unread tells that the field at path, or one around it, is malformed.
func (d *document) unread(path string) bool {
	for path != "" && !d.broken[path] {
		path = around(path)
	}
	return d.broken[path]
}

// malformed reports a mistake in the form of the field at path; what its value says is then not judged.
func (d *document) malformed(path, format string, args ...any) {
	d.wrong(path, format, args...)
	d.broken[path] = true
}

// warn reports something legal.
func (d *document) warn(path, format string, args ...any) {
	r := d.remark(path, format, args...)
	d.warnings = append(d.warnings, r.text)
	d.report.warnings = append(d.report.warnings, r)
}

// dispute reports what is a mistake in a file, whose author can mend it. What a
// cluster holds has many authors: there it is a warning, and the object counts.
func (d *document) dispute(path, format string, args ...any) {
	if d.live {
		d.warn(path, format, args...)
		return
	}
	d.wrong(path, format, args...)
}

// needs reports a field at path that works in another place than the document's.
func (d *document) needs(place Place, path, instead string) {
	if d.place == place {
		return
	}
	if place == Cluster {
		d.wrong(path, "works in a cluster only; %s", instead)
	} else {
		d.wrong(path, "works with postern run only; %s", instead)
	}
}

func (d *document) remark(path, format string, args ...any) remark {
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	return remark{d.order, d.file, d.lineOf(path), d.title, text}
}

// lineOf finds the line of a field; of an absent one, that of the nearest field around it.
func (d *document) lineOf(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = around(path)
	}
	return d.line
}

// around cuts the last step off a path.
func around(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// where says where a document is, for the remark of another one.
func (d *document) where() string {
	if d.file == "" {
		return d.title
	}
	return fmt.Sprintf("%s (%s:%d)", d.title, d.file, d.line)
}

// clip shortens what a file says to what a message can bear.
func clip(text string) string {
	const maxRunes = 60
	runes := []rune(text)
	if len(runes) <= maxRunes {
		return text
	}
	return string(runes[:maxRunes]) + "…"
}

// list writes alternatives: "a, b or c".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

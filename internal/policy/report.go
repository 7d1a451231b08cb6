package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	text  string
}

func (r remark) Error() string {
	if r.line == 0 {
		return r.file + ": " + r.text
	}
	return fmt.Sprintf("%s:%d: %s", r.file, r.line, r.text)
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

// document is one YAML document: where its fields stand, and whom to tell what is wrong.
type document struct {
	report *report
	order  int // of the file
	file   string
	line   int
	name   string
	title  string         // "Target/orders-db"
	lines  map[string]int // by path: "spec.rules[0].allow"
	broken map[string]bool
}

// wrong reports a mistake in the field at path, unless its form was reported already.
func (d *document) wrong(path, format string, args ...any) {
	if d.unread(path) {
		return
	}
	d.report.mistakes = append(d.report.mistakes, d.remark(path, format, args...))
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
	d.report.warnings = append(d.report.warnings, d.remark(path, format, args...))
}

func (d *document) remark(path, format string, args ...any) remark {
	text := d.title + ": "
	if path != "" {
		text += path + ": "
	}
	return remark{order: d.order, file: d.file, line: d.lineOf(path), text: text + fmt.Sprintf(format, args...)}
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

// place says where a document is, for the remark of another one.
func (d *document) place() string { return fmt.Sprintf("%s (%s:%d)", d.title, d.file, d.line) }

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

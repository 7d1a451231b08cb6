package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"postern.dev/postern/internal/audit"
)

const (
	shortTime = "2006-01-02 15:04:05.000"
	// shortID is how many characters of an ID a line shows: the last, which are
	// random, as the first are the time.
	shortID = 8
	// maxSnippet is how much of a statement a line shows.
	maxSnippet = 80
)

// summary is a record on one line.
func summary(e *audit.Entry) string {
	if e.Damaged {
		return "(a line that is no record: run postern audit verify)"
	}
	parts := []string{e.Time.Local().Format(shortTime), fmt.Sprintf("%-13s", safe(string(e.Kind))), short(e.ID)}
	for _, part := range []string{who(e), where(e), what(e), verdict(e), result(e), event(e)} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "  ")
}

func short(id string) string { return safe(id[max(0, len(id)-shortID):]) }

func who(e *audit.Entry) string {
	w := e.Workload
	if w == nil {
		return ""
	}
	name := w.User
	if name == "" {
		name = w.LinuxUser
	}
	if name == "" {
		name = "uid:" + strconv.FormatUint(uint64(w.LinuxUID), 10)
	}
	if w.Process != "" {
		name += " (" + w.Process + ")"
	}
	return safe(name)
}

func where(e *audit.Entry) string {
	t := e.Target
	if t == nil {
		return ""
	}
	name := t.Name
	if name == "" {
		name = t.Address
	}
	if t.Database != "" {
		name += "/" + t.Database
	}
	return safe(name)
}

func what(e *audit.Entry) string {
	q := e.Request
	if q == nil {
		return ""
	}
	parts := slices.Concat(q.Operations, q.Relations)
	if q.Text != "" {
		parts = append(parts, "· "+snippet(q.Text))
	}
	return safe(strings.Join(parts, " "))
}

// snippet is the beginning of a text with its white space folded.
func snippet(s string) string {
	folded := strings.Join(strings.Fields(s[:min(len(s), 4*maxSnippet)]), " ")
	runes := []rune(folded)
	if len(runes) > maxSnippet {
		return string(runes[:maxSnippet]) + "…"
	}
	return folded
}

func verdict(e *audit.Entry) string {
	d := e.Decision
	if d == nil {
		return ""
	}
	said := ruling(d.Action, d.Policy, d.Rule, d.Reason)
	if d.Action == "deny" {
		said = "DENY" + strings.TrimPrefix(said, d.Action)
	}
	parts := []string{said}
	if len(d.Masks) > 0 {
		parts = append(parts, "masks "+strings.Join(d.Masks, " "))
	}
	for _, w := range d.Would {
		parts = append(parts, "would "+ruling(w.Action, w.Policy, w.Rule, w.Reason))
	}
	return safe(strings.Join(parts, ", "))
}

// ruling says who decided what, and why.
func ruling(action, policy, rule, reason string) string {
	by := strings.Trim(policy+"/"+rule, "/")
	if by != "" {
		action += " by " + by
	}
	if reason != "" {
		action += ": " + reason
	}
	return action
}

func result(e *audit.Entry) string {
	var parts []string
	if e.RequestID != "" {
		parts = append(parts, "of "+short(e.RequestID)+":")
	}
	if o := e.Outcome; o != nil {
		parts = append(parts, string(o.Status), o.Code, fmt.Sprintf("%d rows, %d bytes, %v", o.Rows, o.Bytes,
			time.Duration(o.DurationUS)*time.Microsecond))
		masked := int64(0)
		for _, n := range o.Masked {
			masked += n
		}
		if masked > 0 {
			parts = append(parts, fmt.Sprintf("%d values masked", masked))
		}
	}
	return safe(strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " "))
}

// event is what kinds that are not about a request say.
func event(e *audit.Entry) string {
	switch {
	case e.Refusal != nil:
		return safe(e.Refusal.Reason + ": " + e.Refusal.Message)
	case e.Event != nil:
		parts := []string{e.Event.Reason}
		for _, k := range slices.Sorted(maps.Keys(e.Event.Detail)) {
			parts = append(parts, k+"="+e.Event.Detail[k])
		}
		return safe(strings.TrimSpace(strings.Join(parts, " ")))
	case e.Credential != nil:
		return credential(e.Credential)
	case e.Policy != nil:
		return safe(e.Policy.Hash + " from " + strings.Join(e.Policy.Files, " "))
	case e.Ledger != nil:
		l := e.Ledger
		return fmt.Sprintf("kernel: %d seen, %d redirected, %d refused, %d dropped; %d sessions, %d missing",
			l.Seen, l.Redirected, l.Refused, l.Dropped, l.Sessions, l.Missing)
	case e.Loss != nil:
		return safe(fmt.Sprintf("%s had %d records, %d were left", e.Loss.Log, e.Loss.Known, e.Loss.Found))
	case e.Previous != nil:
		return safe(previous(e.Previous))
	}
	return ""
}

func credential(c *audit.Credential) string {
	parts := []string{c.Event, c.Source}
	if c.User != "" {
		parts = append(parts, "of "+c.User)
	}
	if c.Version != "" {
		parts = append(parts, "version "+c.Version)
	}
	if len(c.Targets) > 0 {
		parts = append(parts, "for "+strings.Join(c.Targets, " "))
	}
	if c.Reason != "" {
		parts = append(parts, c.Reason)
	}
	return safe(strings.Join(parts, ", "))
}

func previous(p *audit.Previous) string {
	s := fmt.Sprintf("%s was %s with %d records", p.Log, p.State, p.Size)
	if p.Repair != nil {
		s += fmt.Sprintf(", %d unfinished lines were cut off (%d bytes, and %d of values)",
			p.Repair.Lines, p.Repair.LeafBytes, p.Repair.ValueBytes)
	}
	return s
}

// safe escapes what a terminal would obey or hide: control characters, and
// those that change the direction of text. Workloads write into the trail.
func safe(s string) string {
	if strings.IndexFunc(s, hidden) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case hidden(r):
			b.WriteString(strings.Trim(strconv.QuoteToASCII(string(r)), `"`))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }

// toJSON is a record as one line of JSON that no terminal obeys either.
func toJSON(e *audit.Entry) (string, error) {
	b, err := json.Marshal(struct {
		audit.Record
		Missing []string `json:"missing,omitempty"`
	}{e.Record, e.Missing})
	if err != nil {
		return "", fmt.Errorf("print record: %w", err)
	}
	return escaped(string(b)), nil
}

// escaped writes the characters of a JSON text that a terminal obeys as escapes.
// Newlines are between values: within them they are escaped already.
func escaped(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || !hidden(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

package policy

import "strings"

// isLabel tells a DNS label: the name of an object or of a rule.
//
// Source: RFC 1123, 2.1, in lower case as Kubernetes wants it.
func isLabel(text string) bool {
	if text == "" || len(text) > 63 || text[0] == '-' || text[len(text)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	})
}

// isHostName tells a name that a resolver might know. One whose last label is a
// number is an address with a mistake in it.
//
// Source: RFC 1123, 2.1; RFC 3696, 2. Underscores, which it forbids, are in use.
func isHostName(text string) bool {
	if len(text) > 253 {
		return false
	}
	labels := strings.Split(strings.ToLower(text), ".")
	for _, label := range labels {
		if !isLabel(strings.ReplaceAll(label, "_", "x")) {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// isPlain tells text that can stand in a message or a record: short, and without control characters.
func isPlain(text string, maxBytes int) bool {
	return len(text) <= maxBytes && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' })
}

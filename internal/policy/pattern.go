package policy

import (
	"errors"
	"fmt"
	"strings"
)

// maxIdentifier is the longest name that PostgreSQL keeps, in bytes.
//
// Source: PostgreSQL, src/include/pg_config_manual.h, NAMEDATALEN less its terminator.
const maxIdentifier = 63

// part is one part of a pattern: a name, or any.
type part struct {
	name string
	any  bool
}

func (p part) is(name string) bool { return p.any || p.name == name }

// might tells whether the part fits a name that is "" where it is not known.
func (p part) might(name string) bool { return name == "" || p.is(name) }

// meets tells whether some name fits both parts.
func (p part) meets(q part) bool { return p.any || q.any || p.name == q.name }

// pattern is a name of a relation or function with its schema.
type pattern struct{ schema, name part }

// covers tells that the pattern surely holds for a name; a schema that is not
// known, "", is no part's name, so that only "*" does.
func (p pattern) covers(schema, name string) bool {
	return p.schema.is(schema) && p.name.is(name)
}

// touches tells that the pattern may hold for a name whose schema or self may be unknown.
func (p pattern) touches(schema, name string) bool {
	return p.schema.might(schema) && p.name.might(name)
}

// parsePattern reads "public.users", "public.*", "*.orders", or "*.*", for which "*" is short.
func parsePattern(text string) (pattern, error) {
	parts, err := parseParts(text)
	switch {
	case err != nil:
		return pattern{}, err
	case len(parts) == 2:
		return pattern{parts[0], parts[1]}, nil
	case len(parts) == 1 && parts[0].any:
		return pattern{parts[0], parts[0]}, nil
	}
	return pattern{}, errors.New(`is not schema.name; write "public.users", "public.*" or "*.users"`)
}

// parseColumn reads "public.users.email" or "*.ssn".
func parseColumn(text string) (column [3]part, err error) {
	parts, err := parseParts(text)
	switch {
	case err != nil:
		return column, err
	case len(parts) == 3:
		return [3]part(parts), nil
	case len(parts) == 2 && parts[0].any:
		return [3]part{{any: true}, {any: true}, parts[1]}, nil
	}
	return column, errors.New(`is neither schema.table.column nor *.column; write "public.users.email" or "*.ssn"`)
}

// parseParts splits a dotted name as PostgreSQL does, with quoted parts taken
// as they are. An unquoted part with capitals would be folded to lower case
// there, so that whoever wrote it meant one of two things: it is refused.
func parseParts(text string) ([]part, error) {
	var parts []part
	for rest := text; ; {
		var p part
		var err error
		if strings.HasPrefix(rest, `"`) {
			p.name, rest, err = quotedPart(rest[1:])
		} else {
			p, rest, err = plainPart(rest)
		}
		if err != nil {
			return nil, err
		}
		if len(p.name) > maxIdentifier {
			return nil, fmt.Errorf("has a part longer than the %d bytes that PostgreSQL keeps; shorten it as the server does", maxIdentifier)
		}
		parts = append(parts, p)
		if rest == "" {
			return parts, nil
		}
		if rest[0] != '.' {
			return nil, errors.New(`has text behind a quoted part; separate parts by "."`)
		}
		rest = rest[1:]
	}
}

// quotedPart reads up to the closing quote; "" within stands for one quote.
func quotedPart(text string) (name, rest string, err error) {
	var b strings.Builder
	for {
		before, after, closed := strings.Cut(text, `"`)
		if !closed {
			return "", "", errors.New("has a quote that is not closed; close it")
		}
		b.WriteString(before)
		if !strings.HasPrefix(after, `"`) {
			if b.Len() == 0 {
				return "", "", errors.New("has an empty part; name it or write *")
			}
			return b.String(), after, nil
		}
		b.WriteByte('"')
		text = after[1:]
	}
}

func plainPart(text string) (p part, rest string, err error) {
	name, rest := text, ""
	if i := strings.IndexByte(text, '.'); i >= 0 {
		name, rest = text[:i], text[i:]
	}
	switch {
	case name == "*":
		return part{any: true}, rest, nil
	case name == "":
		return p, "", errors.New("has an empty part; name it or write *")
	case strings.Contains(name, "*"):
		return p, "", errors.New(`has a * beside other letters; * stands for a whole part`)
	case strings.ContainsFunc(name, func(r rune) bool { return r >= 'A' && r <= 'Z' }):
		return p, "", fmt.Errorf(`has capitals, which PostgreSQL folds; write %s, or quote the part: "%s"`, strings.ToLower(name), name)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f }):
		return p, "", errors.New(`has a space or quote; put the part in double quotes: "…"`)
	}
	return part{name: name}, rest, nil
}

// dotted writes a name as a pattern would have it, without the schema where that
// is not known. A name that holds a dot can so not pass for a name with a schema.
func dotted(schema, name string) string {
	if schema == "" {
		return quoted(name)
	}
	return quoted(schema) + "." + quoted(name)
}

// quoted puts a name in quotes where PostgreSQL wants them.
func quoted(name string) string {
	plain := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '$' || r >= 0xa0)
	})
	if plain {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

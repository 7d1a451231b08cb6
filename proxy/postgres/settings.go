package postgres

import (
	"fmt"
	"strings"

	"postern.dev/postern/internal/metrics"
)

// settings are the parameters that the client sets by connecting, those in
// options included. Each is decided as the SET that it amounts to.
//
// Errors: a [*refusal] for those that no policy can allow.
func (s *startup) settings() ([]parameter, error) {
	var set []parameter
	for _, p := range s.parameters {
		switch p.name {
		case "user", "database":
		case "replication":
			if replicates(p.value) {
				return nil, refused(metrics.Policy, stateDenied, "replication is not served: its rows cannot be decided or masked")
			}
		case "options":
			options, err := parseOptions(p.value)
			if err != nil {
				return nil, refused(metrics.Policy, stateDenied, "options may hold only -c name=value").because(err)
			}
			set = append(set, options...)
		default:
			set = append(set, p)
		}
	}
	for _, p := range set {
		name := strings.ToLower(p.name)
		if name == "role" || name == "session_authorization" {
			return nil, refused(metrics.Policy, stateDenied, "%s cannot be set: the target's credential decides the role", name)
		}
		if err := reads(name, p.value); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// reads refuses a setting with which the server would read a text in another way
// than Postern has read it.
func reads(name, value string) error {
	switch name {
	case "standard_conforming_strings":
		if !isOn(value) {
			return refused(metrics.Policy, stateDenied, "standard_conforming_strings must stay on: statements would be read in two ways")
		}
	case "client_encoding":
		if !readable(value) {
			return refused(metrics.Policy, stateDenied, "client_encoding must be UTF8 or SQL_ASCII: set PGCLIENTENCODING=UTF8")
		}
	}
	return nil
}

// replicates tells whether the value of replication asks for a walsender.
//
// Source: PostgreSQL 17, ProcessStartupPacket in src/backend/tcop/backend_startup.c.
func replicates(value string) bool {
	switch strings.ToLower(value) {
	case "off", "of", "false", "fals", "fal", "fa", "f", "no", "n", "0":
		return false
	}
	return true
}

// isOn is parse_bool for true.
//
// Source: PostgreSQL 17, src/backend/utils/adt/bool.c.
func isOn(value string) bool {
	value = strings.ToLower(value)
	return value == "1" || value == "on" || value != "" && (strings.HasPrefix("true", value) || strings.HasPrefix("yes", value))
}

// readable tells that the server reads text in this encoding as Postern does.
// Some others have a backslash or quote as the second byte of a character.
//
// Source: PostgreSQL 17, clean_encoding_name in src/common/encnames.c.
func readable(encoding string) bool {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, encoding)
	return clean == "utf8" || clean == "unicode" || clean == "sqlascii"
}

// parseOptions reads the startup parameter options: command-line switches,
// separated by white space, of which only -c and -- set parameters.
//
// Source: PostgreSQL 17, pg_split_opts in src/backend/utils/init/postinit.c.
func parseOptions(options string) ([]parameter, error) {
	var set []parameter
	words := splitOptions(options)
	for i := 0; i < len(words); i++ {
		setting, ok := strings.CutPrefix(words[i], "--")
		if !ok {
			setting, ok = strings.CutPrefix(words[i], "-c")
			if ok && setting == "" && i+1 < len(words) {
				i++
				setting = words[i]
			}
		}
		name, value, hasValue := strings.Cut(setting, "=")
		if !ok || !hasValue || name == "" {
			return nil, fmt.Errorf("%w: switch %d of options", errMalformed, i+1)
		}
		set = append(set, parameter{strings.ReplaceAll(name, "-", "_"), value})
	}
	return set, nil
}

func splitOptions(options string) []string {
	var words []string
	for rest := options; ; {
		rest = strings.TrimLeft(rest, " \t\n\v\f\r")
		if rest == "" {
			return words
		}
		var word strings.Builder
		i := 0
		for ; i < len(rest) && !strings.ContainsRune(" \t\n\v\f\r", rune(rest[i])); i++ {
			if rest[i] == '\\' && i+1 < len(rest) {
				i++
			}
			word.WriteByte(rest[i])
		}
		words = append(words, word.String())
		rest = rest[i:]
	}
}

// asSet writes a parameter as the statement that sets it, for the policies to decide.
func asSet(p parameter) string {
	return "SET " + quote(p.name, '"') + " TO " + quote(p.value, '\'')
}

func quote(text string, with byte) string {
	mark := string(with)
	return mark + strings.ReplaceAll(text, mark, mark+mark) + mark
}

package postgres

import (
	"maps"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	"postern.dev/postern/internal/sql"
)

// maxShadows is how many names are told apart; beyond it every built-in may be another function.
const maxShadows = 10_000

// shadowsQuery lists the functions outside pg_catalog with the name of a built-in: one that fits the
// arguments better is called instead. What a superuser's extension brings is trusted as the server is.
//
// Source: PostgreSQL 17 documentation, 10.3 Functions.
const shadowsQuery = `SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p
WHERE p.pronamespace OPERATOR(pg_catalog.<>) 11
AND EXISTS (SELECT FROM pg_catalog.pg_proc b
    WHERE b.pronamespace OPERATOR(pg_catalog.=) 11 AND b.proname OPERATOR(pg_catalog.=) p.proname)
AND NOT (EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid OPERATOR(pg_catalog.=) 1255 AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
    AND EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) p.proowner AND r.rolsuper))`

// shadowed names functions of users that have the name of a built-in. It does not change; nil is none.
type shadowed struct {
	names map[string]bool
	all   bool // too many to tell
}

// has tells whether a function written so may be another than the built-in.
func (s *shadowed) has(f sql.Function) bool {
	return s != nil && f.Schema == "" && (s.all || s.names[f.Name])
}

// with is s and more names.
func (s *shadowed) with(names []string) *shadowed {
	if len(names) == 0 {
		return s
	}
	more := &shadowed{names: make(map[string]bool)}
	if s != nil {
		more.all = s.all
		maps.Copy(more.names, s.names)
	}
	for _, name := range names {
		more.names[name] = true
	}
	if len(more.names) > maxShadows {
		more.names, more.all = nil, true
	}
	if s != nil && more.all == s.all && len(more.names) == len(s.names) {
		return s // judgements by it hold
	}
	return more
}

// unmask gives the statements with no shadowed function called a built-in.
func (s *shadowed) unmask(statements []*sql.Statement) []*sql.Statement {
	if s == nil {
		return statements
	}
	seen := make([]*sql.Statement, len(statements))
	for i, st := range statements {
		seen[i] = st
		for k, f := range st.Functions {
			if !f.Builtin || !s.has(f) {
				continue
			}
			if seen[i] == st {
				own := *st
				own.Functions = append([]sql.Function(nil), st.Functions...)
				seen[i] = &own
			}
			seen[i].Functions[k].Builtin = false
		}
	}
	return seen
}

// shadows are the shadowed names of one database, as its sessions learn them. None is forgotten.
//
// A function that is created past Postern, or by code that it does not read, is
// known to nobody until the next session begins; where columns are sensitive,
// the catalog is asked as well.
type shadows struct {
	mu  sync.Mutex
	now atomic.Pointer[shadowed]
}

func (s *shadows) add(names []string) {
	if s == nil || len(names) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Store(s.now.Load().with(names))
}

func (s *shadows) current() *shadowed {
	if s == nil {
		return nil
	}
	return s.now.Load()
}

// definitions finds in a text without comments and literals the names that functions get.
var definitions = regexp.MustCompile(`(?i)\b(?:function|aggregate|routine|procedure|rename\s+to)\s+((?:u&)?(?:"(?:[^"]|"")+"|[^\s".(,;]+)(?:\s*\.\s*(?:u&)?(?:"(?:[^"]|"")+"|[^\s".(,;]+))*)`)

// lastName is the last part of a qualified name.
var lastName = regexp.MustCompile(`(?:"(?:[^"]|"")+"|[^\s".]+)$`)

// defined lists the functions that a text may define.
func defined(script *sql.Script) []string {
	var names []string
	for _, match := range definitions.FindAllStringSubmatch(script.Redacted, -1) {
		name := lastName.FindString(match[1])
		if unquoted, ok := strings.CutPrefix(name, `"`); ok {
			name = strings.ReplaceAll(strings.TrimSuffix(unquoted, `"`), `""`, `"`)
		} else {
			name = strings.ToLower(name)
		}
		names = append(names, name)
	}
	return names
}

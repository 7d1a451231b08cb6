package postgres

import (
	"strings"
	"sync"
)

// maxValues is how many values of parameters a session is known to have chosen itself.
const maxValues = 256

// values are those that a client's parameters may be reported with in a database
// with sensitive columns: it wrote them itself, or knew them from the start. Any
// other may be the result of an expression.
type values struct {
	mu    sync.Mutex
	known map[string]bool // in lower case
}

func newValues(of ...[]parameter) *values {
	v := &values{known: make(map[string]bool)}
	for _, list := range of {
		for _, p := range list {
			v.known[strings.ToLower(p.value)] = true
		}
	}
	return v
}

// said notes the constants that a statement sets.
func (v *values) said(st *statement) {
	for _, s := range st.script.Statements {
		for _, setting := range s.Settings {
			if setting.Constant {
				v.add(strings.ToLower(strings.Join(setting.Values, ", ")))
			}
		}
	}
}

func (v *values) add(value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) < maxValues {
		v.known[value] = true
	}
}

// harmless tells whether the client may be told that a parameter has this value.
//
// Source: PostgreSQL 17 documentation, 53.2.7, the parameters that are reported;
// those listed here take one of a few words.
func (v *values) harmless(name, value string) bool {
	switch name {
	case "client_encoding", "DateStyle", "IntervalStyle", "default_transaction_read_only", "in_hot_standby",
		"integer_datetimes", "is_superuser", "server_encoding", "standard_conforming_strings":
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known[strings.ToLower(value)]
}

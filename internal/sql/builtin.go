package sql

import (
	_ "embed"
	"strings"
	"sync"
)

// The names of pg_catalog that a statement may use without a word of its own.
//
//go:embed builtin/functions.txt
var functionNames string

//go:embed builtin/operators.txt
var operatorNames string

//go:embed builtin/types.txt
var typeNames string

var (
	builtinFunctions = sync.OnceValue(func() map[string]bool { return names(functionNames) })
	builtinOperators = sync.OnceValue(func() map[string]bool { return names(operatorNames) })
	builtinTypes     = sync.OnceValue(func() map[string]bool { return names(typeNames) })
)

// names reads a list: one name a line, "# " begins a comment (# alone is an operator).
func names(list string) map[string]bool {
	set := make(map[string]bool)
	for line := range strings.Lines(list) {
		if name := strings.TrimSpace(line); name != "" && !strings.HasPrefix(line, "# ") {
			set[name] = true
		}
	}
	return set
}

// secretFunctions take a password or key as an argument: such a statement's text is never kept.
//
// Source: dblink; pgcrypto, F.26.
var secretFunctions = map[string]bool{
	"dblink": true, "dblink_connect": true, "dblink_connect_u": true, "dblink_exec": true, "dblink_open": true, "dblink_send_query": true,
	"crypt": true, "hmac": true, "encrypt": true, "decrypt": true, "encrypt_iv": true, "decrypt_iv": true,
	"pgp_sym_encrypt": true, "pgp_sym_encrypt_bytea": true, "pgp_sym_decrypt": true, "pgp_sym_decrypt_bytea": true,
	"pgp_pub_decrypt": true, "pgp_pub_decrypt_bytea": true,
}

// harmlessSettings are the parameters whose SET is the word SESSION: they change how values look, how
// long something may take, or the plan, but neither which object a name means, who acts, what is
// enforced nor what is logged. Values, where given, are the only ones that are harmless.
var harmlessSettings = map[string][]string{
	"application_name":                    nil,
	"bytea_output":                        nil,
	"client_encoding":                     {"utf8", "utf-8", "unicode"}, // others lex a backslash inside a character
	"client_min_messages":                 {"notice", "warning", "error"},
	"datestyle":                           nil,
	"default_text_search_config":          nil,
	"default_transaction_deferrable":      nil,
	"default_transaction_isolation":       nil,
	"default_transaction_read_only":       nil,
	"extra_float_digits":                  nil,
	"geqo":                                nil,
	"idle_in_transaction_session_timeout": nil,
	"idle_session_timeout":                nil,
	"intervalstyle":                       nil,
	"jit":                                 nil,
	"lc_monetary":                         nil,
	"lc_numeric":                          nil,
	"lc_time":                             nil,
	"lock_timeout":                        nil,
	"plan_cache_mode":                     nil,
	"seed":                                nil,
	"session characteristics":             nil,
	"standard_conforming_strings":         {"on", "true", "yes", "1"}, // off is another lexer
	"statement_timeout":                   nil,
	"timezone":                            nil,
	"transaction":                         nil,
	"transaction_deferrable":              nil,
	"transaction_isolation":               nil,
	"transaction_read_only":               nil,
	"transaction_timeout":                 nil,
	"xmlbinary":                           nil,
	"xmloption":                           nil,
}

// harmless tells that a change of s is allowed wherever anything is.
func (s Setting) harmless() bool {
	values, listed := harmlessSettings[s.Name]
	if !listed || !s.Constant {
		return false
	}
	if values == nil || len(s.Values) == 0 { // RESET and DEFAULT give the value of the session's start
		return true
	}
	for _, value := range s.Values {
		allowed := false
		for _, v := range values {
			allowed = allowed || strings.EqualFold(v, value)
		}
		if !allowed {
			return false
		}
	}
	return true
}

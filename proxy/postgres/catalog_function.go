package postgres

import (
	"slices"
	"strings"

	"postern.dev/postern/internal/sql"
)

// tellsNothing names the built-in functions that are not harmless, because they change
// something, but answer with nothing out of any table. A policy still has to allow them.
func tellsNothing(f sql.Function) bool {
	if f.Schema != "" && f.Schema != "pg_catalog" {
		return false
	}
	if strings.HasPrefix(f.Name, "pg_advisory_") || strings.HasPrefix(f.Name, "pg_try_advisory_") {
		return true
	}
	return slices.Contains([]string{
		"currval", "lastval", "nextval", "pg_cancel_backend", "pg_notify", "pg_sleep", "pg_sleep_for", "pg_sleep_until",
		"pg_terminate_backend", "set_config", "setseed", "setval",
	}, f.Name)
}

// opaque tells the built-in functions that answer with values which no argument
// of theirs holds: they run a text, or read tables, files or other sessions by name.
//
// Source: PostgreSQL 18, src/include/catalog/pg_proc.dat.
func opaque(name string) bool {
	for _, part := range []string{"_to_xml", "pg_read_", "pg_ls_", "pg_logical_slot_"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return strings.HasPrefix(name, "lo_") || slices.Contains([]string{
		"loread", "pg_cursor", "pg_hba_file_rules", "pg_mcv_list_items", "pg_prepared_statement", "pg_show_all_file_settings",
		"pg_stat_file", "pg_stat_get_activity", "pg_stat_get_backend_activity", "ts_rewrite", "ts_stat",
	}, name)
}

package postgres

import (
	"slices"

	"postern.dev/postern/internal/policy"
)

// describesTypes tells the catalogs in which drivers look up how types are called
// and made, mostly on their own (psycopg's TypeInfo, asyncpg, SQLAlchemy's
// dialects). They hold names and numbers, of which rows' descriptions tell too.
// Those of columns and of code are not among them.
func describesTypes(r policy.Relation) bool {
	return r.Schema == catalogSchema && slices.Contains([]string{"pg_type", "pg_range", "pg_enum", "pg_namespace", "pg_collation"}, r.Name)
}

// holdsCopies tells the columns of pg_catalog and information_schema in which values of users' columns, or
// credentials, can be read. Of the relations here, those columns are listed that hold
// none: one that a later version adds is sensitive until it is listed.
//
// pg_stat_statements and its kin need no entry: they are views that run
// functions of an extension (see resolver.spreadRules). TOAST tables neither.
//
// Source: PostgreSQL 18 documentation, chapters 52 (System Catalogs), 53 (System Views) and 27.2.
func holdsCopies(relation, column string) bool {
	var harmless []string
	switch relation {
	// Most common values and histogram bounds: values as they are.
	case "pg_statistic":
		harmless = []string{"starelid", "staattnum", "stainherit", "stanullfrac", "stawidth", "stadistinct"}
	case "pg_stats":
		harmless = []string{"schemaname", "tablename", "attname", "inherited", "null_frac", "avg_width", "n_distinct", "correlation"}
	case "pg_statistic_ext_data":
		harmless = []string{"stxoid", "stxdinherit"}
	case "pg_stats_ext", "pg_stats_ext_exprs":
		harmless = []string{"schemaname", "tablename", "statistics_schemaname", "statistics_name", "statistics_owner", "attnames", "kinds", "inherited"}

	// Texts of statements, with their constants.
	case "pg_stat_activity":
		harmless = []string{
			"datid", "datname", "pid", "leader_pid", "usesysid", "usename", "client_addr", "client_port", "backend_start", "xact_start",
			"query_start", "state_change", "wait_event_type", "wait_event", "state", "backend_xid", "backend_xmin", "query_id", "backend_type",
		}
	case "pg_prepared_statements":
		harmless = []string{"name", "prepare_time", "parameter_types", "result_types", "from_sql", "generic_plans", "custom_plans"}
	case "pg_cursors":
		harmless = []string{"name", "is_holdable", "is_binary", "is_scrollable", "creation_time"}

	// Values that were stored as large objects.
	case "pg_largeobject":
		harmless = []string{"loid", "pageno"}

	// Verifiers of passwords, and passwords for other servers.
	case "pg_authid":
		harmless = []string{
			"oid", "rolname", "rolsuper", "rolinherit", "rolcreaterole", "rolcreatedb", "rolcanlogin", "rolreplication", "rolbypassrls",
			"rolconnlimit", "rolvaliduntil",
		}
	case "pg_shadow":
		harmless = []string{"usename", "usesysid", "usecreatedb", "usesuper", "userepl", "usebypassrls", "valuntil"}
	case "pg_user_mapping":
		harmless = []string{"oid", "umuser", "umserver"}
	case "pg_user_mappings":
		harmless = []string{"umid", "srvid", "srvname", "umuser", "usename"}
	case "_pg_user_mappings": // of information_schema, as the next
		harmless = []string{"oid", "umuser", "authorization_identifier", "foreign_server_catalog", "foreign_server_name", "srvowner"}
	case "user_mapping_options":
		harmless = []string{"authorization_identifier", "foreign_server_catalog", "foreign_server_name", "option_name"}
	case "pg_subscription":
		harmless = []string{"oid", "subdbid", "subname", "subowner", "subenabled", "subslotname", "subpublications"}
	case "pg_hba_file_rules":
		harmless = []string{"rule_number", "file_name", "line_number", "type", "database", "user_name", "address", "netmask", "auth_method"}

	// What rows have that are older than their column.
	case "pg_attribute":
		return column == "attmissingval"
	default:
		return false
	}
	return !slices.Contains(harmless, column)
}

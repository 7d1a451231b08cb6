package postgres

// systemCopies lists the relations of the server in which values of users'
// columns, or credentials, can be read, with the columns of each that hold none.
// A column that a later version adds is sensitive until it is listed here.
//
// pg_stat_statements and its kin need no entry: they are views that run
// functions of an extension (see resolver.spreadRules). TOAST tables neither.
//
// Source: PostgreSQL 18 documentation, chapters 52 (System Catalogs), 53 (System Views) and 27.2.
func systemCopies(schema, name string) (harmless []string, ok bool) {
	if schema != "pg_catalog" {
		return nil, false
	}
	switch name {
	// Most common values and histogram bounds: values as they are.
	case "pg_statistic":
		return []string{"starelid", "staattnum", "stainherit", "stanullfrac", "stawidth", "stadistinct"}, true
	case "pg_stats":
		return []string{"schemaname", "tablename", "attname", "inherited", "null_frac", "avg_width", "n_distinct", "correlation"}, true
	case "pg_statistic_ext_data":
		return []string{"stxoid", "stxdinherit"}, true
	case "pg_stats_ext", "pg_stats_ext_exprs":
		return []string{"schemaname", "tablename", "statistics_schemaname", "statistics_name", "statistics_owner", "attnames", "kinds", "inherited"}, true

	// Texts of statements, with their constants.
	case "pg_stat_activity":
		return []string{
			"datid", "datname", "pid", "leader_pid", "usesysid", "usename", "client_addr", "client_port", "backend_start", "xact_start",
			"query_start", "state_change", "wait_event_type", "wait_event", "state", "backend_xid", "backend_xmin", "query_id", "backend_type",
		}, true
	case "pg_prepared_statements":
		return []string{"name", "prepare_time", "parameter_types", "result_types", "from_sql", "generic_plans", "custom_plans"}, true
	case "pg_cursors":
		return []string{"name", "is_holdable", "is_binary", "is_scrollable", "creation_time"}, true

	// Values that were stored as large objects.
	case "pg_largeobject":
		return []string{"loid", "pageno"}, true

	// Verifiers of passwords, and passwords for other servers.
	case "pg_authid":
		return []string{
			"oid", "rolname", "rolsuper", "rolinherit", "rolcreaterole", "rolcreatedb", "rolcanlogin", "rolreplication", "rolbypassrls",
			"rolconnlimit", "rolvaliduntil",
		}, true
	case "pg_shadow":
		return []string{"usename", "usesysid", "usecreatedb", "usesuper", "userepl", "usebypassrls", "valuntil"}, true
	case "pg_user_mapping":
		return []string{"oid", "umuser", "umserver"}, true
	case "pg_user_mappings":
		return []string{"umid", "srvid", "srvname", "umuser", "usename"}, true
	case "pg_subscription":
		return []string{"oid", "subdbid", "subname", "subowner", "subenabled", "subslotname", "subpublications"}, true
	case "pg_hba_file_rules":
		return []string{"rule_number", "file_name", "line_number", "type", "database", "user_name", "address", "netmask", "auth_method"}, true
	}
	return nil, false
}

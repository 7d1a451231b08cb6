// Package sql tells what a statement does, before anyone acts on it: the words
// a policy speaks of, the relations and functions it names, the settings it
// changes, and whether a sensitive column is used other than as an output column.
//
// The grammar is PostgreSQL 17's own (libpg_query, in WebAssembly, so that
// a crash of its C code is an UNKNOWN statement and never the process's
// end). What the grammar does not know, what is too long or too deep and what
// no table here has an entry for is UNKNOWN: policies refuse it.
//
// Names are taken as written. Which relation an unqualified name means is the
// server's business (search_path, temporary tables); see the handler's catalog.
package sql

package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
)

// catalogSchema is on every search path, and ahead of it unless it is named there.
const catalogSchema = "pg_catalog"

// searchPath lists the schemas in which the server looks for a name that is
// written without one. A nil path is not known: a statement has changed it.
//
// A relation may be in any of them, so a policy is asked about each: what it
// allows it must allow in all, what it denies in any. Temporary tables, which
// come first, are not among them: they are the session's own.
//
// It lists the schemas that were there when the session began. One that comes to
// exist later, under a name that the path has already ("$user", most often), is
// seen by sessions that begin after it, and by this one not.
type searchPath struct{ schemas []string }

// askNames asks the server for the path of the session that begins, and for the
// functions that have the name of a built-in.
//
// Source: PostgreSQL 17 documentation, 9.27 System Information Functions, current_schemas.
func askNames(ctx context.Context, pg *pgconn.PgConn) (path *searchPath, shadowed []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	results, err := pg.Exec(ctx, "SELECT pg_catalog.unnest(pg_catalog.current_schemas(true)); "+shadowsQuery).ReadAll()
	if err != nil {
		return nil, nil, fmt.Errorf("ask for the search path: %w", err)
	}
	if len(results) != 2 {
		return nil, nil, fmt.Errorf("%w: %d answers for the search path", errMalformed, len(results))
	}
	path = new(searchPath)
	for _, row := range results[0].Rows {
		path.schemas = append(path.schemas, string(row[0]))
	}
	for _, row := range results[1].Rows {
		shadowed = append(shadowed, string(row[0]))
	}
	return path, shadowed, nil
}

// places are what a relation's name may mean.
func (p *searchPath) places(r sql.Relation) []policy.Relation {
	if r.Schema != "" || p == nil {
		return []policy.Relation{{Schema: r.Schema, Name: r.Name}}
	}
	var places []policy.Relation
	for _, schema := range p.schemas {
		// Every relation of pg_catalog, and few others, are called so.
		if schema != catalogSchema || strings.HasPrefix(r.Name, "pg_") {
			places = append(places, policy.Relation{Schema: schema, Name: r.Name})
		}
	}
	if len(places) == 0 {
		return []policy.Relation{{Name: r.Name}}
	}
	return places
}

// name is how a relation is called in a record: with its schema where there is no doubt.
func (p *searchPath) name(r sql.Relation) string {
	if places := p.places(r); len(places) == 1 {
		return qualified(places[0].Schema, places[0].Name)
	}
	return r.Name
}

// movesPath tells that after these statements a name may mean something else:
// they say so, or run code that may call set_config. What triggers, and the
// functions of views, do is not seen here.
func movesPath(statements []*sql.Statement) bool {
	return slices.ContainsFunc(statements, func(st *sql.Statement) bool {
		return st.Kind == sql.Discard || runsCode(st) || slices.ContainsFunc(st.Settings, func(set sql.Setting) bool {
			switch set.Name {
			case "search_path", "role", "session_authorization", "all", "":
				return true
			}
			return false
		})
	})
}

// runsCode tells that a statement runs what its text does not show.
func runsCode(st *sql.Statement) bool {
	return st.Unknown != "" ||
		slices.ContainsFunc(st.Words, func(word string) bool { return word == sql.Do || word == sql.Call || word == functionCall }) ||
		slices.ContainsFunc(st.Functions, func(f sql.Function) bool { return !f.Builtin && !tellsNothing(f) })
}

package postgres

// firstUserOID is the lowest OID of an object that initdb did not create.
//
// Source: PostgreSQL, src/include/access/transam.h, FirstNormalObjectId.
const firstUserOID = 16384

// preamble begins a transaction that sees one state of the catalogs, changes
// nothing, and leaves no setting behind where a pooler lends the connection out.
const preamble = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL search_path = pg_catalog;
SET LOCAL statement_timeout = '5s';
SET LOCAL client_encoding = 'UTF8';
SET LOCAL jit = off;
`

// epochQuery asks for a text that differs whenever DDL changed what [facts.queries] reads.
//
// Every change of a catalog is a row version whose xmin is younger than that of
// all before it, or a row less: with as many rows as before, the sum has grown.
// VACUUM and ANALYZE write pg_class in place, which changes neither.
//
// It costs 13 ms for 1,000 tables of 20 columns (61,000 rows; PostgreSQL 15, one
// core at 100 %), once a second at most, and only while sessions run statements.
func (f *facts) epochQuery() catalogQuery {
	return catalogQuery{
		`SELECT count(*) || '.' || sum(xmin::text::bigint) FROM (
    SELECT xmin FROM pg_class UNION ALL
    SELECT xmin FROM pg_attribute UNION ALL
    SELECT xmin FROM pg_inherits UNION ALL
    SELECT xmin FROM pg_rewrite UNION ALL
    SELECT xmin FROM pg_namespace UNION ALL
    SELECT xmin FROM pg_proc UNION ALL
    SELECT xmin FROM pg_type) AS versions`,
		1, func(r *catalogRow) { f.epoch = r.text(0) },
	}
}

// queries reads the catalogs' tables alone. Functions that look at a relation, as
// pg_get_viewdef does, would wait for whoever has locked it, a migration say.
func (f *facts) queries() []catalogQuery {
	return []catalogQuery{
		{`SELECT c.oid, n.nspname, c.relname, c.relkind, c.relnatts, c.reltype
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 't', 'c', 'i', 'I')`, 6, f.readRelation},

		{`SELECT a.attrelid, a.attnum, a.attname, a.atttypid
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 't', 'c')
ORDER BY a.attrelid, a.attnum`, 4, f.readColumn},

		{`SELECT inhparent, inhrelid FROM pg_inherits`, 2, func(r *catalogRow) {
			f.inherits = append(f.inherits, inheritance{r.oid(0), r.oid(1)})
		}},

		// What an array holds, what a domain or a range is made of.
		{`SELECT oid, typelem FROM pg_type WHERE typelem >= 16384
UNION ALL SELECT oid, typbasetype FROM pg_type WHERE typbasetype >= 16384
UNION ALL SELECT rngtypid, rngsubtype FROM pg_range WHERE rngsubtype >= 16384`, 2, func(r *catalogRow) {
			f.types = append(f.types, typePart{r.oid(0), r.oid(1)})
		}},

		// The rules that make views, and those that tables have for changes.
		{`SELECT ev_class, ev_type, ev_action FROM pg_rewrite WHERE ev_class >= 16384`, 3, func(r *catalogRow) {
			f.rules = append(f.rules, rewriteRule{r.oid(0), r.char(1) == '1', r.text(2)})
		}},

		// What they read: columns, and 0, 0 for functions and operators that initdb did not create.
		{`SELECT r.ev_class, d.refobjid, d.refobjsubid
FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
WHERE r.ev_class >= 16384 AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
UNION SELECT r.ev_class, 0, 0
FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
WHERE r.ev_class >= 16384 AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)`, 3, func(r *catalogRow) {
			reader := r.oid(0)
			f.reads[reader] = append(f.reads[reader], columnID{r.oid(1), r.attribute(2)})
		}},

		// What a generated column reads. Which of two objects depends differs between versions.
		{`SELECT a.attrelid, a.attnum, d.refobjsubid
FROM pg_attribute a JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
    AND (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
      OR d.classid = 'pg_class'::regclass AND d.objid = a.attrelid AND d.objsubid = a.attnum)
WHERE a.attgenerated <> '' AND d.refobjsubid > 0 AND d.refobjsubid <> a.attnum`, 3, func(r *catalogRow) {
			f.generated = append(f.generated, generatedColumn{r.oid(0), r.attribute(1), r.attribute(2)})
		}},

		// The body of a view names a built-in by OID.
		{`SELECT oid, proname FROM pg_proc WHERE oid < 16384`, 2, func(r *catalogRow) {
			f.builtins[r.oid(0)] = r.text(1)
		}},

		// u.full_name is full_name(u), where users has no such column.
		{`SELECT proname, proargtypes[0] FROM pg_proc
WHERE oid >= 16384 AND pronargs > 0 AND pronargs - pronargdefaults <= 1`, 2, func(r *catalogRow) {
			f.onRows = append(f.onRows, rowFunction{r.text(0), r.oid(1)})
		}},

		{shadowsQuery, 1, func(r *catalogRow) { f.shadowed = append(f.shadowed, r.text(0)) }},
	}
}

func (f *facts) readRelation(r *catalogRow) {
	oid := r.oid(0)
	f.relations[oid] = &relation{
		oid: oid, schema: r.text(1), name: r.text(2), kind: r.char(3), width: r.attribute(4), rowType: r.oid(5),
	}
}

func (f *facts) readColumn(r *catalogRow) {
	if relation := f.relations[r.oid(0)]; relation != nil {
		relation.columns = append(relation.columns, column{r.attribute(1), r.text(2), r.oid(3)})
	}
}

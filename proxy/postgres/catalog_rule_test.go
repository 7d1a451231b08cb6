package postgres

import (
	"slices"
	"testing"
)

func TestReadAction(t *testing.T) {
	const varEmail = "{VAR :varno 1 :varattno 2 :vartype 25}"
	entry := func(expr, name, origin, junk string) string {
		return "{TARGETENTRY :expr " + expr + " :resno 1 :resname " + name + " :ressortgroupref 0 " + origin + " :resjunk " + junk + "}"
	}
	from := func(table, column string) string { return ":resorigtbl " + table + " :resorigcol " + column }
	query := func(rest string) string {
		return "({QUERY :commandType 1 :rtable ({RTE :alias <> :relid 16384}) " + rest + "})"
	}
	tests := []struct {
		name    string
		action  string
		columns []columnID
		facts   ruleFacts
		ok      bool
	}{
		{
			name:    "a column, a computed one, a system column",
			action:  query(":targetList (" + entry(varEmail, "a", from("16384", "2"), "false") + " " + entry("{CONST}", "b", from("0", "0"), "false") + entry("{VAR}", "c", from("16384", "-1"), "false") + ") :returningList <>"),
			columns: []columnID{{16384, 2}, {}, {16384, 0xffff}}, ok: true,
		},
		{
			name:    "what only sorts is no column",
			action:  query(":targetList (" + entry(varEmail, "a", from("16384", "2"), "true") + entry(varEmail, "b", from("16384", "3"), "false") + ")"),
			columns: []columnID{{16384, 3}}, ok: true,
		},
		{
			name: "a subquery's columns are not the view's",
			action: query(":targetList (" + entry("{SUBLINK :subselect {QUERY :targetList ("+entry(varEmail, "a", from("16384", "2"), "false")+")}}",
				"b", from("0", "0"), "false") + ")"),
			columns: []columnID{{}}, ok: true,
		},
		{
			name:    "names that look like fields",
			action:  query(":targetList (" + entry(varEmail, ":resorigtbl", from("16384", "2"), "false") + entry(varEmail, `a\ :resjunk\ true\}`, from("16384", "3"), "false") + ") :x :targetList"),
			columns: []columnID{{16384, 2}, {16384, 3}}, ok: true,
		},
		{
			name:   "a whole row and functions",
			action: query(":targetList () :jointree {FUNCEXPR :funcid 2924 :args ({VAR :varattno 0})} :having {AGGREF :aggfnoid 3100} {WINDOWFUNC :winfnoid 3101}"),
			facts:  ruleFacts{wholeRow: true, functions: []uint32{2924, 3100, 3101}}, ok: true,
		},
		{name: "RETURNING", action: query(":returningList ({TARGETENTRY :expr {VAR}})"), facts: ruleFacts{returns: true}, ok: true},
		{name: "DO INSTEAD NOTHING", action: "<>", ok: true},
		{name: "empty", action: ""},
		{name: "another format", action: "(QUERY :targetList ())"},
		{name: "cut off", action: "({QUERY :targetList ({TARGETENTRY :resjunk false}"},
		{name: "an origin that is no number", action: query(":targetList (" + entry("{VAR}", "a", from("x", "2"), "false") + ")")},
		{name: "an origin out of range", action: query(":targetList (" + entry("{VAR}", "a", from("1", "99999"), "false") + ")")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := readAction(test.action)
			if ok != test.ok {
				t.Fatalf("got %v, want %v", ok, test.ok)
			}
			if !ok {
				return
			}
			if !slices.Equal(got.columns, test.columns) {
				t.Errorf("got columns %v, want %v", got.columns, test.columns)
			}
			if got.wholeRow != test.facts.wholeRow || got.returns != test.facts.returns || !slices.Equal(got.functions, test.facts.functions) {
				t.Errorf("got %+v, want %+v", got, test.facts)
			}
		})
	}
}

func FuzzReadAction(f *testing.F) {
	f.Add(`({QUERY :rtable ({RTE :relid 1}) :targetList ({TARGETENTRY :expr {VAR :varattno 0} :resorigtbl 1 :resorigcol 2 :resjunk false})})`)
	f.Add(`({QUERY \`)
	f.Fuzz(func(t *testing.T, action string) {
		r, ok := readAction(action)
		if ok && len(r.columns) > len(action) {
			t.Errorf("got %d columns of %d bytes", len(r.columns), len(action))
		}
	})
}

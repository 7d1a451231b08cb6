package postgres

import (
	"strconv"
	"strings"
)

// ruleFacts is what the stored form of a rule's action says.
type ruleFacts struct {
	columns   []columnID // where the values of each output column come from; zero: computed
	returns   bool       // it has a RETURNING list
	wholeRow  bool       // some relation's row is used as one value
	relations []uint32   // all that are named, the rule's own among them
	functions []uint32
}

// readAction reads pg_rewrite.ev_action, a list of one query tree.
//
// pg_depend tells which columns a rule uses, but neither where the value of an
// output column comes from, nor that a row is used whole (that dependency is
// dropped where there is one on a column), nor anything about what initdb created.
// The tree has it all: a TARGETENTRY says what RowDescription says of a query.
//
// Shape: ok is false where the tree is not as expected; nothing of the rule may then be trusted.
// Source: PostgreSQL 12 to 18, src/backend/nodes/outfuncs.c, src/include/nodes/{primnodes,parsenodes}.h.
func readAction(action string) (r ruleFacts, ok bool) {
	if action == "<>" { // DO INSTEAD NOTHING
		return ruleFacts{}, true
	}
	if !strings.HasPrefix(action, "({QUERY ") {
		return ruleFacts{}, false
	}
	const inTarget = 4 // ({QUERY :targetList ({TARGETENTRY
	var entry columnID
	ok = true
	number := func(text string) uint32 {
		n, err := strconv.ParseUint(text, 10, 32)
		ok = ok && err == nil
		return uint32(n)
	}
	t := nodeTokens{rest: action}
	for t.next() {
		switch t.label {
		case ":varattno":
			r.wholeRow = r.wholeRow || t.value == "0"
		case ":relid":
			r.relations = append(r.relations, number(t.value))
		case ":funcid", ":aggfnoid", ":winfnoid":
			r.functions = append(r.functions, number(t.value))
		}
		if t.section == ":returningList" && t.value != "<>" {
			r.returns = true
		}
		if t.section != ":targetList" || t.depth != inTarget {
			continue
		}
		switch t.label {
		case ":resorigtbl":
			entry.table = number(t.value)
		case ":resorigcol": // negative of a system column
			n, err := strconv.ParseInt(t.value, 10, 16)
			ok = ok && err == nil
			entry.number = uint16(n)
		case ":resjunk": // the last field
			if t.value == "false" {
				r.columns = append(r.columns, entry)
			}
			entry = columnID{}
		}
	}
	return r, ok && t.depth == 0
}

// nodeTokens walks the text form of a node tree: fields as ":label value", where
// the value is a word, a {NODE …}, a (list …) or words with a [byte list].
type nodeTokens struct {
	rest    string
	depth   int    // brackets open around value
	section string // the outermost node's field in which value is
	label   string // the field that value is the value of, "" within a list
	value   string
}

// next goes on to the next word that is neither a label nor a bracket.
func (t *nodeTokens) next() bool {
	const inNode = 2 // ({NODE
	t.label = ""
	for t.rest != "" {
		switch c := t.rest[0]; c {
		case ' ', '\n', '\t':
			t.rest = t.rest[1:]
		case '(', '{':
			t.depth++
			t.label = ""
			t.rest = t.rest[1:]
		case ')', '}':
			t.depth--
			t.label = ""
			t.rest = t.rest[1:]
		default:
			word := t.word()
			// A name may begin with a colon: after a label comes a value, whatever it looks like.
			if c != ':' || t.label != "" {
				t.value = word
				return true
			}
			t.label = word
			if t.depth == inNode {
				t.section = word
			}
		}
	}
	return false
}

// word takes the bytes before the next separator. A backslash escapes a separator.
func (t *nodeTokens) word() string {
	for i := 0; i < len(t.rest); i++ {
		switch t.rest[i] {
		case '\\':
			i++
		case ' ', '\n', '\t', '(', ')', '{', '}':
			word := t.rest[:i]
			t.rest = t.rest[i:]
			return word
		}
	}
	word := t.rest
	t.rest = ""
	return word
}

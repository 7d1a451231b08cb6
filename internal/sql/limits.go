package sql

import (
	"errors"
	"strings"
)

// What is not given to the parser. None quotes the text.
var (
	errLong     = errors.New("the text is longer than the parser's limit")
	errTokens   = errors.New("the text has more words and signs than the parser's limit")
	errDeep     = errors.New("the statement is nested deeper than the parser's limit")
	errEncoding = errors.New("the text is not UTF-8 or holds a zero byte")
)

// depth bounds from above how deep the tree of the statement read so far can be.
//
// The C code recurses over the tree, and stack beyond WebAssembly's is a trap. Brackets
// nest; so does each operator of a chain, since a+b+c is (a+b)+c. A chain ends at a comma,
// AND, OR and WHEN, whose operands PostgreSQL keeps in flat lists; JOIN, UNION and the like chain across those.
// What chains nothing and opens nothing cannot recurse (comparisons do not associate).
type depth struct {
	levels []level
	total  int // of all levels
	label  bool
}

// level is what is between two brackets, or CASE and END.
type level struct {
	chain    int // operators since the last comma
	joins    int // JOIN, UNION, … since the level began
	isCase   bool
	brackets bool
}

func (d *depth) add(t token, text string) {
	if len(d.levels) == 0 {
		d.levels = append(d.levels, level{})
	}
	label := d.label
	d.label = false
	switch t.kind {
	case operatorToken:
		d.chain(1)
	case punctuationToken:
		d.punctuation(text[t.start:t.end])
	case wordToken:
		if !label { // after a point and AS, any word is a name
			d.word(strings.ToUpper(text[t.start:t.end]))
		}
	}
}

func (d *depth) punctuation(sign string) {
	switch sign {
	case "(", "[":
		d.push(level{brackets: true})
	case ")", "]":
		for len(d.levels) > 1 {
			closed := d.levels[len(d.levels)-1].brackets
			d.pop()
			if closed {
				return
			}
		}
	case ",":
		d.rest()
	case ";":
		if len(d.levels) == 1 {
			*d = depth{levels: append(d.levels[:0], level{})}
		}
	case "::":
		d.chain(1)
	case ".":
		d.label = true
	}
}

func (d *depth) word(keyword string) {
	switch keyword {
	case "AND", "OR", "WHEN":
		d.rest()
	case "AS":
		d.label = true
	case "CASE":
		d.push(level{isCase: true})
	case "END":
		if d.levels[len(d.levels)-1].isCase {
			d.pop()
		}
	case "JOIN", "UNION", "INTERSECT", "EXCEPT":
		d.levels[len(d.levels)-1].joins++
		d.total++
	case "NOT", "COLLATE", "AT", "OPERATOR", "SELECT":
		d.chain(1)
	}
}

func (d *depth) chain(n int) {
	d.levels[len(d.levels)-1].chain += n
	d.total += n
}

func (d *depth) rest() {
	top := &d.levels[len(d.levels)-1]
	d.total -= top.chain
	top.chain = 0
}

func (d *depth) push(l level) {
	d.levels = append(d.levels, l)
	d.total++
}

func (d *depth) pop() {
	top := d.levels[len(d.levels)-1]
	d.levels = d.levels[:len(d.levels)-1]
	d.total -= 1 + top.chain + top.joins
}

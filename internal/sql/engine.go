package sql

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/wasilibs/go-pgquery/parser"
)

// errTrapped says that the C code did what WebAssembly forbids, such as using up the stack.
var errTrapped = errors.New("the parser trapped on this text or an earlier one: restart Postern, and report it")

// syntaxError is PostgreSQL's refusal of a text. Its message quotes the text, so it is not kept.
type syntaxError struct {
	position int // in characters from 1; 0 where PostgreSQL tells none
}

func (e *syntaxError) Error() string {
	if e.position <= 0 {
		return "not a statement of PostgreSQL 17"
	}
	return fmt.Sprintf("not a statement of PostgreSQL 17: see character %d", e.position)
}

// engine runs libpg_query, which go-pgquery keeps in instances of WebAssembly:
// as many as there are callers at once, so callers are counted (see [Parser]).
//
// The library puts an instance whose C code trapped back among the others,
// where it goes on from whatever state it was left in. The limits of limits.go
// are chosen so that nothing traps; should something, no tree is believed any more.
type engine struct{ trapped atomic.Bool }

// parse gives the tree of text as protobuf.
//
// Errors: a [*syntaxError], or [errTrapped].
func (e *engine) parse(text string) (tree []byte, err error) {
	if e.trapped.Load() {
		return nil, errTrapped
	}
	defer func() {
		if recover() != nil { // the library's form of a trap; its text has a stack trace of many lines
			e.trapped.Store(true)
			tree, err = nil, errTrapped
		}
	}()
	tree, err = parser.ParseToProtobuf(text)
	if e.trapped.Load() { // in another caller, whose instance this one may have been given
		return nil, errTrapped
	}
	if err == nil {
		return tree, nil
	}
	refusal := new(syntaxError)
	if answer := new(parser.Error); errors.As(err, &answer) {
		refusal.position = answer.Cursorpos
	}
	return nil, refusal
}

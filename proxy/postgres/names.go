package postgres

import (
	"errors"

	"postern.dev/postern/internal/sql"
	"postern.dev/postern/proxy"
)

// Limits on what a session may make Postern remember.
const (
	maxStatements    = 10_000
	maxPortals       = 1_000    // a plan of the most columns that a row can have takes 140 KB
	maxRememberBytes = 64 << 20 // of what was read of their texts, and recorded parameters
	maxRecent        = 256      // texts whose decision is kept
	maxRecentTotal   = 16 << 20 // of what was read of them
	maxRecentBytes   = 16 << 10 // of each of them
)

// errTooMuch is a session that prepares more than Postern remembers for it.
var errTooMuch = errors.New("too many prepared statements or portals")

// statement is a text that was parsed. One text may bear several names.
type statement struct {
	text    string
	script  *sql.Script
	renames bool // running it gives names a meaning, or takes it away
	named   bool // what it does depends on what names mean when it runs
	last    *judgement
}

// size estimates what st holds: a tree is many times the text.
func (st *statement) size() int { return 40 * len(st.text) }

// portal is a statement with its parameters, ready to run.
type portal struct {
	statement  *statement // nil where its name meant nothing that Postern knows
	parameters parameters
	cursor     bool // made by DECLARE, and run by Execute
	rows       rows
}

// names are what the server understands by the names of statements, portals and cursors,
// as its replies told. Statements and cursors of SQL share them with the protocol's.
//
// Source: PostgreSQL 17 documentation, 53.2.3 Extended Query.
type names struct {
	statements map[string]*statement
	portals    map[string]*portal
	cursors    map[string]*statement // what DECLARE carries
	bytes      int
	share      *proxy.Share // of the workload for which they are kept
}

func newNames() names {
	return names{
		statements: make(map[string]*statement),
		portals:    make(map[string]*portal),
		cursors:    make(map[string]*statement),
	}
}

// newStatement wraps a parsed text.
func newStatement(text string, script *sql.Script) *statement {
	st := &statement{text: text, script: script}
	for _, s := range script.Statements {
		st.renames = st.renames || s.Unknown != ""
		switch s.Kind {
		case sql.Prepare, sql.Deallocate, sql.Declare, sql.CloseCursor, sql.Discard:
			st.renames = true
		case sql.Execute, sql.Fetch:
			st.named = true
		}
	}
	return st
}

func (n *names) prepare(name string, st *statement) {
	n.unprepare(name)
	n.statements[name] = st
	n.bytes += st.size()
	n.share.Keep(st.script, st.size())
}

func (n *names) unprepare(name string) {
	if st, ok := n.statements[name]; ok {
		n.bytes -= st.size()
		delete(n.statements, name)
		n.share.Drop(st.script)
	}
}

func (n *names) bind(name string, p *portal) {
	n.closePortal(name)
	n.portals[name] = p
	n.bytes += p.parameters.bytes
	n.share.Grow(p.parameters.bytes)
}

func (n *names) closePortal(name string) {
	if p, ok := n.portals[name]; ok {
		n.bytes -= p.parameters.bytes
		n.share.Grow(-p.parameters.bytes)
		delete(n.portals, name)
	}
	delete(n.cursors, name)
}

// forget is Close.
func (n *names) forget(name string, onPortal bool) {
	if onPortal {
		n.closePortal(name)
		return
	}
	n.unprepare(name)
}

// endTransaction closes the portals. Cursors declared WITH HOLD live on.
func (n *names) endTransaction() {
	for name, p := range n.portals {
		n.bytes -= p.parameters.bytes
		n.share.Grow(-p.parameters.bytes)
		delete(n.portals, name)
	}
}

// simple is what a Query does to the unnamed statement and portal.
func (n *names) simple() {
	n.unprepare("")
	n.closePortal("")
}

// ran says that statement i of st has run.
func (n *names) ran(st *statement, i int) {
	if i >= len(st.script.Statements) {
		return
	}
	s := st.script.Statements[i]
	if s.Unknown != "" {
		n.discard()
		return
	}
	switch s.Kind {
	case sql.Prepare:
		n.prepare(s.Name, carriedBy(st, s))
	case sql.Declare:
		n.closePortal(s.Name)
		n.cursors[s.Name] = carriedBy(st, s)
	case sql.CloseCursor:
		if s.Name == "" {
			n.endTransaction()
			clear(n.cursors)
			return
		}
		n.closePortal(s.Name)
	case sql.Deallocate:
		if s.Name == "" {
			n.deallocateAll()
			return
		}
		n.unprepare(s.Name)
	case sql.Discard:
		if s.Name == "" { // PLANS, SEQUENCES and TEMP leave names what they are
			n.discard()
		}
	}
}

// discard forgets what all names meant.
func (n *names) discard() {
	n.deallocateAll()
	n.endTransaction()
	clear(n.cursors)
}

// carriedBy is what PREPARE or DECLARE gives a name to.
func carriedBy(st *statement, s *sql.Statement) *statement {
	script := *st.script
	script.Statements = []*sql.Statement{s.Inner}
	return newStatement(st.text, &script)
}

func (n *names) deallocateAll() {
	for name := range n.statements {
		n.unprepare(name)
	}
}

// room tells whether a session may remember something more. The unnamed
// statement is not counted: the next one takes its place.
func (n *names) room() error {
	bytes := n.bytes
	if st, ok := n.statements[""]; ok {
		bytes -= st.size()
	}
	if len(n.statements) >= maxStatements || len(n.portals)+len(n.cursors) >= maxPortals || bytes > maxRememberBytes {
		return errTooMuch
	}
	return nil
}

// statement tells what name will mean to the server when it reads the next
// message, nil where that is nothing known. pending means that only a reply
// that is still due can tell.
//
// Within one batch the order of the messages decides: what fails makes the
// server ignore the rest. Behind a Sync, a name has the new meaning or the old.
func (q *queue) statement(name string) (st *statement, pending bool) {
	if q.naming == 0 && name != "" {
		return q.names.statements[name], false
	}
	batch := true
	for i := len(q.due) - 1; i >= 0; i-- {
		e := q.due[i]
		switch {
		case e.renames():
			return nil, true
		case e.reply == replyQuery && name == "":
			return nil, false
		case e.reply == replyQuery, e.reply == replySync, e.reply == replyCall:
			batch = false
		case e.namesStatement() && e.name == name:
			return e.statement, !batch
		}
	}
	return q.names.statements[name], false
}

// portal is statement for the name of a portal.
func (q *queue) portal(name string) (p *portal, pending bool) {
	for i := len(q.due) - 1; i >= 0; i-- {
		e := q.due[i]
		switch {
		case e.reply == replyQuery, e.reply == replySync, e.reply == replyCall, e.renames():
			return nil, true // a transaction may end there
		case e.reply == replyBind && e.name == name:
			return e.portal, false
		case e.reply == replyClose && e.onPortal && e.name == name:
			return nil, false
		}
	}
	return q.names.portals[name], false
}

// cursor is statement for a cursor of SQL: what its DECLARE carries. Portals share its names.
func (q *queue) cursor(name string) (st *statement, pending bool) {
	for _, e := range q.due {
		if e.renames() || e.reply == replyBind && e.name == name || e.reply == replyClose && e.onPortal && e.name == name {
			return nil, true
		}
	}
	return q.names.cursors[name], false
}

// means tells whether the name of a portal has this meaning now.
func (q *queue) means(name string, p *portal) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.cursor {
		return q.names.cursors[name] == p.statement
	}
	return q.names.portals[name] == p
}

// hasRoom tells whether the session may remember something more.
func (q *queue) hasRoom() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.names.room()
}

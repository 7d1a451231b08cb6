package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/sql"
)

// This file is the client's loop: what becomes of each of its messages.

// inspectRequest reads one message and passes it on, changed where it is refused.
func (s *session) inspectRequest(ctx context.Context, f frame) error {
	if err := s.await(s.queue.full); err != nil {
		return err
	}
	if f.kind == 'B' {
		return s.bind(f)
	}
	limit := maxControl
	if f.kind == 'Q' || f.kind == 'P' {
		limit = maxStatement
	}
	message, err := s.in.message(f, limit)
	if err != nil {
		return leaving(err)
	}
	body := message[header:]
	switch f.kind {
	case 'Q':
		return s.query(ctx, message, body)
	case 'P':
		return s.parse(ctx, message, body)
	case 'E':
		return s.execute(ctx, message, body)
	case 'D':
		return s.describe(message, body)
	case 'C':
		return s.closeName(message, body)
	case 'F':
		return s.call(ctx, message, body)
	case 'S':
		s.doomed = false
		return s.send(&expected{reply: replySync}, message)
	case 'c', 'f':
		return s.send(&expected{reply: endOfCopy}, message)
	case 'X':
		s.farewell = true
	}
	_, err = s.up.Write(message)
	return err
}

// await returns when pending, which is asked under the queue's lock, is over:
// only replies end it, so the server is asked for those that it holds back.
func (s *session) await(pending func() bool) error {
	if !s.queue.ask(pending) {
		return nil
	}
	if err := s.hurry(); err != nil {
		return err
	}
	return s.queue.wait(pending)
}

// hurry asks the server for the replies that it holds back.
func (s *session) hurry() error {
	if _, err := s.up.Write([]byte{'H', 0, 0, 0, 4}); err != nil {
		return err
	}
	return s.up.Flush()
}

// send passes a message on, after its reply is expected.
func (s *session) send(e *expected, message []byte) error {
	skipped, err := s.queue.push(e)
	if err != nil {
		if e.request != nil { // it is recorded, and does not reach the server
			err = errors.Join(err, s.end(e.request, audit.StatusError))
		}
		return err
	}
	if skipped && e.request != nil {
		if err := s.end(e.request, audit.StatusError); err != nil {
			return err
		}
	}
	_, err = s.up.Write(message)
	return err
}

// query is Query: one or several statements, decided together.
func (s *session) query(ctx context.Context, message, body []byte) error {
	text, rest, ok := cutString(body)
	if !ok || len(rest) != 0 {
		return fmt.Errorf("%w: Query", errMalformed)
	}
	st, j, err := s.read(ctx, text)
	if err != nil {
		return err
	}
	q, err := s.begin(ctx, j, st, parameters{})
	if err != nil {
		return err
	}
	if q.denied != "" {
		return s.send(&expected{reply: replyQuery, request: q}, poisonQuery(q.id))
	}
	s.values.said(st)
	return s.send(&expected{reply: replyQuery, request: q, statement: st}, message)
}

// read parses a text and decides about it.
func (s *session) read(ctx context.Context, text string) (*statement, *judgement, error) {
	script, err := s.config.Parser.ParseFor(ctx, s.conn.Origin.Workload.UID, text)
	if err != nil {
		return nil, nil, err
	}
	st := s.remembered(text, script)
	if st.renames {
		if err := s.roomForNames(); err != nil {
			return nil, nil, err
		}
	}
	j, err := s.judge(ctx, st)
	if err != nil || !script.Backslashes || j.denied != "" {
		return st, j, err
	}
	doubtful := false
	if err := s.await(func() (pending bool) { doubtful, pending = s.queue.lexed(); return pending }); err != nil {
		return nil, nil, err
	}
	if doubtful {
		j = j.refusing("a literal holds a backslash while standard_conforming_strings may have been changed: write E'…', or send it after ReadyForQuery")
	}
	return st, j, nil
}

// parse is Parse. It runs nothing; a refused one is recorded, because what would
// run it never comes to the server.
func (s *session) parse(ctx context.Context, message, body []byte) error {
	name, rest, ok := cutName(body)
	text, rest, okToo := cutString(rest)
	if !ok || !okToo || len(rest) < 2 || len(rest) != 2+4*int(binary.BigEndian.Uint16(rest)) {
		return fmt.Errorf("%w: Parse", errMalformed)
	}
	if err := s.roomForNames(); err != nil {
		return err
	}
	st, j, err := s.read(ctx, text)
	if err != nil {
		return err
	}
	if j.denied == "" {
		return s.send(&expected{reply: replyParse, name: name, statement: st}, message)
	}
	q, err := s.begin(ctx, j, st, parameters{})
	if err != nil {
		return err
	}
	s.doomed = true
	return s.send(&expected{reply: replyParse, name: name, request: q}, poisonParse(name, q.id))
}

// bind is Bind. What it shows of its values is kept for the records of its executions.
func (s *session) bind(f frame) error {
	head, err := s.in.peek(min(header+f.size, len(s.in.buf)))
	if err != nil {
		return leaving(err)
	}
	portalName, name, values, err := readBind(head[header:], f.size, s.keep)
	if err != nil {
		return err
	}
	if err := s.roomForNames(); err != nil {
		return err
	}
	st, err := s.lookupStatement(name)
	if err != nil {
		return err
	}
	p := &portal{statement: st, parameters: values}
	runsCode := st == nil || st.named || alters(s.shadows.current().unmask(st.script.Statements))
	if err := s.send(&expected{reply: replyBind, name: portalName, portal: p, runsCode: runsCode}, nil); err != nil {
		return err
	}
	return leaving(s.in.pass(s.up, header+f.size))
}

// execute is Execute: a request, however often its statement ran before. Where
// columns are sensitive, the server is asked each time what the rows will be: an
// EXECUTE or FETCH that was bound before may run something else by now.
func (s *session) execute(ctx context.Context, message, body []byte) error {
	name, rest, ok := cutName(body)
	if !ok || len(rest) != 4 {
		return fmt.Errorf("%w: Execute", errMalformed)
	}
	p, err := s.executed(name)
	if err != nil {
		return err
	}
	j, err := s.judge(ctx, p.statement)
	if err != nil {
		return err
	}
	q, err := s.begin(ctx, j, p.statement, p.parameters)
	if err != nil {
		return err
	}
	if q.denied != "" {
		s.doomed = true
		return s.send(&expected{reply: replyExecute, request: q}, poisonExecute(q.id))
	}
	s.values.said(p.statement)
	if s.describes() {
		if err := s.send(&expected{reply: replyDescribe, ours: true, portal: p}, describePortal(name)); err != nil {
			return err
		}
	}
	return s.send(&expected{reply: replyExecute, name: name, request: q, statement: p.statement, portal: p}, message)
}

// executed tells what Execute runs: a portal, or a cursor of SQL.
func (s *session) executed(name string) (*portal, error) {
	p, err := s.lookupPortal(name)
	if err != nil || p != nil && p.statement != nil {
		return p, err
	}
	if p == nil {
		st, err := s.lookupCursor(name)
		if err != nil || st != nil {
			return &portal{statement: st, cursor: true}, err
		}
	}
	script := &sql.Script{Statements: []*sql.Statement{unknown("Execute of what was not bound here")}}
	return &portal{statement: newStatement("", script)}, nil
}

// describe is Describe.
func (s *session) describe(message, body []byte) error {
	if _, _, err := readTarget(body); err != nil {
		return err
	}
	return s.send(&expected{reply: replyDescribe}, message)
}

// closeName is Close.
func (s *session) closeName(message, body []byte) error {
	onPortal, name, err := readTarget(body)
	if err != nil {
		return err
	}
	return s.send(&expected{reply: replyClose, onPortal: onPortal, name: name}, message)
}

// call is FunctionCall, which policies have to allow by its word.
func (s *session) call(ctx context.Context, message, body []byte) error {
	if len(body) < 4 {
		return fmt.Errorf("%w: FunctionCall", errMalformed)
	}
	if err := s.refreshView(); err != nil {
		return err
	}
	st := &sql.Statement{
		Words:       []string{functionCall},
		Functions:   []sql.Function{{Name: fmt.Sprintf("oid:%d", binary.BigEndian.Uint32(body))}},
		ReturnsRows: true,
	}
	j, err := s.decide(ctx, &sql.Script{Statements: []*sql.Statement{st}}, nil)
	if err != nil {
		return err
	}
	q, err := s.begin(ctx, j, nil, parameters{})
	if err != nil {
		return err
	}
	if q.denied != "" {
		message = poisonCall()
	}
	return s.send(&expected{reply: replyCall, request: q}, message)
}

// roomForNames keeps a session, and all of a workload together, from making Postern
// remember without end.
func (s *session) roomForNames() error {
	if refused := s.conn.Share().Room(); refused != nil {
		return refused
	}
	if err := s.queue.hasRoom(); err != nil {
		return refused("", stateTooMuch, "this session has too many prepared statements or portals").because(err)
	}
	return nil
}

// lookupStatement tells what a name will mean to the server when it reads the
// next message, nil where that is nothing known here.
func (s *session) lookupStatement(name string) (st *statement, err error) {
	err = s.await(func() (pending bool) { st, pending = s.queue.statement(name); return pending })
	return st, err
}

// lookupPortal is lookupStatement for a portal.
func (s *session) lookupPortal(name string) (p *portal, err error) {
	err = s.await(func() (pending bool) { p, pending = s.queue.portal(name); return pending })
	return p, err
}

// lookupCursor is lookupStatement for a cursor of SQL: what its DECLARE carries.
func (s *session) lookupCursor(name string) (st *statement, err error) {
	err = s.await(func() (pending bool) { st, pending = s.queue.cursor(name); return pending })
	return st, err
}

// fetched tells what FETCH reads: a cursor of SQL, or a portal that was bound under its name.
func (s *session) fetched(name string) (*statement, error) {
	st, err := s.lookupCursor(name)
	if err != nil || st != nil {
		return st, err
	}
	p, err := s.lookupPortal(name)
	if err != nil || p == nil {
		return nil, err
	}
	return p.statement, nil
}

// remembered gives a text that was run before its decision back.
func (s *session) remembered(text string, script *sql.Script) *statement {
	if st, ok := s.recent[script]; ok && st.text == text {
		return st
	}
	st := newStatement(text, script)
	if len(text) > maxRecentBytes {
		return st
	}
	if len(s.recent) >= maxRecent || s.recentBytes+st.size() > maxRecentTotal {
		s.forgetRecent()
	}
	if _, known := s.recent[script]; !known {
		s.conn.Share().Keep(script, st.size())
	}
	s.recent[script] = st // in the place of none, or of the same script in another text
	s.recentBytes += st.size()
	return st
}

// forgetRecent lets go of all decisions that are kept.
func (s *session) forgetRecent() {
	for script := range s.recent {
		s.conn.Share().Drop(script)
	}
	clear(s.recent)
	s.recentBytes = 0
}

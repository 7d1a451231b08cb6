package postgres

import (
	"context"
	"errors"
	"fmt"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
)

// This file is the server's loop: what becomes of each of its messages.

// rows is what is known of a result before its first row.
type rows struct {
	described bool
	fields    []field
	plan      *plan     // nil where nothing is masked
	snapshot  *snapshot // of the catalog, by which the plan was made
}

// inspectReply reads one message, and passes on what the client is to see of it.
func (s *session) inspectReply(ctx context.Context, in *reader, f frame) error {
	switch f.kind {
	case 'D':
		return s.dataRow(ctx, in, f)
	case 'd':
		return s.copyOut(in, f)
	}
	message, err := in.message(f, limitOf(f.kind))
	if err != nil {
		return err
	}
	body := message[header:]
	switch f.kind {
	case 'E':
		return s.failure(message, body)
	case 'N':
		return s.notice(message)
	case 'A':
		return s.notify(message, body)
	case 'S':
		return s.parameterStatus(message, body)
	case 'Z':
		return s.ready(message, body)
	}
	e := s.queue.front()
	if e == nil {
		return unexpected(f)
	}
	e.answered = true
	switch e.reply {
	case replyQuery, replyExecute:
		return s.result(ctx, e, message, body)
	case replyCall:
		if f.kind != 'V' {
			return unexpected(f)
		}
		s.hold(e.request)
		if s.detection != nil {
			s.detection.called(message)
			s.note(e.request)
		}
		return s.write(message)
	}
	return s.acknowledged(ctx, e, message, body)
}

func limitOf(kind byte) int {
	switch kind {
	case 'T', 't', 'V':
		return maxDescription
	case 'E', 'N', 'A', 'S':
		return maxText
	}
	return maxControl
}

func unexpected(f frame) error {
	return fmt.Errorf("%w: type %q from the server has no request", errMalformed, f.kind)
}

// acknowledged is the answer to a message that runs nothing.
func (s *session) acknowledged(ctx context.Context, e *expected, message, body []byte) error {
	switch kind := message[0]; {
	case kind == '1' && e.reply == replyParse && e.request == nil,
		kind == '2' && e.reply == replyBind,
		kind == '3' && e.reply == replyClose,
		kind == 'n' && e.reply == replyDescribe:
		if e.portal != nil && kind == 'n' {
			e.portal.rows.described = true
		}
		s.queue.answer()
	case kind == 't' && e.reply == replyDescribe:
	case kind == 'T' && e.reply == replyDescribe:
		if e.portal != nil {
			if err := s.plan(ctx, &e.portal.rows, body); err != nil {
				return err
			}
		}
		s.queue.answer()
	default:
		return unexpected(frame{kind: kind})
	}
	if e.ours {
		return nil
	}
	return s.write(message)
}

// result is a part of the answer to a Query or Execute.
func (s *session) result(ctx context.Context, e *expected, message, body []byte) error {
	if e.request.denied != "" {
		return fmt.Errorf("%w: the server ran what was refused", errMalformed)
	}
	s.hold(e.request)
	switch kind := message[0]; {
	case kind == 'T' && e.reply == replyQuery:
		if s.describes() {
			e.rows, e.planned = rows{}, false
			if err := s.plan(ctx, &e.rows, body); err != nil {
				return err
			}
		}
	case kind == 'C', kind == 's' && e.reply == replyExecute, kind == 'I':
		return s.complete(e, message)
	case kind == 'G':
		if err := s.queue.copyIn(); err != nil {
			return refused(metrics.Protocol, stateProtocol, "neither data nor its end was sent during COPY").because(err)
		}
	case kind == 'H':
		if len(body) < 1 {
			return fmt.Errorf("%w: CopyOutResponse", errMalformed)
		}
		e.binary = body[0] != 0
	case kind == 'c':
	default:
		return unexpected(frame{kind: kind})
	}
	return s.write(message)
}

// complete is the end of a statement's answer, and with Execute of the request.
func (s *session) complete(e *expected, message []byte) error {
	if p := e.result().plan; p != nil {
		e.request.count(p.masked())
	}
	if message[0] == 'C' {
		s.queue.complete(e)
		s.settled(e)
	}
	if e.reply == replyExecute {
		if err := s.end(e.request, audit.StatusOK); err != nil {
			return err
		}
		s.queue.answer()
	}
	return s.write(message)
}

// settled tells the catalog that a definition may have changed; what is not
// committed yet shows only when the transaction ends.
func (s *session) settled(e *expected) {
	if s.catalog != nil && e.request.defines {
		s.catalog.invalidate()
		s.unsettled = true
	}
}

// ready is ReadyForQuery.
func (s *session) ready(message, body []byte) error {
	if len(body) != 1 {
		return fmt.Errorf("%w: ReadyForQuery", errMalformed)
	}
	if s.unsettled && body[0] == 'I' {
		s.catalog.invalidate()
		s.unsettled = false
	}
	e, err := s.queue.ready(body[0])
	if err != nil {
		return err
	}
	if e != nil && e.request != nil {
		s.hold(e.request)
		if err := s.end(e.request, e.request.status()); err != nil {
			return err
		}
	}
	return s.write(message)
}

// failure is ErrorResponse: of the request at the front, of everything up to the
// next Sync, or of the session.
func (s *session) failure(message, body []byte) error {
	fields, err := readError(body)
	if err != nil {
		return err
	}
	if s.masking() && !standard(fields.code) {
		fields.code = raised
	}
	e := s.queue.front()
	if message, err = s.redacted(message, s.askedFor()); err != nil {
		return err
	}
	if fields.fatal() {
		s.last = fields.code
	}
	if fields.fatal() || e == nil {
		return s.writeError(message, nil)
	}
	e.answered = true
	if e.request != nil {
		s.hold(e.request)
		e.request.fail(fields.code)
		if p := e.result().plan; p != nil {
			e.request.count(p.masked())
		}
	}
	shown := e.request
	switch e.reply {
	case replySync:
	case replyQuery, replyCall:
		s.queue.failQuery(e)
	default:
		code := fields.code
		if e.request != nil {
			code = e.request.code
			if err := s.end(e.request, e.request.status()); err != nil {
				return err
			}
		}
		if err := s.endAll(s.queue.fail()[1:], audit.StatusError, code); err != nil {
			return err
		}
	}
	return s.writeError(message, shown)
}

// fail notes why a request failed. What a poisoned one failed of is Postern's doing.
func (q *request) fail(code string) {
	if q.denied != "" && code != stateQueryCanceled {
		code = stateDenied
	}
	if q.code == "" {
		q.code = code
	}
}

// count adds masked values to the request.
func (q *request) count(masked []maskedColumn) {
	for _, m := range masked {
		if q.masked == nil {
			q.masked = make(map[string]int64)
		}
		q.masked[m.name] += m.cells
	}
}

// writeError passes an error on: as a refusal where it is one, without the
// values that it may hold in a database with sensitive columns.
func (s *session) writeError(message []byte, q *request) error {
	switch {
	case q != nil && q.denied != "" && q.code == stateDenied:
		return s.write(appendError(nil, "ERROR", stateDenied, q.denied, ""))
	}
	if s.masking() {
		return s.writeOr(withhold(nil, message))
	}
	return s.write(message)
}

// notice passes a notice on without the values that it may hold.
func (s *session) notice(message []byte) error {
	message, err := s.redacted(message, s.askedFor())
	if err != nil {
		return err
	}
	return s.writeError(message, nil)
}

// redacted is an error or a notice without what detectors find in it.
func (s *session) redacted(message []byte, q *request) ([]byte, error) {
	if s.detection == nil {
		return message, nil
	}
	message, err := s.detection.errorText(message)
	s.note(q)
	return message, err
}

// notify passes a notification on, which may be another session's.
func (s *session) notify(message, body []byte) (err error) {
	if s.masking() {
		return s.writeOr(withoutPayload(nil, body))
	}
	if s.detection != nil {
		if message, err = s.detection.notification(message); err != nil {
			return err
		}
		s.note(nil)
	}
	return s.write(message)
}

// parameterStatus passes a changed parameter on, unless the change makes the server
// read texts in another way, or its value may be a sensitive one.
func (s *session) parameterStatus(message, body []byte) error {
	name, rest, ok := cutString(body)
	value, rest, okToo := cutString(rest)
	if !ok || !okToo || len(rest) != 0 {
		return fmt.Errorf("%w: ParameterStatus", errMalformed)
	}
	if err := reads(name, value); err != nil {
		return err
	}
	if s.masking() && !s.values.harmless(name, value) {
		return nil
	}
	if s.detection != nil {
		message = s.detection.parameter(message, name, value)
		s.note(s.askedFor())
	}
	return s.write(message)
}

// dataRow passes a row on, masked where it has to be.
func (s *session) dataRow(ctx context.Context, in *reader, f frame) error {
	e := s.queue.front()
	if e == nil || e.request == nil || e.request.denied != "" || e.reply != replyQuery && e.reply != replyExecute {
		return unexpected(f)
	}
	e.answered = true
	s.hold(e.request)
	e.request.rows++
	var p *plan
	if s.describes() {
		var err error
		if p, err = s.planOf(ctx, e); err != nil {
			return err
		}
	}
	if p == nil {
		e.request.bytes += int64(header + f.size)
		return s.pass(in, f)
	}
	message, err := in.message(f, maxMaskedRow)
	if err != nil {
		return err
	}
	if p.bare && !p.mayFind(message[header:]) {
		e.request.bytes += int64(len(message))
		return s.write(message)
	}
	if len(message) > serverBuffer {
		if refused := s.conn.Share().Hold(len(message)); refused != nil {
			return refused
		}
		defer s.conn.Share().Release(len(message))
	}
	s.row = append(s.row[:0], 'D', 0, 0, 0, 0)
	if s.row, err = p.rewrite(s.row, message[header:]); err != nil {
		return err
	}
	s.note(e.request)
	e.request.bytes += int64(len(s.row))
	err = s.write(endMessage(s.row, 0))
	if cap(s.row) > serverBuffer {
		s.row = nil // one large row is no reason to keep its memory
	}
	s.detection.letGo()
	return err
}

// planOf is the plan of the rows at the front, of the catalog as it was when they began.
//
// Errors: rows that were not described, which no mask covers.
func (s *session) planOf(ctx context.Context, e *expected) (*plan, error) {
	r := e.result()
	if e.planned {
		return r.plan, nil
	}
	if !r.described || e.portal != nil && !s.queue.means(e.name, e.portal) {
		return nil, fmt.Errorf("%w: rows without a description", errMalformed)
	}
	if s.catalog == nil {
		e.planned = true
		return r.plan, nil
	}
	current, err := s.catalog.snapshot(ctx)
	if err != nil {
		return nil, catalogRefusal(err)
	}
	if r.snapshot != current {
		if err := s.replan(ctx, r); err != nil {
			return nil, err
		}
	}
	e.planned = true
	return r.plan, nil
}

// plan reads a RowDescription.
func (s *session) plan(ctx context.Context, r *rows, description []byte) error {
	var err error
	if r.fields, err = readFields(r.fields[:0], description); err != nil {
		return err
	}
	r.described = true
	if s.catalog == nil {
		r.plan = s.detection.plan(nil, r.fields)
		return nil
	}
	return s.replan(ctx, r)
}

// replan finds out how described rows are masked.
//
// Errors: a [*refusal] for a result that no mask covers. It runs already, so the session ends.
func (s *session) replan(ctx context.Context, r *rows) error {
	var err error
	if r.snapshot, err = s.catalog.snapshot(ctx); err != nil {
		return catalogRefusal(err)
	}
	r.plan, err = s.catalog.plan(ctx, s.conn.Share(), r.fields, nil)
	var o *objection
	switch {
	case errors.As(err, &o):
		return refused("", stateDenied, "the result is withheld: %s", o)
	case overShare(err) != nil:
		return overShare(err)
	case errors.Is(err, errUnknownRelation):
		return refused("", stateDenied, "the result is withheld: it comes from a relation that was made in a transaction which is not committed")
	case err != nil:
		return catalogRefusal(err)
	}
	r.plan = s.detection.plan(r.plan, r.fields)
	return nil
}

// describes tells that the types of a result's columns must be known before its rows.
func (s *session) describes() bool { return s.catalog != nil || s.detection != nil }

// hold keeps what is written from now on until the request's record is durable.
func (s *session) hold(q *request) {
	if q != nil && q.held && q.index > s.gate.held {
		s.gate.held = q.index
		q.held = false
	}
}

// masking tells that the database has sensitive columns, as far as is known.
func (s *session) masking() bool {
	if s.catalog == nil {
		return false
	}
	last := s.catalog.last.Load()
	return last == nil || last.snapshot == nil || !last.snapshot.clear()
}

// copyOut passes a row of COPY on.
func (s *session) copyOut(in *reader, f frame) error {
	e := s.queue.front()
	if e == nil || e.request == nil || e.request.denied != "" {
		return unexpected(f)
	}
	e.request.rows++
	if s.detection == nil {
		e.request.bytes += int64(header + f.size)
		return s.pass(in, f)
	}
	message, err := in.message(f, maxMaskedRow)
	if err != nil {
		return err
	}
	if len(message) > serverBuffer {
		if refused := s.conn.Share().Hold(len(message)); refused != nil {
			return refused
		}
		defer s.conn.Share().Release(len(message))
	}
	message = s.detection.copied(message, e.binary)
	s.note(e.request)
	e.request.bytes += int64(len(message))
	err = s.write(message)
	s.detection.letGo()
	return err
}

// pass hands a message on that is not looked at.
func (s *session) pass(in *reader, f frame) error {
	if header+f.size > len(in.buf) {
		return s.stream(in, f)
	}
	message, err := in.message(f, f.size)
	if err != nil {
		return err
	}
	return s.write(message)
}

// write gathers a message for the client. The buffer holds whole messages only, so
// that what is not sent at the end leaves no beginning of one behind.
func (s *session) write(message []byte) error {
	if len(message) > s.down.Available() {
		if err := s.down.Flush(); err != nil {
			return err
		}
	}
	_, err := s.down.Write(message)
	return err
}

func (s *session) writeOr(message []byte, err error) error {
	if err != nil {
		return err
	}
	return s.write(message)
}

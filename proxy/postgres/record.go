package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
)

// request is one request of the client, from its record to its outcome. Once it
// is expected, it belongs to the server's loop.
type request struct {
	id      string
	index   int64
	began   time.Time
	denied  string // what the client is told instead of the server's answer
	held    bool   // its answer is held back until the record is durable
	awaits  bool   // it is to be, from where a detector finds something in it
	defines bool   // it may change what is in the catalog
	alters  bool   // it may change a parameter in a way that its text does not show
	rows    int64
	bytes   int64
	code    string // SQLSTATE of the first error
	masked  map[string]int64
}

// parameters are the values of a Bind as the trail is to show them.
type parameters struct {
	shown     []string
	truncated bool
	bytes     int // that they hold
}

// describe lists what statements do, each thing once.
func describe(statements []*sql.Statement, path *searchPath) audit.Request {
	r := audit.Request{Operations: []string{}, Relations: []string{}, Functions: []string{}}
	for _, st := range statements {
		r.Operations = append(r.Operations, st.Words...)
		for _, relation := range st.Relations {
			r.Relations = append(r.Relations, path.name(relation))
		}
		for _, function := range st.Functions {
			r.Functions = append(r.Functions, qualified(function.Schema, function.Name))
		}
	}
	for _, list := range []*[]string{&r.Operations, &r.Relations, &r.Functions} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return r
}

func qualified(schema, name string) string {
	if schema == "" {
		return name
	}
	return schema + "." + name
}

// recordText puts into a record what the policies let it hold of the text. Of
// what is refused, or cannot be read, it holds the fingerprint; of what may name
// a password not even the shape: $1 is one where what the text runs by name says so.
func (s *session) recordText(j *judgement, script *sql.Script, statements []*sql.Statement) {
	j.request.Fingerprint = script.Fingerprint
	secret := j.denied != ""
	for _, st := range statements {
		secret = secret || st.Unknown != "" || st.HasPasswords
	}
	if secret || s.keep == policy.RecordNone {
		return
	}
	j.request.Text = s.forTrail(script.Redacted)
	for _, l := range script.Literals {
		j.request.Parameters = append(j.request.Parameters, fmt.Sprintf("%s: %s, %d bytes", l.Placeholder, l.Type, l.Length))
	}
}

// forTrail is a text as a record may hold it. Only where the policies keep values
// whole does it keep what a detector finds.
func (s *session) forTrail(text string) string {
	if s.keep == policy.RecordFull {
		return text
	}
	return s.detection.forTrail(text)
}

// redactNames puts what a detector finds out of the names in a record: a quoted one can be any text.
func (s *session) redactNames(j *judgement) {
	if s.keep == policy.RecordFull || s.detection == nil {
		return
	}
	j.request.Relations = s.detection.allForTrail(j.request.Relations)
	j.request.Functions = s.detection.allForTrail(j.request.Functions)
	j.decision.Masks = s.detection.allForTrail(j.decision.Masks)
	j.decision.Reason = s.detection.forTrail(j.decision.Reason)
	for i := range j.decision.Would {
		j.decision.Would[i].Reason = s.detection.forTrail(j.decision.Would[i].Reason)
	}
}

// begin records a request. Its message must not be sent before.
//
// Errors: the trail cannot be written, which ends the session.
func (s *session) begin(ctx context.Context, j *judgement, st *statement, p parameters) (*request, error) {
	j = s.afford(j)
	r := s.conn.Record(audit.KindRequest)
	r.Seq = s.conn.NextSeq()
	asked := j.request
	if s.keep == policy.RecordFull && asked.Text != "" && st != nil {
		asked.Text, asked.Parameters = st.text, nil
	}
	if asked.Text != "" && len(p.shown) > 0 {
		asked.Parameters, asked.Truncated = append(slices.Clip(asked.Parameters), p.shown...), p.truncated
	}
	r.Request, r.Decision = &asked, &j.decision
	s.config.Metrics.Request(s.target.Name(), j.action)
	q := &request{
		id: r.ID, began: time.Now(), held: j.held, awaits: s.durable == policy.Balanced && !j.held, defines: j.defines, alters: j.alters,
	}
	var err error
	if q.index, err = s.conn.Append(r); err != nil {
		return nil, trailRefusal(err)
	}
	if j.denied != "" {
		q.denied = "postern: " + j.denied + " (record " + q.id + ")"
		s.log.WithField("record", q.id).Info("Request refused")
	}
	if s.durable == policy.Strict {
		if err := s.wait(ctx, q.index); err != nil {
			return nil, err
		}
	}
	if j.defines && j.denied == "" && s.catalog != nil {
		s.catalog.invalidate()
	}
	return q, nil
}

// wait returns when a record is durable, or the session is over.
func (s *session) wait(ctx context.Context, index int64) error {
	err := s.conn.Wait(ctx, index)
	if err != nil && ctx.Err() == nil {
		return trailRefusal(err)
	}
	return err
}

// end records the outcome of a request.
func (s *session) end(q *request, status audit.Status) error {
	code := q.code
	if code == "" && status == audit.StatusOK {
		code = stateSuccess
	}
	cells := 0
	for _, n := range q.masked {
		cells += int(n)
	}
	if cells > 0 {
		s.config.Metrics.Masked(s.target.Name(), cells)
	}
	_, err := s.conn.Append(&audit.Record{
		Kind:      audit.KindOutcome,
		Session:   s.conn.ID,
		RequestID: q.id,
		Outcome: &audit.Outcome{
			Status: status, Code: code, Rows: q.rows, Bytes: q.bytes, Masked: q.masked,
			DurationUS: time.Since(q.began).Microseconds(),
		},
	})
	if err != nil {
		return trailRefusal(err)
	}
	return nil
}

// status is how a request ended whose answer is complete.
func (q *request) status() audit.Status {
	switch {
	case q.denied != "" && q.code == stateDenied:
		return audit.StatusRefused
	case q.code == stateQueryCanceled:
		return audit.StatusCanceled
	case q.code != "":
		return audit.StatusError
	}
	return audit.StatusOK
}

// trailRefusal ends a session that can no longer be recorded.
func trailRefusal(err error) error {
	if over := overShare(err); over != nil {
		return over
	}
	return refused(metrics.Audit, stateTrail, "the audit trail cannot be written, so no request is passed on").because(err)
}

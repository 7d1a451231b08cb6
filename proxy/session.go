package proxy

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
)

// Recorder is the audit trail.
type Recorder interface {
	// Append returns when the record is written; the write survives the process.
	Append(*audit.Record) (index int64, err error)
	// Count takes a record that is not written, because an earlier one of its kind,
	// whose ID it has, stands for it.
	Count(*audit.Record)
	// Wait returns when the record with this index is durable.
	Wait(ctx context.Context, index int64) error
}

// Handler serves the connections of one protocol.
type Handler interface {
	// Serve returns when the session has ended; it leaves closing s.Conn to the caller.
	Serve(ctx context.Context, s *Session) error
}

// Session is one accepted connection and what its records repeat.
//
// Shape: Identified, Claimed and Reached are called before the records that are to
// show what they say, by one goroutine. Records may be appended by many.
type Session struct {
	ID     string
	Conn   net.Conn
	Origin Origin

	share    *Share
	turned   *Refused
	recorder Recorder
	metrics  *metrics.Metrics
	started  time.Time
	workload *audit.Workload
	claimed  *audit.Claimed
	target   *audit.Target
	seq      atomic.Int64
	recorded atomic.Bool
	opened   bool
}

// NewSession begins a session; nothing is recorded yet.
func NewSession(conn net.Conn, origin Origin, recorder Recorder, m *metrics.Metrics) *Session {
	workload := origin.Workload
	return &Session{
		ID:       audit.NewID(),
		Conn:     conn,
		Origin:   origin,
		recorder: recorder,
		metrics:  m,
		started:  time.Now(),
		workload: &workload,
		target:   &audit.Target{Address: origin.Dialled.String()},
	}
}

// Share is what the session's workload has; nil has no bounds.
func (s *Session) Share() *Share { return s.share }

// Turned tells why the session may not go on beyond what it takes to say so in its
// protocol, nil where it may.
func (s *Session) Turned() *Refused { return s.turned }

// Identified says who the session's workload proved to be.
func (s *Session) Identified(who identity.Identity) {
	workload := *s.workload
	workload.User, workload.Groups, workload.Verified = who.User, who.Groups, who.Verified
	if who.Token != nil {
		workload.Token = &audit.Token{Issuer: who.Token.Issuer, Subject: who.Token.Subject, ID: who.Token.ID}
	}
	s.workload = &workload
}

// Claimed says what the client says of itself.
func (s *Session) Claimed(claimed audit.Claimed) { s.claimed = &claimed }

// Reached says what the session is connected to, or wants to be.
func (s *Session) Reached(target audit.Target) {
	target.Address = s.Origin.Dialled.String()
	s.target = &target
}

// Record begins a record of the session.
//
// Shape: what it points to is shared with the session's other records and must not be changed.
func (s *Session) Record(kind audit.Kind) *audit.Record {
	return &audit.Record{
		ID:       audit.NewID(),
		Kind:     kind,
		Session:  s.ID,
		Workload: s.workload,
		Claimed:  s.claimed,
		Target:   s.target,
	}
}

// NextSeq numbers the session's requests from 1.
func (s *Session) NextSeq() int64 { return s.seq.Add(1) }

// Append writes a record to the trail.
//
// Errors: the trail cannot be written, or, with a [*Refused], the workload has had
// its share of it; what the record announces must not happen.
func (s *Session) Append(r *audit.Record) (int64, error) {
	switch r.Kind {
	case audit.KindSessionOpen, audit.KindRequest, audit.KindCancel: // what has not happened yet
		if refused := s.share.MayRecord(); refused != nil {
			return 0, refused
		}
	}
	s.recorded.Store(true)
	index, err := s.recorder.Append(r)
	s.share.recorded(r.Bytes)
	return index, err
}

// Wait returns when the record with this index is durable.
func (s *Session) Wait(ctx context.Context, index int64) error { return s.recorder.Wait(ctx, index) }

// Open records that the session is logged in.
func (s *Session) Open() error {
	if _, err := s.Append(s.Record(audit.KindSessionOpen)); err != nil {
		return err
	}
	s.opened = true
	s.metrics.SessionOpened(s.target.Name)
	return nil
}

// Close records how a session that was opened ended; code is its SQLSTATE or
// status code, bytes what the client received.
func (s *Session) Close(status audit.Status, code string, bytes int64) error {
	if !s.opened {
		return nil
	}
	s.opened = false
	s.metrics.SessionClosed(s.target.Name)
	r := s.Record(audit.KindSessionClose)
	r.Outcome = &audit.Outcome{Status: status, Code: code, Bytes: bytes, DurationUS: time.Since(s.started).Microseconds()}
	_, err := s.Append(r)
	return err
}

// Refuse records that the connection is turned away.
//
// Shape: r's ID is that of the record to tell the client of: an earlier one, where
// the workload is refused the same again and again.
func (s *Session) Refuse(r *audit.Record, reason metrics.Refusal, code, message string) error {
	s.metrics.Refused(reason)
	r.Refusal = &audit.Refusal{Reason: string(reason), Code: code, Message: message}
	if id := s.share.standIn(reason, message, r.ID); id != r.ID {
		r.ID = id
		s.recorded.Store(true)
		s.recorder.Count(r)
		return nil
	}
	_, err := s.Append(r)
	return err
}

// Opened tells whether the session is logged in.
func (s *Session) Opened() bool { return s.opened }

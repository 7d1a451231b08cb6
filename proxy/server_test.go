package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
)

// running is a server on a listener of its own.
type running struct {
	trail
	address       string
	stopAccepting context.CancelFunc
	stopSessions  context.CancelFunc
	done          chan error
}

func serve(t *testing.T, handler Handler, origins Origins, maxConns int) *running {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{address: l.Addr().String(), done: make(chan error, 1)}
	server := New(Config{Handler: handler, Origins: origins, Recorder: r, Metrics: metrics.New(), Log: log, MaxConns: maxConns})
	var accepting, sessions context.Context
	accepting, r.stopAccepting = context.WithCancel(t.Context())
	sessions, r.stopSessions = context.WithCancel(t.Context())
	go func() { r.done <- server.Serve(accepting, sessions, l) }()
	t.Cleanup(func() { r.stopAccepting(); r.stopSessions() })
	return r
}

func (r *running) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// handlerFunc is a handler.
type handlerFunc func(context.Context, *Session) error

func (f handlerFunc) Serve(ctx context.Context, s *Session) error { return f(ctx, s) }

// originFunc gives origins.
type originFunc func(net.Conn) (Origin, error)

func (f originFunc) Origin(conn net.Conn) (Origin, error) { return f(conn) }

func (originFunc) Owner(net.Conn) audit.Workload { return audit.Workload{} }

func known(net.Conn) (Origin, error) {
	return Origin{Dialled: netip.MustParseAddrPort("10.0.0.1:5432"), Workload: audit.Workload{LinuxUID: 1000}}, nil
}

// trail is an audit trail in memory.
type trail struct {
	mu      sync.Mutex
	records []audit.Record
}

func (r *trail) Append(record *audit.Record) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, *record)
	return int64(len(r.records)), nil
}

func (r *trail) Count(*audit.Record) {}

func (r *trail) Wait(context.Context, int64) error { return nil }

// kinds waits for n records, and gives their kinds.
func (r *trail) kinds(t *testing.T, n int) []audit.Kind {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		var kinds []audit.Kind
		for _, record := range r.records {
			kinds = append(kinds, record.Kind)
		}
		r.mu.Unlock()
		if len(kinds) >= n {
			return kinds
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d records, want %d", len(kinds), n)
		}
	}
}

// closed waits until the other side has closed the connection.
func closed(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %d bytes, %v, want the connection closed", n, err)
	}
}

func TestConnectionWithoutAnOriginIsClosedAndRecorded(t *testing.T) {
	handler := handlerFunc(func(context.Context, *Session) error {
		t.Error("got a connection without an origin served, want it closed")
		return nil
	})
	s := serve(t, handler, originFunc(func(net.Conn) (Origin, error) { return Origin{}, errors.New("no origin") }), 0)
	closed(t, s.dial(t))
	if got := s.kinds(t, 1)[0]; got != audit.KindRefusal {
		t.Errorf("got a record of kind %s, want %s", got, audit.KindRefusal)
	}
	r := s.records[0]
	if r.Refusal.Reason != string(metrics.NoOrigin) || r.Workload != nil || r.Target != nil {
		t.Errorf("got %+v %+v %+v, want the reason and nothing that is not known", r.Refusal, r.Workload, r.Target)
	}
}

func TestEveryServedConnectionIsRecorded(t *testing.T) {
	served := make(chan *Session, 1)
	s := serve(t, handlerFunc(func(_ context.Context, session *Session) error { served <- session; return nil }), originFunc(known), 0)
	closed(t, s.dial(t))
	if got := s.kinds(t, 1)[0]; got != audit.KindRefusal {
		t.Errorf("got a record of kind %s for a session of which nothing is recorded, want %s", got, audit.KindRefusal)
	}
	session, record := <-served, s.records[0]
	if session.Origin.Workload.LinuxUID != 1000 || record.Session != session.ID || record.Target.Address != "10.0.0.1:5432" {
		t.Errorf("got %+v, want the session's origin in its record", record)
	}
}

func TestHandlerThatPanicsEndsItsOwnSession(t *testing.T) {
	var panicked atomic.Bool
	s := serve(t, handlerFunc(func(_ context.Context, session *Session) error {
		if panicked.CompareAndSwap(false, true) {
			panic("a mistake")
		}
		_, err := session.Conn.Write([]byte("ok"))
		return err
	}), originFunc(known), 0)
	closed(t, s.dial(t))
	if got, err := io.ReadAll(s.dial(t)); err != nil || string(got) != "ok" {
		t.Errorf("got %q, %v from the next session, want ok", got, err)
	}
}

func TestConnectionsBeyondTheLimitAreRefused(t *testing.T) {
	leave := make(chan struct{})
	s := serve(t, handlerFunc(func(_ context.Context, session *Session) error {
		session.Conn.Write([]byte("in"))
		<-leave
		return nil
	}), originFunc(known), 1)
	first := s.dial(t)
	if _, err := io.ReadFull(first, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	closed(t, s.dial(t))
	s.kinds(t, 1)
	if got := s.records[0].Refusal.Reason; got != string(metrics.Busy) {
		t.Errorf("got %q, want %q", got, metrics.Busy)
	}
	close(leave)
	closed(t, first)
}

func TestDrainStopsAcceptingAndThenEndsSessions(t *testing.T) {
	in := make(chan struct{})
	s := serve(t, handlerFunc(func(ctx context.Context, session *Session) error {
		close(in)
		<-ctx.Done()
		_, err := session.Conn.Write([]byte("bye"))
		return err
	}), originFunc(known), 0)
	conn := s.dial(t)
	<-in
	s.stopAccepting()
	select {
	case err := <-s.done:
		t.Fatalf("got the server ended (%v) with a session in it, want it to wait", err)
	case <-time.After(20 * time.Millisecond):
	}
	s.stopSessions()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v, want the session to say bye", got, err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestSessionRecordsShowWhatIsKnown(t *testing.T) {
	records := &trail{}
	origin, _ := known(nil)
	s := NewSession(nil, origin, records, metrics.New())
	s.Claimed(audit.Claimed{ApplicationName: "psql"})
	s.Reached(audit.Target{Name: "db"})
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to close
		if err := s.Close(audit.StatusOK, "00000", 7); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := len(records.records), 2; got != want {
		t.Fatalf("got %d records, want %d", got, want)
	}
	last := records.records[1]
	if last.Outcome.Bytes != 7 || last.Claimed.ApplicationName != "psql" || last.Target.Name != "db" || last.Target.Address != "10.0.0.1:5432" {
		t.Errorf("got %+v %+v %+v, want what the session was told", last.Outcome, last.Claimed, last.Target)
	}
}

package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
)

var (
	errOver    = errors.New("the session is over")
	errBroken  = errors.New("the connection to the server has ended")
	errExpired = errors.New("the identity has expired")
)

// server is the connection to the server. Its errors are told from the client's, but
// for those of Postern's own deadlines.
type server struct{ net.Conn }

func (s server) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	return n, ended(err)
}

func (s server) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	return n, ended(err)
}

func ended(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", errBroken, err)
}

// broken is the answer to a client whose server went away without a word.
//
// Source: PostgreSQL 17 documentation, Appendix A: 08006 connection_failure, by
// which drivers and pools know a connection that is to be thrown away
// (org.postgresql.util.PSQLState.isConnectionError). There is no code of a server
// for it: libpq itself then says "server closed the connection unexpectedly"
// (src/interfaces/libpq/fe-misc.c, pqReadData), and clients look for these words
// (SQLAlchemy, dialects/postgresql/psycopg2.py, is_disconnect).
func (s *session) broken(err error) error {
	return refused(metrics.Upstream, stateBroken, "the server of target %s closed the connection unexpectedly", s.target.Name()).because(err)
}

// relay is the phase that lasts: one loop carries the client's messages, the
// other the server's. Each reads ahead, gathers what it passes on, and sends it
// when the next read would block. The server's loop never waits for the
// client's, so that a full pipe cannot stop both.
func (s *session) relay(ctx context.Context) (phase, error) {
	s.client.SetDeadline(time.Time{})
	if !s.who.Expires.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, s.who.Expires, errExpired)
		defer cancel()
	}
	group, both := errgroup.WithContext(ctx)
	defer context.AfterFunc(both, s.interruptRelay)()
	s.gate = &gate{conn: s.client, wait: func(index int64) error { return s.wait(both, index) }}
	s.down = bufio.NewWriterSize(s.gate, serverBuffer)
	s.up = bufio.NewWriterSize(server{s.upstream}, clientBuffer)
	s.in.idle = s.up.Flush
	group.Go(contained(func() error { return s.fromClient(both) }))
	group.Go(contained(func() error { return s.fromServer(both) }))
	err := group.Wait()
	switch {
	case errors.Is(err, errBroken) && (s.farewell || s.last != ""): // it said why, or was asked to
		err = nil
	case errors.Is(err, errBroken):
		err = s.broken(err)
	case context.Cause(ctx) == errExpired:
		err = refused("", stateShutdown, "the token that proved the identity has expired: connect again")
	}
	return nil, err
}

// interruptRelay wakes both loops, whatever they wait for.
func (s *session) interruptRelay() {
	s.queue.close(errOver)
	s.upstream.SetDeadline(time.Unix(1, 0))
	s.interrupt()
}

// contained keeps a mistake in a loop from ending the sessions of others.
func contained(loop func() error) func() error {
	return func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("relay: %v", r)
			}
		}()
		return loop()
	}
}

// fromClient carries the client's messages until it leaves.
func (s *session) fromClient(ctx context.Context) error {
	for !s.farewell {
		f, err := s.in.next()
		if errors.Is(err, errBroken) { // sending what was gathered
			return nil
		}
		if err != nil {
			return leaving(err)
		}
		switch v := fromClient[f.kind]; {
		case v == refuse:
			err = fmt.Errorf("%w: type %q from the client", errMalformed, f.kind)
		case s.doomed && f.kind != 'S' && f.kind != 'X':
			err = leaving(s.in.pass(io.Discard, header+f.size))
		case v == forward:
			err = leaving(s.in.pass(s.up, header+f.size))
		default:
			err = s.inspectRequest(ctx, f)
		}
		if errors.Is(err, errBroken) {
			return nil // what the server said before it went is for the other loop to read
		}
		if err != nil {
			return err
		}
	}
	if err := s.up.Flush(); err != nil && !errors.Is(err, errBroken) {
		return err
	}
	return nil // the server answers what it has, and closes
}

// leaving is the end of the client's messages, if nothing worse.
func leaving(err error) error {
	if left(err) {
		return errGone
	}
	return err
}

// errGone is a client that went away without a word, which ends the session.
var errGone = fmt.Errorf("the client is gone: %w", io.EOF)

// fromServer carries the server's messages until it closes.
func (s *session) fromServer(ctx context.Context) error {
	in := newReader(server{s.upstream}, serverBuffer, s.down.Flush, s.conn.Share())
	defer in.letGo()
	for {
		f, err := in.next()
		if err != nil {
			return errors.Join(s.down.Flush(), err)
		}
		if fromServer[f.kind] == inspect {
			err = s.inspectReply(ctx, in, f)
		} else {
			err = fmt.Errorf("%w: type %q from the server", errMalformed, f.kind)
		}
		if err != nil {
			return errors.Join(s.blamed(err), s.down.Flush())
		}
	}
}

// blamed tells the client that it was not its fault.
func (s *session) blamed(err error) error {
	if errors.Is(err, errMalformed) {
		return refused(metrics.Upstream, stateBroken, "the server of target %s breaks the protocol", s.target.Name()).because(err)
	}
	return err
}

// stream passes a message to the client that is longer than the buffer.
func (s *session) stream(in *reader, f frame) error {
	if err := s.down.Flush(); err != nil {
		return err
	}
	s.gate.torn = true
	err := in.pass(s.down, header+f.size)
	if err == nil {
		err = s.down.Flush()
	}
	s.gate.torn = err != nil
	return err
}

// gate lets bytes through to the client when the records are durable that they answer.
type gate struct {
	conn net.Conn
	wait func(index int64) error
	held int64 // the last record to wait for; 0 where there is none
	sent int64 // bytes
	torn bool  // the client has the beginning of a message and not its end
}

// Write sends p.
func (g *gate) Write(p []byte) (int, error) {
	if g.held > 0 {
		if err := g.wait(g.held); err != nil {
			return 0, err
		}
		g.held = 0
	}
	n, err := g.conn.Write(p)
	g.sent += int64(n)
	g.torn = g.torn || err != nil && n > 0
	return n, err
}

// endAll records the outcome of requests that will not be answered.
func (s *session) endAll(ignored []*expected, status audit.Status, code string) error {
	var failed error
	for _, e := range ignored {
		if e.request == nil {
			continue
		}
		if e.request.code == "" {
			e.request.code = code
		}
		failed = errors.Join(failed, s.end(e.request, status))
	}
	return failed
}

// running is the request that the server is busy with, "" where there is none.
func (s *session) running() string {
	if e := s.queue.front(); e != nil && e.request != nil {
		return e.request.id
	}
	return ""
}

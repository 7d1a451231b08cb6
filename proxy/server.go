package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
)

// defaultMaxConns is far above what one command opens, and far below what
// exhausts the agent's file descriptors: each session has two.
const defaultMaxConns = 4096

// acceptPause is how long the accept loop rests when the process is out of file descriptors.
const acceptPause = 50 * time.Millisecond

// Config is what a [Server] needs. All of it but the last two is required.
type Config struct {
	Handler  Handler
	Origins  Origins
	Recorder Recorder
	Metrics  *metrics.Metrics
	Log      logrus.FieldLogger
	MaxConns int     // connections at once, logged in or not; 4096
	Shares   *Shares // of the workloads; nil: nobody has bounds of his own
}

// Server accepts connections and serves each in a goroutine of its own.
type Server struct{ config Config }

// New makes a server; it does nothing before [Server.Serve].
func New(config Config) *Server {
	if config.MaxConns == 0 {
		config.MaxConns = defaultMaxConns
	}
	return &Server{config: config}
}

// Serve accepts from l until accepting is done, and returns when every session
// has ended; those that are still there when sessions is done are told to end.
//
// Shape: sessions outlives accepting. l is closed.
// Errors: accepting failed for good.
func (s *Server) Serve(accepting, sessions context.Context, l net.Listener) error {
	defer context.AfterFunc(accepting, func() { l.Close() })()
	var running errgroup.Group
	slots := make(chan struct{}, s.config.MaxConns)
	err := s.accept(accepting, l, func(conn net.Conn) {
		owner := s.config.Origins.Owner(conn)
		a := arrival{conn: conn, owner: owner, share: s.config.Shares.Of(owner.UID)}
		leave, turned := a.share.enter()
		if leave == nil {
			s.refuse(a, turned)
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			leave()
			s.refuse(a, &Refused{Reason: metrics.Busy, Message: "too many connections of all pods together"})
			return
		}
		a.turned = turned
		running.Go(func() error {
			defer func() { <-slots }()
			defer leave()
			s.serve(sessions, a)
			return nil
		})
	})
	l.Close()
	return errors.Join(err, running.Wait())
}

func (s *Server) accept(ctx context.Context, l net.Listener, each func(net.Conn)) error {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			each(conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default: // out of descriptors or memory: sessions that end give some back
			s.config.Log.WithError(err).Warn("Accept failed")
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

// arrival is a connection that was accepted, and its part in what its workload has.
type arrival struct {
	conn   net.Conn
	owner  audit.Workload
	share  *Share
	turned *Refused // why it is let in only to be told so
}

// session begins the session of an arrival.
func (s *Server) session(a arrival, origin Origin) *Session {
	session := NewSession(a.conn, origin, s.config.Recorder, s.config.Metrics)
	session.share, session.turned = a.share, a.turned
	return session
}

func (s *Server) serve(ctx context.Context, a arrival) {
	defer a.conn.Close()
	origin, err := s.config.Origins.Origin(a.conn)
	if err != nil {
		s.config.Log.WithError(err).Warn("Connection without an origin closed")
		s.refuse(a, &Refused{Reason: metrics.NoOrigin})
		return
	}
	session := s.session(a, origin)
	log := s.config.Log.WithField("session", session.ID)
	if err := contained(ctx, s.config.Handler, session); err != nil {
		log.WithError(err).Debug("Session ended")
	}
	if !session.recorded.Load() { // a connection that said nothing: a probe, or a client that changed its mind
		if err := session.Refuse(session.Record(audit.KindRefusal), metrics.Protocol, "", "nothing was asked"); err != nil {
			log.WithError(err).Error("Refusal not recorded")
		}
	}
}

// contained keeps a handler's mistake from ending the sessions of others.
func contained(ctx context.Context, h Handler, s *Session) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("serve: %v\n%s", r, debug.Stack())
		}
	}()
	return h.Serve(ctx, s)
}

// refuse closes a connection that reaches no handler, and records it.
func (s *Server) refuse(a arrival, why *Refused) {
	a.conn.Close()
	session := s.session(a, Origin{Workload: a.owner})
	r := session.Record(audit.KindRefusal)
	r.Target = nil // nobody has asked where it wanted to go
	if a.owner.UID == "" {
		r.Workload = nil
	}
	message := "closed without an answer"
	if why.Message != "" {
		message += ": " + why.Message
	}
	if err := session.Refuse(r, why.Reason, "", message); err != nil {
		s.config.Log.WithError(err).Error("Refusal not recorded")
	}
}

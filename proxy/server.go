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

// Config is what a [Server] needs. All of it but MaxConns is required.
type Config struct {
	Handler  Handler
	Origins  Origins
	Recorder Recorder
	Metrics  *metrics.Metrics
	Log      logrus.FieldLogger
	MaxConns int // connections at once, logged in or not; 4096
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
		select {
		case slots <- struct{}{}:
		default:
			s.refuse(conn, Origin{}, metrics.Busy)
			return
		}
		running.Go(func() error {
			defer func() { <-slots }()
			s.serve(sessions, conn)
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

func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	origin, err := s.config.Origins.Origin(conn)
	if err != nil {
		s.config.Log.WithError(err).Warn("Connection without an origin closed")
		s.refuse(conn, Origin{}, metrics.NoOrigin)
		return
	}
	session := NewSession(conn, origin, s.config.Recorder, s.config.Metrics)
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
func (s *Server) refuse(conn net.Conn, origin Origin, reason metrics.Refusal) {
	conn.Close()
	session := NewSession(conn, origin, s.config.Recorder, s.config.Metrics)
	r := session.Record(audit.KindRefusal)
	if !origin.Dialled.IsValid() {
		r.Workload, r.Target = nil, nil
	}
	if err := session.Refuse(r, reason, "", "closed without an answer"); err != nil {
		s.config.Log.WithError(err).Error("Refusal not recorded")
	}
}

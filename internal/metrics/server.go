package metrics

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Server serves /metrics, /livez, /healthz and /readyz.
type Server struct {
	server   *http.Server
	listener net.Listener
}

// Listen makes a server on address; it answers once [Server.Run] runs.
//
// Shape: healthy tells why what should work does not, or nil; ready tells
// whether there is service. /livez asks neither: it answers while the process does.
func Listen(address string, m *Metrics, healthy func() error, ready func() bool) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /livez", answer("", func() bool { return true }))
	mux.HandleFunc("GET /healthz", answer("not healthy", func() bool { return healthy() == nil })) // the reason is the log's
	mux.HandleFunc("GET /readyz", answer("not ready", func() bool { return ready() && healthy() == nil }))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	return &Server{server: server, listener: listener}, nil
}

func answer(no string, holds func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if !holds() {
			http.Error(w, no, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// Address is where the server listens.
func (s *Server) Address() net.Addr { return s.listener.Addr() }

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.server.Close() })()
	err := s.server.Serve(s.listener)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve metrics: %w", err)
}

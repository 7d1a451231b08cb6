package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"postern.dev/postern/internal/metrics"
)

// status serves /metrics, /healthz and /readyz.
type status struct {
	server   *http.Server
	listener net.Listener
}

// newStatus listens on address.
//
// Shape: healthy tells why requests are refused that the policy allows, or nil;
// ready tells whether connections are served.
func newStatus(address string, m *metrics.Metrics, healthy func() error, ready func() bool) (*status, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if healthy() != nil { // the reason is the log's
			http.Error(w, "not healthy", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() || healthy() != nil {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	return &status{server: server, listener: listener}, nil
}

// run serves until ctx is done.
func (s *status) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.server.Close() })()
	err := s.server.Serve(s.listener)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve metrics: %w", err)
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	secretFresh   = 30 * time.Second
	secretRetry   = time.Second // so that log-ins that fail do not make the agent flood the API server
	secretTimeout = 5 * time.Second
)

// ErrNoSecret says that Postern's namespace has no Secret of that name.
var ErrNoSecret = errors.New("no such Secret in Postern's namespace")

// secret is a Secret as it was last read.
type secret struct {
	turn    chan struct{} // holds one: a lock that a context can give up on
	data    map[string][]byte
	version string
	err     error // of the latest try
	tried   time.Time

	doubted atomic.Pointer[string] // the version with which a log-in was refused
}

// secrets caches the Secrets that were asked for by name.
type secrets struct {
	get func(ctx context.Context, name string) (*corev1.Secret, error)

	mu     sync.Mutex
	held   map[string]*secret
	memory memory
}

func (s *secrets) of(name string) *secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = make(map[string]*secret)
	}
	one, ok := s.held[name]
	if !ok {
		one = &secret{turn: make(chan struct{}, 1)}
		s.held[name] = one
	}
	return one
}

// read answers from the cache while what it has is fresh.
func (s *secrets) read(ctx context.Context, name string) (map[string][]byte, string, error) {
	one := s.of(name)
	select {
	case one.turn <- struct{}{}:
		defer func() { <-one.turn }()
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	age := time.Since(one.tried)
	doubted := one.doubted.Load()
	again := one.err != nil || doubted != nil && *doubted == one.version
	if one.tried.IsZero() || age >= secretFresh || again && age >= secretRetry {
		s.fetch(ctx, name, one)
	}
	if one.data == nil {
		return nil, "", fmt.Errorf("get Secret %s: %w", name, one.err)
	}
	return one.data, one.version, nil
}

// fetch asks the API server. Only its word that there is no such Secret takes away
// what was read before: it may be gone for a while, and one that has just begun
// forbids everything until it has read its roles.
func (s *secrets) fetch(ctx context.Context, name string, one *secret) {
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	got, err := s.get(ctx, name)
	if errors.Is(err, context.Canceled) {
		return // by whoever asked, which says nothing of the Secret
	}
	one.tried, one.err = time.Now(), err
	switch {
	case err == nil:
		one.data, one.version = got.Data, got.ResourceVersion
		if one.data == nil {
			one.data = map[string][]byte{}
		}
		s.keep(name, one.data, one.version)
	case apierrors.IsNotFound(err):
		one.data, one.err = nil, ErrNoSecret
		s.keep(name, nil, "")
	}
}

// failed notes that a log-in with a version was refused.
func (s *secrets) failed(name, version string) { s.of(name).doubted.Store(&version) }

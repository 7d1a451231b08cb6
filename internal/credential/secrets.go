package credential

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"
)

// The keys of a Secret that are read.
//
// Source: Kubernetes, Secrets, types kubernetes.io/basic-auth and kubernetes.io/tls.
const (
	usernameKey     = "username"
	passwordKey     = "password"
	certificatesKey = "ca.crt"
)

// Store reads Secrets of Postern's own namespace.
type Store interface {
	// Secret gives the keys of a Secret and what tells one version of it from the next.
	Secret(ctx context.Context, name string) (data map[string][]byte, version string, err error)
	// SecretFailed says that this version of a Secret was of no use.
	SecretFailed(name, version string)
}

// Secrets reads the Secrets that Targets name.
type Secrets struct{ store Store }

// NewSecrets reads the Secrets that Targets name from store.
func NewSecrets(store Store) *Secrets { return &Secrets{store: store} }

// Login reads the login in a Secret, which has the keys username and password.
//
// Errors: the Secret is not there, cannot be read, or lacks one of them. The
// error names the Secret, never what it holds.
func (s *Secrets) Login(ctx context.Context, from Reference) (Login, error) {
	data, version, err := s.read(ctx, from)
	if err != nil {
		return Login{}, fmt.Errorf("read login %s: %w", from, err)
	}
	user, password := data[usernameKey], data[passwordKey]
	switch {
	case len(user) == 0 || len(password) == 0:
		return Login{}, fmt.Errorf("read login %s: it has no %s or no %s", from, usernameKey, passwordKey)
	case len(user)+len(password) > maxFile:
		return Login{}, fmt.Errorf("read login %s: larger than %d bytes", from, maxFile)
	case !utf8.Valid(user):
		return Login{}, fmt.Errorf("read login %s: its %s is not UTF-8", from, usernameKey)
	}
	return Login{User: string(user), Password: string(password), Version: version}, nil
}

// Certificates reads the bundle of CA certificates under the key ca.crt of a Secret.
func (s *Secrets) Certificates(ctx context.Context, from Reference) ([]byte, error) {
	data, _, err := s.read(ctx, from)
	if err != nil {
		return nil, err
	}
	if len(data[certificatesKey]) == 0 {
		return nil, fmt.Errorf("it has no %s", certificatesKey)
	}
	return data[certificatesKey], nil
}

// Refused says that a server refused this version of a login.
func (s *Secrets) Refused(from Reference, version string) { s.store.SecretFailed(from.Secret, version) }

func (s *Secrets) read(ctx context.Context, from Reference) (map[string][]byte, string, error) {
	if from.Secret == "" {
		return nil, "", errors.New("a file is not read in a cluster: name a secret")
	}
	return s.store.Secret(ctx, from.Secret)
}

package identity

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	fetchTimeout  = 5 * time.Second
	fetchInterval = 10 * time.Second // a workload that invents key IDs must not make the agent flood an issuer
	keysFresh     = 15 * time.Minute // so that a withdrawn key stops counting
	keysStale     = time.Hour        // while the issuer is away
	maxDocument   = 1 << 20          // bytes
	maxKeys       = 100
	minRSA        = 2048 // bits, RFC 7518 §3.3
)

// keySet is an issuer's public keys, fetched when they are needed. go-oidc's
// own set fetches for each token that does not verify, and reads bodies of any
// size.
type keySet struct {
	ask func(context.Context) ([]jose.JSONWebKey, error)
	now func() time.Time

	known atomic.Pointer[knownKeys]

	turn    chan struct{} // holds one: a lock that a context can give up on; to fetch, and for what follows
	tried   time.Time
	failure error // of the latest try
}

// knownKeys are the keys of one fetch. Whose token they verify waits for no other
// fetch, which a token of an unheard-of key may have caused.
type knownKeys struct {
	keys    []jose.JSONWebKey
	fetched time.Time
}

func newKeySet(ask func(context.Context) ([]jose.JSONWebKey, error), now func() time.Time) *keySet {
	s := &keySet{ask: ask, now: now, turn: make(chan struct{}, 1)}
	s.known.Store(&knownKeys{})
	return s
}

// VerifySignature returns the payload of a compact token that one of the keys
// signed.
//
// Errors: [*Error] with [Malformed], [Signature] or [Unreachable].
func (s *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, accepted())
	if err != nil {
		return nil, refuse(Malformed, nil)
	}
	if payload, ok := s.match(jws, keysFresh); ok {
		return payload, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, refuse(Unreachable, ctx.Err())
	}
	if payload, ok := s.match(jws, keysFresh); ok { // by keys that another fetched meanwhile
		return payload, nil
	}
	if s.now().Sub(s.tried) >= fetchInterval {
		s.fetch(ctx)
	}
	if s.now().Sub(s.known.Load().fetched) >= keysStale {
		return nil, refuse(Unreachable, s.failure)
	}
	if payload, ok := s.match(jws, keysStale); ok {
		return payload, nil
	}
	return nil, refuse(Signature, nil)
}

// match verifies a token by the keys that are known, if they are younger than that.
func (s *keySet) match(jws *jose.JSONWebSignature, age time.Duration) ([]byte, bool) {
	known := s.known.Load()
	if s.now().Sub(known.fetched) >= age {
		return nil, false
	}
	return match(jws, known.keys)
}

// match tries the keys that the token's header points at.
func match(jws *jose.JSONWebSignature, keys []jose.JSONWebKey) ([]byte, bool) {
	header := jws.Signatures[0].Protected
	for _, key := range keys {
		if header.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// fetch replaces the keys; those that are there stay when it fails.
func (s *keySet) fetch(ctx context.Context) {
	s.tried = s.now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout) // others wait for these keys too
	defer cancel()
	keys, err := s.ask(ctx)
	s.failure = err
	if err == nil {
		s.known.Store(&knownKeys{keys, s.now()})
	}
}

// fetch gets an issuer's keys by its discovery document.
//
// Source: OpenID Connect Discovery 1.0 §4; RFC 7517 §5.
func (from source) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	client, err := from.client()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := get(ctx, client, strings.TrimSuffix(from.url, "/")+"/.well-known/openid-configuration", &discovery); err != nil {
		return nil, err
	}
	if discovery.Issuer != from.url {
		return nil, errors.New("read discovery document: it is of another issuer")
	}
	if keys, err := url.Parse(discovery.Keys); err != nil || keys.Scheme != "https" {
		return nil, errors.New("read discovery document: jwks_uri is no https URL")
	}
	var set keyDocument
	if err := get(ctx, client, discovery.Keys, &set); err != nil {
		return nil, err
	}
	return usable(set.Keys)
}

// keyDocument is a JSON Web Key Set.
//
// Source: RFC 7517 §5.
type keyDocument struct {
	Keys []json.RawMessage `json:"keys"`
}

// usable decodes the keys that may sign a token. Others are skipped, as RFC
// 7517 §5 asks.
func usable(raw []json.RawMessage) ([]jose.JSONWebKey, error) {
	if len(raw) > maxKeys {
		return nil, fmt.Errorf("read keys: more than %d", maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, text := range raw {
		var key jose.JSONWebKey
		if json.Unmarshal(text, &key) != nil || !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
			continue
		}
		if public, ok := key.Key.(*rsa.PublicKey); ok && public.N.BitLen() < minRSA {
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("read keys: none is usable")
	}
	return slices.Clip(keys), nil
}

// client speaks to the issuer over verified TLS, directly, and follows no
// redirect: whom the agent asks is the policy's choice alone.
func (from source) client() (*http.Client, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if from.caFile != "" {
		text, err := os.ReadFile(from.caFile)
		if err != nil {
			return nil, fmt.Errorf("read issuer's CA: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read issuer's CA: no certificate in %s", from.caFile)
		}
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: settings, MaxResponseHeaderBytes: maxDocument, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// get decodes the JSON document at address.
func get(ctx context.Context, client *http.Client, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask issuer: %w", err)
	}
	request.Header.Set("Accept", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask issuer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask issuer: %s answers with status %d", address, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	switch {
	case err != nil:
		return fmt.Errorf("ask issuer: %w", err)
	case len(body) > maxDocument:
		return fmt.Errorf("ask issuer: %s answers with more than %d bytes", address, maxDocument)
	case json.Unmarshal(body, into) != nil:
		return fmt.Errorf("ask issuer: %s answers with something other than the JSON expected", address)
	}
	return nil
}

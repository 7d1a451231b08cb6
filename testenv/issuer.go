package testenv

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Audience is whom an [Issuer]'s tokens are meant for unless a test says otherwise.
const Audience = "postern"

// Issuer is a running throwaway OIDC issuer: discovery document and keys over
// TLS on 127.0.0.1, signed by an authority of its own.
type Issuer struct {
	URL    string
	CAFile string // PEM of the CA that signed the issuer's certificate

	dir    string
	server *http.Server

	mu      sync.Mutex
	key     *ecdsa.PrivateKey
	keys    jose.JSONWebKeySet
	fetches int
	body    []byte // served instead of the keys when a test says so
}

// StartIssuer starts an issuer for the length of a test.
func StartIssuer(t testing.TB) *Issuer {
	t.Helper()
	issuer, err := RunIssuer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = issuer.Close() })
	return issuer
}

// RunIssuer starts an issuer that runs until Close.
func RunIssuer() (*Issuer, error) {
	dir, err := os.MkdirTemp("", "postern-issuer-")
	if err != nil {
		return nil, err
	}
	i := &Issuer{dir: dir, CAFile: filepath.Join(dir, "ca.pem")}
	if err := errors.Join(i.Rotate(), i.listen()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return i, nil
}

// Close stops the issuer and removes its files.
func (i *Issuer) Close() error {
	return errors.Join(i.server.Close(), os.RemoveAll(i.dir))
}

// Rotate replaces the signing key; tokens made before no longer verify once
// the keys are read again.
func (i *Issuer) Rotate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public := jose.JSONWebKey{Key: key.Public(), Algorithm: string(jose.ES256), Use: "sig"}
	print, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return err
	}
	public.KeyID = fmt.Sprintf("%x", print[:8])
	i.mu.Lock()
	defer i.mu.Unlock()
	i.key, i.keys = key, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}}
	return nil
}

// Token signs claims. What is not given is filled in: issuer, audience, an
// expiry in an hour, issued now, an ID; a claim that is nil is left out.
func (i *Issuer) Token(claims map[string]any) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return sign(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, i.keys.Keys[0].KeyID, i.fill(claims))
}

// MustToken is Token for a test.
func (i *Issuer) MustToken(t testing.TB, claims map[string]any) string {
	t.Helper()
	token, err := i.Token(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// PublicKeys is the key set as it is served.
func (i *Issuer) PublicKeys(t testing.TB) []byte {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	text, err := json.Marshal(i.keys)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Fetches is how often the keys were asked for.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// ServeKeys serves body in place of the keys; nil serves the keys again.
func (i *Issuer) ServeKeys(body []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.body = body
}

func (i *Issuer) fill(claims map[string]any) map[string]any {
	now := time.Now()
	filled := map[string]any{
		"iss": i.URL, "aud": Audience, "sub": "subject",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
	}
	for name, value := range claims {
		filled[name] = value
		if value == nil {
			delete(filled, name)
		}
	}
	return filled
}

func (i *Issuer) listen() error {
	authority, err := NewAuthority("Postern test issuer")
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := authority.Issue("localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	if err := os.WriteFile(i.CAFile, authority.PEM(), 0o644); err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}
	i.URL = "https://" + listener.Addr().(*net.TCPAddr).AddrPort().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET /keys", i.serveKeys)
	i.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go i.server.Serve(listener) //nolint:errcheck // ends with Close
	return nil
}

// Source: OpenID Connect Discovery 1.0, §4.2.
func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"issuer": i.URL, "jwks_uri": i.URL + "/keys",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	})
}

func (i *Issuer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	i.fetches++
	body, keys := i.body, i.keys
	i.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if body != nil {
		_, _ = w.Write(body)
		return
	}
	_ = json.NewEncoder(w).Encode(keys)
}

func sign(key jose.SigningKey, keyID string, claims map[string]any) (string, error) {
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", keyID)
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// PublicKey is the public key in PEM, as anybody can have it.
func (i *Issuer) PublicKey() ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		return nil, err
	}
	return encodePEM("PUBLIC KEY", der), nil
}

package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// Unsigned is a token with the algorithm none and no signature (RFC 7519 §6).
func (i *Issuer) Unsigned(t testing.TB, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(i.fill(claims))
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + encode(body) + "."
}

// Confused is a token signed by HS256 with the issuer's public key as the
// shared secret: a verifier that lets the token choose the algorithm takes it
// (RFC 8725 §2.1).
func (i *Issuer) Confused(t testing.TB, claims map[string]any) string {
	t.Helper()
	secret, err := i.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return i.forge(t, jose.SigningKey{Algorithm: jose.HS256, Key: secret}, claims)
}

// Forged is a token signed by a key of the forger's own, under the issuer's key ID.
func (i *Issuer) Forged(t testing.TB, claims map[string]any) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return i.forge(t, jose.SigningKey{Algorithm: jose.ES256, Key: key}, claims)
}

func (i *Issuer) forge(t testing.TB, key jose.SigningKey, claims map[string]any) string {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	token, err := sign(key, i.keys.Keys[0].KeyID, i.fill(claims))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

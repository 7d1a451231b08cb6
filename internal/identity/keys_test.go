package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"postern.dev/postern/testenv"
)

// clock is a time that a test sets.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func TestKeysAreFetchedOnceForManyTokens(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	v := newVerifier(func() []Issuer { return trusted(issuer) }, time.Now)
	for range 5 {
		if _, err := v.verify(t.Context(), issuer.MustToken(t, map[string]any{"user": "a"})); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		_, err := v.verify(t.Context(), issuer.Forged(t, map[string]any{"user": "a"}))
		wantReason(t, err, Signature)
	}
	if got, want := issuer.Fetches(), 1; got != want {
		t.Errorf("got %d fetches, want %d: tokens that nobody signed must not make the agent ask", got, want)
	}
}

func TestRotatedKeyIsFoundAndTheOldOneForgotten(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	now := &clock{time.Now()}
	v := newVerifier(func() []Issuer { return trusted(issuer) }, now.now)
	old := issuer.MustToken(t, map[string]any{"user": "a"})
	if _, err := v.verify(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	now.Time = now.Add(fetchInterval)
	if _, err := v.verify(t.Context(), issuer.MustToken(t, map[string]any{"user": "a"})); err != nil {
		t.Errorf("got error %v for a token of the new key, want none", err)
	}
	_, err := v.verify(t.Context(), old)
	wantReason(t, err, Signature)
}

func TestWithdrawnKeyStopsCountingByItself(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	now := &clock{time.Now()}
	v := newVerifier(func() []Issuer { return trusted(issuer) }, now.now)
	token := issuer.MustToken(t, map[string]any{"user": "a"})
	if _, err := v.verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if err := issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	now.Time = now.Add(keysFresh)
	_, err := v.verify(t.Context(), token)
	wantReason(t, err, Signature)
}

func TestKeysServeForAWhileWhenTheIssuerIsAway(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	now := &clock{time.Now()}
	v := newVerifier(func() []Issuer { return trusted(issuer) }, now.now)
	token := issuer.MustToken(t, map[string]any{"user": "a", "exp": now.Add(24 * time.Hour).Unix()})
	if _, err := v.verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	issuer.ServeKeys([]byte("away"))
	now.Time = now.Add(keysStale - time.Second)
	if _, err := v.verify(t.Context(), token); err != nil {
		t.Errorf("got error %v just before the keys are too old, want none", err)
	}
	now.Time = now.Add(2 * time.Second)
	_, err := v.verify(t.Context(), token)
	wantReason(t, err, Unreachable)
}

func TestIssuerThatDoesNotAnswerWellIsUnreachable(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	many := `{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`
	for name, keys := range map[string][]byte{
		"no JSON":     []byte("<html>"),
		"no keys":     []byte(`{"keys":[]}`),
		"secret":      []byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`),
		"weak RSA":    keyJSON(t, &weak.PublicKey, "sig"),
		"encryption":  keyJSON(t, &strong(t).PublicKey, "enc"),
		"private key": keyJSON(t, strong(t), "sig"),
		"too many":    []byte(many),
		"too large":   bytes.Repeat([]byte(" "), maxDocument+1),
	} {
		t.Run(name, func(t *testing.T) {
			issuer := testenv.StartIssuer(t)
			issuer.ServeKeys(keys)
			_, err := open(t, write(t, issuer.MustToken(t, map[string]any{"user": "a"})), issuer).Identify(t.Context())
			wantReason(t, err, Unreachable)
		})
	}
}

func TestIssuerIsReachedOverVerifiedTLSAlone(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	token := issuer.MustToken(t, map[string]any{"user": "a"})
	right := trusted(issuer)[0]
	for name, change := range map[string]func(*Issuer){
		"system's authorities":   func(i *Issuer) { i.CAFile = "" },
		"CA file is missing":     func(i *Issuer) { i.CAFile = "/nowhere/ca.pem" },
		"CA file of another one": func(i *Issuer) { i.CAFile = testenv.StartIssuer(t).CAFile },
	} {
		t.Run(name, func(t *testing.T) {
			wrong := right
			change(&wrong)
			v := newVerifier(func() []Issuer { return []Issuer{wrong} }, time.Now)
			_, err := v.verify(t.Context(), token)
			wantReason(t, err, Unreachable)
		})
	}
}

func TestDiscoveryDocumentOfAnotherIssuerIsRefused(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	claimed := trusted(issuer)[0]
	claimed.URL = strings.Replace(issuer.URL, "127.0.0.1", "localhost", 1)
	v := newVerifier(func() []Issuer { return []Issuer{claimed} }, time.Now)
	_, err := v.verify(t.Context(), issuer.MustToken(t, map[string]any{"user": "a", "iss": claimed.URL}))
	wantReason(t, err, Unreachable)
}

func TestKeyVerifiesTheAlgorithmItIsFor(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		key      crypto.Signer
		declared string // by the key
		used     jose.SignatureAlgorithm
		verifies bool
	}{
		"RS256":                {strong(t), "RS256", jose.RS256, true},
		"RS512, undeclared":    {strong(t), "", jose.RS512, true},
		"PS256":                {strong(t), "PS256", jose.PS256, true},
		"ES384":                {p384, "ES384", jose.ES384, true},
		"EdDSA":                {edwards, "EdDSA", jose.EdDSA, true},
		"RS256 by a PS256 key": {strong(t), "PS256", jose.RS256, false},
	} {
		t.Run(name, func(t *testing.T) {
			issuer := testenv.StartIssuer(t)
			set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: row.key.Public(), KeyID: "k", Algorithm: row.declared}}}
			keys, err := json.Marshal(set)
			if err != nil {
				t.Fatal(err)
			}
			issuer.ServeKeys(keys)
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: row.used, Key: row.key}, nil)
			if err != nil {
				t.Fatal(err)
			}
			claims := map[string]any{"iss": issuer.URL, "aud": testenv.Audience, "user": "a", "exp": time.Now().Add(time.Hour).Unix()}
			token, err := jwt.Signed(signer).Claims(claims).Serialize()
			if err != nil {
				t.Fatal(err)
			}
			_, err = open(t, write(t, token), issuer).Identify(t.Context())
			if row.verifies && err != nil {
				t.Errorf("got error %v, want none", err)
			}
			if !row.verifies {
				wantReason(t, err, Signature)
			}
		})
	}
}

func TestIssuersThatLeaveThePolicyAreForgotten(t *testing.T) {
	first, second := testenv.StartIssuer(t), testenv.StartIssuer(t)
	list := trusted(first)
	v := newVerifier(func() []Issuer { return list }, time.Now)
	if _, err := v.verify(t.Context(), first.MustToken(t, map[string]any{"user": "a"})); err != nil {
		t.Fatal(err)
	}
	list = trusted(second)
	if _, err := v.verify(t.Context(), second.MustToken(t, map[string]any{"user": "a"})); err != nil {
		t.Fatal(err)
	}
	if got, want := len(v.sets), 1; got != want {
		t.Errorf("got %d key sets, want %d", got, want)
	}
}

func strong(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, minRSA)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyJSON(t *testing.T, key any, use string) []byte {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, Use: use}}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

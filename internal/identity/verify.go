package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// Issuer is an OIDC issuer whose tokens prove an identity.
type Issuer struct {
	URL      string // iss, and where the discovery document is
	Audience string // aud holds it
	CAFile   string // PEM of who signed the issuer's certificate; empty for the system's
	// Subject maps verified claims to a qualified user and groups. An error
	// refuses the token; its text holds no claim's value.
	Subject func(claims map[string]any) (user string, groups []string, err error)
}

// accepted are the algorithms a token may be signed with: public keys only.
// Which of them a token uses is checked against its key, never believed.
//
// Source: RFC 8725 §2.1 and §3.1.
func accepted() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// verifier verifies tokens of several issuers and keeps their keys.
type verifier struct {
	issuers func() []Issuer
	now     func() time.Time

	mu   *sync.Mutex
	sets map[source]*keySet
}

// source is where an issuer's keys come from.
type source struct{ url, caFile string }

func newVerifier(issuers func() []Issuer, now func() time.Time) verifier {
	return verifier{issuers: issuers, now: now, mu: new(sync.Mutex), sets: make(map[source]*keySet)}
}

// verify says whom a compact JSON Web Token names.
//
// Errors: [*Error].
func (v verifier) verify(ctx context.Context, token string) (Identity, error) {
	issuer, err := v.route(token)
	if err != nil {
		return Identity{}, err
	}
	verified, payload, err := check(ctx, token, issuer, v.keys(issuer), v.now)
	if err != nil {
		return Identity{}, err
	}
	return identify(issuer, verified, payload)
}

// check verifies signature, issuer, audience and times of a token.
//
// Shape: payload is the token's, verified.
// Errors: [*Error].
func check(ctx context.Context, token string, issuer Issuer, set *keySet, now func() time.Time) (*oidc.IDToken, []byte, error) {
	keys := &witness{keys: set}
	algorithms := make([]string, 0, len(accepted()))
	for _, algorithm := range accepted() {
		algorithms = append(algorithms, string(algorithm))
	}
	verified, err := oidc.NewVerifier(issuer.URL, keys, &oidc.Config{
		ClientID: issuer.Audience, SupportedSigningAlgs: algorithms, Now: now,
	}).Verify(ctx, token)
	if err != nil {
		return nil, nil, keys.explain(err, issuer.Audience)
	}
	return verified, keys.payload, nil
}

// route says which issuer a token claims to be of. Nothing is proven yet: it
// only chooses whose keys to verify with.
func (v verifier) route(token string) (Issuer, error) {
	url, err := claimedIssuer(token)
	if err != nil {
		return Issuer{}, err
	}
	for _, issuer := range v.issuers() {
		if issuer.URL == url {
			return issuer, nil
		}
	}
	return Issuer{}, refuse(UnknownIssuer, nil)
}

// claimedIssuer reads the issuer of a token that has the form of one.
func claimedIssuer(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", refuse(Malformed, nil)
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	if !decode(parts[0], &header) || header.Algorithm == "" {
		return "", refuse(Malformed, nil)
	}
	if strings.EqualFold(header.Algorithm, "none") {
		return "", refuse(Unsigned, nil)
	}
	if !slices.Contains(accepted(), jose.SignatureAlgorithm(header.Algorithm)) {
		return "", refuse(Algorithm, nil)
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if !decode(parts[1], &claims) {
		return "", refuse(Malformed, nil)
	}
	return claims.Issuer, nil
}

func decode(part string, into any) bool {
	text, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(text, into) == nil
}

// keys returns the kept keys of an issuer, and forgets those of issuers that
// are no longer in the policy.
func (v verifier) keys(issuer Issuer) *keySet {
	v.mu.Lock()
	defer v.mu.Unlock()
	wanted := source{issuer.URL, issuer.CAFile}
	if set, ok := v.sets[wanted]; ok {
		return set
	}
	for known := range v.sets {
		if !slices.ContainsFunc(v.issuers(), func(i Issuer) bool { return known == source{i.URL, i.CAFile} }) {
			delete(v.sets, known)
		}
	}
	set := newKeySet(wanted.fetch, v.now)
	v.sets[wanted] = set
	return set
}

// witness is a key set that remembers what it saw: the verifier of go-oidc
// decides, but flattens its errors to text.
type witness struct {
	keys    *keySet
	payload []byte // once its signature is verified
	failed  error
}

// VerifySignature is [oidc.KeySet]'s.
func (w *witness) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	w.payload, w.failed = w.keys.VerifySignature(ctx, token)
	return w.payload, w.failed
}

// explain names the reason for which a token was refused.
func (w *witness) explain(refused error, audience string) error {
	if w.failed != nil {
		return w.failed
	}
	if _, ok := errors.AsType[*oidc.TokenExpiredError](refused); ok {
		return refuse(Expired, nil)
	}
	var claims struct {
		Audience  any      `json:"aud"` // one, or several
		NotBefore *float64 `json:"nbf"`
	}
	if w.payload == nil || json.Unmarshal(w.payload, &claims) != nil {
		return refuse(Malformed, nil)
	}
	several, _ := claims.Audience.([]any)
	switch {
	case claims.Audience != audience && !slices.Contains(several, any(audience)):
		return refuse(WrongAudience, nil)
	case claims.NotBefore != nil:
		return refuse(NotYetValid, nil)
	}
	return refuse(Malformed, nil)
}

// identify maps a verified token to an identity.
func identify(issuer Issuer, token *oidc.IDToken, payload []byte) (Identity, error) {
	var claims map[string]any
	if json.Unmarshal(payload, &claims) != nil {
		return Identity{}, refuse(Malformed, nil)
	}
	user, groups, err := issuer.Subject(claims)
	if err != nil {
		return Identity{}, refuse(Claims, err)
	}
	id, _ := claims["jti"].(string)
	return Identity{
		User:     user,
		Groups:   groups,
		Verified: Signed,
		Token:    &Token{Issuer: token.Issuer, Subject: token.Subject, ID: id},
		Expires:  token.Expiry,
	}, nil
}

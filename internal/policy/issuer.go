package policy

import "errors"

// ErrClaims tells that a token's claims do not name a subject.
var ErrClaims = errors.New("claims do not name a subject")

// claims is an Issuer's expressions, compiled.
type claims struct{}

// Name is the issuer's name: the prefix of its subjects.
func (i *Issuer) Name() string { return i.Metadata.Name }

// Subject says whom a token's claims name: a qualified user and qualified groups.
//
// Shape: claims are those of a token whose signature, issuer, audience and expiry were verified.
// Errors: [ErrClaims], with which expression refused; no claim's value is in the text.
func (i *Issuer) Subject(claims map[string]any) (user string, groups []string, err error) {
	_ = claims
	return "", nil, ErrClaims
}

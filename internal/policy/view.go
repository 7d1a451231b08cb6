package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// ErrNoCredential tells that no policy matches, or that neither one nor the Target names a credential.
var ErrNoCredential = errors.New("no policy and no target names a credential")

// CredentialConflict tells that two matching policies name different credentials.
type CredentialConflict struct {
	Target        string
	First, Second string // policies
}

func (e *CredentialConflict) Error() string {
	return fmt.Sprintf("policies %s and %s name different credentials for target %s", e.First, e.Second, e.Target)
}

// View is what the policies that match one subject on one Target say together.
// It is immutable. The zero View is empty, refuses everything, and is as strict as can be.
type View struct {
	target   *Target
	who      Subject
	policies []*AccessPolicy // by name
	ruling   []*AccessPolicy // the enforced ones; where there is none, the observed ones
	enforced *ruleSet        // nil: only observed policies match
	observed []observation
	hash     string
}

// observation is a policy with mode observe, and the rule set that would decide were it enforced.
type observation struct {
	policy string
	rules  *ruleSet
}

func newView(target *Target, who Subject, matching []*AccessPolicy) *View {
	v := &View{target: target, who: who, policies: matching}
	content := sha256.New()
	content.Write(target.digest[:])
	for _, p := range matching {
		content.Write(p.digest[:])
		if p.Spec.Mode == Enforce {
			v.ruling = append(v.ruling, p)
		}
	}
	v.hash = hexHash(content)
	if len(v.ruling) > 0 {
		v.enforced = newRuleSet(v.ruling)
	}
	for _, p := range matching {
		if p.Spec.Mode == Observe {
			together := newRuleSet(slices.Concat(v.ruling, []*AccessPolicy{p}))
			v.observed = append(v.observed, observation{p.Name(), together})
		}
	}
	if v.enforced == nil {
		v.ruling = matching
	}
	return v
}

// Empty tells that no policy matches: the session is refused.
func (v *View) Empty() bool { return len(v.policies) == 0 }

// Observed tells that policies match, all of them with mode observe: requests pass.
func (v *View) Observed() bool { return !v.Empty() && v.enforced == nil }

// Hash names the content that decides: the Target and the matching policies, "sha256:…".
func (v *View) Hash() string { return v.hash }

// Policies names the policies that match, in order.
func (v *View) Policies() []string {
	names := make([]string, len(v.policies))
	for i, p := range v.policies {
		names[i] = p.Name()
	}
	return names
}

// RequireToken tells that an enforced policy demands an identity proven by a token.
func (v *View) RequireToken() bool {
	for _, p := range v.policies {
		if p.Spec.RequireToken && p.Spec.Mode == Enforce {
			return true
		}
	}
	return v.Empty()
}

// Durability is the strictest of the matching policies, observed ones included.
func (v *View) Durability() Durability {
	if v.Empty() {
		return Strict
	}
	strict := Relaxed
	for _, p := range v.policies {
		strict = strictest(strict, p.Spec.Durability)
	}
	return strict
}

// Record is the strictest of the matching policies, observed ones included: the
// one that keeps the fewest values.
func (v *View) Record() Record {
	if v.Empty() {
		return RecordNone
	}
	strict := RecordFull
	for _, p := range v.policies {
		strict = strictest(strict, p.Spec.Record)
	}
	return strict
}

// Credential is what to log in with: what the enforced policies name (the observed
// ones, where no other match), else the Target's.
//
// Errors: [*CredentialConflict] when two policies name different ones,
// [ErrNoCredential] when there is none; the session is then refused.
func (v *View) Credential() (TargetCredential, error) {
	if v.Empty() {
		return TargetCredential{}, ErrNoCredential
	}
	var named *AccessPolicy
	for _, p := range v.ruling {
		if p.Spec.Credential == nil {
			continue
		}
		if named != nil && *named.Spec.Credential != *p.Spec.Credential {
			return TargetCredential{}, &CredentialConflict{v.target.Name(), named.Name(), p.Name()}
		}
		named = p
	}
	switch {
	case named != nil:
		return TargetCredential{File: named.Spec.Credential.File, Secret: named.Spec.Credential.Secret}, nil
	case v.target.Spec.Credential != nil:
		return *v.target.Spec.Credential, nil
	}
	return TargetCredential{}, ErrNoCredential
}

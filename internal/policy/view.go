package policy

// View is what the policies that match one subject on one Target say together.
// It is immutable. The zero View is empty and refuses everything.
type View struct {
	target   *Target
	who      Subject
	policies []*AccessPolicy
}

// Empty tells that no policy matches: the session is refused.
func (v *View) Empty() bool { return len(v.policies) == 0 }

// Observed tells that only policies with mode observe match: requests pass.
func (v *View) Observed() bool { return false }

// Hash names the content that decides: the Target and the matching policies, "sha256:…".
func (v *View) Hash() string { return "" }

// Policies names the policies that match.
func (v *View) Policies() []string { return nil }

// RequireToken tells that an enforced policy demands an identity proven by a token.
func (v *View) RequireToken() bool { return true }

// Durability is the strictest of the matching policies.
func (v *View) Durability() Durability { return Strict }

// Record is the strictest of the matching policies: the one that keeps the fewest values.
func (v *View) Record() Record { return RecordNone }

// Credential is what to log in with: what the enforced policies name (the observed
// ones, where no other match), else the Target's.
//
// Errors: [*CredentialConflict] when two policies name different ones,
// [ErrNoCredential] when there is none; the session is then refused.
func (v *View) Credential() (TargetCredential, error) {
	return TargetCredential{}, ErrNoCredential
}

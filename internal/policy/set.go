package policy

// Set is what [Load] read: immutable, and safe for use by many goroutines.
// The zero Set refuses everything.
type Set struct {
	targets  []*Target
	policies []*AccessPolicy
	issuers  []*Issuer
	warnings []string
	digest   digest
}

// digest is a SHA-256 over the canonical JSON of an object, defaults included.
type digest [32]byte

// Targets lists the Targets by name.
func (s *Set) Targets() []*Target { return s.targets }

// Policies lists the AccessPolicies by name.
func (s *Set) Policies() []*AccessPolicy { return s.policies }

// Issuers lists the Issuers by name.
func (s *Set) Issuers() []*Issuer { return s.issuers }

// Warnings lists what is legal and deserves a look, one a line, in the order of the files.
func (s *Set) Warnings() []string { return s.warnings }

// Hash names the set's content: "sha256:…". Two sets with equal objects, defaults
// filled in, have equal hashes, whatever their files, comments and order.
func (s *Set) Hash() string { return "" }

// Target finds a Target by name.
func (s *Set) Target(name string) (target *Target, ok bool) {
	_ = name
	return nil, false
}

// Subject is who calls, proven. Names are qualified: "linux:ada", "ci:acme/reports".
type Subject struct {
	User   string
	Groups []string
}

// View gives the policies that match a subject on a Target.
//
// Shape: never nil; a View of no policy is [View.Empty] and refuses everything.
func (s *Set) View(target string, who Subject) *View {
	_, _ = target, who
	return &View{}
}

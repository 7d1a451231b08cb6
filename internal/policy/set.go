package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"slices"
)

// Set is what [Load] read: immutable, and safe for use by many goroutines.
// The zero Set refuses everything.
type Set struct {
	targets  []*Target
	policies []*AccessPolicy
	issuers  []*Issuer
	warnings []string
	hash     string
}

// digest is a SHA-256 over the canonical JSON of an object, defaults included.
type digest [sha256.Size]byte

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
func (s *Set) Hash() string { return s.hash }

// Target finds a Target by name.
func (s *Set) Target(name string) (target *Target, ok bool) {
	i, ok := slices.BinarySearchFunc(s.targets, name, func(t *Target, name string) int { return cmp.Compare(t.Name(), name) })
	if !ok {
		return nil, false
	}
	return s.targets[i], true
}

// Subject is who calls, proven. Names are qualified: "linux:ada", "ci:acme/reports".
type Subject struct {
	User   string
	Groups []string
}

// matches tells whether the subject fits each field of the selector.
func (s Selector) matches(who Subject) bool {
	if len(s.Users) == 0 && len(s.Groups) == 0 {
		return false
	}
	return (len(s.Users) == 0 || slices.Contains(s.Users, who.User)) && (len(s.Groups) == 0 || share(s.Groups, who.Groups))
}

// View gives the policies that match a subject on a Target.
//
// Shape: never nil; a View of no policy is [View.Empty] and refuses everything.
func (s *Set) View(target string, who Subject) *View {
	t, ok := s.Target(target)
	if !ok {
		return &View{}
	}
	var matching []*AccessPolicy
	for _, p := range s.policies {
		if slices.Contains(p.Spec.Targets, target) &&
			slices.ContainsFunc(p.Spec.Subjects, func(selector Selector) bool { return selector.matches(who) }) {
			matching = append(matching, p)
		}
	}
	return newView(t, who, matching)
}

func hexHash(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

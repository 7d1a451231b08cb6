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
	remarks  map[string][]string // by "Kind/name"

	ambiguous map[string][]string // by policy

	hash string
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

// Remarks lists the warnings on one object, named as "Kind/name".
func (s *Set) Remarks(object string) []string { return s.remarks[object] }

// AmbiguousWith lists the policies that name another credential than the policy
// for a Target and may match the same subject, who is then refused.
func (s *Set) AmbiguousWith(policy string) []string { return s.ambiguous[policy] }

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

// Subject is who calls, proven. Names are qualified: "linux:ada", "ci:acme/reports",
// "k8s:system:serviceaccount:agents:reporter".
type Subject struct {
	User   string
	Groups []string
	Pod    *PodSubject // nil: no pod
}

// PodSubject is the pod that calls.
type PodSubject struct {
	Namespace      string
	Name           string
	ServiceAccount string
	Labels         map[string]string // not to be changed
}

// matches tells whether the subject fits each field of the selector.
func (s *Selector) matches(who Subject) bool {
	named := len(s.Users) > 0 || len(s.Groups) > 0
	if !named && !s.pods() || s.pods() && who.Pod == nil {
		return false
	}
	return (len(s.Users) == 0 || slices.Contains(s.Users, who.User)) &&
		(len(s.Groups) == 0 || share(s.Groups, who.Groups)) &&
		(!s.pods() || s.matchesPod(who.Pod))
}

// pods tells whether the selector has a field that only a pod fits.
func (s *Selector) pods() bool {
	return len(s.Namespaces) > 0 || len(s.PodLabels) > 0 || len(s.ServiceAccounts) > 0
}

func (s *Selector) matchesPod(pod *PodSubject) bool {
	for key, value := range s.PodLabels {
		if got, ok := pod.Labels[key]; !ok || got != value {
			return false
		}
	}
	return (len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, pod.Namespace)) &&
		(len(s.ServiceAccounts) == 0 || slices.Contains(s.ServiceAccounts, pod.ServiceAccount))
}

// Matches tells whether the policy is about a subject.
func (p *AccessPolicy) Matches(who Subject) bool {
	for i := range p.Spec.Subjects {
		if p.Spec.Subjects[i].matches(who) {
			return true
		}
	}
	return false
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
		if slices.Contains(p.Spec.Targets, target) && p.Matches(who) {
			matching = append(matching, p)
		}
	}
	return newView(t, who, matching)
}

func hexHash(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

package policy

import (
	"cmp"
	"errors"
	"slices"
)

// Document is one object as the API server has it.
type Document struct {
	Name string // for what cannot be read at all: Kind/name
	JSON []byte
}

// Compile checks the objects of a cluster, each for itself: what is wrong with one
// takes nothing from the others.
//
// Shape: rejected tells by "Kind/name" why an object is left out of the Set; it is
// never nil. Whether its last good version counts instead is the caller's affair,
// who then compiles again with that.
//
// What two objects dispute (an address, an Issuer's URL) is the older one's. What a
// policy names and is not there (a Target of several, an Issuer) is a remark, and the
// rest of the policy holds. Policies that name two credentials for one subject both
// hold: see [Set.AmbiguousWith] and [CredentialConflict]. A Target without any
// credential is guarded, and its sessions are refused.
//
// Units: an object has at most 1 MiB; of more than 1000 objects the oldest count. It
// costs some tenths of a millisecond a policy: for a change of an object, not of a pod.
// Errors: only of this package's own making. A cluster without objects gives an
// empty Set, which refuses everything and guards nothing.
func Compile(docs []Document) (set *Set, rejected map[string]error, err error) {
	l, err := newLoader(Cluster)
	if err != nil {
		return nil, nil, err
	}
	rejected = map[string]error{}
	var documents []*document
	for i, doc := range docs {
		root, err := parseJSON(doc.JSON)
		if err != nil {
			rejected[doc.Name] = err
			continue
		}
		d := l.open(root, i, "")
		d.live = true
		documents = append(documents, d)
		l.readObject(d, root)
	}
	slices.SortStableFunc(documents, byAge)
	for _, d := range documents[min(len(documents), maxObjects):] {
		d.wrong("", "there are more than %d objects, and the newest are not read; take some away", maxObjects)
	}
	l.accept()
	for _, d := range documents {
		if len(d.mistakes) > 0 {
			rejected[d.key()] = d.reason()
		}
	}
	return l.set(), rejected, nil
}

// accept checks what was decoded, kind by kind, and leaves only what is accepted:
// a policy is judged by the Targets and Issuers that are.
func (l *loader) accept() {
	sortByAge(l.targets)
	for _, t := range l.targets {
		t.it.check(t.document)
	}
	l.checkTargets()
	l.targets = accepted(l, l.targets)

	sortByAge(l.issuers)
	for _, i := range l.issuers {
		i.it.check(i.document, l.expressions)
	}
	l.checkIssuers()
	l.issuers = accepted(l, l.issuers)

	sortByAge(l.policies)
	for _, p := range l.policies {
		p.it.check(p.document, l)
	}
	l.policies = accepted(l, l.policies)
	l.checkUse()
	l.checkPolicies()
}

// accepted keeps the objects without mistakes, and forgets the others.
func accepted[T any](l *loader, objects []object[T]) []object[T] {
	return slices.DeleteFunc(objects, func(o object[T]) bool {
		if len(o.mistakes) > 0 && l.known[o.key()] == o.document {
			delete(l.known, o.key())
		}
		return len(o.mistakes) > 0
	})
}

func sortByAge[T any](objects []object[T]) {
	slices.SortStableFunc(objects, func(a, b object[T]) int { return byAge(a.document, b.document) })
}

// byAge orders the oldest first; objects of one second by their names.
func byAge(a, b *document) int {
	return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.key(), b.key()))
}

// reason is why a document is not accepted.
func (d *document) reason() error {
	reasons := make([]error, len(d.mistakes))
	for i, mistake := range d.mistakes {
		reasons[i] = errors.New(mistake)
	}
	return errors.Join(reasons...)
}

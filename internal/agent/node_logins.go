package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/policy"
)

// loginInterval is how often it is looked for what is not there.
const loginInterval = 30 * time.Second

// need is what a session of a pod of this node would need.
type need struct {
	from         credential.Reference
	certificates bool // else a login
}

// lookForLogins looks for the Secrets that sessions of this node's pods will need,
// until ctx is done. Those of Targets that none of its pods may use are not read: a
// node that is taken over must not have more in its memory than it needs.
func (n *node) lookForLogins(ctx context.Context) error {
	tick := time.NewTicker(loginInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n.watcher.Stale() > 0 {
			continue // what cannot be read now may be there
		}
		for _, one := range n.needed() {
			n.logins.look(ctx, one.from, one.certificates)
		}
	}
}

// needed lists what the policies that match guarded pods of this node name, and their Targets.
func (n *node) needed() []need {
	set := n.policy.Load()
	seen := make(map[need]bool)
	add := func(file, secret string, certificates bool) {
		if file != "" || secret != "" {
			seen[need{credential.Reference{File: file, Secret: secret}, certificates}] = true
		}
	}
	matched := make(map[string]bool)
	for _, p := range n.pods.list() {
		if !guards(p.Pod) {
			continue
		}
		who := n.witness.subjectOf(p)
		for _, access := range set.Policies() {
			if !matched[access.Name()] && access.Matches(who) {
				matched[access.Name()] = true
				needs(set, access, add)
			}
		}
	}
	all := make([]need, 0, len(seen))
	for one := range seen {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b need) int { return strings.Compare(a.from.String(), b.from.String()) })
	return all
}

// needs adds what one policy's sessions need.
func needs(set *policy.Set, access *policy.AccessPolicy, add func(file, secret string, certificates bool)) {
	own := access.Spec.Credential
	if own != nil {
		add(own.File, own.Secret, false)
	}
	for _, name := range access.Spec.Targets {
		target, ok := set.Target(name)
		if !ok {
			continue
		}
		if login := target.Spec.Credential; login != nil && own == nil {
			add(login.File, login.Secret, false)
		}
		if ca := target.Spec.TLS.CA; ca != nil {
			add(ca.File, ca.Secret, true)
		}
	}
}

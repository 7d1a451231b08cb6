package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/proxy/postgres"
)

// maxLogins is far more than policies name at a time; those that they named once
// are forgotten together.
const maxLogins = 4096

// serverRefused is why a login failed that could be read.
const serverRefused = "the server refused it"

// logins are the credentials that policies name. Their use leaves a record when
// one is read for the first time, when it is another one, and when it is of no use.
type logins struct {
	postgres.Credentials
	policy func() *policy.Set
	put    func(*audit.Record)

	mu    sync.Mutex
	known map[credential.Reference]*known
}

// known is what was last seen of one login, or of one bundle of certificates.
type known struct {
	login   credential.Login
	before  string // the version before: who asked first may come last
	refused string // the version that a server refused
	failed  string // why it cannot be read; empty: it can
	absent  string // the same, before anybody wanted it
	there   bool   // it was read once
}

func newLogins(from postgres.Credentials, set func() *policy.Set, put func(*audit.Record)) *logins {
	return &logins{Credentials: from, policy: set, put: put, known: make(map[credential.Reference]*known)}
}

// Login is [postgres.Credentials]'s. The record is written before anybody logs in
// with what it is about.
func (l *logins) Login(ctx context.Context, from credential.Reference) (credential.Login, error) {
	login, err := l.Credentials.Login(ctx, from)
	if err != nil && ctx.Err() != nil {
		return login, err // by whoever asked, which says nothing of the login
	}
	if r := l.saw(from, login, err); r != nil {
		l.put(r)
	}
	return login, err
}

// Certificates is [postgres.Credentials]'s. What everybody may read leaves no record.
func (l *logins) Certificates(ctx context.Context, from credential.Reference) ([]byte, error) {
	bundle, err := l.Credentials.Certificates(ctx, from)
	if err == nil || ctx.Err() == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.of(from).fails(err)
	}
	return bundle, err
}

// Refused is [postgres.Credentials]'s.
func (l *logins) Refused(from credential.Reference, version string) {
	l.Credentials.Refused(from, version)
	if r := l.sawRefused(from, version); r != nil {
		l.put(r)
	}
}

// of gives what is known of a reference. The caller holds mu.
func (l *logins) of(from credential.Reference) *known {
	one, ok := l.known[from]
	if !ok {
		if len(l.known) >= maxLogins {
			clear(l.known)
		}
		one = &known{}
		l.known[from] = one
	}
	return one
}

// fails notes why something cannot be read, and tells whether that is news.
func (k *known) fails(err error) bool {
	first := k.failed == "" && err != nil
	k.failed, k.absent, k.there = "", "", k.there || err == nil
	if err != nil {
		k.failed = err.Error()
	}
	return first
}

// saw is the record of what a read gave, nil for what was known.
func (l *logins) saw(from credential.Reference, login credential.Login, err error) *audit.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of(from)
	failed := one.fails(err)
	switch {
	case failed:
		return l.record(from, audit.Credential{Event: "failed", Reason: err.Error()})
	case err != nil, login.Version == one.login.Version, login.Version == one.before:
		return nil
	}
	event := "rotated"
	if one.login.User == login.User && one.login.Password == login.Password || one.login.Version == "" {
		event = "fetched" // for the first time, or with a new label and the old password
	}
	one.login, one.before = login, one.login.Version
	return l.record(from, audit.Credential{Event: event, User: login.User, Version: login.Version})
}

// sawRefused is the record of a version that a server refused, nil when there is one.
func (l *logins) sawRefused(from credential.Reference, version string) *audit.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of(from)
	if one.refused == version {
		return nil
	}
	one.refused = version
	about := audit.Credential{Event: "failed", Version: version, Reason: serverRefused}
	if one.login.Version == version {
		about.User = one.login.User
	}
	return l.record(from, about)
}

func (l *logins) record(from credential.Reference, about audit.Credential) *audit.Record {
	about.Source, about.Targets = from.String(), opened(l.policy(), from)
	return &audit.Record{Kind: audit.KindCredential, Credential: &about}
}

// look finds out whether what a policy or a Target names is there, before anybody
// wants it: whoever wrote the name hears of a slip at once. What was read once is not
// looked for again, and none of it leaves a record.
func (l *logins) look(ctx context.Context, from credential.Reference, certificates bool) {
	l.mu.Lock()
	there := l.of(from).there
	l.mu.Unlock()
	if there {
		return
	}
	var err error
	if certificates {
		_, err = l.Credentials.Certificates(ctx, from)
	} else {
		_, err = l.Credentials.Login(ctx, from)
	}
	if err != nil && ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of(from)
	one.absent = ""
	if err != nil {
		one.absent = err.Error()
	}
}

// unreadable tells, by the names of Targets and of policies, which of the files and
// Secrets that each names could not be read when they were last asked for, and why.
func (l *logins) unreadable() (targets, policies map[string][]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	targets, policies = make(map[string][]string), make(map[string][]string)
	for from, one := range l.known {
		why := cmp.Or(one.failed, one.absent)
		if why == "" {
			continue
		}
		for _, target := range l.policy().Targets() {
			login, ca := target.Spec.Credential, target.Spec.TLS.CA
			if login != nil && at(from, login.File, login.Secret) || ca != nil && at(from, ca.File, ca.Secret) {
				targets[target.Name()] = append(targets[target.Name()], why)
			}
		}
		for _, access := range l.policy().Policies() {
			if login := access.Spec.Credential; login != nil && at(from, login.File, login.Secret) {
				policies[access.Name()] = append(policies[access.Name()], why)
			}
		}
	}
	for _, all := range []map[string][]string{targets, policies} {
		for _, list := range all {
			slices.Sort(list)
		}
	}
	return targets, policies
}

func at(from credential.Reference, file, secret string) bool {
	return from == credential.Reference{File: file, Secret: secret}
}

// opened names the Targets that a login opens, by their own word or a policy's.
func opened(set *policy.Set, from credential.Reference) []string {
	var names []string
	for _, target := range set.Targets() {
		if login := target.Spec.Credential; login != nil && at(from, login.File, login.Secret) {
			names = append(names, target.Name())
		}
	}
	for _, access := range set.Policies() {
		if login := access.Spec.Credential; login != nil && at(from, login.File, login.Secret) {
			names = append(names, access.Spec.Targets...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

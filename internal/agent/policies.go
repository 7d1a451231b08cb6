package agent

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/policy"
)

// policyInterval is how often the policy's files are looked at.
const policyInterval = time.Second

// policies are the policy in force and the files it came from.
type policies struct {
	files   []string
	current atomic.Pointer[policy.Set]
	seen    []version
}

// version tells one content of a file from another.
type version struct {
	device, inode uint64
	size          int64
	modified      unix.Timespec
}

// load reads the files; what it read is not in force before [policies.use].
func (p *policies) load() (*policy.Set, error) {
	p.changed() // before they are read: what changes meanwhile is read again
	return policy.Load(p.files...)
}

func (p *policies) use(set *policy.Set) { p.current.Store(set) }

// changed tells whether a file is another one than when it was last asked.
func (p *policies) changed() bool {
	now := make([]version, len(p.files))
	for i, file := range p.files {
		var st unix.Stat_t
		if unix.Stat(file, &st) == nil {
			now[i] = version{st.Dev, st.Ino, st.Size, st.Mtim}
		}
	}
	before := p.seen
	p.seen = now
	for i := range now {
		if i >= len(before) || before[i] != now[i] {
			return true
		}
	}
	return false
}

// issuers are those of the policy in force.
func (p *policies) issuers() []identity.Issuer {
	var list []identity.Issuer
	for _, issuer := range p.current.Load().Issuers() {
		one := identity.Issuer{URL: issuer.Spec.URL, Audience: issuer.Spec.Audience, Subject: issuer.Subject}
		if issuer.Spec.CA != nil {
			one.CAFile = issuer.Spec.CA.File
		}
		list = append(list, one)
	}
	return list
}

// record says which policies are in force from now on.
func (p *policies) record() *audit.Record {
	set := p.current.Load()
	names := make([]string, 0, len(set.Targets()))
	for _, target := range set.Targets() {
		names = append(names, target.Name())
	}
	return &audit.Record{Kind: audit.KindPolicy, Policy: &audit.Policy{Hash: set.Hash(), Files: p.files, Targets: names}}
}

// watch takes new versions of the policy, and new addresses of its Targets,
// until ctx is done.
func (a *agent) watch(ctx context.Context) {
	tick := time.NewTicker(policyInterval)
	defer tick.Stop()
	fed := time.Now() // not when names were last looked up: the command's own misses do that too, and feed nothing
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if a.policies.changed() {
			a.reload(ctx)
		}
		if time.Since(fed) >= resolveInterval {
			fed = time.Now()
			a.targets.refresh(ctx)
			a.feed(ctx)
		}
	}
}

// reload takes a new version of the policy, whole or not at all: a faulty one
// leaves the old one in force.
func (a *agent) reload(ctx context.Context) {
	set, err := a.policies.load()
	if err == nil {
		err = a.o.checkFiles(a.user, set)
	}
	if err == nil {
		err = a.targets.mustResolve(ctx, set.Targets())
	}
	a.metrics.PolicyLoaded(err == nil)
	if err != nil {
		a.o.Log.WithError(err).Warn("New policy is faulty, the old one stays in force")
		a.recorder.note(audit.KindAgentDegraded, "policy", nil)
		return
	}
	a.policies.use(set)
	a.recorder.put(a.policies.record())
	a.targets.replace(ctx, set.Targets())
	a.feed(ctx)
	a.o.Log.WithField("hash", set.Hash()).Info("Policy reloaded")
}

// feed tells the kernel what is guarded, and ends connections that were there
// before it was. What cannot be told leaves more guarded, never less.
func (a *agent) feed(ctx context.Context) {
	if err := a.kernel.Set(a.targets.guarded()); err != nil {
		a.o.Log.WithError(err).Error("Kernel not told what is guarded")
		a.recorder.note(audit.KindAgentDegraded, "guard", nil)
		return
	}
	ended, err := a.kernel.Destroy(ctx)
	if err != nil {
		a.o.Log.WithError(err).Error("Earlier connections not ended")
		a.recorder.note(audit.KindAgentDegraded, "destroy", nil)
	}
	if ended > 0 {
		a.o.Log.WithField("connections", ended).Info("Earlier connections ended")
	}
}

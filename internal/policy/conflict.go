package policy

import (
	"net/netip"
	"slices"
)

// checkTargets compares every two Targets: an address and port, and a socket, belong to one.
func (l *loader) checkTargets() {
	for i, b := range l.targets {
		for _, a := range l.targets[:i] {
			if !slices.ContainsFunc(b.it.Spec.Ports, func(port int) bool { return slices.Contains(a.it.Spec.Ports, port) }) {
				continue
			}
			if host := collision(&a.it.hosts, &b.it.hosts); host != "" {
				b.wrong("spec.hosts", "%s with a port of it belongs to %s; give each address and port one Target", host, a.place())
			}
			if a.it.Spec.UnknownHosts != b.it.Spec.UnknownHosts && !a.unread("spec.unknownHosts") {
				b.wrong("spec.unknownHosts", "is %s, and %s at %s, which shares a port; say the same in both",
					b.it.Spec.UnknownHosts, a.it.Spec.UnknownHosts, a.place())
			}
		}
		for n, path := range b.it.Spec.Sockets {
			for _, a := range l.targets[:i] {
				if slices.Contains(a.it.Spec.Sockets, path) {
					b.wrong(index("spec.sockets", n), "%q belongs to %s; give each socket one Target", clip(path), a.place())
				}
			}
		}
		l.checkUse(b)
	}
}

// collision finds what two Targets' hosts have in common. What a name resolves to is not known here.
func collision(a, b *hosts) string {
	for _, name := range b.names {
		if slices.Contains(a.names, name) {
			return name
		}
	}
	for _, addr := range b.addrs {
		if slices.Contains(a.addrs, addr) || slices.ContainsFunc(a.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return addr.String()
		}
	}
	for _, prefix := range b.prefixes {
		if slices.ContainsFunc(a.addrs, prefix.Contains) || slices.ContainsFunc(a.prefixes, prefix.Overlaps) {
			return prefix.String()
		}
	}
	return ""
}

// checkUse judges a Target by the policies that name it.
func (l *loader) checkUse(t object[Target]) {
	used := false
	for _, p := range l.policies {
		if !slices.Contains(p.it.Spec.Targets, t.it.Name()) {
			continue
		}
		used = true
		if t.it.Spec.Credential == nil && p.it.Spec.Credential == nil && !p.unread("spec.credential") {
			t.wrong("spec.credential", "is missing, and %s names none either; give one of them a credential", p.place())
			break
		}
	}
	if !used {
		t.warn("", "no AccessPolicy names it: every session is refused")
	}
}

// checkIssuers finds two Issuers with one URL: a token would prove two subjects.
func (l *loader) checkIssuers() {
	first := map[string]object[Issuer]{}
	for _, i := range l.issuers {
		if i.it.Spec.URL == "" {
			continue
		}
		if earlier, taken := first[i.it.Spec.URL]; taken {
			i.wrong("spec.url", "is the one of %s; a URL has one Issuer", earlier.place())
			continue
		}
		first[i.it.Spec.URL] = i
	}
}

// checkPolicies compares every two policies that one subject on one Target may match.
func (l *loader) checkPolicies() {
	for i, b := range l.policies {
		for _, a := range l.policies[:i] {
			target := sharedTarget(a.it, b.it)
			if target == "" {
				continue
			}
			switch meeting := encounter(a.it, b.it); {
			case meeting == never:
			case credentialsDiffer(a.it, b.it) && meeting == certainly:
				b.wrong("spec.credential", "differs from that of %s, which matches the same subject on Target/%s; such sessions would be refused: name one credential, or part the subjects",
					a.place(), target)
			case credentialsDiffer(a.it, b.it):
				b.warn("spec.credential", "differs from that of %s; a subject that matches both is refused on Target/%s", a.place(), target)
			case meeting == certainly:
				warnStrictest(a, b, target)
			}
		}
	}
}

// warnStrictest says which of two settings rules where both policies match.
func warnStrictest(a, b object[AccessPolicy], target string) {
	if x, y := a.it.Spec.Durability, b.it.Spec.Durability; x != y {
		b.warn("spec.durability", "is %s, and %s in %s, which matches the same subject on Target/%s: %s rules", y, x, a.place(), target, strictest(x, y))
	}
	if x, y := a.it.Spec.Record, b.it.Spec.Record; x != y {
		b.warn("spec.record", "is %s, and %s in %s, which matches the same subject on Target/%s: %s rules", y, x, a.place(), target, strictest(x, y))
	}
}

// credentialsDiffer tells whether two policies would log in differently. An observed
// policy has no say beside an enforced one.
func credentialsDiffer(a, b *AccessPolicy) bool {
	x, y := a.Spec.Credential, b.Spec.Credential
	return x != nil && y != nil && *x != *y && a.Spec.Mode == b.Spec.Mode
}

func sharedTarget(a, b *AccessPolicy) string {
	for _, name := range b.Spec.Targets {
		if slices.Contains(a.Spec.Targets, name) {
			return name
		}
	}
	return ""
}

// meeting says whether one subject can match two policies.
type meeting uint8

const (
	never     meeting = iota
	possibly          // who is in which group is not known here
	certainly         // both name the same user or group, and nothing more
)

func encounter(a, b *AccessPolicy) meeting {
	most := never
	for i := range a.Spec.Subjects {
		for j := range b.Spec.Subjects {
			most = max(most, encounterOf(&a.Spec.Subjects[i], &b.Spec.Subjects[j]))
		}
	}
	return most
}

func encounterOf(a, b *Selector) meeting {
	shareUser, shareGroup := share(a.Users, b.Users), share(a.Groups, b.Groups)
	bothUsers := len(a.Users) > 0 && len(b.Users) > 0
	switch {
	case bothUsers && !shareUser:
		return never
	case bothUsers && len(a.Groups) == 0 && len(b.Groups) == 0:
		return certainly
	case shareGroup && (shareUser || len(a.Users) == 0 && len(b.Users) == 0):
		return certainly
	}
	return possibly
}

func share(a, b []string) bool {
	return slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// strictest compares two values of a choice whose values are listed strictest first.
func strictest[T interface {
	~string
	choice
}](a, b T) T {
	built, _ := a.choices()
	if slices.Index(built, string(a)) <= slices.Index(built, string(b)) {
		return a
	}
	return b
}

package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// checkTargets compares every two Targets: an address and port, and a socket, belong
// to one: to the first, which in a cluster is the oldest.
func (l *loader) checkTargets() {
	for i, b := range l.targets {
		for _, a := range l.targets[:i] {
			if a.live && len(a.mistakes) > 0 {
				continue // it is not accepted, and takes nothing from others
			}
			if !slices.ContainsFunc(b.it.Spec.Ports, func(port int) bool { return slices.Contains(a.it.Spec.Ports, port) }) {
				continue
			}
			if host := collision(&a.it.hosts, &b.it.hosts); host != "" {
				b.wrong("spec.hosts", "%s with a port of it belongs to %s; give each address and port one Target", host, a.where())
			}
			for n, s := range b.it.Spec.Services {
				if slices.Contains(a.it.Spec.Services, s) {
					b.wrong(index("spec.services", n), "%s/%s with a port of it belongs to %s; give each address and port one Target", s.Namespace, s.Name, a.where())
				}
			}
			if a.it.Spec.UnknownHosts != b.it.Spec.UnknownHosts && !a.unread("spec.unknownHosts") {
				b.dispute("spec.unknownHosts", "is %s, and %s at %s, which shares a port; say the same in both",
					b.it.Spec.UnknownHosts, a.it.Spec.UnknownHosts, a.where())
			}
		}
		for n, path := range b.it.Spec.Sockets {
			for _, a := range l.targets[:i] {
				if slices.Contains(a.it.Spec.Sockets, path) && !(a.live && len(a.mistakes) > 0) {
					b.wrong(index("spec.sockets", n), "%q belongs to %s; give each socket one Target", clip(path), a.where())
				}
			}
		}
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

// checkUse judges Targets by the policies that name them. In a cluster a Target
// without a credential counts all the same: its addresses are guarded, its sessions
// refused.
func (l *loader) checkUse() {
	for _, t := range l.targets {
		used := false
		for _, p := range l.policies {
			if !slices.Contains(p.it.Spec.Targets, t.it.Name()) {
				continue
			}
			used = true
			if t.it.Spec.Credential == nil && p.it.Spec.Credential == nil && !p.unread("spec.credential") {
				t.dispute("spec.credential", "is missing, and %s names none either; give one of them a credential", p.where())
				break
			}
		}
		if !used {
			t.warn("", "no AccessPolicy names it: every session is refused")
		}
	}
}

// checkIssuers finds two Issuers with one URL: a token would prove two subjects.
func (l *loader) checkIssuers() {
	first := map[string]object[Issuer]{}
	for _, i := range l.issuers {
		if i.it.Spec.URL == "" || i.live && len(i.mistakes) > 0 {
			continue
		}
		if earlier, taken := first[i.it.Spec.URL]; taken {
			i.wrong("spec.url", "is the one of %s; a URL has one Issuer", earlier.where())
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
				l.meet(a.it, b.it)
				b.dispute("spec.credential", "differs from that of %s, which matches the same subject on Target/%s; such sessions would be refused: name one credential, or part the subjects",
					a.where(), target)
			case credentialsDiffer(a.it, b.it):
				l.meet(a.it, b.it)
				b.warn("spec.credential", "differs from that of %s; a subject that matches both is refused on Target/%s", a.where(), target)
			case meeting == certainly:
				warnStrictest(a, b, target)
			}
		}
	}
}

// meet notes that a subject may match two policies with different credentials.
func (l *loader) meet(a, b *AccessPolicy) {
	l.ambiguous[a.Name()] = append(l.ambiguous[a.Name()], b.Name())
	l.ambiguous[b.Name()] = append(l.ambiguous[b.Name()], a.Name())
}

// warnStrictest says which of two settings rules where both policies match.
func warnStrictest(a, b object[AccessPolicy], target string) {
	if x, y := a.it.Spec.Durability, b.it.Spec.Durability; x != y {
		b.warn("spec.durability", "is %s, and %s in %s, which matches the same subject on Target/%s: %s rules", y, x, a.where(), target, strictest(x, y))
	}
	if x, y := a.it.Spec.Record, b.it.Spec.Record; x != y {
		b.warn("spec.record", "is %s, and %s in %s, which matches the same subject on Target/%s: %s rules", y, x, a.where(), target, strictest(x, y))
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

// encounterOf compares two selectors field by field: one field that parts them parts
// them, and only fields that both have alike, or both lack, make the meeting certain.
func encounterOf(a, b *Selector) meeting {
	if a.nobody() || b.nobody() || a.apart(b) || b.apart(a) || !labelsMeet(a.PodLabels, b.PodLabels) {
		return never
	}
	most := certainly
	for _, field := range []struct{ a, b []string }{
		{a.Namespaces, b.Namespaces}, {a.ServiceAccounts, b.ServiceAccounts}, {a.Users, b.Users},
	} {
		switch both := len(field.a) > 0 && len(field.b) > 0; {
		case both && !share(field.a, field.b):
			return never // a subject has one of each
		case !both && len(field.a)+len(field.b) > 0:
			most = possibly
		}
	}
	if !maps.Equal(a.PodLabels, b.PodLabels) || len(a.Groups)+len(b.Groups) > 0 && !share(a.Groups, b.Groups) {
		most = possibly
	}
	return most
}

// labelsMeet tells whether one pod can have the labels of both.
func labelsMeet(a, b map[string]string) bool {
	for key, value := range a {
		if other, ok := b[key]; ok && other != value {
			return false
		}
	}
	return true
}

// apart tells that nobody who matches s is a pod as b wants it: by its namespace, or
// by whom s names as users.
func (s *Selector) apart(b *Selector) bool {
	for _, home := range s.homes() {
		if slices.ContainsFunc(b.homes(), func(other []string) bool { return !share(home, other) }) {
			return true
		}
	}
	wantsPods := b.pods() || len(b.homes()) > 0
	return wantsPods && len(s.Users) > 0 && !slices.ContainsFunc(s.Users, b.admits)
}

// nobody tells that the selector's own fields exclude each other.
func (s *Selector) nobody() bool { return s.apart(s) }

// admits tells whether a user can be a pod that the selector's fields for pods fit.
func (s *Selector) admits(user string) bool {
	namespace, account, ok := serviceAccount(user)
	return ok && (len(s.ServiceAccounts) == 0 || slices.Contains(s.ServiceAccounts, account)) &&
		!slices.ContainsFunc(s.homes(), func(home []string) bool { return !slices.Contains(home, namespace) })
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

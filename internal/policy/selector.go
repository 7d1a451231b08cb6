package policy

import (
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// reserved lists the prefixes of subjects that are not an Issuer's.
func reserved() []string { return []string{"linux", "k8s", "pod"} }

// Of whom the kernel's record of a pod and the cluster's own issuer prove.
//
// Source: Kubernetes, Authenticating, service account tokens: users
// system:serviceaccount:<namespace>:<name>, groups system:serviceaccounts and
// system:serviceaccounts:<namespace>.
const (
	podUser   = "k8s:system:serviceaccount:"
	podGroups = "k8s:system:serviceaccounts"
)

// serviceAccount splits the user of a pod.
func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, podUser)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && isLabel(namespace) && isSubdomain(name)
}

// isPodUser tells the user of a pod.
func isPodUser(user string) bool {
	_, _, ok := serviceAccount(user)
	return ok
}

// isPodGroup tells a group of pods.
func isPodGroup(group string) bool {
	rest, ok := strings.CutPrefix(group, podGroups)
	return ok && (rest == "" || rest[0] == ':' && isLabel(rest[1:]))
}

// check reports what is wrong with a selector.
func (s *Selector) check(d *document, at string, l *loader) {
	unread := slices.ContainsFunc(fieldNames(reflect.TypeFor[Selector]()), func(key string) bool { return d.unread(at + "." + key) })
	if len(s.Users) == 0 && len(s.Groups) == 0 && !s.pods() && !unread {
		d.wrong(at, "names nobody; give it users or groups, in a cluster namespaces, podLabels or serviceAccounts")
	}
	l.checkSubjects(d, at+".users", s.Users)
	l.checkSubjects(d, at+".groups", s.Groups)
	checkNames(d, at+".namespaces", s.Namespaces, isLabel, "a namespace")
	checkNames(d, at+".serviceAccounts", s.ServiceAccounts, isSubdomain, "a service account")
	for key, value := range byKey(s.PodLabels) {
		if !isLabelKey(key) || !isLabelValue(value) {
			d.wrong(at+".podLabels", "%q: %q is not a label; write it as the pod has it", clip(key), clip(value))
		}
	}
	if !s.pods() {
		return
	}
	d.needs(Cluster, at, "name users or groups instead of pods")
	switch {
	case s.nobody():
		d.warn(at, "names users that are none of the pods that it names: nobody matches it")
	case len(s.homes()) == 0 && !slices.ContainsFunc(s.Users, isPodUser):
		d.warn(at, "matches pods of every namespace, and whoever may create pods somewhere chooses their labels and accounts; name namespaces as well")
	}
}

// homes lists what the selector says of the namespace of who matches it: it must be
// in each of the lists. None: it may be any, or the matching are no pods.
func (s *Selector) homes() [][]string {
	var all [][]string
	if len(s.Namespaces) > 0 {
		all = append(all, s.Namespaces)
	}
	var ofGroups []string
	for _, group := range s.Groups {
		if namespace, ok := strings.CutPrefix(group, podGroups+":"); ok {
			ofGroups = append(ofGroups, namespace)
		}
	}
	if len(ofGroups) > 0 && len(ofGroups) == len(s.Groups) {
		all = append(all, ofGroups)
	}
	return all
}

// hasLinux tells whether a selector names somebody whom the kernel alone proves.
func (s *Selector) hasLinux() bool {
	return slices.ContainsFunc(slices.Concat(s.Users, s.Groups), func(name string) bool { return strings.HasPrefix(name, "linux:") })
}

// checkSubjects judges qualified names: their prefix says who vouches for the rest.
func (l *loader) checkSubjects(d *document, path string, names []string) {
	for i, name := range names {
		at := index(path, i)
		prefix, rest, qualified := strings.Cut(name, ":")
		_, known := l.known["Issuer/"+prefix]
		switch {
		case !qualified:
			d.wrong(at, "%q says not who vouches for it; write <issuer>:%s, or linux:%s", clip(name), clip(name), clip(name))
		case rest == "" || !isPlain(rest, maxName):
			d.wrong(at, "%q names nobody behind its colon; write the name as the issuer gives it", clip(name))
		case strings.Contains(rest, "*"):
			d.wrong(at, "%q has a *, and subjects have no patterns; name each, or a group", clip(name))
		case prefix == "pod":
			d.wrong(at, "%q: pod is reserved, and names nobody yet; use namespaces, podLabels and serviceAccounts", clip(name))
		case prefix == "k8s":
			checkPodName(d, at, name)
		case prefix == "linux":
			if d.place == Cluster {
				d.warn(at, "%q: pods are no Linux users, nobody in a cluster matches it", clip(name))
			}
		case !known && d.live:
			d.warn(at, "%q: there is no Issuer %q that is accepted; nobody matches it until there is", clip(name), clip(prefix))
		case !known:
			d.wrong(at, "%q: there is no Issuer %q; add it, or use one of %s", clip(name), clip(prefix), strings.Join(reserved(), ", "))
		}
	}
}

// checkPodName judges a user or group that is proven to be a pod's.
func checkPodName(d *document, at, name string) {
	if !isPodUser(name) && !isPodGroup(name) {
		d.wrong(at, "%q is no pod's; want %s<namespace>:<name>, of groups %s:<namespace>", clip(name), podUser, podGroups)
		return
	}
	d.needs(Cluster, at, "use linux, or an Issuer's name")
}

// checkNames judges a list of names without a prefix.
func checkNames(d *document, path string, names []string, fits func(string) bool, what string) {
	for i, name := range names {
		switch {
		case strings.Contains(name, "*"):
			d.wrong(index(path, i), "%q has a *, and subjects have no patterns; name each", clip(name))
		case !fits(name):
			d.wrong(index(path, i), "%q is not the name of %s", clip(name), what)
		case slices.Contains(names[:i], name):
			d.wrong(index(path, i), "%q is there twice; keep one", clip(name))
		}
	}
}

// isLabelKey tells the key of a label: a name, with the subdomain of its owner before it or not.
//
// Source: Kubernetes, Labels and Selectors, syntax and character set.
func isLabelKey(key string) bool {
	owner, name, owned := strings.Cut(key, "/")
	if !owned {
		owner, name = "", key
	}
	return (!owned || isSubdomain(owner)) && name != "" && isLabelValue(name)
}

// isLabelValue tells the value of a label, which may be empty.
func isLabelValue(value string) bool {
	isInner := func(r rune) bool { return r == '-' || r == '_' || r == '.' }
	isEnd := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	}
	if len(value) > 63 || strings.ContainsFunc(value, func(r rune) bool { return !isEnd(r) && !isInner(r) }) {
		return false
	}
	return strings.TrimFunc(value, isInner) == value
}

// byKey walks a map in the order of its keys.
func byKey(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

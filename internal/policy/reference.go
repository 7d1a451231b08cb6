package policy

import (
	"path/filepath"
	"slices"
	"strings"
)

// check judges where a login or a bundle of certificates lies.
func (r *Reference) check(d *document, at string) {
	switch {
	case r.File != "" && r.Secret != "":
		d.wrong(at, "has both file and secret; keep one")
	case r.File != "":
		checkFile(d, at+".file", r.File)
	case r.Secret != "":
		checkSecret(d, at+".secret", r.Secret)
	case !d.unread(at+".file") && !d.unread(at+".secret"):
		d.wrong(at, "names nothing; want {file: /path}, in a cluster {secret: name}")
	}
}

// checkFile judges a path that the agent of postern run will open, which has a working directory of its own.
func checkFile(d *document, at, path string) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		d.wrong(at, "%q is not a clean absolute path; write it from / on", clip(path))
		return
	}
	d.needs(Host, at, "an agent in a cluster reads no files: name a Secret of Postern's namespace, as in {secret: name}")
}

func checkSecret(d *document, at, name string) {
	if !isSubdomain(name) {
		d.wrong(at, "%q is not a Secret's name; write only the name, Secrets are read in Postern's own namespace", clip(name))
		return
	}
	d.needs(Cluster, at, "name a file, as in {file: /path}")
}

// isSubdomain tells a name as Kubernetes gives to most objects.
//
// Source: Kubernetes, Object Names and IDs, DNS subdomain names.
func isSubdomain(text string) bool {
	if len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// place is where alone a reference can be read; Host where that is anywhere.
func (r *Reference) place() Place {
	if r != nil && r.Secret != "" {
		return Cluster
	}
	return Host
}

// place is where alone the Target's fields have a meaning.
func (t *Target) place() Place {
	spec := &t.Spec
	login := spec.Credential != nil && spec.Credential.Secret != ""
	if login || len(spec.Services) > 0 || spec.Exclusive || spec.Source == SourcePod {
		return Cluster
	}
	return spec.TLS.CA.place()
}

// place is where alone the policy's fields have a meaning.
func (p *AccessPolicy) place() Place {
	ofPods := func(name string) bool { return strings.HasPrefix(name, "k8s:") }
	for i := range p.Spec.Subjects {
		s := &p.Spec.Subjects[i]
		if s.pods() || slices.ContainsFunc(s.Users, ofPods) || slices.ContainsFunc(s.Groups, ofPods) {
			return Cluster
		}
	}
	return p.Spec.Credential.place()
}

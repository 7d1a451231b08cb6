package policy

import (
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
)

// maxReason bounds what a refusal tells the client, in bytes.
const maxReason = 300

// rule is a Rule, compiled.
type rule struct {
	policy    string
	name      string
	words     words
	deny      bool
	databases []string
	relations []pattern
	functions []pattern
	when      cel.Program // nil: always
	reason    string      // of a deny
}

// Name is the policy's name.
func (p *AccessPolicy) Name() string { return p.Metadata.Name }

// check fills in the defaults, compiles the rules and reports what is wrong with the policy.
func (p *AccessPolicy) check(d *document, l *loader) {
	spec := &p.Spec
	setDefault(&spec.Mode, Enforce)
	setDefault(&spec.Durability, Balanced)
	setDefault(&spec.Record, RecordRedacted)
	if len(spec.Subjects) == 0 {
		d.wrong("spec.subjects", "is missing; say whom the policy is about")
	}
	for i, s := range spec.Subjects {
		at := index("spec.subjects", i)
		if len(s.Users) == 0 && len(s.Groups) == 0 {
			d.wrong(at, "names nobody; give it users or groups")
		}
		l.checkSubjects(d, at+".users", s.Users)
		l.checkSubjects(d, at+".groups", s.Groups)
	}
	if spec.RequireToken && slices.ContainsFunc(spec.Subjects, Selector.hasLinux) {
		d.warn("spec.requireToken", "is true, and a subject is a Linux user or group, which has no token: it is refused")
	}
	if len(spec.Targets) == 0 {
		d.wrong("spec.targets", "is missing; name the Targets that the policy is about")
	}
	for i, name := range spec.Targets {
		at := index("spec.targets", i)
		if _, known := l.places["Target/"+name]; !known {
			d.wrong(at, "there is no Target %q; name one of these files, or add it", clip(name))
		} else if slices.Contains(spec.Targets[:i], name) {
			d.wrong(at, "%q is there twice; keep one", name)
		}
	}
	if spec.Credential != nil {
		checkFile(d, "spec.credential.file", spec.Credential.File)
	}
	p.checkRules(d, l.expressions.condition)
}

// hasLinux tells whether a selector names somebody whom the kernel alone proves.
func (s Selector) hasLinux() bool {
	return slices.ContainsFunc(slices.Concat(s.Users, s.Groups), func(name string) bool { return strings.HasPrefix(name, "linux:") })
}

// checkSubjects judges qualified names: their prefix says who vouches for the rest.
func (l *loader) checkSubjects(d *document, path string, names []string) {
	for i, name := range names {
		at := index(path, i)
		prefix, rest, qualified := strings.Cut(name, ":")
		_, known := l.places["Issuer/"+prefix]
		switch {
		case !qualified:
			d.wrong(at, "%q says not who vouches for it; write <issuer>:%s, or linux:%s", clip(name), clip(name), clip(name))
		case rest == "" || !isPlain(rest, maxName):
			d.wrong(at, "%q names nobody behind its colon; write the name as the issuer gives it", clip(name))
		case strings.Contains(rest, "*"):
			d.wrong(at, "%q has a *, and subjects have no patterns; name each, or a group", clip(name))
		case !known && !slices.Contains(reserved(), prefix):
			d.wrong(at, "%q: there is no Issuer %q; add it, or use one of %s", clip(name), clip(prefix), strings.Join(reserved(), ", "))
		}
	}
}

func (p *AccessPolicy) checkRules(d *document, env *cel.Env) {
	if len(p.Spec.Rules) == 0 {
		d.wrong("spec.rules", "is missing; write what is allowed, everything else is refused")
		return
	}
	allows := false
	first := map[string]int{}
	for i := range p.Spec.Rules {
		r, at := &p.Spec.Rules[i], index("spec.rules", i)
		switch earlier, again := first[r.Name]; {
		case r.Name == "":
			d.wrong(at+".name", "is missing; refusals and records call the rule by it")
		case !isLabel(r.Name):
			d.wrong(at+".name", "%q is not a name; want at most 63 of a-z, 0-9 and -, with a letter or digit at both ends", clip(r.Name))
		case again:
			d.wrong(at+".name", "%q is the name of rules[%d] too; choose another", r.Name, earlier)
		default:
			first[r.Name] = i
		}
		p.rules = append(p.rules, r.compile(d, at, p.Name(), env))
		allows = allows || len(r.Allow) > 0
	}
	if !allows {
		d.warn("spec.rules", "there is no allow rule: what no other policy allows is refused")
	}
}

// compile checks one rule.
func (r *Rule) compile(d *document, at, policy string, env *cel.Env) *rule {
	c := &rule{policy: policy, name: r.Name, deny: len(r.Deny) > 0, databases: r.Databases, reason: r.Reason}
	switch {
	case len(r.Allow) > 0 && len(r.Deny) > 0:
		d.wrong(at, "both allows and denies; make two rules of it")
	case len(r.Allow) == 0 && len(r.Deny) == 0 && !d.unread(at+".allow") && !d.unread(at+".deny"):
		d.wrong(at, "neither allows nor denies; give it allow or deny")
	}
	c.words = parseWords(d, at+".allow", r.Allow) | parseWords(d, at+".deny", r.Deny)
	c.relations = parsePatterns(d, at+".relations", r.Relations)
	c.functions = parsePatterns(d, at+".functions", r.Functions)
	c.when = compileField(d, at+".when", env, r.When, "true or false, as in !statement.hasWhere", cel.BoolType)
	for i, name := range r.Databases {
		if strings.Contains(name, "*") {
			d.wrong(index(at+".databases", i), "%q has a *, and databases have no patterns; name each, or take databases away for all", clip(name))
		}
	}
	limits := len(r.Relations) > 0 || len(r.Functions) > 0
	switch {
	case len(r.Allow) > 0 && c.words&wordUnknown != 0 && limits:
		d.wrong(at+".allow", "has UNKNOWN, of which no relation or function is known; give UNKNOWN a rule without relations and functions")
	case len(r.Allow) > 0 && c.words&wordUnknown != 0:
		d.warn(at+".allow", "has UNKNOWN: no deny rule but one with UNKNOWN holds for what cannot be parsed")
	case c.deny && len(r.Relations) > 0 && len(r.Functions) > 0:
		d.wrong(at, "denies by relations and by functions; make two rules of it, either alone is then enough")
	}
	if r.Reason != "" && !c.deny && len(r.Allow) > 0 {
		d.wrong(at+".reason", "is told when a deny rule refuses, and this rule allows; take it away")
	} else if !isPlain(r.Reason, maxReason) {
		d.wrong(at+".reason", "is more than %d bytes, or has line breaks; clients show it on one line", maxReason)
	}
	if c.reason == "" {
		c.reason = strings.Join(r.Deny, ", ") + " denied"
	}
	return c
}

func parseWords(d *document, path string, texts []string) words {
	var all words
	for i, text := range texts {
		w, ok := parseWord(text)
		if !ok {
			at := index(path, i)
			if upper, fits := parseWord(strings.ToUpper(text)); fits && upper != 0 {
				d.wrong(at, "%q is written %s", clip(text), strings.ToUpper(text))
			} else {
				d.wrong(at, "%q is not a word; the words are %s, and READ, WRITE, ALL", clip(text), strings.Join(wordNames(), ", "))
			}
			continue
		}
		all |= w
	}
	return all
}

func parsePatterns(d *document, path string, texts []string) []pattern {
	var patterns []pattern
	for i, text := range texts {
		p, err := parsePattern(text)
		if err != nil {
			d.wrong(index(path, i), "%q %v", clip(text), err)
			continue
		}
		patterns = append(patterns, p)
	}
	return patterns
}

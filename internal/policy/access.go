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
func (p *AccessPolicy) Name() string { return p.ObjectMeta.Name }

// check fills in the defaults, compiles the rules and reports what is wrong with the policy.
func (p *AccessPolicy) check(d *document, l *loader) {
	spec := &p.Spec
	setDefault(&spec.Mode, Enforce)
	setDefault(&spec.Durability, Balanced)
	setDefault(&spec.Record, RecordRedacted)
	if len(spec.Subjects) == 0 {
		d.wrong("spec.subjects", "is missing; say whom the policy is about")
	}
	linux := false
	for i := range spec.Subjects {
		spec.Subjects[i].check(d, index("spec.subjects", i), l)
		linux = linux || spec.Subjects[i].hasLinux()
	}
	if spec.RequireToken && linux {
		d.warn("spec.requireToken", "is true, and a subject is a Linux user or group, which has no token: it is refused")
	}
	p.checkTargets(d, l)
	if spec.Credential != nil {
		spec.Credential.check(d, "spec.credential")
	}
	p.checkRules(d, l.expressions.condition)
}

// checkTargets finds Targets that are not there. In a cluster a policy of several
// Targets goes on to hold for the others: else whoever takes one of them away
// would take the policy's denials from all.
func (p *AccessPolicy) checkTargets(d *document, l *loader) {
	targets := p.Spec.Targets
	if len(targets) == 0 {
		d.wrong("spec.targets", "is missing; name the Targets that the policy is about")
		return
	}
	known := 0
	for i, name := range targets {
		at := index("spec.targets", i)
		if _, ok := l.known["Target/"+name]; ok {
			known++
			if slices.Contains(targets[:i], name) {
				d.wrong(at, "%q is there twice; keep one", name)
			}
		} else if !d.live {
			d.wrong(at, "there is no Target %q; name one of these files, or add it", clip(name))
		} else {
			d.warn(at, "there is no Target %q that is accepted; nothing holds there until there is", clip(name))
		}
	}
	if known == 0 && d.live {
		d.wrong("spec.targets", "names no Target that is accepted (%s); the policy waits until there is one", clip(strings.Join(targets, ", ")))
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

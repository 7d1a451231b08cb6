package policy

import "time"

// Request is what a client asks for in one message.
type Request struct {
	Database   string
	User       string // of the database
	Statements []Statement
	Now        time.Time // for conditions; zero: a condition that reads it fails
}

// Statement is what one statement does.
type Statement struct {
	Words       []string // every word that applies
	Unknown     string   // why it cannot be told; not empty: the statement is UNKNOWN, whatever else it says
	Relations   []Relation
	Functions   []Function
	HasWhere    bool // every UPDATE and DELETE in it has a WHERE
	ReturnsRows bool
}

// Relation is a table, view or sequence. Schema is "" where the caller could not resolve it.
type Relation struct {
	Schema, Name string
	Builtin      bool // a harmless catalog that is only read: comes with SELECT
}

// Function is a function that a statement calls. Schema is "" where the caller could not resolve it.
type Function struct {
	Schema, Name string
	Builtin      bool // a harmless built-in: comes with SELECT
}

// Action is what becomes of a request. The zero Action is Deny.
type Action uint8

// The actions.
const (
	Deny Action = iota
	Allow
)

// String gives the word that the audit trail uses.
func (a Action) String() string {
	if a == Allow {
		return "allow"
	}
	return "deny"
}

// Decision is the answer to a [Request]. The zero Decision denies.
type Decision struct {
	Action Action
	Policy string // whose rule decided; else the only policy that decides, if it is one
	Rule   string // that decided; of an Allow, for the first statement that is more than SESSION; "" when none did
	Reason string // of a Deny, fit for the client: it holds names and words, no values
	Would  []Verdict
}

// Verdict is what a request would have met, were a policy with mode observe enforced.
type Verdict struct {
	Policy string
	Action Action
	Rule   string // of any policy that would then decide; "" when none
	Reason string
}

// Decide judges a request.
func (v *View) Decide(r Request) Decision {
	if v.Empty() {
		return Decision{Reason: "no policy matches this workload on this target"}
	}
	decision := Decision{Action: Allow}
	if v.enforced != nil {
		decision = v.enforced.judge(v, r)
	}
	for _, o := range v.observed {
		would := o.rules.judge(v, r)
		decision.Would = append(decision.Would, Verdict{o.policy, would.Action, would.Rule, would.Reason})
	}
	return decision
}

// ruleSet is the rules of some policies, in the order of policies and rules.
type ruleSet struct {
	denies, allows []*rule
	policy         string // the only one; "" where they are several
}

func newRuleSet(policies []*AccessPolicy) *ruleSet {
	s := &ruleSet{}
	if len(policies) == 1 {
		s.policy = policies[0].Name()
	}
	for _, p := range policies {
		for _, r := range p.rules {
			if r.deny {
				s.denies = append(s.denies, r)
			} else {
				s.allows = append(s.allows, r)
			}
		}
	}
	return s
}

// judge lets a request pass when no deny rule matches one of its statements and
// allow rules cover them all.
func (s *ruleSet) judge(v *View, r Request) Decision {
	statements := r.Statements
	if len(statements) == 0 {
		statements = []Statement{{Words: []string{"SESSION"}}}
	}
	var permit *rule
	var permitted words // by permit
	var uncovered *Statement
	f := facts{view: v, database: r.Database, user: r.User, now: r.Now}
	for i := range statements {
		f.statement, f.words = &statements[i], statements[i].words()
		for _, deny := range s.denies {
			if matches, failed := deny.matches(&f); matches {
				return deny.refusal(failed)
			}
		}
		by := s.permit(&f)
		if by == nil && uncovered == nil {
			uncovered = f.statement
		}
		if permit == nil || permitted == wordSession {
			permit, permitted = by, f.words
		}
	}
	if uncovered != nil {
		f.statement, f.words = uncovered, uncovered.words()
		return Decision{Policy: s.policy, Reason: s.explain(&f)}
	}
	return Decision{Action: Allow, Policy: permit.policy, Rule: permit.name}
}

// permit finds the first allow rule that covers a statement.
func (s *ruleSet) permit(f *facts) *rule {
	for _, allow := range s.allows {
		if allow.covers(f) {
			return allow
		}
	}
	return nil
}

package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
)

// maxJudgementAge is how long a decision holds for the same text: conditions may ask for the time.
const maxJudgementAge = time.Second

// judgement is what was decided about a statement, by one view of the policies
// and one state of the catalog. It does not change.
type judgement struct {
	view     *policy.View
	path     *searchPath
	shadowed *shadowed
	snapshot *snapshot // nil where the Target has no sensitive columns
	made     time.Time
	request  audit.Request
	decision audit.Decision
	action   metrics.Action
	denied   string // why, for the client; "" when it may run
	held     bool   // its reply waits for the record
	defines  bool   // it may change what is in the catalog
	alters   bool   // it may change a parameter in a way that its text does not show
}

// functionCall is what a FunctionCall message amounts to: its function is known by a number alone.
const functionCall = "FUNCTION-CALL"

// judge decides what a statement may do now. What it decided for the same
// statement before holds as long as what it was decided by.
func (s *session) judge(ctx context.Context, st *statement) (*judgement, error) {
	if err := s.refreshView(); err != nil {
		return nil, err
	}
	var current *snapshot
	if s.catalog != nil {
		var err error
		if current, err = s.catalog.snapshot(ctx); err != nil {
			return nil, catalogRefusal(err)
		}
	}
	j := st.last
	if j != nil && !st.named && j.view == s.view && j.path == s.path && j.shadowed == s.shadows.current() && j.snapshot == current && time.Since(j.made) < maxJudgementAge {
		return j, nil
	}
	carried, err := s.carried(st.script.Statements)
	if err != nil {
		return nil, err
	}
	j, err = s.decide(ctx, st.script, carried)
	if err != nil {
		return nil, err
	}
	st.last = j
	return j, nil
}

// decide asks the policies, and the catalog, about statements; carried are those
// that they run by name.
func (s *session) decide(ctx context.Context, script *sql.Script, carried []*sql.Statement) (*judgement, error) {
	statements := append(slices.Clip(script.Statements), carried...)
	defines := slices.ContainsFunc(statements, func(st *sql.Statement) bool { return slices.Contains(st.Words, sql.DDL) })
	shadowed := s.shadows.current()
	var created []string
	if defines {
		created = defined(script)
		shadowed = shadowed.with(created)
	}
	statements = shadowed.unmask(statements)
	path, moves := s.path, movesPath(statements)
	if moves && len(statements) > 1 {
		path = nil // what stands behind the change in the same text is read with the new one
	}
	j := &judgement{view: s.view, path: path, shadowed: shadowed, made: time.Now(), action: metrics.Allow, request: describe(statements, path)}
	asked := policy.Request{Database: s.database, User: s.access.login.User, Now: j.made}
	for _, st := range statements {
		asked.Statements = append(asked.Statements, policyStatement(st, path))
	}
	answer := s.view.Decide(asked)
	j.decision = audit.Decision{
		Action: answer.Action.String(), Policy: answer.Policy, Rule: answer.Rule, Reason: answer.Reason, Hash: s.view.Hash(),
	}
	for _, would := range answer.Would {
		j.decision.Would = append(j.decision.Would, audit.Verdict{
			Action: would.Action.String(), Policy: would.Policy, Rule: would.Rule, Reason: would.Reason,
		})
		if would.Action == policy.Deny {
			j.action = metrics.WouldDeny
		}
	}
	j.held = s.holds(statements)
	j.defines = defines
	j.alters = alters(statements)
	if answer.Action != policy.Allow {
		j.deny(explain(answer))
	} else if err := s.object(ctx, j, statements); err != nil {
		return nil, err
	}
	j.wouldMask(answer.Would)
	s.redactNames(j)
	s.recordText(j, script, statements)
	if j.denied == "" {
		s.shadows.add(created)
		if moves {
			s.path = nil
		}
	}
	return j, nil
}

// object refuses what masks do not cover, and what changes how statements are read.
func (s *session) object(ctx context.Context, j *judgement, statements []*sql.Statement) error {
	for _, st := range statements {
		for _, setting := range st.Settings {
			if err := settable(setting); err != nil {
				j.deny(err.Error())
				j.decision.Reason = err.Error()
				return nil
			}
		}
	}
	if s.catalog == nil {
		return nil
	}
	snapshot, objection, err := s.catalog.judge(ctx, s.conn.Share(), statements)
	if err != nil {
		return catalogRefusal(err)
	}
	j.snapshot = snapshot
	if objection != nil {
		j.deny(objection.Error())
		j.decision.Reason = objection.Error()
		j.decision.Policy, j.decision.Rule = "", ""
	}
	j.decision.Masks = sensitiveIn(statements, snapshot, j.path)
	j.held = j.held || s.durable == policy.Balanced && len(j.decision.Masks) > 0
	return nil
}

// sensitiveIn names the sensitive columns of the relations that statements name.
func sensitiveIn(statements []*sql.Statement, snapshot *snapshot, path *searchPath) []string {
	var columns []string
	for _, st := range statements {
		for _, r := range st.Relations {
			for _, column := range snapshot.sensitive(r.Schema, r.Name) {
				columns = append(columns, path.name(r)+"."+column)
			}
		}
	}
	slices.Sort(columns)
	return slices.Compact(columns)
}

// wouldMask adds to the verdict of each observed policy what is masked with it
// in force: masks are the Target's, and hold already.
func (j *judgement) wouldMask(observed []policy.Verdict) {
	if len(j.decision.Masks) == 0 {
		return
	}
	for _, would := range observed {
		j.decision.Would = append(j.decision.Would, audit.Verdict{
			Action: "mask", Policy: would.Policy, Reason: strings.Join(j.decision.Masks, ", "),
		})
	}
}

func (j *judgement) deny(why string) {
	j.decision.Action, j.action, j.denied = policy.Deny.String(), metrics.Deny, why
}

// refusing is j with a refusal for what the text alone does not tell.
func (j *judgement) refusing(why string) *judgement {
	refused := *j
	refused.deny(why)
	refused.decision.Reason, refused.decision.Policy, refused.decision.Rule = why, "", ""
	refused.request.Text, refused.request.Parameters = "", nil
	return &refused
}

// afford is j with a refusal where it would make others ask the server for its
// catalog anew, more often than the workload may.
func (s *session) afford(j *judgement) *judgement {
	if !j.defines || j.denied != "" || s.catalog == nil || !s.catalog.common {
		return j
	}
	if turned := s.conn.Share().LookUp(); turned != nil {
		return j.refusing(turned.Message)
	}
	return j
}

// explain says why a policy refuses, in one line.
func explain(d policy.Decision) string {
	var by strings.Builder
	by.WriteString("denied")
	if d.Policy != "" {
		by.WriteString(" by policy " + d.Policy)
	}
	if d.Rule != "" {
		by.WriteString(", rule " + d.Rule)
	}
	return by.String() + ": " + d.Reason
}

// holds tells whether the record must be durable before the reply is released, for what the statements do.
func (s *session) holds(statements []*sql.Statement) bool {
	switch s.durable {
	case policy.Relaxed:
		return false
	case policy.Strict, policy.Reply:
		return true
	}
	for _, st := range statements {
		for _, word := range st.Words {
			if word != sql.Select && word != sql.Session {
				return true
			}
		}
		for _, f := range st.Functions {
			if !f.Builtin {
				return true
			}
		}
	}
	return false
}

// alters tells that statements may change a parameter in a way that they do not
// show: views and triggers run functions, and pg_settings can be written to.
func alters(statements []*sql.Statement) bool {
	return slices.ContainsFunc(statements, func(st *sql.Statement) bool {
		return runsCode(st) || len(st.Relations) > 0 || slices.ContainsFunc(st.Words, func(word string) bool {
			return word != sql.Select && word != sql.Session && word != sql.Set
		})
	})
}

// settable is reads for a SET. What is no constant cannot be judged.
func settable(set sql.Setting) error {
	name := set.Name
	if name == "" {
		return errors.New("a parameter is set whose name is no constant")
	}
	if name != "standard_conforming_strings" && name != "client_encoding" {
		return nil
	}
	if !set.Constant {
		return errors.New(name + " is set to what is no constant")
	}
	var refusal *refusal
	if len(set.Values) == 1 && errors.As(reads(name, set.Values[0]), &refusal) {
		return errors.New(refusal.words())
	}
	return nil // RESET: the value that the session was let in with
}

// catalogRefusal ends a session whose sensitive columns cannot be told.
func catalogRefusal(err error) error {
	return refused(metrics.Upstream, stateCannotConnect, "the server does not tell which columns are sensitive").because(err)
}

// carried are the statements that EXECUTE and FETCH run, by the names that
// they have when the server comes to them.
func (s *session) carried(statements []*sql.Statement) ([]*sql.Statement, error) {
	var carried []*sql.Statement
	prepared, declared := map[string]*sql.Statement{}, map[string]*sql.Statement{} // by this text
	for _, st := range statements {
		switch st.Kind {
		case sql.Prepare:
			prepared[st.Name] = st.Inner
		case sql.Declare:
			declared[st.Name] = st.Inner
		case sql.Execute:
			found, err := s.lookupStatement(st.Name)
			if err != nil {
				return nil, err
			}
			if mine, ok := prepared[st.Name]; ok {
				carried = append(carried, mine)
			} else {
				carried = append(carried, byName(found, "EXECUTE of a name that nothing known here was prepared under")...)
			}
		case sql.Fetch:
			found, err := s.fetched(st.Name)
			if err != nil {
				return nil, err
			}
			if mine, ok := declared[st.Name]; ok {
				carried = append(carried, mine)
			} else {
				carried = append(carried, byName(found, "FETCH from a cursor that was neither declared nor bound here")...)
			}
		}
	}
	return carried, nil
}

// byName is what a name runs. What is itself run by a name could have got another meaning since.
func byName(found *statement, why string) []*sql.Statement {
	if found == nil || found.named {
		return []*sql.Statement{unknown(why)}
	}
	return found.script.Statements
}

func unknown(why string) *sql.Statement {
	return &sql.Statement{Words: []string{sql.Unknown}, Unknown: why}
}

func policyStatement(st *sql.Statement, path *searchPath) policy.Statement {
	p := policy.Statement{Words: st.Words, Unknown: st.Unknown, HasWhere: st.HasWhere, ReturnsRows: st.ReturnsRows}
	onlyReads := !slices.ContainsFunc(st.Words, func(word string) bool { return word != sql.Select })
	for _, r := range st.Relations {
		for _, place := range path.places(r) {
			place.Builtin = onlyReads && describesTypes(place)
			p.Relations = append(p.Relations, place)
		}
	}
	for _, f := range st.Functions {
		p.Functions = append(p.Functions, policy.Function{Schema: f.Schema, Name: f.Name, Builtin: f.Builtin})
	}
	return p
}

package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// Bounds of one expression.
const (
	maxExpression = 4096   // bytes
	maxCost       = 10_000 // CEL's own units: some thousand names looked at
)

// expressions compiles the CEL of policies. The variables of a condition have
// dotted names, so that a misspelt one is found when the file is read.
type expressions struct {
	condition *cel.Env
	claims    *cel.Env
}

func newExpressions() (expressions, error) {
	texts := cel.ListType(cel.StringType)
	condition, err := cel.NewEnv(
		cel.DefaultUTCTimeZone(true),
		cel.Variable("statement.operations", texts),
		cel.Variable("statement.relations", texts),
		cel.Variable("statement.functions", texts),
		cel.Variable("statement.hasWhere", cel.BoolType),
		cel.Variable("statement.returnsRows", cel.BoolType),
		cel.Variable("workload.user", cel.StringType),
		cel.Variable("workload.groups", texts),
		cel.Variable("workload.namespace", cel.StringType),
		cel.Variable("workload.pod", cel.StringType),
		cel.Variable("workload.service_account", cel.StringType),
		cel.Variable("workload.labels", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("target.name", cel.StringType),
		cel.Variable("target.database", cel.StringType),
		cel.Variable("target.user", cel.StringType),
		cel.Variable("now", cel.TimestampType),
	)
	if err != nil {
		return expressions{}, fmt.Errorf("declare the variables of conditions: %w", err)
	}
	claims, err := cel.NewEnv(cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return expressions{}, fmt.Errorf("declare the variables of issuers: %w", err)
	}
	return expressions{condition, claims}, nil
}

// compile makes a program of a text whose value has one of the types, which want describes.
func compile(env *cel.Env, text, want string, allowed ...*cel.Type) (cel.Program, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("is longer than %d bytes; shorten it", maxExpression)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("is not CEL that is understood: %s; the variables are %s", explainIssues(issues), variables(env))
	}
	fits := false
	for _, t := range allowed {
		fits = fits || ast.OutputType().IsEquivalentType(t)
	}
	if !fits {
		return nil, fmt.Errorf("gives %s; want %s", ast.OutputType(), want)
	}
	program, err := env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("is not CEL that can run: %w", err)
	}
	return program, nil
}

// explainIssues puts the compiler's findings on one line.
func explainIssues(issues *cel.Issues) string {
	var texts []string
	for _, e := range issues.Errors() {
		message := strings.ReplaceAll(e.Message, " (in container '')", "")
		message, _, _ = strings.Cut(message, " expecting {") // a list of every token there is
		message, _, _ = strings.Cut(message, "\n")
		texts = append(texts, fmt.Sprintf("column %d: %s", e.Location.Column()+1, message))
	}
	return strings.Join(texts, "; ")
}

// variables lists what an expression may name.
func variables(env *cel.Env) string {
	var names []string
	for _, v := range env.Variables() {
		if t := v.Type(); t.Kind() != types.TypeKind {
			names = append(names, v.Name())
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// facts is what a condition sees.
type facts struct {
	view           *View
	database, user string
	now            time.Time
	statement      *Statement
	words          words
}

// holds evaluates a condition.
//
// Errors: whatever CEL reports, the end of its cost limit included. The text may
// hold values and goes nowhere.
func (f *facts) holds(condition cel.Program) (bool, error) {
	seen := *f // CEL keeps it on the heap, where most decisions have no need to be
	value, _, err := condition.Eval(&seen)
	if err != nil {
		return false, err
	}
	truth, ok := value.(types.Bool)
	if !ok {
		return false, errors.New("condition gives no bool")
	}
	return bool(truth), nil
}

// Parent ends the search for a name: facts is the outermost activation.
func (f *facts) Parent() cel.Activation { return nil }

// ResolveName gives the value of a variable. What nobody knows of an UNKNOWN
// statement, the pod of whoever runs in none, and a time that the caller did not
// give, are errors of the condition.
func (f *facts) ResolveName(name string) (any, bool) {
	if strings.HasPrefix(name, "workload.") {
		return f.workload(name)
	}
	switch name {
	case "target.name":
		return f.view.target.Name(), true
	case "target.database":
		return f.database, true
	case "target.user":
		return f.user, true
	case "now":
		if f.now.IsZero() {
			return types.NewErr("the time is not known"), true
		}
		return f.now, true
	case "statement.operations":
		return f.statement.Words, true
	}
	if strings.HasPrefix(name, "statement.") && f.words&wordUnknown != 0 {
		return types.NewErr("the statement is not known"), true
	}
	switch name {
	case "statement.relations":
		names := make([]string, len(f.statement.Relations))
		for i, r := range f.statement.Relations {
			names[i] = dotted(r.Schema, r.Name)
		}
		return names, true
	case "statement.functions":
		names := make([]string, len(f.statement.Functions))
		for i, r := range f.statement.Functions {
			names[i] = dotted(r.Schema, r.Name)
		}
		return names, true
	case "statement.hasWhere":
		return f.statement.HasWhere, true
	case "statement.returnsRows":
		return f.statement.ReturnsRows, true
	}
	return nil, false
}

// workload gives a variable that is about who calls.
func (f *facts) workload(name string) (any, bool) {
	switch name {
	case "workload.user":
		return f.view.who.User, true
	case "workload.groups":
		return f.view.who.Groups, true
	}
	pod := f.view.who.Pod
	if pod == nil {
		return types.NewErr("the workload is no pod"), true
	}
	switch name {
	case "workload.namespace":
		return pod.Namespace, true
	case "workload.pod":
		return pod.Name, true
	case "workload.service_account":
		return pod.ServiceAccount, true
	case "workload.labels":
		return pod.Labels, true
	}
	return nil, false
}

package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestConditions(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	withoutWhere := one("UPDATE", "public.users")
	withoutWhere.HasWhere = false
	rows := one("UPDATE", "public.users")
	rows.ReturnsRows = true
	dottedNames := one("UPDATE")
	dottedNames.Relations = []Relation{{Name: "public.users"}, {Schema: "A", Name: `b"c`}, {Schema: "größe", Name: "b$1"}}
	for _, row := range []struct {
		name      string
		when      string
		statement Statement
		now       time.Time
		holds     string // true, false, fails
	}{
		{"no WHERE", "!statement.hasWhere", withoutWhere, noon, "true"},
		{"with WHERE", "!statement.hasWhere", rows, noon, "false"},
		{"rows come back", "statement.returnsRows", rows, noon, "true"},
		{"operations", "'UPDATE' in statement.operations", rows, noon, "true"},
		{"relations", "statement.relations == ['public.users']", rows, noon, "true"},
		{"a name with a dot is quoted", `statement.relations == ['"public.users"', '"A"."b""c"', 'größe.b$1']`, dottedNames, noon, "true"},
		{"unresolved relations", "'users' in statement.relations", one("UPDATE", "users"), noon, "true"},
		{"functions", "statement.functions.exists(f, f.startsWith('pg_catalog.'))", one("UPDATE", "+pg_catalog.now()"), noon, "true"},
		{"user", "workload.user == 'linux:ada'", rows, noon, "true"},
		{"groups", "'linux:staff' in workload.groups", rows, noon, "true"},
		{"target", "target.name == 'db' && target.database == 'orders' && target.user == 'app'", rows, noon, "true"},
		{"time in UTC", "now.getHours() == 12", rows, noon.In(time.FixedZone("", 3600)), "true"},
		{"no time given", "now.getHours() == 12", rows, time.Time{}, "fails"},
		{"index out of range", "statement.relations[7] == 'x'", rows, noon, "fails"},
		{"division by zero", "1 / size(statement.functions) == 1", rows, noon, "fails"},
		{"dearer than the limit", dear, rows, noon, "fails"},
		{"what UNKNOWN hides", "!statement.hasWhere", unknown("syntax"), noon, "fails"},
		{"what UNKNOWN reads", "size(statement.relations) == 0", unknown("syntax"), noon, "fails"},
		{"what UNKNOWN calls", "size(statement.functions) == 0", unknown("syntax"), noon, "fails"},
		{"what UNKNOWN returns", "!statement.returnsRows", unknown("syntax"), noon, "fails"},
		{"that it is UNKNOWN", "'UNKNOWN' in statement.operations", unknown("syntax"), noon, "true"},
	} {
		request := Request{Database: "orders", User: "app", Statements: []Statement{row.statement}, Now: row.now}
		decide := func(t *testing.T, rules string) string {
			got := policySet(t, "rules: "+rules).View("db", ada).Decide(request)
			return verdict(got.Action, got.Policy, got.Rule, got.Reason)
		}
		t.Run("allow when "+row.name, func(t *testing.T) {
			want := map[string]string{
				"true":  "allow a/r",
				"false": "deny a/: the condition of rule r does not hold",
				"fails": "deny a/: the condition of rule r does not hold",
			}[row.holds]
			if got := decide(t, fmt.Sprintf("[{name: r, allow: [ALL, UNKNOWN], when: %q}]", row.when)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
		t.Run("deny when "+row.name, func(t *testing.T) {
			want := map[string]string{
				"true":  "deny a/r: no",
				"false": "allow a/all",
				"fails": "deny a/r: no (the rule's condition could not be evaluated)",
			}[row.holds]
			if got := decide(t, fmt.Sprintf("[{name: all, allow: [ALL, UNKNOWN]}, {name: r, deny: [ALL, UNKNOWN], reason: no, when: %q}]", row.when)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// dear costs 8⁶ steps.
const dear = "[1,2,3,4,5,6,7,8].all(a, [1,2,3,4,5,6,7,8].all(b, [1,2,3,4,5,6,7,8].all(c, [1,2,3,4,5,6,7,8].all(d, [1,2,3,4,5,6,7,8].all(e, [1,2,3,4,5,6,7,8].all(f, a+b+c+d+e+f > 0))))))"

func TestConditionsOnPods(t *testing.T) {
	for _, row := range []struct {
		when string
		who  Subject
		want string // what a deny and an allow with that condition do
	}{
		{"workload.namespace == 'agents'", reporter, "deny allow"},
		{"workload.namespace == 'other'", reporter, "allow deny"},
		{"workload.pod.startsWith('reporter-')", reporter, "deny allow"},
		{"workload.service_account == 'reporter'", reporter, "deny allow"},
		{"workload.labels['app'] == 'reporter'", reporter, "deny allow"},
		{"'app' in workload.labels", reporter, "deny allow"},
		{"'stage' in workload.labels", reporter, "allow deny"},
		{"workload.labels['stage'] == 'x'", reporter, "deny deny"},
		{"workload.namespace != 'agents'", Subject{User: reporter.User}, "deny deny"},
		{"'app' in workload.labels", Subject{User: reporter.User}, "deny deny"},
		{"workload.user.endsWith(':reporter')", Subject{User: reporter.User}, "deny allow"},
		{"'x' in workload.labels", Subject{User: reporter.User, Pod: &PodSubject{}}, "allow deny"},
	} {
		t.Run(row.when, func(t *testing.T) {
			var got []string
			for _, rules := range []string{
				fmt.Sprintf("[{name: all, allow: [ALL]}, {name: when, deny: [ALL], when: %q}]", row.when),
				fmt.Sprintf("[{name: when, allow: [ALL], when: %q}]", row.when),
			} {
				set, rejected := compiled(t, dbTarget, `AccessPolicy p targets: [db], subjects: [{users: ["`+reporter.User+`"]}], rules: `+rules, `AccessPolicy q targets: [db], mode: observe, subjects: [{namespaces: [agents]}], rules: [{name: all, allow: [ALL]}]`)
				if len(rejected) > 0 {
					t.Fatal(rejected)
				}
				who := row.who
				who.User = reporter.User
				got = append(got, set.View("db", who).Decide(Request{Statements: []Statement{one("SELECT", "public.users")}}).Action.String())
			}
			if text := strings.Join(got, " "); text != row.want {
				t.Errorf("got %s, want %s", text, row.want)
			}
		})
	}
}

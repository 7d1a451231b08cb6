package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestSubjectsMatchEachFieldByAnyEntry(t *testing.T) {
	for _, row := range []struct {
		name, subjects string
		who            Subject
		want           bool
	}{
		{"the user", `[{users: ["linux:ada"]}]`, Subject{User: "linux:ada"}, true},
		{"another user", `[{users: ["linux:ada"]}]`, Subject{User: "linux:eve"}, false},
		{"the name from another issuer", `[{users: ["linux:ada"]}]`, Subject{User: "k8s:ada"}, false},
		{"any of the users", `[{users: ["linux:bob", "linux:ada"]}]`, Subject{User: "linux:ada"}, true},
		{"any of the groups", `[{groups: ["linux:ops", "linux:staff"]}]`, ada, true},
		{"none of the groups", `[{groups: ["linux:ops"]}]`, ada, false},
		{"a group is not a user", `[{users: ["linux:staff"]}]`, ada, false},
		{"user and group", `[{users: ["linux:ada"], groups: ["linux:staff"]}]`, ada, true},
		{"user without the group", `[{users: ["linux:ada"], groups: ["linux:ops"]}]`, ada, false},
		{"group without the user", `[{users: ["linux:eve"], groups: ["linux:staff"]}]`, ada, false},
		{"any of the subjects", `[{users: ["linux:eve"]}, {groups: ["linux:staff"]}]`, ada, true},
		{"capitals differ", `[{users: ["linux:Ada"]}]`, ada, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			set, err := Parse("f", []byte(strings.Replace(small, `[{users: ["linux:ada"]}]`, row.subjects, 1)))
			if err != nil {
				t.Fatal(err)
			}
			if got := !set.View("db", row.who).Empty(); got != row.want {
				t.Errorf("got match %v, want %v", got, row.want)
			}
		})
	}
}

func TestPodsMatchEachFieldByAnyEntry(t *testing.T) {
	noPod := Subject{User: reporter.User, Groups: reporter.Groups}
	for _, row := range []struct {
		name, subjects string
		who            Subject
		want           bool
	}{
		{"the namespace", `[{namespaces: [agents]}]`, reporter, true},
		{"any of the namespaces", `[{namespaces: [other, agents]}]`, reporter, true},
		{"another namespace", `[{namespaces: [agent]}]`, reporter, false},
		{"the service account", `[{serviceAccounts: [reporter]}]`, reporter, true},
		{"the pod's name is not its account", `[{serviceAccounts: [reporter-7]}]`, reporter, false},
		{"a label", `[{podLabels: {app: reporter}}]`, reporter, true},
		{"a label of no value", `[{podLabels: {tier: ""}}]`, reporter, true},
		{"a label that the pod lacks, of no value", `[{podLabels: {stage: ""}}]`, reporter, false},
		{"another value", `[{podLabels: {app: writer}}]`, reporter, false},
		{"all labels", `[{podLabels: {app: reporter, tier: ""}}]`, reporter, true},
		{"one label of two", `[{podLabels: {app: reporter, tier: back}}]`, reporter, false},
		{"every field", `[{namespaces: [agents], podLabels: {app: reporter}, serviceAccounts: [reporter], users: ["k8s:system:serviceaccount:agents:reporter"], groups: ["k8s:system:serviceaccounts"]}]`, reporter, true},
		{"every field but the namespace", `[{namespaces: [other], podLabels: {app: reporter}, serviceAccounts: [reporter]}]`, reporter, false},
		{"every field but the label", `[{namespaces: [agents], podLabels: {app: x}, serviceAccounts: [reporter]}]`, reporter, false},
		{"every field but the account", `[{namespaces: [agents], podLabels: {app: reporter}, serviceAccounts: [x]}]`, reporter, false},
		{"every field but the group", `[{namespaces: [agents], groups: ["k8s:system:serviceaccounts:other"]}]`, reporter, false},
		{"the user", `[{users: ["k8s:system:serviceaccount:agents:reporter"]}]`, reporter, true},
		{"the group of the namespace", `[{groups: ["k8s:system:serviceaccounts:agents"]}]`, reporter, true},
		{"a namespace, and who is no pod", `[{namespaces: [agents]}]`, noPod, false},
		{"a user, and who is no pod", `[{users: ["k8s:system:serviceaccount:agents:reporter"]}]`, noPod, true},
		{"any of the subjects", `[{namespaces: [other]}, {namespaces: [agents]}]`, reporter, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			set, rejected := compiled(t, dbTarget, strings.Replace(podReaders, "[{namespaces: [agents]}]", row.subjects, 1))
			if len(rejected) > 0 {
				t.Fatal(rejected)
			}
			if got := !set.View("db", row.who).Empty(); got != row.want {
				t.Errorf("got match %v, want %v", got, row.want)
			}
			if got := set.Policies()[0].Matches(row.who); got != row.want {
				t.Errorf("got policy match %v, want %v", got, row.want)
			}
		})
	}
}

func TestSelectorsOfPodsAreChecked(t *testing.T) {
	for _, row := range []struct{ name, subjects, want string }{
		{"a namespace", `[{namespaces: [agents]}]`, ""},
		{"labels and a namespace", `[{namespaces: [agents], podLabels: {app.kubernetes.io/name: x}}]`, ""},
		{"labels and a user", `[{users: ["k8s:system:serviceaccount:a:b"], podLabels: {app: x}}]`, ""},
		{"labels and a namespace's group", `[{groups: ["k8s:system:serviceaccounts:a"], podLabels: {app: x}}]`, ""},
		{"labels alone", `[{podLabels: {app: x}}]`, "warning: spec.subjects[0]: matches pods of every namespace"},
		{"labels and the group of all", `[{groups: ["k8s:system:serviceaccounts"], podLabels: {app: x}}]`, "warning: spec.subjects[0]: matches pods of every namespace"},
		{"accounts alone", `[{serviceAccounts: [x]}]`, "warning: spec.subjects[0]: matches pods of every namespace"},
		{"a user of another namespace", `[{namespaces: [a], users: ["k8s:system:serviceaccount:b:x"]}]`, "warning: spec.subjects[0]: names users that are none of the pods"},
		{"a user who is no pod", `[{namespaces: [a], users: ["linux:ada"]}]`, `warning: spec.subjects[0].users[0]: "linux:ada": pods are no Linux users`},
		{"a pattern", `[{namespaces: ["a*"]}]`, `spec.subjects[0].namespaces[0]: "a*" has a *, and subjects have no patterns; name each`},
		{"a namespace that is none", `[{namespaces: [Agents]}]`, `spec.subjects[0].namespaces[0]: "Agents" is not the name of a namespace`},
		{"an account with its namespace", `[{serviceAccounts: [a/b]}]`, `spec.subjects[0].serviceAccounts[0]: "a/b" is not the name of a service account`},
		{"a namespace twice", `[{namespaces: [a, a]}]`, `spec.subjects[0].namespaces[1]: "a" is there twice; keep one`},
		{"a label that is none", `[{namespaces: [a], podLabels: {"a b": c}}]`, `spec.subjects[0].podLabels: "a b": "c" is not a label`},
		{"a value that is none", `[{namespaces: [a], podLabels: {app: "-"}}]`, `spec.subjects[0].podLabels: "app": "-" is not a label`},
		{"a label that is a number", `[{namespaces: [a], podLabels: {app: 7}}]`, `spec.subjects[0].podLabels.app: is a number; want text for text`},
		{"labels that are a list", `[{namespaces: [a], podLabels: [app]}]`, `spec.subjects[0].podLabels: is a list; want a mapping of text to text`},
		{"no label", `[{namespaces: [a], podLabels: {}}]`, `spec.subjects[0].podLabels: has 0 entries`},
		{"a person", `[{users: ["k8s:ada"]}]`, `spec.subjects[0].users[0]: "k8s:ada" is no pod's`},
		{"a group that is no pod's", `[{groups: ["k8s:system:masters"]}]`, `spec.subjects[0].groups[0]: "k8s:system:masters" is no pod's`},
		{"a group like that of pods", `[{groups: ["k8s:system:serviceaccountsx"]}]`, `spec.subjects[0].groups[0]: "k8s:system:serviceaccountsx" is no pod's`},
		{"the prefix that is kept", `[{users: ["pod:x"]}]`, `spec.subjects[0].users[0]: "pod:x": pod is reserved`},
	} {
		t.Run(row.name, func(t *testing.T) {
			set, rejected := compiled(t, dbTarget, strings.Replace(podReaders, "[{namespaces: [agents]}]", row.subjects, 1))
			got := ""
			if err := rejected["AccessPolicy/readers"]; err != nil {
				got = err.Error()
			} else if remarks := set.Remarks("AccessPolicy/readers"); len(remarks) > 0 {
				got = "warning: " + remarks[0]
			}
			if row.want == "" && got != "" || !strings.HasPrefix(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// TestPodsThatMeet compares two policies with different credentials.
func TestPodsThatMeet(t *testing.T) {
	for _, row := range []struct {
		name, first, second string
		want                bool // that one pod may match both
	}{
		{"one namespace", `namespaces: [a]`, `namespaces: [a, b]`, true},
		{"two namespaces", `namespaces: [a]`, `namespaces: [b]`, false},
		{"one account", `namespaces: [a], serviceAccounts: [x]`, `namespaces: [a], serviceAccounts: [x]`, true},
		{"two accounts", `namespaces: [a], serviceAccounts: [x]`, `namespaces: [a], serviceAccounts: [z]`, false},
		{"two values of a label", `podLabels: {app: x}`, `podLabels: {app: z}`, false},
		{"two labels", `podLabels: {app: x}`, `podLabels: {tier: x}`, true},
		{"labels and a namespace", `podLabels: {app: x}`, `namespaces: [a]`, true},
		{"a user of the namespace", `users: ["k8s:system:serviceaccount:a:x"]`, `namespaces: [a]`, true},
		{"a user of another namespace", `users: ["k8s:system:serviceaccount:b:x"]`, `namespaces: [a]`, false},
		{"a user of another account", `users: ["k8s:system:serviceaccount:a:x"]`, `namespaces: [a], serviceAccounts: [z]`, false},
		{"a Linux user", `users: ["linux:ada"]`, `namespaces: [a]`, false},
		{"a group", `groups: ["k8s:system:serviceaccounts:a"]`, `namespaces: [a]`, true},
		{"a group of another namespace", `groups: ["k8s:system:serviceaccounts:b"]`, `namespaces: [a]`, false},
		{"two groups of namespaces", `groups: ["k8s:system:serviceaccounts:b"]`, `groups: ["k8s:system:serviceaccounts:a"]`, false},
		{"a user and the group of another namespace", `users: ["k8s:system:serviceaccount:b:x"]`, `groups: ["k8s:system:serviceaccounts:a"]`, false},
		{"the groups of two namespaces and of one", `groups: ["k8s:system:serviceaccounts:a", "k8s:system:serviceaccounts:b"]`, `groups: ["k8s:system:serviceaccounts:a"]`, true},
		{"one of whom nobody matches", `namespaces: [a], users: ["k8s:system:serviceaccount:b:x"]`, `namespaces: [a]`, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			const policy = "AccessPolicy %s targets: [db], credential: {secret: %[1]s}, subjects: [{%s}], rules: [{name: all, allow: [ALL]}]"
			set, rejected := compiled(t, dbTarget, fmt.Sprintf(policy, "a", row.first), fmt.Sprintf(policy, "b", row.second))
			if len(rejected) > 0 {
				t.Fatal(rejected)
			}
			if got := len(set.AmbiguousWith("a")) > 0 && len(set.AmbiguousWith("b")) > 0; got != row.want {
				t.Errorf("got a meeting %v, want %v", got, row.want)
			}
		})
	}
}

func TestEmptySelectorMatchesNobody(t *testing.T) {
	if (&Selector{}).matches(ada) || (&Selector{}).matches(Subject{}) || (&Selector{}).matches(reporter) {
		t.Error("got a match from a selector without fields, want none")
	}
}

func TestStrictestRules(t *testing.T) {
	const rules = "\nrules: [{name: reads, allow: [SELECT]}]"
	for _, row := range []struct {
		name  string
		specs []string
		want  string // durability, record, whether a token is required
	}{
		{"defaults", []string{""}, "balanced redacted false"},
		{"what one says", []string{"durability: relaxed\nrecord: full\nrequireToken: true"}, "relaxed full true"},
		{"a default is stricter than relaxed and full", []string{"durability: relaxed\nrecord: full", ""}, "balanced redacted false"},
		{"reply over balanced", []string{"durability: reply", "durability: balanced"}, "reply redacted false"},
		{"strict over reply", []string{"durability: reply", "durability: strict"}, "strict redacted false"},
		{"none keeps the fewest values", []string{"record: none", "record: full"}, "balanced none false"},
		{"a token for one is a token", []string{"requireToken: true", ""}, "balanced redacted true"},
		{"observed: stricter recording, no demand", []string{"mode: observe\ndurability: strict\nrecord: none\nrequireToken: true", ""}, "strict none false"},
	} {
		t.Run(row.name, func(t *testing.T) {
			specs := make([]string, len(row.specs))
			for i, spec := range row.specs {
				specs[i] = spec + rules
			}
			view := policySet(t, specs...).View("db", ada)
			if got := fmt.Sprint(view.Durability(), " ", view.Record(), " ", view.RequireToken()); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

// TestCredential gives each policy subjects of its own, so that only the view can tell that they meet.
func TestCredential(t *testing.T) {
	spec := func(name, subjects, rest string) string {
		return fmt.Sprintf("---\napiVersion: postern.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: %s}\nspec: {subjects: [%s], targets: [db], %srules: [{name: reads, allow: [SELECT]}]}\n", name, subjects, rest)
	}
	const user, group = `{users: ["linux:ada"]}`, `{groups: ["linux:staff"]}`
	for _, row := range []struct{ name, policies, want string }{
		{"the Target's", spec("a", user, ""), "/etc/postern/login.yaml"},
		{"a policy's", spec("a", user, "credential: {file: /a}, "), "/a"},
		{"one policy's beside one without", spec("a", user, "credential: {file: /a}, ") + spec("b", group, ""), "/a"},
		{"two equal ones", spec("a", user, "credential: {file: /a}, ") + spec("b", group, "credential: {file: /a}, "), "/a"},
		{"two different ones", spec("a", user, "credential: {file: /a}, ") + spec("b", group, "credential: {file: /b}, "), "policies a and b name different credentials for target db"},
		{"an observed one beside an enforced one", spec("a", user, "mode: observe, credential: {file: /a}, ") + spec("b", group, "credential: {file: /b}, "), "/b"},
		{"an observed one beside an enforced one without", spec("a", user, "mode: observe, credential: {file: /a}, ") + spec("b", group, ""), "/etc/postern/login.yaml"},
		{"an observed one alone", spec("a", user, "mode: observe, credential: {file: /a}, "), "/a"},
	} {
		t.Run(row.name, func(t *testing.T) {
			set, err := Parse("f", []byte(head+row.policies))
			if err != nil {
				t.Fatal(err)
			}
			credential, err := set.View("db", ada).Credential()
			got := credential.File
			if err != nil {
				var conflict *CredentialConflict
				if !errors.As(err, &conflict) || conflict.First != "a" || conflict.Second != "b" {
					t.Errorf("got %#v, want a conflict of a and b", err)
				}
				got = err.Error()
			}
			if got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestClientCredential(t *testing.T) {
	set, err := Parse("f", []byte(strings.Replace(small, "{file: /etc/postern/login.yaml}", "{client: true}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := set.View("db", ada).Credential(); err != nil || !got.Client || got.File != "" {
		t.Errorf("got %+v and %v, want the client's", got, err)
	}
}

func TestCertainCredentialConflictIsAMistake(t *testing.T) {
	spec := func(name, subjects, mode string) string {
		return fmt.Sprintf("---\napiVersion: postern.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: %s}\nspec: {subjects: [%s], targets: [db], mode: %s, credential: {file: /%s}, rules: [{name: reads, allow: [SELECT]}]}\n", name, subjects, mode, name)
	}
	for _, row := range []struct {
		name, first, second, modes string
		want                       string // mistake, warning, or nothing
	}{
		{"one user", `{users: ["linux:ada"]}`, `{users: ["linux:bob", "linux:ada"]}`, "enforce enforce", "mistake"},
		{"two users", `{users: ["linux:ada"]}`, `{users: ["linux:bob"]}`, "enforce enforce", "nothing"},
		{"one group", `{groups: ["linux:x"]}`, `{groups: ["linux:x"]}`, "enforce enforce", "mistake"},
		{"two groups", `{groups: ["linux:x"]}`, `{groups: ["linux:y"]}`, "enforce enforce", "warning"},
		{"a user and a group", `{users: ["linux:ada"]}`, `{groups: ["linux:y"]}`, "enforce enforce", "warning"},
		{"one user in two groups", `{users: ["linux:ada"], groups: ["linux:x"]}`, `{users: ["linux:ada"], groups: ["linux:y"]}`, "enforce enforce", "warning"},
		{"one user in one group", `{users: ["linux:ada"], groups: ["linux:x"]}`, `{users: ["linux:ada"], groups: ["linux:x"]}`, "enforce enforce", "mistake"},
		{"two users in one group", `{users: ["linux:ada"], groups: ["linux:x"]}`, `{users: ["linux:bob"], groups: ["linux:x"]}`, "enforce enforce", "nothing"},
		{"one user, one of them observed", `{users: ["linux:ada"]}`, `{users: ["linux:ada"]}`, "enforce observe", "nothing"},
		{"one user, both observed", `{users: ["linux:ada"]}`, `{users: ["linux:ada"]}`, "observe observe", "mistake"},
	} {
		t.Run(row.name, func(t *testing.T) {
			first, second, _ := strings.Cut(row.modes, " ")
			set, err := Parse("f", []byte(head+spec("a", row.first, first)+spec("b", row.second, second)))
			got := "nothing"
			if err != nil && strings.Contains(err.Error(), "AccessPolicy/b: spec.credential: differs from that of AccessPolicy/a (f:") {
				got = "mistake"
			} else if err != nil {
				t.Fatal(err)
			} else if len(set.Warnings()) > 0 {
				got = "warning"
			}
			if got != row.want {
				t.Errorf("got a %s, want a %s (%v)", got, row.want, err)
			}
		})
	}
}

func TestHashFollowsContent(t *testing.T) {
	parse := func(old, new string) *Set {
		set, err := Parse("f", []byte(strings.Replace(small, old, new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	base := parse("", "")
	if got := base.Hash(); !strings.HasPrefix(got, "sha256:") || len(got) != len("sha256:")+64 {
		t.Errorf("got %q, want sha256: and 64 digits", got)
	}
	for _, row := range []struct {
		name, old, new string
		same           bool
	}{
		{"a comment", "kind: Target", "kind: Target # what is protected", true},
		{"a default written out", "targets: [db]", "targets: [db]\n  mode: enforce\n  durability: balanced", true},
		{"the default port", "hosts: [db.internal]", "hosts: [db.internal]\n  ports: [5432]", true},
		{"a word", "[SELECT]", "[READ]", false},
		{"a host", "[db.internal]", "[db.external]", false},
		{"a credential's path", "login.yaml", "other.yaml", false},
		{"a mode", "targets: [db]", "targets: [db]\n  mode: observe", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			set := parse(row.old, row.new)
			if got := set.Hash() == base.Hash(); got != row.same {
				t.Errorf("got equal set hashes %v, want %v", got, row.same)
			}
			if got := set.View("db", ada).Hash() == base.View("db", ada).Hash(); got != row.same {
				t.Errorf("got equal view hashes %v, want %v", got, row.same)
			}
		})
	}
	others := policySet(t, `rules: [{name: reads, allow: [SELECT]}]`, `rules: [{name: more, allow: [INSERT]}]`)
	if one, both := policySet(t, `rules: [{name: reads, allow: [SELECT]}]`).View("db", ada).Hash(), others.View("db", ada).Hash(); one == both {
		t.Errorf("got one hash %s for one policy and for two, want two", one)
	}
}

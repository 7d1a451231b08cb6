package policy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// live makes documents as an API server hands them out of the YAML of some objects,
// the first of them the oldest.
func live(t testing.TB, text string) []Document {
	t.Helper()
	var docs []Document
	for i, document := range strings.Split("\n"+text, "\n---\n") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatalf("%v in %s", err, document)
		}
		if object == nil {
			continue
		}
		metadata, _ := object["metadata"].(map[string]any)
		metadata["uid"], metadata["resourceVersion"], metadata["generation"] = fmt.Sprint("u", i), "12", 3
		metadata["creationTimestamp"] = fmt.Sprintf("2026-01-02T03:04:%02dZ", i%60)
		metadata["managedFields"] = []any{map[string]any{"manager": "kubectl", "fieldsV1": map[string]any{"f:spec": map[string]any{}}}}
		metadata["annotations"] = map[string]any{"kubectl.kubernetes.io/last-applied-configuration": "{}"}
		object["status"] = map[string]any{"conditions": []any{}}
		data, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, Document{Name: fmt.Sprint(object["kind"], "/", metadata["name"]), JSON: data})
	}
	return docs
}

// documentOf makes a document of "Kind name spec", with the spec as YAML in one line.
func documentOf(t testing.TB, line string) Document {
	t.Helper()
	kind, rest, _ := strings.Cut(line, " ")
	name, spec, _ := strings.Cut(rest, " ")
	return live(t, fmt.Sprintf("apiVersion: postern.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: {%s}\n", kind, name, spec))[0]
}

// compiled is Compile on documents, as documentOf has them, the first of them the oldest.
func compiled(t testing.TB, lines ...string) (*Set, map[string]error) {
	t.Helper()
	docs := make([]Document, len(lines))
	for i, line := range lines {
		docs[i] = documentOf(t, line)
		docs[i].JSON = aged(docs[i].JSON, i)
	}
	set, rejected, err := Compile(docs)
	if err != nil {
		t.Fatal(err)
	}
	return set, rejected
}

// aged makes an object some seconds younger than live does.
func aged(object []byte, seconds int) []byte {
	return []byte(strings.Replace(string(object), "03:04:00Z", fmt.Sprintf("03:%02d:%02dZ", 4+seconds/60, seconds%60), 1))
}

// The parts of most sets.
const (
	dbTarget   = "Target db protocol: postgres, hosts: [db.internal], credential: {secret: login}"
	podReaders = "AccessPolicy readers targets: [db], subjects: [{namespaces: [agents]}], rules: [{name: reads, allow: [SELECT]}]"
)

// reporter is a pod with its user and groups as the kernel's record proves them.
var reporter = Subject{
	User:   "k8s:system:serviceaccount:agents:reporter",
	Groups: []string{"k8s:system:serviceaccounts", "k8s:system:serviceaccounts:agents"},
	Pod: &PodSubject{
		Namespace: "agents", Name: "reporter-7", ServiceAccount: "reporter", Labels: map[string]string{"app": "reporter", "tier": ""},
	},
}

func TestOneBadObjectVoidsNoOther(t *testing.T) {
	set, rejected := compiled(t, dbTarget, podReaders,
		"Target broken protocol: postgres, hosts: [other.internal], colour: blue",
		"AccessPolicy broken targets: [db], subjects: [{namespaces: [agents]}], rules: [{name: reads, allow: [selects]}]",
		"Issuer broken url: 'http://x', audience: a, username: claims.sub",
		"NodeStatus n1 a: b")
	want := map[string]string{
		"Target/broken":       "spec.colour: is not a field here",
		"AccessPolicy/broken": `spec.rules[0].allow[0]: "selects" is not a word`,
		"Issuer/broken":       `spec.url: "http://x" is not an issuer's URL`,
		"NodeStatus/n1":       `kind: "NodeStatus" is not a kind`,
	}
	if len(rejected) != len(want) {
		t.Errorf("got %v, want %d objects rejected", rejected, len(want))
	}
	for key, text := range want {
		if got := rejected[key]; got == nil || !strings.HasPrefix(got.Error(), text) {
			t.Errorf("got %v for %s, want %s", got, key, text)
		}
	}
	if len(set.Targets()) != 1 || len(set.Policies()) != 1 || len(set.Issuers()) != 0 {
		t.Errorf("got %d, %d, %d objects, want the good ones", len(set.Targets()), len(set.Policies()), len(set.Issuers()))
	}
	if got := set.View("db", reporter).Decide(Request{Statements: []Statement{one("SELECT", "public.users")}}); got.Action != Allow {
		t.Errorf("got %+v, want the good objects to decide", got)
	}
}

func TestWhatCannotBeReadIsRejectedByItsName(t *testing.T) {
	for _, row := range []struct{ name, json, want string }{
		{"nothing", "", "is not JSON: EOF"},
		{"half an object", `{"kind":"Target"`, "is not JSON: EOF"},
		{"two objects", `{} {}`, "is not JSON: there is more behind the object"},
		{"too deep", strings.Repeat("[", 100), "is not JSON: it nests deeper than 32 levels"},
		{"too large", `"` + strings.Repeat("x", maxBytes) + `"`, "has more than 1 MiB"},
	} {
		t.Run(row.name, func(t *testing.T) {
			set, rejected, err := Compile([]Document{{"Target/x", []byte(row.json)}})
			if err != nil || set == nil || len(rejected) != 1 || rejected["Target/x"].Error() != row.want {
				t.Errorf("got %v and %v, want %s", rejected, err, row.want)
			}
		})
	}
}

func TestEmptyClusterGuardsNothingAndRefusesEverything(t *testing.T) {
	set, rejected, err := Compile(nil)
	if err != nil || len(rejected) != 0 || rejected == nil || len(set.Targets()) != 0 || !set.View("db", reporter).Empty() {
		t.Errorf("got %v, %v, %v, want an empty set", set, rejected, err)
	}
}

// TestWhatObjectsDisputeIsTheOlders: live gives the first object the earliest time.
func TestWhatObjectsDisputeIsTheOlders(t *testing.T) {
	const issuer = "url: 'https://ci.example', audience: a, username: claims.sub"
	for _, row := range []struct {
		name         string
		lines        []string
		key, message string // "" where all are accepted
	}{
		{"an address", []string{"Target z protocol: postgres, hosts: [10.0.0.1]", "Target a protocol: postgres, hosts: [10.0.0.1]"}, "Target/a", "belongs to Target/z; give"},
		{"a Service", []string{"Target z protocol: postgres, services: [{namespace: data, name: pg}]", "Target a protocol: postgres, services: [{namespace: data, name: pg}]"}, "Target/a", "data/pg with a port of it belongs to Target/z"},
		{"a Service on two ports", []string{"Target z protocol: postgres, services: [{namespace: data, name: pg}]", "Target a protocol: postgres, ports: [6432], services: [{namespace: data, name: pg}]"}, "", ""},
		{"a socket", []string{"Target z protocol: postgres, hosts: [a], sockets: [/s]", "Target a protocol: postgres, hosts: [b], sockets: [/s]"}, "Target/a", "belongs to Target/z"},
		{"an issuer", []string{"Issuer z " + issuer, "Issuer a " + issuer}, "Issuer/a", "is the one of Issuer/z"},
		{"an address of one that is rejected", []string{"Target z protocol: postgres, hosts: [10.0.0.1], colour: blue", "Target a protocol: postgres, hosts: [10.0.0.1]"}, "Target/z", "colour"},
		{"an issuer that is rejected", []string{"Issuer z groups: 1, " + issuer, "Issuer a " + issuer}, "Issuer/z", "groups"},
		{"what unknown hosts are", []string{"Target z protocol: postgres, hosts: [a]", "Target a protocol: postgres, hosts: [b], unknownHosts: pass"}, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, rejected := compiled(t, row.lines...)
			if row.key == "" {
				if len(rejected) > 0 {
					t.Errorf("got %v, want all accepted", rejected)
				}
				return
			}
			if len(rejected) != 1 || rejected[row.key] == nil || !strings.Contains(rejected[row.key].Error(), row.message) {
				t.Errorf("got %v, want %s: %s", rejected, row.key, row.message)
			}
		})
	}
}

// TestDenyOutlivesAnotherTarget: whoever takes one Target away, or never had it, must
// not take a policy's denials from the others.
func TestDenyOutlivesAnotherTarget(t *testing.T) {
	const deny = "AccessPolicy no-ddl targets: [db, gone], subjects: [{namespaces: [agents]}, {users: ['okta:ada']}], rules: [{name: no-ddl, deny: [DDL]}]"
	const allow = "AccessPolicy all targets: [db], subjects: [{namespaces: [agents]}], rules: [{name: all, allow: [ALL]}]"
	set, rejected := compiled(t, dbTarget, allow, deny)
	if len(rejected) > 0 {
		t.Fatalf("got %v, want all accepted", rejected)
	}
	if got := set.View("db", reporter).Decide(Request{Statements: []Statement{one("DDL")}}); got.Action != Deny || got.Rule != "no-ddl" {
		t.Errorf("got %+v, want the denial", got)
	}
	want := []string{
		`spec.subjects[1].users[0]: "okta:ada": there is no Issuer "okta" that is accepted; nobody matches it until there is`,
		`spec.targets[1]: there is no Target "gone" that is accepted; nothing holds there until there is`,
		"spec.rules: there is no allow rule: what no other policy allows is refused",
	}
	if got := set.Remarks("AccessPolicy/no-ddl"); !slices.Equal(got, want) {
		t.Errorf("got remarks %q, want %q", got, want)
	}
}

func TestPolicyOfNoTargetWaits(t *testing.T) {
	_, rejected := compiled(t, podReaders, "Target db protocol: postgres, hosts: [db.internal], colour: blue")
	const want = "spec.targets: names no Target that is accepted (db); the policy waits until there is one"
	if got := rejected["AccessPolicy/readers"]; got == nil || got.Error() != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestTargetWithoutCredentialIsGuarded: were it left out, its addresses would be open.
func TestTargetWithoutCredentialIsGuarded(t *testing.T) {
	set, rejected := compiled(t, "Target db protocol: postgres, hosts: [db.internal]", podReaders)
	if len(rejected) > 0 || len(set.Targets()) != 1 {
		t.Fatalf("got %v, want the Target accepted", rejected)
	}
	if _, err := set.View("db", reporter).Credential(); err == nil {
		t.Error("got a credential, want none")
	}
	if got := set.Remarks("Target/db"); len(got) != 1 || !strings.Contains(got[0], "spec.credential: is missing, and AccessPolicy/readers names none either") {
		t.Errorf("got %q, want a remark on the credential", got)
	}
}

func TestAmbiguousPoliciesBothHold(t *testing.T) {
	const other = "AccessPolicy other targets: [db], credential: {secret: b}, subjects: [{namespaces: [agents], podLabels: {app: reporter}}], rules: [{name: all, allow: [ALL]}]"
	set, rejected := compiled(t, dbTarget, strings.Replace(podReaders, "subjects", "credential: {secret: a}, subjects", 1), other)
	if len(rejected) > 0 {
		t.Fatalf("got %v, want both accepted", rejected)
	}
	if got, back := set.AmbiguousWith("readers"), set.AmbiguousWith("other"); !slices.Equal(got, []string{"other"}) || !slices.Equal(back, []string{"readers"}) {
		t.Errorf("got %v and %v, want each other", got, back)
	}
	_, err := set.View("db", reporter).Credential()
	if err == nil || !strings.Contains(err.Error(), "policies other and readers name different credentials") {
		t.Errorf("got %v, want a refusal by both names", err)
	}
	without := reporter
	without.Pod = &PodSubject{Namespace: "agents"}
	if got, err := set.View("db", without).Credential(); err != nil || got.Secret != "a" {
		t.Errorf("got %+v and %v for a pod that one policy matches, want its secret", got, err)
	}
}

func TestSourceFollowsTLS(t *testing.T) {
	for _, row := range []struct {
		spec string
		want Source // "" where it is refused
	}{
		{"", SourcePod},
		{", source: node", SourceNode},
		{", source: pod", SourcePod},
		{", tls: {mode: require}", SourceNode},
		{", tls: {mode: disable}, source: node", SourceNode},
		{", tls: {mode: disable}, source: pod", ""},
		{", tls: {mode: require}, source: pod", ""},
	} {
		set, rejected := compiled(t, dbTarget+row.spec, podReaders)
		if row.want == "" {
			if got := rejected["Target/db"]; got == nil || !strings.HasPrefix(got.Error(), "spec.source: is pod, and tls.mode") {
				t.Errorf("%s: got %v, want a refusal", row.spec, got)
			}
			continue
		}
		if len(rejected) > 0 {
			t.Errorf("%s: got %v, want it accepted", row.spec, rejected)
			continue
		}
		target := set.Targets()[0]
		if target.Spec.Source != row.want {
			t.Errorf("%s: got source %s, want %s", row.spec, target.Spec.Source, row.want)
		}
		weak := slices.ContainsFunc(set.Remarks("Target/db"), func(text string) bool { return strings.Contains(text, "weaker than verified TLS") })
		if weak == target.Verified() {
			t.Errorf("%s: got a remark on weak TLS %v, and verified %v, want one of them", row.spec, weak, target.Verified())
		}
	}
}

func TestClusterReadsNoFiles(t *testing.T) {
	for key, line := range map[string]string{
		"Target/a": "Target a protocol: postgres, hosts: [a], credential: {file: /a}",
		"Target/b": "Target b protocol: postgres, hosts: [b], tls: {ca: {file: /a}}",
		"Issuer/c": "Issuer c url: 'https://ci.example', audience: a, username: claims.sub, ca: {file: /a}",
	} {
		if _, rejected := compiled(t, line); rejected[key] == nil || !strings.Contains(rejected[key].Error(), "an agent in a cluster reads no files") {
			t.Errorf("got %v for %s, want a refusal", rejected, key)
		}
	}
}

func TestHashForgetsWhatTheClusterWrites(t *testing.T) {
	docs := live(t, clusterText)
	first, _, err := Compile(docs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range docs {
		docs[i].JSON = []byte(strings.ReplaceAll(strings.ReplaceAll(string(docs[i].JSON), `"resourceVersion":"12"`, `"resourceVersion":"99"`), `"generation":3`, `"generation":4`))
	}
	slices.Reverse(docs)
	second, _, err := Compile(docs)
	if err != nil || first.Hash() != second.Hash() || len(second.Targets()) == 0 {
		t.Errorf("got %s and %s, %v, want one hash", first.Hash(), second.Hash(), err)
	}
	if got := second.Targets()[0].ResourceVersion; got != "99" {
		t.Errorf("got version %q, want 99", got)
	}
}

func TestNewestObjectsBeyondTheBoundAreRejected(t *testing.T) {
	lines := []string{dbTarget}
	for i := range maxObjects {
		lines = append(lines, fmt.Sprintf("Target t%d protocol: postgres, hosts: [h%d]", i, i))
	}
	set, rejected := compiled(t, lines...)
	last := fmt.Sprintf("Target/t%d", maxObjects-1)
	if len(set.Targets()) != maxObjects || len(rejected) != 1 || rejected[last] == nil {
		t.Errorf("got %d Targets and %v, want %s alone rejected", len(set.Targets()), rejected, last)
	}
}

// clusterText is a set with every field that works in a cluster only.
const clusterText = `apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec:
  protocol: postgres
  hosts: [db.internal]
  services: [{namespace: data, name: orders}]
  exclusive: true
  source: pod
  tls: {serverName: db.internal, ca: {secret: orders-ca}}
  credential: {secret: orders-login}
---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: readers}
spec:
  subjects:
    - {namespaces: [agents], podLabels: {app: reporter}, serviceAccounts: [reporter]}
    - {users: ["k8s:system:serviceaccount:agents:reporter"]}
  targets: [db]
  credential: {secret: orders-readers}
  requireToken: true
  rules: [{name: reads, allow: [SELECT], when: "workload.namespace == 'agents' && 'app' in workload.labels"}]
`

// FuzzCompile: no input panics; what is not rejected decides; and a good object
// beside the input counts whatever that holds.
func FuzzCompile(f *testing.F) {
	paths, _ := filepath.Glob("../../deploy/examples/cluster/*.yaml")
	texts := []string{clusterText, small}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	for _, text := range texts {
		for _, doc := range live(f, text) {
			f.Add(doc.JSON)
		}
	}
	f.Add([]byte(`{"kind":"Target","metadata":{"name":"\ud83d\ude00"},"spec":{"protocol":null,"hosts":[1e9,"a"]}}`))
	good := live(f, strings.ReplaceAll(strings.ReplaceAll(clusterText, "{name: db}", "{name: good-target}"), "targets: [db]", "targets: [good-target]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, rejected, err := Compile(append([]Document{{"fuzz", data}}, good...))
		if err != nil {
			t.Fatalf("got %v, want no error", err)
		}
		disputed := rejected["Target/good-target"] != nil // by an older one
		if _, ok := set.Target("good-target"); !ok && !disputed {
			t.Error("got no good Target, want it beside whatever the input is")
		}
		for _, target := range set.Targets() {
			if len(target.Ports()) == 0 || len(target.Spec.Hosts)+len(target.Spec.Services) == 0 || target.Spec.Source == SourcePod && !target.Verified() {
				t.Errorf("got %+v, want ports, an address, and nothing unproven from a pod", target.Spec)
			}
			set.View(target.Name(), reporter).Decide(Request{Statements: []Statement{one("SELECT", "public.users", "f()"), unknown("")}})
		}
	})
}

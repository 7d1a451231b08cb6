package policy

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestBrokenFileReportsEverythingAtOnce(t *testing.T) {
	set, err := Load("testdata/broken.yaml")
	if err == nil || set != nil {
		t.Fatalf("got set %v and error %v, want no set and an error", set, err)
	}
	golden(t, "broken.golden", err.Error()+"\n")
	if n := strings.Count(err.Error(), "\n") + 1; n < 25 {
		t.Errorf("got %d mistakes, want at least 25", n)
	}
}

func TestWarningsNameWhatIsLegalAndDubious(t *testing.T) {
	set, err := Load("testdata/dubious.yaml")
	if err != nil {
		t.Fatalf("got %v, want a set", err)
	}
	golden(t, "dubious.golden", strings.Join(set.Warnings(), "\n")+"\n")
}

func TestExamplesLoad(t *testing.T) {
	paths, err := filepath.Glob("../../deploy/examples/*.yaml")
	if err != nil || len(paths) < 3 {
		t.Fatalf("got %v and error %v, want the examples", paths, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			set, err := Load(path)
			if err != nil {
				t.Fatalf("got\n%v\nwant a set", err)
			}
			if got := set.Warnings(); len(got) != 0 {
				t.Errorf("got warnings %q, want none", got)
			}
			if _, ok := set.Target("orders-db"); !ok {
				t.Error("got no orders-db, want it")
			}
		})
	}
}

// TestReporterExampleDecides shows that the example does what its comments say.
func TestReporterExampleDecides(t *testing.T) {
	set, err := Load("../../deploy/examples/reporter.yaml")
	if err != nil {
		t.Fatal(err)
	}
	view := set.View("orders-db", Subject{User: "linux:ada"})
	for operations, want := range map[string]string{
		"SELECT": "allow reporter/reads",
		"DELETE": "deny reporter/: no rule allows DELETE",
		"DDL":    "deny reporter/no-schema-changes: schema changes go through migrations",
	} {
		got := view.Decide(Request{Database: "orders", Statements: []Statement{one(operations, "public.customers")}})
		if text := verdict(got.Action, got.Policy, got.Rule, got.Reason); text != want {
			t.Errorf("got %s, want %s", text, want)
		}
	}
}

// small is a valid file, into which rows put one mistake each.
const small = `apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec:
  protocol: postgres
  hosts: [db.internal]
  credential: {file: /etc/postern/login.yaml}
---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: readers}
spec:
  subjects: [{users: ["linux:ada"]}]
  targets: [db]
  rules: [{name: reads, allow: [SELECT]}]
`

func TestSmallFileLoads(t *testing.T) {
	if _, err := Parse("f", []byte(small)); err != nil {
		t.Fatalf("got %v, want a set: the rows of the other tests start from it", err)
	}
}

func TestFormIsStrict(t *testing.T) {
	for _, row := range []struct{ name, old, new, want string }{
		{"not YAML", "kind: Target", "kind: [Target", "f:2: is not YAML: did not find expected ',' or ']'"},
		{"a tab", "  hosts", "\thosts", "f:5: is not YAML: found a tab character that violates indentation"},
		{"nothing", small, "", "f: holds no object; write a Target or an AccessPolicy"},
		{"comments only", small, "# nothing\n---\n# here\n", "f: holds no object; write a Target or an AccessPolicy"},
		{"text", small, "hello", "f:1: object: kind: is missing; want Target, AccessPolicy or Issuer"},
		{"an alias", "targets: [db]", "targets: [*x]", "f: is not YAML: unknown anchor 'x' referenced"},
		{
			"an alias of an anchor", "hosts: [db.internal]", "hosts: [&h db.internal, *h]",
			"f:6: Target/db: spec.hosts[0]: has an anchor; take it away, aliases are not read\nf:6: Target/db: spec.hosts[1]: is an alias; write the value out, aliases are not read",
		},
		{"a merge key", "  hosts", "  <<: {protocol: postgres}\n  hosts", "f:6: Target/db: spec.<<: is not a field here; the fields are protocol, hosts, services, ports, sockets, unknownHosts, otherPorts, tls, credential, sensitive, exclusive, source"},
		{"a tag", "protocol: postgres", "protocol: !!binary cG9zdGdyZXM=", "f:5: Target/db: spec.protocol: has a tag; write the plain value, tags are not read"},
		{"a key twice", "  protocol: postgres", "  protocol: postgres\n  protocol: postgres", "f:5: Target/db: spec.protocol: is given again on line 6, the first time is line 5; keep one"},
		{"a key that is no text", "  protocol: postgres", "  protocol: postgres\n  7: 8", "f:6: Target/db: spec.7: is not a field here; the fields are protocol, hosts, services, ports, sockets, unknownHosts, otherPorts, tls, credential, sensitive, exclusive, source"},
		{"a key that is a list", "  protocol: postgres", "  protocol: postgres\n  ? [a]\n  : b", "f:5: Target/db: spec: has a key on line 6 that is not plain text; write a field's name"},
		{"a list for text", "protocol: postgres", "protocol: [postgres]", "f:5: Target/db: spec.protocol: is a list; want text, put it in quotes"},
		{"text for a list", "hosts: [db.internal]", "hosts: db.internal", "f:6: Target/db: spec.hosts: is text; want a list: [ … ]"},
		{"text for a mapping", "metadata: {name: db}", "metadata: db", "f:3: Target/(no name): metadata: is text; want a mapping with name, labels or annotations\nf:14: AccessPolicy/readers: spec.targets[0]: there is no Target \"db\"; name one of these files, or add it"},
		{"a date for text", "[{users: [\"linux:ada\"]}]", "[{users: [2026-01-02]}]", "f:13: AccessPolicy/readers: spec.subjects[0].users[0]: is a date; want text, put it in quotes"},
		{"an octal port", "hosts: [db.internal]", "hosts: [db.internal]\n  ports: [0o12]", "f:7: Target/db: spec.ports[0]: is a number; want a whole number"},
		{"a port of 20 digits", "hosts: [db.internal]", "hosts: [db.internal]\n  ports: [99999999999999999999]", "f:7: Target/db: spec.ports[0]: is a number; want a whole number"},
		{"what kubectl shows of metadata", "metadata: {name: db}", "metadata: {name: db, uid: x, resourceVersion: '1', creationTimestamp: 2026-01-02T03:04:05Z}", "f:3: Target/db: metadata.uid: " + ofTheCluster + "\nf:3: Target/db: metadata.resourceVersion: " + ofTheCluster + "\nf:3: Target/db: metadata.creationTimestamp: " + ofTheCluster},
		{"what kubectl shows of a status", "spec:\n  protocol", "status: {conditions: []}\nspec:\n  protocol", "f:4: Target/db: status: " + ofTheCluster},
		{"a namespace", "metadata: {name: db}", "metadata: {name: db, namespace: data}", "f:3: Target/db: metadata.namespace: is given, and Postern's objects belong to no namespace; take it away"},
		{"an unknown key of metadata", "metadata: {name: db}", "metadata: {name: db, color: x}", "f:3: Target/db: metadata.color: is not a field here; the fields are name, labels, annotations"},
		{"a label of a number", "metadata: {name: db}", "metadata: {name: db, labels: {a: 1}}", "f:3: Target/db: metadata.labels.a: is a number; want text for text, put both in quotes"},
		{"a label twice", "metadata: {name: db}", "metadata: {name: db, labels: {a: x, a: x}}", "f:3: Target/db: metadata.labels: has \"a\" twice; keep one"},
		{"labels behind an alias", "metadata: {name: db}", "metadata: {name: db, labels: {a: &a x}}", "f:3: Target/db: metadata.labels.a: is text; want text for text, put both in quotes"},
		{"a Secret", "{file: /etc/postern/login.yaml}", "{secret: login}", "f:7: Target/db: spec.credential.secret: works in a cluster only; name a file, as in {file: /path}"},
		{"a Service", "hosts: [db.internal]", "services: [{namespace: data, name: db}]", "f:6: Target/db: spec.services: works in a cluster only; name the server in hosts"},
		{"exclusive", "hosts: [db.internal]", "hosts: [db.internal]\n  exclusive: true", "f:7: Target/db: spec.exclusive: works in a cluster only; take it away"},
		{"from the pod", "hosts: [db.internal]", "hosts: [db.internal]\n  source: pod", "f:7: Target/db: spec.source: works in a cluster only; take it away"},
		{"pods", "{users: [\"linux:ada\"]}", "{namespaces: [agents]}", "f:13: AccessPolicy/readers: spec.subjects[0]: works in a cluster only; name users or groups instead of pods"},
		{"a pod's user", "linux:ada", "k8s:system:serviceaccount:a:b", "f:13: AccessPolicy/readers: spec.subjects[0].users[0]: works in a cluster only; use linux, or an Issuer's name"},
		{"an empty text", "hosts: [db.internal]", "hosts: ['']", "f:6: Target/db: spec.hosts[0]: is empty; give it a value or take the key away"},
		{"another version", "apiVersion: postern.dev/v1alpha1\nkind: Target", "apiVersion: postern.dev/v2\nkind: Target", "f:1: Target/db: apiVersion: \"postern.dev/v2\" is not a version that is read; want postern.dev/v1alpha1"},
		{"no version", "apiVersion: postern.dev/v1alpha1\nkind: Target", "kind: Target", "f:1: Target/db: apiVersion: is missing; want postern.dev/v1alpha1"},
		{"no Target at all", small, strings.SplitAfter(small, "---\n")[1], "f:6: AccessPolicy/readers: spec.targets[0]: there is no Target \"db\"; name one of these files, or add it"},
		{"Issuers alone", small, "apiVersion: postern.dev/v1alpha1\nkind: Issuer\nmetadata: {name: ci}\nspec: {url: https://ci.example, audience: postern, username: claims.sub}", "no Target in the policy files: nothing would be guarded; write one"},
		{"no credential anywhere", "  credential: {file: /etc/postern/login.yaml}\n", "", "f:4: Target/db: spec.credential: is missing, and AccessPolicy/readers (f:8) names none either; give one of them a credential"},
		{"a list beyond its bound", "targets: [db]", "targets: [" + strings.Repeat("db,", 1001) + "]", "f:14: AccessPolicy/readers: spec.targets: has 1001 entries; at most 1000 are read"},
		{"objects beyond their bound", small, strings.Repeat("kind: Target\n---\n", 1001), "the files hold 1001 objects; at most 1000 are read"},
		{"bytes beyond their bound", small, strings.Repeat("#", 1<<20+1), "f: has more than 1 MiB; split it into several files"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !strings.Contains(small, row.old) {
				t.Fatalf("got no %q in the small file, want it", row.old)
			}
			set, err := Parse("f", []byte(strings.Replace(small, row.old, row.new, 1)))
			if err == nil || set != nil {
				t.Fatalf("got set %v and error %v, want an error alone", set, err)
			}
			if err.Error() != row.want {
				t.Errorf("got\n%v\nwant\n%s", err, row.want)
			}
		})
	}
}

// TestLabelsOfFilesDecideNothing: they are for whoever hands the files on.
func TestLabelsOfFilesDecideNothing(t *testing.T) {
	plain, err := Parse("f", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	set, err := Parse("f", []byte(strings.Replace(small, "metadata: {name: db}", "metadata: {name: db, labels: {app.kubernetes.io/part-of: shop, empty: \"\"}, annotations: {note: \"a\\nb\"}}", 1)))
	if err != nil || set.Hash() != plain.Hash() {
		t.Fatalf("got %v, want a set with the hash of one without labels", err)
	}
	if got := set.Targets()[0].Labels["app.kubernetes.io/part-of"]; got != "shop" {
		t.Errorf("got label %q, want shop", got)
	}
}

func TestCheckTellsForWhichPlaceFilesAre(t *testing.T) {
	const issuer = "---\napiVersion: postern.dev/v1alpha1\nkind: Issuer\nmetadata: {name: ci}\nspec: {url: https://ci.example, audience: postern, username: claims.sub, ca: {secret: ca}}\n"
	for _, row := range []struct {
		name, text string
		want       Place
		mistake    string
	}{
		{"files", small, Host, ""},
		{"every field of a cluster", clusterText, Cluster, ""},
		{"a Secret", strings.Replace(small, "{file: /etc/postern/login.yaml}", "{secret: login}", 1), Cluster, ""},
		{"a Service", strings.NewReplacer("hosts: [db.internal]", "services: [{namespace: data, name: db}]", "{file: /etc/postern/login.yaml}", "{client: true}").Replace(small), Cluster, ""},
		{"pods", strings.NewReplacer(`{users: ["linux:ada"]}`, "{namespaces: [agents]}", "{file: /etc/postern/login.yaml}", "{client: true}").Replace(small), Cluster, ""},
		{"a pod's group", strings.NewReplacer(`{users: ["linux:ada"]}`, "{groups: [\"k8s:system:serviceaccounts\"]}", "{file: /etc/postern/login.yaml}", "{client: true}").Replace(small), Cluster, ""},
		{"an issuer's certificates", strings.Replace(small, "{file: /etc/postern/login.yaml}", "{client: true}", 1) + issuer, Cluster, ""},
		{"pods and a file", strings.Replace(small, `{users: ["linux:ada"]}`, "{namespaces: [agents]}", 1), Cluster, "f:7: Target/db: spec.credential.file: works with postern run only; an agent in a cluster reads no files"},
		{"a mistake beside it", strings.Replace(clusterText, "protocol: postgres", "protocol: mysql", 1), Cluster, "f:5: Target/db: spec.protocol: \"mysql\" is not a choice"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
				t.Fatal(err)
			}
			set, place, err := Check(path)
			if place != row.want {
				t.Errorf("got place %d, want %d", place, row.want)
			}
			if row.mistake == "" && (err != nil || set == nil) {
				t.Errorf("got %v, want a set", err)
			}
			if row.mistake != "" && (err == nil || !strings.HasPrefix(err.Error(), filepath.Dir(path)+"/"+row.mistake)) {
				t.Errorf("got %v, want %s", err, row.mistake)
			}
		})
	}
}

func TestClusterExamplesAreForAClusterAndDoubtless(t *testing.T) {
	for path, text := range clusterExamples(t) {
		set, place, err := Check(path)
		if err != nil || place != Cluster {
			t.Errorf("got place %d and error %v for %s, want a set for a cluster", place, err, path)
			continue
		}
		if got := set.Warnings(); len(got) != 0 {
			t.Errorf("got warnings %q, want none", got)
		}
		again, rejected, err := Compile(live(t, text))
		if err != nil || len(rejected) != 0 || again.Hash() != set.Hash() {
			t.Errorf("got %v and %v for %s, want what the file gives", rejected, err, path)
		}
	}
}

// TestMigrationExampleDecides shows that the example does what its comments say.
func TestMigrationExampleDecides(t *testing.T) {
	set, _, err := Check("../../deploy/examples/cluster/migration.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ account, operation, want, secret string }{
		{"migrator", "DDL", "allow migrations/schema", "orders-migrator"},
		{"migrator", "DCL", "deny migrations/no-role-changes: rights are granted by the database's owners", "orders-migrator"},
		{"reporter", "SELECT", "allow readers/reads", "orders-login"},
		{"reporter", "DDL", "deny readers/: no rule allows DDL", "orders-login"},
		{"other", "SELECT", "deny /: no policy matches this workload on this target", ""},
	} {
		view := set.View("orders-db", Subject{Pod: &PodSubject{Namespace: "agents", ServiceAccount: row.account}})
		got := view.Decide(Request{Database: "orders", Statements: []Statement{one(row.operation, "public.customers")}})
		if text := verdict(got.Action, got.Policy, got.Rule, got.Reason); text != row.want {
			t.Errorf("got %s for %s by %s, want %s", text, row.operation, row.account, row.want)
		}
		if login, _ := view.Credential(); login.Secret != row.secret {
			t.Errorf("got secret %q for %s, want %q", login.Secret, row.account, row.secret)
		}
	}
}

func TestLoadReadsSeveralFilesAsOneSet(t *testing.T) {
	dir := t.TempDir()
	target, access, _ := strings.Cut(small, "---\n")
	paths := []string{filepath.Join(dir, "access.yaml"), filepath.Join(dir, "target.yaml")}
	for i, text := range []string{access, target} {
		if err := os.WriteFile(paths[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set, err := Load(paths...)
	if err != nil {
		t.Fatalf("got %v, want a set", err)
	}
	if got := len(set.View("db", ada).Policies()); got != 1 {
		t.Errorf("got %d policies, want 1", got)
	}
	whole, err := Parse("whole", []byte("# comment\n"+small))
	if err != nil {
		t.Fatal(err)
	}
	if set.Hash() != whole.Hash() {
		t.Errorf("got hash %s from two files and %s from one, want one", set.Hash(), whole.Hash())
	}
}

func TestLoadReportsEveryFile(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("kind: X"), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, bytes.Repeat([]byte("#"), maxBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(dir, "absent.yaml")
	_, err := Load(absent, broken, dir, large)
	want := fmt.Sprintf("%s: cannot be opened: no such file or directory\n%s:1: X/(no name): kind: \"X\" is not a kind; want Target, AccessPolicy or Issuer\n"+
		"%s: cannot be read; name a file\n%s: has more than 1 MiB; split it into several files", absent, broken, dir, large)
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if set, err := Load(); err == nil {
		t.Errorf("got %v from no file, want an error", set)
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	const secret = "hunter2"
	for _, text := range []string{
		strings.Replace(small, "{file: /etc/postern/login.yaml}", "{user: x, password: "+secret+"}", 1),
		strings.Replace(small, "{file: /etc/postern/login.yaml}", secret, 1),
		strings.Replace(small, "{file: /etc/postern/login.yaml}", "["+secret+"]", 1),
		"username: postern\npassword: " + secret,
		secret,
	} {
		_, err := Parse("f", []byte(text))
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v, want an error without the secret", err)
		}
	}
}

// FuzzParse: no input panics or yields both a set and an error; what loads decides,
// and loads to the same hash again.
func FuzzParse(f *testing.F) {
	paths, _ := filepath.Glob("../../deploy/examples/*.yaml")
	for _, path := range slices.Concat(paths, []string{"testdata/broken.yaml", "testdata/dubious.yaml"}) {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(small))
	f.Add([]byte("a: &a [x]\nb: [*a, *a]"))
	f.Add([]byte(strings.Repeat("[", 5000)))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := Parse("f", data)
		if (set == nil) != (err != nil) {
			t.Fatalf("got set %v and error %v, want one of them", set, err)
		}
		if err != nil {
			return
		}
		again, err := Parse("g", data)
		if err != nil || again.Hash() != set.Hash() {
			t.Errorf("got %v and another hash from the same bytes, want the same", err)
		}
		for _, target := range set.Targets() {
			target.Sensitive().Match("public", "users", "email")
			if len(target.Ports()) == 0 || len(target.Spec.Hosts) == 0 {
				t.Errorf("got a Target without ports or hosts, want both")
			}
			set.View(target.Name(), ada).Decide(Request{Statements: []Statement{one("SELECT", "public.users", "f()"), unknown("")}})
		}
		for _, issuer := range set.Issuers() {
			_, _, _ = issuer.Subject(map[string]any{"sub": "x", "groups": []any{"a", 1.0}})
		}
	})
}

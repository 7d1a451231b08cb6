package e2e

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"postern.dev/postern/testenv"
)

// The roles of the database: pods know the first, Postern logs in as the second.
const (
	directUser     = "direct"
	directPassword = "direct-password"
	loginUser      = "guarded"
)

// database is the PostgreSQL that the tests share.
var database = sync.OnceValues(makeDatabase)

const shopSQL = `
CREATE ROLE direct LOGIN PASSWORD 'direct-password';
CREATE ROLE guarded LOGIN PASSWORD 'guarded-password';
CREATE DATABASE shop;
\connect shop
CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL, email text NOT NULL, ssn char(11));
INSERT INTO customers SELECT i, 'Customer ' || i, 'customer' || i || '@example.com', '078-05-' || lpad(i::text, 4, '0') FROM generate_series(1, 50) i;
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer NOT NULL, total numeric(10, 2) NOT NULL);
INSERT INTO orders SELECT i, i % 50 + 1, i * 1.5 FROM generate_series(1, 200) i;
GRANT ALL ON ALL TABLES IN SCHEMA public TO direct, guarded;
`

// makeDatabase starts PostgreSQL in the namespace data, with a certificate for
// its Service's name, and describes it as the Target shop.
func makeDatabase() (host string, err error) {
	host = "shop.data.svc.cluster.local"
	if os.Getenv("POSTERN_E2E_KEEP") == "1" { // somebody else's tests may be using it
		_, gone := kubectlRun("", "get", "target", "shop") // an earlier installation's goes with it
		if _, err := kubectlRun("", "wait", "-n", "data", "pod/shop", "--for=condition=Ready", "--timeout=60s"); gone == nil && err == nil {
			return host, nil
		}
	}
	ca, err := testenv.NewAuthority("e2e")
	if err != nil {
		return "", err
	}
	certificate, key, err := ca.Issue(host, "shop.data.svc", "shop.data")
	if err != nil {
		return "", err
	}
	// What an earlier run left has another certificate.
	if out, err := kubectlRun("", "delete", "namespace", "data", "--ignore-not-found"); err != nil {
		return "", fmt.Errorf("remove an earlier database: %w: %s", err, out)
	}
	b64 := base64.StdEncoding.EncodeToString
	manifests := fmt.Sprintf(`
{apiVersion: v1, kind: Namespace, metadata: {name: data}}
---
{apiVersion: v1, kind: Secret, metadata: {name: shop-tls, namespace: data}, type: kubernetes.io/tls, data: {tls.crt: %s, tls.key: %s}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop-sql, namespace: data}
data:
  shop.sql: |
%s
---
apiVersion: v1
kind: Pod
metadata: {name: shop, namespace: data, labels: {app: shop}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: postgres
      image: %s
      imagePullPolicy: Never
      command: [serve-postgres, -c, max_connections=300]
      env: [{name: POSTGRES_PASSWORD, value: superuser}]
      # Ready for good: a probe that is late on a busy machine would take its Service's endpoint away.
      startupProbe: {exec: {command: [pg_isready, -h, 127.0.0.1]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 120}
      volumeMounts: [{name: tls, mountPath: /tls}, {name: sql, mountPath: /initdb.d}]
  volumes:
    - {name: tls, secret: {secretName: shop-tls}}
    - {name: sql, configMap: {name: shop-sql}}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: data}
spec: {selector: {app: shop}, ipFamilyPolicy: PreferDualStack, ports: [{name: postgres, port: 5432}]}
---
{apiVersion: v1, kind: Secret, metadata: {name: shop-login, namespace: %[5]s}, stringData: {username: guarded, password: guarded-password}}
---
{apiVersion: v1, kind: Secret, metadata: {name: shop-ca, namespace: %[5]s}, data: {ca.crt: %[6]s}}
---
apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: shop}
spec:
  protocol: postgres
  services: [{namespace: data, name: shop}]
  tls: {serverName: %[7]s, ca: {secret: shop-ca}}
  credential: {secret: shop-login}
  sensitive:
    - {columns: ["public.customers.email", "*.ssn"], mask: redact}
`, b64(certificate), b64(key), indent(shopSQL), imageWorkload, system, b64(ca.PEM()), host)
	if out, err := kubectlRun(manifests, "apply", "--server-side", "-f", "-"); err != nil {
		return "", fmt.Errorf("make the database: %w: %s", err, out)
	}
	if out, err := kubectlRun("", "wait", "-n", "data", "pod/shop", "--for=condition=Ready", "--timeout=120s"); err != nil {
		return "", fmt.Errorf("wait for the database: %w: %s", err, out)
	}
	return host, nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

// world is one test's namespace, its policy on the shop, and its clients.
type world struct {
	namespace string
	host      string // of the shop
}

// newWorld makes a namespace whose pods may read the shop when they are guarded.
func newWorld(t *testing.T) *world {
	t.Helper()
	host, err := database()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	w := &world{namespace: name[:min(len(name), 50)], host: host}
	t.Cleanup(func() {
		_, _ = kubectlRun("", "delete", "namespace", w.namespace, "--wait=false", "--ignore-not-found")
		_, _ = kubectlRun("", "delete", "accesspolicy", w.namespace, "--ignore-not-found")
	})
	apply(t, fmt.Sprintf(`
{apiVersion: v1, kind: Namespace, metadata: {name: %[1]s}}
---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: %[1]s}
spec:
  subjects: [{namespaces: [%[1]s]}]
  targets: [shop]
  rules:
    - {name: reads, allow: [SELECT], relations: ["public.*"]}
    - {name: no-ddl, deny: [DDL, DCL], reason: "schema changes go through migrations"}
`, w.namespace))
	eventually(t, "the namespace's service account", func() bool {
		_, err := kubectlRun("", "get", "serviceaccount", "-n", w.namespace, "default")
		return err == nil
	})
	return w
}

// pod is a client that idles until a test has it do something. extra is added to
// its spec, labels to its metadata.
type pod struct {
	name    string
	labels  string // as in {app: a}
	command string // as in [psql, -l]; empty: idle
	extra   string // more of the spec, one field a line
	inside  string // more of the container
}

// start makes a pod and waits until it is ready.
func (w *world) start(t *testing.T, p pod) {
	t.Helper()
	w.create(t, p)
	kubectl(t, "wait", "-n", w.namespace, "pod/"+p.name, "--for=condition=Ready", "--timeout=90s")
}

func (w *world) create(t *testing.T, p pod) {
	t.Helper()
	labels, words := cmp.Or(p.labels, "{}"), cmp.Or(p.command, "[idle]")
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: %s}
spec:
  terminationGracePeriodSeconds: 1
%s
  containers:
    - name: app
      image: %s
      imagePullPolicy: Never
      command: %s
%s
`, p.name, w.namespace, labels, indentBy(p.extra, 2), imageWorkload, words, indentBy(p.inside, 6)))
}

func indentBy(text string, n int) string {
	if text = strings.TrimSpace(text); text == "" {
		return ""
	}
	space := strings.Repeat(" ", n)
	return space + strings.ReplaceAll(text, "\n", "\n"+space)
}

// label guards a running pod.
func (w *world) label(t *testing.T, name string) {
	t.Helper()
	kubectl(t, "label", "-n", w.namespace, "pod", name, "postern.dev/guard=true")
}

// exec runs a program in a pod; its output is what it wrote to either.
func (w *world) exec(name string, args ...string) (string, error) {
	return kubectlRun("", append([]string{"exec", "-n", w.namespace, name, "-c", "app", "--"}, args...)...)
}

// psql runs a statement in a pod as an ordinary client would, with the password
// that the server knows, or knew.
func (w *world) psql(name, host, statement string) (string, error) {
	dsn := fmt.Sprintf("host=%s user=%s password=%s dbname=shop connect_timeout=10", host, directUser, directPassword)
	return w.exec(name, "psql", "-XAt", dsn, "-c", statement)
}

// whoami tells as whom a pod is logged in at the shop: directly, or by Postern.
func (w *world) whoami(name string) (string, error) {
	out, err := w.psql(name, w.host, "SELECT current_user")
	return strings.TrimSpace(out), err
}

// guarded waits until a pod's next connection goes through Postern.
func (w *world) guarded(t *testing.T, name string) {
	t.Helper()
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("the last answer was %q", last)
		}
	}()
	eventually(t, name+" guarded", func() bool {
		last, _ = w.whoami(name)
		return last == loginUser
	})
}

// uid is a pod's.
func (w *world) uid(t *testing.T, name string) string {
	t.Helper()
	return kubectl(t, "get", "pod", "-n", w.namespace, name, "-o", "jsonpath={.metadata.uid}")
}

// background runs a program in a pod until the test ends it, and collects what it
// writes.
func (w *world) background(t *testing.T, name string, args ...string) *output {
	t.Helper()
	return w.backgroundIn(t, name, "app", args...)
}

// backgroundIn does so in a container.
func (w *world) backgroundIn(t *testing.T, name, container string, args ...string) *output {
	t.Helper()
	o := &output{}
	cmd := exec.Command(cluster.program, append([]string{"kubectl", "exec", "-n", w.namespace, name, "-c", container, "--"}, args...)...)
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+cluster.kubeconfig)
	cmd.Stdout, cmd.Stderr = o, o
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return o
}

// output is what a program wrote so far.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// count is how often word was written.
func (o *output) count(word string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.text.String(), word)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

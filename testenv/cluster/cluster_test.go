package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/testenv/cluster/layout"
	"postern.dev/postern/testenv/cluster/node"
)

// asProgram in the environment makes this test binary the program itself.
const asProgram = "POSTERN_CLUSTER_TEST_PROGRAM"

func TestMain(m *testing.M) {
	// The node's first process is started as "boot", whatever started it.
	if os.Getenv(asProgram) != "" || len(os.Args) > 1 && os.Args[1] == "boot" {
		main()
		return
	}
	os.Exit(m.Run())
}

// need skips where the machine cannot run a cluster; a strict run fails instead.
func need(t *testing.T) layout.Dir {
	t.Helper()
	lacking := check()
	if os.Geteuid() != 0 {
		lacking = errors.New("needs root")
	}
	if lacking != nil && os.Getenv("POSTERN_TEST_STRICT") == "1" {
		t.Fatalf("got %v, want a machine that runs a cluster", lacking)
	}
	if lacking != nil {
		t.Skip(lacking)
	}
	dir, err := stateDir()
	if err != nil {
		t.Fatal(err)
	}
	if owner, err := node.Owner(); owner != "" || err != nil {
		t.Fatalf("got the cluster %q on this machine (%v), want none: make cluster-down", owner, err)
	}
	return dir
}

func TestClusterRunsPodsAndLeavesNothing(t *testing.T) {
	dir := need(t)
	before := look(t)
	do(t, "up")
	t.Cleanup(func() { do(t, "down") })
	do(t, "up") // nothing happens
	createPods(t, dir)

	t.Run("both address families", func(t *testing.T) { testAddresses(t, dir) })
	t.Run("names and Services", func(t *testing.T) { testNames(t, dir) })
	t.Run("PostgreSQL", func(t *testing.T) { testPostgres(t, dir) })
	t.Run("token", func(t *testing.T) { testToken(t, dir) })
	t.Run("agent", func(t *testing.T) { testAgent(t, dir) })
	t.Run("required NRI plugin", func(t *testing.T) { testRequiredPlugin(t, dir) })
	t.Run("hold", func(t *testing.T) { testHold(t, dir) })
	t.Run("reboot", func(t *testing.T) { testReboot(t, dir) })

	do(t, "down")
	before.compare(t, look(t))
	do(t, "down") // nothing happens
	before.compare(t, look(t))
}

func TestHookThatFailsLeavesNothing(t *testing.T) {
	need(t)
	before := look(t)
	t.Cleanup(func() { do(t, "down") })
	err := run(t.Context(), []string{"up", "--before-kubelet", "echo no such luck; exit 3"}, os.Stderr)
	if err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("got error %v, want what the command wrote", err)
	}
	before.compare(t, look(t))
}

func TestCommandsNeedACluster(t *testing.T) {
	need(t)
	for _, args := range [][]string{{"reboot"}, {"image"}, {"enter", "true"}, {"kubectl", "version"}, {"hold", "kubelet"}, {"status"}} {
		err := run(t.Context(), args, os.Stderr)
		if !errors.Is(err, node.ErrDown) {
			t.Errorf("got error %v from %v, want %v", err, args, node.ErrDown)
		}
	}
}

func testAddresses(t *testing.T, dir layout.Dir) {
	fields := strings.Fields(kubectl(t, dir, nil, "get", "pod", "client", "-o", "jsonpath={.status.podIPs[*].ip}"))
	if len(fields) != 2 {
		t.Fatalf("got pod addresses %v, want two", fields)
	}
	for i, want := range []netip.Prefix{layout.Pods4, layout.Pods6} {
		if got, err := netip.ParseAddr(fields[i]); err != nil || !want.Contains(got) {
			t.Errorf("got pod address %q (%v), want one of %v", fields[i], err, want)
		}
	}
}

func testNames(t *testing.T, dir layout.Dir) {
	got := inClient(t, dir, "getent", "ahosts", "db")
	for want := range strings.FieldsSeq(kubectl(t, dir, nil, "get", "service", "db", "-o", "jsonpath={.spec.clusterIPs[*]}")) {
		if !strings.Contains(got, want) {
			t.Errorf("got addresses %q of the name db, want %s among them", got, want)
		}
	}
	// From the machine, by the Service's address.
	address := kubectl(t, dir, nil, "get", "service", "db", "-o", "jsonpath={.spec.clusterIP}")
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "5432"), 5*time.Second)
	if err != nil {
		t.Fatalf("got %v dialling a Service from the machine, want a connection", err)
	}
	conn.Close()
}

func testPostgres(t *testing.T, dir layout.Dir) {
	query := "SELECT name, ssl FROM users, pg_stat_ssl WHERE pid = pg_backend_pid()"
	if got, want := inClient(t, dir, "psql", "-h", "db", "-U", "postgres", "-Atc", query), "ada|t"; got != want {
		t.Errorf("got %q from psql, want %q", got, want)
	}
	python := "import psycopg, psycopg2, asyncpg, sqlalchemy, autogen_agentchat.agents, autogen_ext.models.replay as r\n" +
		"print(psycopg.connect('host=db user=postgres').execute('SELECT name FROM users').fetchone()[0])"
	if got, want := inClient(t, dir, "python3", "-c", python), "ada"; got != want {
		t.Errorf("got %q from psycopg, want %q", got, want)
	}
	_, err := node.Kubectl(t.Context(), dir, nil, "exec", "client", "--", "env", "PGPASSWORD=wrong", "psql", "-h", "db", "-U", "postgres", "-c", "SELECT 1")
	if err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("got error %v with a wrong password, want a refusal", err)
	}
}

func testToken(t *testing.T, dir layout.Dir) {
	parts := strings.Split(inClient(t, dir, "cat", "/token/token"), ".")
	if len(parts) != 3 {
		t.Fatalf("got a token of %d parts, want 3", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Audience   []string `json:"aud"`
		Issuer     string   `json:"iss"`
		Kubernetes struct {
			Pod struct{ UID string }
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if len(claims.Audience) != 1 || claims.Audience[0] != "postern" || claims.Issuer != layout.Issuer {
		t.Errorf("got token for %v by %s, want one for postern by %s", claims.Audience, claims.Issuer, layout.Issuer)
	}
	if want := kubectl(t, dir, nil, "get", "pod", "client", "-o", "jsonpath={.metadata.uid}"); claims.Kubernetes.Pod.UID != want {
		t.Errorf("got token of pod %s, want %s", claims.Kubernetes.Pod.UID, want)
	}
}

// testAgent looks at the node as an agent's pod sees it.
func testAgent(t *testing.T, dir layout.Dir) {
	do(t, "enter", "mkdir", "/sys/fs/bpf/pin")
	mount := inAgent(t, dir, "grep", " /sys/fs/bpf .* - bpf ", "/proc/self/mountinfo")
	// A slave of the node's mount: it outlives the container (mount_namespaces(7)).
	if !strings.Contains(mount, " master:") {
		t.Errorf("got bpffs mount %q, want one propagated from the node", mount)
	}
	if got := inAgent(t, dir, "ls", "/sys/fs/bpf"); !strings.Contains(got, "pin") {
		t.Errorf("got %q in the agent's bpffs, want the node's pin", got)
	}
	// NRI answers whoever registers; here it is enough that it listens.
	inAgent(t, dir, "socat", "-u", "OPEN:/dev/null", "UNIX-CONNECT:/run/nri/nri.sock")
	// The pids that pods' processes have are the machine's.
	uid := kubectl(t, dir, nil, "get", "pod", "client", "-o", "jsonpath={.metadata.uid}")
	facts, err := dir.ReadFacts()
	if err != nil {
		t.Fatal(err)
	}
	members, err := filepath.Glob(filepath.Join(facts.PodCgroups, "besteffort", "pod"+uid, "*", "cgroup.procs"))
	if err != nil || len(members) != 2 { // the sandbox and the container
		t.Fatalf("got cgroups %v (%v) of the pod, want 2", members, err)
	}
	pid := strings.Fields(read(t, members[0]))[0]
	if got := inAgent(t, dir, "cat", "/proc/"+pid+"/cgroup"); !strings.Contains(got, "0::/kubepods/besteffort/pod"+uid) {
		t.Errorf("got cgroup %q of process %s as the agent sees it, want one of pod %s", got, pid, uid)
	}
}

func testRequiredPlugin(t *testing.T, dir layout.Dir) {
	overrides := `{"metadata": {"annotations": {"required-plugins.noderesource.dev": "[\"nobody\"]"}}}`
	kubectl(t, dir, nil, "run", "held", "--image="+layout.ImageWorkload, "--image-pull-policy=Never", "--overrides="+overrides)
	await(t, dir, node.Condition{
		What: "the refusal of a container without its NRI plugin",
		Args: []string{"get", "pod", "held", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}"},
		Want: "CreateContainerError",
	})
	kubectl(t, dir, nil, "delete", "pod", "held", "--now")
}

func testHold(t *testing.T, dir layout.Dir) {
	do(t, "hold", "kube-apiserver")
	address := net.JoinHostPort(layout.Node4.Addr().String(), "6443")
	if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		conn.Close()
		t.Error("got a connection to the held API server, want none")
	}
	do(t, "release", "kube-apiserver")
	await(t, dir, node.Condition{What: "API server", Args: []string{"get", "--raw", "/readyz"}, Want: "ok"})
}

func testReboot(t *testing.T, dir layout.Dir) {
	facts, err := dir.ReadFacts()
	if err != nil {
		t.Fatal(err)
	}
	do(t, "reboot", "--before-kubelet", "ls /sys/fs/bpf > /var/log/pins; mkdir /sys/fs/bpf/armed")
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(facts.Pid), "ns")); err == nil {
		t.Errorf("got the first process %d alive after a reboot, want it gone", facts.Pid)
	}
	if got := read(t, dir.Path("log", "var", "pins")); strings.Contains(got, "pin\n") {
		t.Errorf("got pins %q after a reboot, want none", got)
	}
	await(t, dir, node.Condition{
		What: "the pod's second start",
		Args: []string{"get", "pod", "client", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}"},
		Want: "1 true",
	})
	kubectl(t, dir, nil, "rollout", "status", "daemonset/agent", "--timeout=60s")
	if got := inAgent(t, dir, "ls", "/sys/fs/bpf"); !strings.Contains(got, "armed") {
		t.Errorf("got %q in the agent's bpffs after a reboot, want what the command before the kubelet made", got)
	}
	kubectl(t, dir, nil, "wait", "--for=condition=Ready", "pod/db", "--timeout=60s")
	testNames(t, dir)
}

// createPods creates what testdata/pods.yaml holds and waits for it.
func createPods(t *testing.T, dir layout.Dir) {
	t.Helper()
	cert, key := selfSigned(t, "db")
	files := t.TempDir()
	for name, text := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(files, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, dir, nil, "create", "secret", "tls", "db-tls", "--cert="+filepath.Join(files, "tls.crt"), "--key="+filepath.Join(files, "tls.key"))
	kubectl(t, dir, []byte(read(t, "testdata/pods.yaml")), "apply", "-f", "-")
	kubectl(t, dir, nil, "wait", "--for=condition=Ready", "pod/db", "pod/client", "--timeout=90s")
	kubectl(t, dir, nil, "rollout", "status", "daemonset/agent", "--timeout=60s")
}

func selfSigned(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// do runs one of the program's commands in a process of its own, as a shell does.
func do(t *testing.T, args ...string) {
	t.Helper()
	// Not the test's context: it ends before the clean-up does.
	cmd := exec.CommandContext(context.Background(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	t.Logf("%s\n%s", strings.Join(args, " "), out.String())
	if err != nil {
		t.Fatalf("got %v from %v, want no error", err, args)
	}
}

func kubectl(t *testing.T, dir layout.Dir, stdin []byte, args ...string) string {
	t.Helper()
	out, err := node.Kubectl(t.Context(), dir, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func inClient(t *testing.T, dir layout.Dir, command ...string) string {
	t.Helper()
	return kubectl(t, dir, nil, append([]string{"exec", "client", "--"}, command...)...)
}

func inAgent(t *testing.T, dir layout.Dir, command ...string) string {
	t.Helper()
	return kubectl(t, dir, nil, append([]string{"exec", "daemonset/agent", "--"}, command...)...)
}

func await(t *testing.T, dir layout.Dir, c node.Condition) {
	t.Helper()
	if err := node.Await(t.Context(), dir, c); err != nil {
		t.Fatal(err)
	}
}

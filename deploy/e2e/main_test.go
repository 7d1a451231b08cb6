package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Where the product lives in the cluster.
const (
	system  = "postern-system"
	release = "postern"
)

// The images that the cluster has.
const (
	imageProduct  = "localhost/postern:dev"
	imageWorkload = "localhost/postern-workload:dev"
)

// cluster is what the tests share.
var cluster struct {
	root       string // of the repository
	program    string // the cluster's
	kubeconfig string
	logs       string // the node's /var/log/postern, as this machine sees it
	keys       string // folder of the operator's public keys that there were in this cluster
	cgroupRoot string // of cgroup v2
}

func TestMain(m *testing.M) {
	flag.Parse()
	err := flag.Set("test.parallel", "4") // they wait for the cluster most of the time
	code := 1
	if err == nil {
		code, err = runAll(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// runAll starts the cluster unless it is up, installs the chart, runs the tests,
// and stops the cluster if it was started here.
func runAll(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		if os.Getenv("POSTERN_TEST_STRICT") == "1" {
			return 1, errors.New("a cluster needs root")
		}
		fmt.Fprintln(os.Stderr, "e2e: needs root; nothing was tested")
		return 0, nil
	}
	if cluster.root, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	started, err := startCluster()
	if err != nil {
		return 1, err
	}
	if os.Getenv("POSTERN_E2E_KEEP") == "1" { // while somebody works on the tests: what is installed stays as it is
		return m.Run(), nil
	}
	if started {
		defer func() { err = errors.Join(err, command(cluster.program, "down")) }()
	}
	// What the chart writes a unit into; a machine without systemd has none.
	if err := errors.Join(command(cluster.program, "enter", "mkdir", "-p", "/etc/systemd/system"), install()); err != nil {
		diagnose()
		return 1, err
	}
	if code = m.Run(); code != 0 {
		diagnose()
	}
	if !started { // as it was found
		err = uninstall()
	}
	return code, err
}

func startCluster() (started bool, err error) {
	module := filepath.Join(cluster.root, "testenv/cluster")
	out := os.Getenv("POSTERN_CLUSTER")
	if out == "" {
		out = filepath.Join(module, "out")
	}
	cluster.program = filepath.Join(out, "bin/cluster")
	build := exec.Command("go", "-C", module, "build", "-o", cluster.program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	if out, err := build.CombinedOutput(); err != nil {
		return false, fmt.Errorf("build the cluster's program: %w: %s", err, out)
	}
	started = exec.Command(cluster.program, "status").Run() != nil
	switch {
	case started:
		err = command(cluster.program, "up")
	case os.Getenv("POSTERN_E2E_KEEP") != "1":
		err = command(cluster.program, "image")
	}
	if err != nil {
		return started, err
	}
	text, err := os.ReadFile(filepath.Join(out, "cluster.json"))
	if err != nil {
		return started, err
	}
	var facts struct{ Kubeconfig, Logs, CgroupRoot string }
	if err := json.Unmarshal(text, &facts); err != nil {
		return started, err
	}
	cluster.kubeconfig, cluster.cgroupRoot = facts.Kubeconfig, facts.CgroupRoot
	cluster.logs, cluster.keys = filepath.Join(facts.Logs, "var/postern"), filepath.Join(facts.Logs, "operator-keys")
	return started, nil
}

// chart renders the chart with the values that this cluster needs.
func chart(more ...string) (string, error) {
	args := append([]string{"-C", filepath.Join(cluster.root, "testenv/helm"), "tool", "helm", "template", release,
		filepath.Join(cluster.root, "deploy/chart"), "--namespace", system, "--include-crds",
		"--set", "image.repository=localhost/postern,image.tag=dev,image.pullPolicy=Never",
		"--set", "node.cgroupRoot=" + cluster.cgroupRoot, "--set", "agent.logLevel=debug", "--set", "boot.install=true"}, more...)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") // as make builds everything: it is built once
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("render the chart: %w", err)
	}
	return string(text), nil
}

// install installs the chart, with values that the other tests do not have, and
// waits until it serves.
func install(values ...string) error {
	var more []string
	for _, value := range values {
		more = append(more, "--set", value)
	}
	text, err := chart(more...)
	if err != nil {
		return err
	}
	_, _ = kubectlRun("", "create", "namespace", system)
	if out, err := kubectlRun(text, "apply", "--server-side", "-n", system, "-f", "-"); err != nil {
		return fmt.Errorf("apply the chart: %w: %s", err, out)
	}
	for _, what := range []string{"deployment/postern-controller", "daemonset/postern-agent"} {
		if out, err := kubectlRun("", "rollout", "status", "-n", system, what, "--timeout=120s"); err != nil {
			return fmt.Errorf("wait for %s: %w: %s", what, err, out)
		}
	}
	return rememberKey()
}

// rememberKey keeps the key by which logs are verified from now on.
func rememberKey() error {
	key, err := kubectlRun("", "get", "configmap", "-n", system, "postern-operator-key", "-o", `jsonpath={.data.operator\.pub}`)
	if err != nil {
		return fmt.Errorf("read the operator's public key: %w: %s", err, key)
	}
	if err := os.MkdirAll(cluster.keys, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cluster.keys, fmt.Sprintf("%x.pub", sha256.Sum256([]byte(key)))), []byte(key), 0o644)
}

func uninstall() error {
	text, err := chart()
	if err != nil {
		return err
	}
	if out, err := kubectlRun(text, "delete", "--ignore-not-found", "-n", system, "-f", "-"); err != nil {
		return fmt.Errorf("delete the chart: %w: %s", err, out)
	}
	return nil
}

// diagnose shows what somebody who looks at a failure asks first.
func diagnose() {
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "targets,accesspolicies,issuers,nodestatuses", "-o", "yaml"},
		{"logs", "-n", system, "daemonset/postern-agent", "-c", "gate", "--tail=60"},
		{"logs", "-n", system, "daemonset/postern-agent", "-c", "agent", "--tail=60"},
		{"logs", "-n", system, "deployment/postern-controller", "--tail=30"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, _ := kubectlRun("", args...)
		fmt.Fprintf(os.Stderr, "--- kubectl %s\n%s", strings.Join(args, " "), out)
	}
}

func command(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return nil
}

// kubectlRun runs kubectl as the cluster's administrator.
func kubectlRun(stdin string, args ...string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cluster.program, append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.kubeconfig)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	text, err := cmd.CombinedOutput()
	return string(text), err
}

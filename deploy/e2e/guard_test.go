package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// deploy starts a Deployment of one pod that runs psql every half second, and names the pod.
func (w *world) deploy(t *testing.T, name string) string {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: app
          image: %[3]s
          imagePullPolicy: Never
          command: [sh, -c, %[4]q]
`, name, w.namespace, imageWorkload, fmt.Sprintf(`while sleep 0.5; do psql -XAt '%s' -c 'SELECT current_user' 2>&1; done`, w.shop())))
	kubectl(t, "rollout", "status", "-n", w.namespace, "deployment/"+name, "--timeout=90s")
	return kubectl(t, "get", "pod", "-n", w.namespace, "-l", "app="+name, "-o", "jsonpath={.items[0].metadata.name}")
}

func TestLabelGuardsARunningPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := w.deploy(t, "report")
	w.start(t, pod{name: "neighbour"})
	last := func() string {
		return strings.TrimSpace(kubectl(t, "logs", "-n", w.namespace, client, "--tail=1"))
	}
	eventually(t, "direct sessions before the label", func() bool { return last() == directUser })
	w.label(t, client)
	eventually(t, "guarded sessions of what runs already", func() bool { return last() == loginUser })
	if n := w.restarts(t, client); n != "0" {
		t.Errorf("got %s restarts of the pod, want it guarded as it runs", n)
	}

	out, err := w.psql(client, w.host, "SELECT id, email, ssn FROM customers ORDER BY id LIMIT 2")
	if err != nil || strings.Contains(out, "example.com") || strings.Contains(out, "078-05") || strings.Count(out, "\n") != 2 {
		t.Errorf("got %q, %v, want two rows with their sensitive columns masked", out, err)
	}
	out, err = w.psql(client, w.host, "DROP TABLE orders")
	if err == nil || !strings.Contains(out, "no-ddl") || !strings.Contains(out, "schema changes go through migrations") {
		t.Errorf("got %q, %v for DDL, want it refused by its rule with the reason", out, err)
	}
	if got, err := w.whoami("neighbour"); err != nil || got != directUser {
		t.Errorf("got %q, %v from a pod without the label, want it untouched", got, err)
	}
	w.recorded(t, client, "psql", "/psql")
}

// recorded checks that the trail has the pod's DDL, and names the pod and the process fully.
func (w *world) recorded(t *testing.T, name, process, exe string) {
	t.Helper()
	uid := w.uid(t, name)
	mine := records(t, func(r record) bool { return r.Kind == "request" && r.Workload.UID == uid })
	i := slices.IndexFunc(mine, func(r record) bool { return slices.Contains(r.Request.Operations, "DDL") })
	if i < 0 {
		t.Fatalf("got %d requests of the pod, none with DDL, want the refused one recorded", len(mine))
	}
	r := mine[i]
	if r.Workload.Namespace != w.namespace || r.Workload.Pod != name || r.Workload.ServiceAccount != "default" || r.Workload.Container != "app" ||
		r.Workload.Process != process || !strings.Contains(r.Workload.Exe, exe) || r.Workload.Verified != "kernel" {
		t.Errorf("got workload %+v, want the pod, its container and its process", r.Workload)
	}
	if r.Decision.Action != "deny" || r.Decision.Rule != "no-ddl" || r.Target.Name != "shop" {
		t.Errorf("got decision %+v on %+v, want it denied by no-ddl on shop", r.Decision, r.Target)
	}
}

func TestNamespaceLabelGuardsItsPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client"})
	w.start(t, pod{name: "contrary", labels: `{postern.dev/guard: "false"}`})
	kubectl(t, "label", "namespace", w.namespace, "postern.dev/guard=true")
	w.guarded(t, "client")
	w.guarded(t, "contrary") // its own word does not undo its namespace's
}

func TestPodIsGuardedFromItsFirstConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ask := fmt.Sprintf(`psql -XAt 'host=%s user=%s password=%s dbname=shop connect_timeout=10' -c 'SELECT current_user' 2>&1 | head -1`, w.host, directUser, directPassword)
	w.create(t, pod{
		name: "early", labels: `{postern.dev/guard: "true"}`,
		extra: fmt.Sprintf(`initContainers: [{name: first, image: %s, imagePullPolicy: Never, command: [sh, -c, %q]}]
restartPolicy: Never`, imageWorkload, ask+"; "+ask),
		command: fmt.Sprintf("[sh, -c, %q]", ask),
	})
	eventually(t, "the init container ended", func() bool {
		return kubectl(t, "get", "pod", "-n", w.namespace, "early", "-o", "jsonpath={.status.initContainerStatuses[0].state.terminated.reason}") != ""
	})
	for line := range strings.Lines(kubectl(t, "logs", "-n", w.namespace, "early", "-c", "first")) {
		if strings.TrimSpace(line) != loginUser {
			t.Errorf("got %q from the init container, want it guarded at once", line)
		}
	}
}

func TestGuardIsSticky(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	kubectl(t, "label", "-n", w.namespace, "pod", "client", "postern.dev/guard-") // the administrator may
	for range 20 {
		if got, _ := w.whoami("client"); got == directUser {
			t.Fatal("got a direct session after the label was taken, want the pod guarded until it is gone")
		}
	}
}

func TestEarlierConnectionsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client"})
	o := w.background(t, "client", "psql", "-XAt", fmt.Sprintf("host=%s user=%s password=%s dbname=shop", w.host, directUser, directPassword),
		"-c", "SELECT 'logged in'", "-c", "SELECT pg_sleep(300)")
	eventually(t, "a direct session", func() bool { return o.count("logged in") > 0 })
	w.label(t, "client")
	eventually(t, "the session's end", func() bool {
		return o.count("connection to server was lost") > 0 || o.count("server closed the connection") > 0 || o.count("could not receive data") > 0
	})
}

func TestEphemeralContainersAndExecAreGuarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	dsn := fmt.Sprintf("host=%s user=%s password=%s dbname=shop connect_timeout=10", w.host, directUser, directPassword)
	kubectl(t, "debug", "-n", w.namespace, "client", "--image="+imageWorkload, "--image-pull-policy=Never", "--profile=general", "-c", "debugger", "--",
		"psql", "-XAt", dsn, "-c", "SELECT current_user")
	eventually(t, "the ephemeral container's answer", func() bool {
		out, err := kubectlRun("", "logs", "-n", w.namespace, "client", "-c", "debugger")
		if err == nil && strings.Contains(out, directUser+"\n") {
			t.Fatalf("got %q, want no direct session", out)
		}
		return err == nil && strings.TrimSpace(out) == loginUser
	})
}

func TestBothFamiliesAreGuarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	for _, path := range []string{"{.status.podIPs[0].ip}", "{.status.podIPs[1].ip}"} {
		address := kubectl(t, "get", "pod", "-n", "data", "shop", "-o", "jsonpath="+path)
		if out, err := w.psql("client", address, "SELECT current_user"); err != nil || strings.TrimSpace(out) != loginUser {
			t.Errorf("got %q, %v at %s, want %s", out, err, address, loginUser)
		}
	}
	for _, path := range []string{"{.spec.clusterIPs[0]}", "{.spec.clusterIPs[1]}"} {
		address := kubectl(t, "get", "service", "-n", "data", "shop", "-o", "jsonpath="+path)
		if out, err := w.psql("client", address, "SELECT current_user"); err != nil || strings.TrimSpace(out) != loginUser {
			t.Errorf("got %q, %v at %s, want %s", out, err, address, loginUser)
		}
	}
}

func TestAliasesOfATargetAreGuarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	apply(t, fmt.Sprintf(`
{apiVersion: v1, kind: Service, metadata: {name: alias-%[1]s, namespace: data}, spec: {selector: {app: shop}, ports: [{port: 9999, targetPort: 5432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: nodeport-%[1]s, namespace: data}, spec: {type: NodePort, selector: {app: shop}, ports: [{port: 5432}]}}
`, w.namespace))
	t.Cleanup(func() {
		_, _ = kubectlRun("", "delete", "service", "-n", "data", "alias-"+w.namespace, "nodeport-"+w.namespace)
	})
	nodePort := kubectl(t, "get", "service", "-n", "data", "nodeport-"+w.namespace, "-o", "jsonpath={.spec.ports[0].nodePort}")
	node := kubectl(t, "get", "node", "-o", "jsonpath={.items[0].status.addresses[0].address}")
	for _, to := range []string{
		fmt.Sprintf("host=alias-%s.data.svc.cluster.local port=9999", w.namespace),
		fmt.Sprintf("host=%s port=%s", node, nodePort),
	} {
		dsn := fmt.Sprintf("%s user=%s password=%s dbname=shop connect_timeout=10", to, directUser, directPassword)
		eventually(t, to+" guarded", func() bool {
			out, err := w.exec("client", "psql", "-XAt", dsn, "-c", "SELECT current_user")
			return err == nil && strings.TrimSpace(out) == loginUser
		})
	}
}

func TestEverythingElseOnPort443IsUntouched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	w.guarded(t, "client")
	out, err := w.exec("client", "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "https://kubernetes.default.svc.cluster.local/version")
	if err != nil || (out != "200" && out != "403") {
		t.Errorf("got %q, %v from an HTTPS server, want it to answer", out, err)
	}
}

func TestHostNetworkPodsAreGuarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`, extra: "hostNetwork: true\ndnsPolicy: ClusterFirstWithHostNet",
		inside: "securityContext: {capabilities: {drop: [NET_RAW]}}"})
	w.start(t, pod{name: "neighbour", extra: "hostNetwork: true\ndnsPolicy: ClusterFirstWithHostNet"})
	w.guarded(t, "client")
	if got, err := w.whoami("neighbour"); err != nil || got != directUser {
		t.Errorf("got %q, %v from an unguarded pod of the same network, want it untouched", got, err)
	}
}

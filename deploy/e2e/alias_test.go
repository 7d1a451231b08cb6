package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// greeter answers every connection to its port, of either family, with a word. The
// port is not PostgreSQL's, which is a Target's on every address (unknownHosts).
const greeter = `import socket
s = socket.create_server(("", 7432), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    c, _ = s.accept()
    c.sendall(b"unrelated\n")
    c.close()
`

// greets tells whether the unrelated server answers at an address.
func (w *world) greets(from, host string) (string, error) {
	return w.exec(from, "python3", "-c", `import socket, sys
print(socket.create_connection((sys.argv[1], 7432), 5).makefile().readline())`, host)
}

// TestHostileServiceMixesEndpoints: a tenant writes a Service whose endpoints are
// the database and a server that is nobody's Target. The way to the database is
// guarded through it; the other server's own addresses stay what they were.
func TestHostileServiceMixesEndpoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: guardLabel})
	w.start(t, pod{name: "neighbour"})
	w.start(t, pod{name: "unrelated", labels: "{app: unrelated}"})
	w.background(t, "unrelated", "python3", "-c", greeter)
	w.guarded(t, "client")
	others := podAddresses(t, w.namespace, "unrelated")
	eventually(t, "the unrelated server", func() bool {
		_, err := w.greets("neighbour", others[0])
		return err == nil
	})
	w.unrelated(t, others)
	databases := podAddresses(t, "data", "shop")

	apply(t, fmt.Sprintf(`
{apiVersion: v1, kind: Service, metadata: {name: unrelated, namespace: %[1]s}, spec: {selector: {app: unrelated}, ports: [{port: 7432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: mixed, namespace: %[1]s}, spec: {ipFamilyPolicy: PreferDualStack, ports: [{name: a, port: 5432}, {name: b, port: 7777, targetPort: 5432}]}}
---
%[2]s
---
%[3]s
`, w.namespace, w.slices("database", 5432, databases), w.slices("unrelated", 7432, others)))
	fronts := strings.FieldsSeq(kubectl(t, "get", "service", "-n", w.namespace, "mixed", "-o", "jsonpath={.spec.clusterIPs[*]}"))

	// kube-proxy chooses between the endpoints: without the guard both answer.
	for host := range fronts {
		seen := make(map[string]bool)
		eventually(t, "both endpoints through "+host, func() bool {
			out, err := w.exec("neighbour", "psql", "-XAt", w.dsn(host, 5432), "-c", "SELECT current_user")
			seen[strings.TrimSpace(out)] = err == nil
			return seen[directUser] && len(seen) > 1
		})
		for _, port := range []int{5432, 7777} {
			eventually(t, fmt.Sprintf("%s port %d guarded", host, port), func() bool { return w.through(host, port, 4) })
		}
	}

	w.unrelated(t, append(others, "unrelated."+w.namespace))
}

// unrelated checks that the guarded client reaches the server that is nobody's Target.
func (w *world) unrelated(t *testing.T, hosts []string) {
	t.Helper()
	for _, host := range hosts {
		if out, err := w.greets("client", host); err != nil || !strings.Contains(out, "unrelated") {
			t.Errorf("got %q, %v from the unrelated server at %s, want it to answer a guarded pod", out, err, host)
		}
	}
}

// through tells whether a number of connections were all Postern's. Until the agent
// has heard of the Service they may be direct, or the unrelated server's.
func (w *world) through(host string, port, times int) bool {
	for range times {
		out, err := w.exec("client", "psql", "-XAt", w.dsn(host, port), "-c", "SELECT current_user")
		if err != nil || strings.TrimSpace(out) != loginUser {
			return false
		}
	}
	return true
}

func (w *world) dsn(host string, port int) string {
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=shop connect_timeout=3 sslmode=disable", host, port, directUser, directPassword)
}

// slices give the Service mixed endpoints, one for each address.
func (w *world) slices(name string, port int, addresses []string) string {
	var all []string
	for _, address := range addresses {
		family := "IPv6"
		if netip.MustParseAddr(address).Is4() {
			family = "IPv4"
		}
		all = append(all, fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: %[1]s-%[2]s, namespace: %[3]s, labels: {kubernetes.io/service-name: mixed}},
  addressType: %[4]s, endpoints: [{addresses: [%[5]q]}], ports: [{name: a, port: %[6]d}, {name: b, port: %[6]d}]}`,
			name, strings.ToLower(family), w.namespace, family, address, port))
	}
	return strings.Join(all, "\n---\n")
}

func podAddresses(t *testing.T, namespace, name string) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.podIPs[*].ip}"))
}

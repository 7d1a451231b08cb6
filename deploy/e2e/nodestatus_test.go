package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestAgentWritesItsOwnNodeStatusAlone speaks to the API server with a token like that
// of the node's agent, bound to its pod, as whoever took the agent over could.
func TestAgentWritesItsOwnNodeStatusAlone(t *testing.T) {
	t.Parallel()
	ready(t)
	pod := strings.Fields(kubectl(t, "get", "pod", "-n", system, "-l", "app.kubernetes.io/component=agent", "-o",
		`jsonpath={.items[0].metadata.name} {.items[0].spec.nodeName}`))
	node := pod[1]
	bound := kubectl(t, "create", "token", "-n", system, "postern-agent", "--bound-object-kind=Pod", "--bound-object-name="+pod[0])
	unbound := kubectl(t, "create", "token", "-n", system, "postern-agent")
	const other = "e2e-other-node"
	apply(t, fmt.Sprintf(`{apiVersion: postern.dev/v1alpha1, kind: NodeStatus, metadata: {name: %s}}`, other))
	t.Cleanup(func() { kubectl(t, "delete", "nodestatus", other) })
	client, server := apiServer(t)

	for _, row := range []struct {
		name, token, node, subresource string
		refused                        bool
	}{
		{"its own node", bound, node, "", false},
		{"its own node's status", bound, node, "/status", false},
		{"another node", bound, other, "", true},
		{"another node's status", bound, other, "/status", true},
		{"a node that has none yet", bound, "e2e-new-node", "", true},
		{"its own node, by a token of no pod", unbound, node, "/status", true},
	} {
		path := "/apis/postern.dev/v1alpha1/nodestatuses/" + row.node + row.subresource + "?fieldManager=e2e&force=true&dryRun=All"
		body := fmt.Sprintf(`{"apiVersion":"postern.dev/v1alpha1","kind":"NodeStatus","metadata":{"name":%q}}`, row.node)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, server+path, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/apply-patch+yaml")
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(row.token))
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if row.refused && (response.StatusCode != http.StatusForbidden || !strings.Contains(string(answer), "its own node alone")) {
			t.Errorf("got %s for %s, want it forbidden by the policy: %s", response.Status, row.name, answer)
		}
		if !row.refused && response.StatusCode != http.StatusOK {
			t.Errorf("got %s for %s, want it taken: %s", response.Status, row.name, answer)
		}
	}
}

// apiServer is where the API server is, and a client that has nobody's identity.
func apiServer(t *testing.T) (client *http.Client, server string) {
	t.Helper()
	field := func(name string) string {
		return strings.TrimSpace(kubectl(t, "config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster."+name+"}"))
	}
	ca, err := base64.StdEncoding.DecodeString(field("certificate-authority-data"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("got %q, want the cluster's certificate authority", ca)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, field("server")
}

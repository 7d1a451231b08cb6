package e2e

import (
	"strings"
	"testing"
)

// TestStatusSaysWhatTheNodesSee: who looks at the objects learns what becomes of them.
func TestStatusSaysWhatTheNodesSee(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: guardLabel})
	w.guarded(t, "client")
	if out, err := w.psql("client", w.host, "SELECT count(*) FROM orders"); err != nil {
		t.Fatalf("got %q, %v, want a number", out, err)
	}
	address := w.hostOf(t, 32) + ":5432"
	node := strings.TrimSpace(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"))
	for _, row := range []struct{ object, path, want string }{
		{"target/shop", "{.status.addresses}", address},
		{"target/shop", "{.status.lastLogin}", "T"},
		{"target/shop", `{.status.conditions[?(@.type=="Accepted")].status}`, "True"},
		{"target/shop", `{.status.conditions[?(@.type=="VerifiedTLS")].status}`, "True"},
		{"target/shop", `{.status.conditions[?(@.type=="References")].status}`, "True"},
		{"target/shop", "{.status.sensitiveFound}", "public.customers.email"},
		{"accesspolicy/" + w.namespace, `{.status.conditions[?(@.type=="Accepted")].status}`, "True"},
		{"accesspolicy/" + w.namespace, "{.status.pods}", "1"},
		{"nodestatus/" + node, "{.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}", "Node/" + node},
		{"nodestatus/" + node, "{.status.armedSince}", "T"},
		{"nodestatus/" + node, `{.status.targets[?(@.name=="shop")].addresses}`, address},
		{"nodestatus/" + node, `{.status.targets[?(@.name=="shop")].lastLogin}`, "T"},
		{"nodestatus/" + node, `{.status.policies[?(@.name=="` + w.namespace + `")].pods}`, "1"},
		{"nodestatus/" + node, "{.status.checkpoint}", "/"},
	} {
		t.Run(row.object+row.path, func(t *testing.T) {
			got := ""
			defer func() {
				if t.Failed() {
					t.Logf("it was last %q", got)
				}
			}()
			eventually(t, row.want, func() bool {
				got = kubectl(t, "get", row.object, "-o", "jsonpath="+row.path)
				return strings.Contains(got, row.want)
			})
		})
	}
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// hba has the shop's server judge the role that Postern logs in as by a line of its
// pg_hba.conf before all others; empty: by those alone.
func hba(t *testing.T, line string) {
	t.Helper()
	kubectl(t, "exec", "-n", "data", "shop", "--", "env", "PGPASSWORD=superuser", "sh", "-ec", fmt.Sprintf(`
		ask() { psql -h 127.0.0.1 -U postgres -XAt -c "$1"; }
		file=$(ask 'SHOW hba_file')
		test -e "$file.whole" || cp -p "$file" "$file.whole"
		{ echo '%s'; cat "$file.whole"; } >"$file"
		ask 'SELECT pg_reload_conf()'`, line))
}

// TestServerSeesFromWhereTheTargetSays: pg_hba.conf goes on to judge the address from
// which a pod connects, as a NetworkPolicy does, and with source: node the node's. It
// is parallel to no other test: it changes the database that all share.
func TestServerSeesFromWhereTheTargetSays(t *testing.T) {
	w := newWorld(t)
	w.start(t, pod{name: "client", labels: guardLabel})
	w.guarded(t, "client")
	t.Cleanup(func() { hba(t, "") })
	for addr := range strings.FieldsSeq(kubectl(t, "get", "pod", "-n", w.namespace, "client", "-o", "jsonpath={.status.podIPs[*].ip}")) {
		bits := 32
		if strings.Contains(addr, ":") {
			bits = 128
		}
		hba(t, fmt.Sprintf("host all %s %s/%d reject", loginUser, addr, bits))
		host := w.hostOf(t, bits)
		eventually(t, "refused from "+addr, func() bool {
			out, err := w.psql("client", host, "SELECT current_user")
			return err != nil && strings.Contains(out, "FATAL")
		})
		source := func(to string) {
			kubectl(t, "patch", "target", "shop", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"source":%s}}`, to))
		}
		t.Cleanup(func() { source("null") })
		source(`"node"`)
		eventually(t, "let in from the node, for "+addr, func() bool {
			out, err := w.psql("client", host, "SELECT current_user")
			return err == nil && strings.TrimSpace(out) == loginUser
		})
		source("null")
		hba(t, "")
	}
	w.guarded(t, "client")
}

// hostOf is the shop's Service's address of a family: 32 bits or 128.
func (w *world) hostOf(t *testing.T, bits int) string {
	t.Helper()
	for addr := range strings.FieldsSeq(kubectl(t, "get", "service", "-n", "data", "shop", "-o", "jsonpath={.spec.clusterIPs[*]}")) {
		if strings.Contains(addr, ":") == (bits == 128) {
			return addr
		}
	}
	t.Fatalf("got no address of %d bits of the shop's Service", bits)
	return ""
}

package e2e

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/bypass.py
var bypassProgram string

// bypasses are the ways around connect(2) of testdata/bypass.py with what becomes
// of each in a guarded pod. Whatever it is, nothing of it gets to the database.
//
// A relay through a pod without the guard (a unix socket on a shared volume, a
// descriptor handed over) is no way of this table: the kernel sees that pod's
// connection. NetworkPolicy, pg_hba.conf and passwords that only Postern has are
// against that one.
var bypasses = []struct {
	name    string
	guarded string // outcome
	open    bool   // without the guard it arrives
}{
	{"plain", "answered", true},
	{"plain, IPv6", "answered", true},
	{"IPv4 in IPv6", "answered", true},
	{"fast open, sendto", "answered", true},
	{"fast open, connect", "answered", true},
	{"MPTCP", "answered", true},
	{"MPTCP, fast open", "answered", true},
	{"SO_MARK", "answered", true},
	{"UDP, connected", "EPERM", true},
	{"UDP, sendto", "EPERM", true},
	{"raw, own header", "EPERM", true},
	{"raw, own header, Service", "EPERM", true},
	{"raw", "EPERM", true},
	{"raw, IPv6", "EPERM", true},
	{"packet", "sent", true}, // it leaves the pod, and is dropped at the node's end of the link
	{"packet, past the queue", "sent", true},
	{"packet, Service", "sent", true},
	{"listener's port", "EPERM", false},
	{"listener's port, own address", "ECONNREFUSED", false}, // nothing listens there
	{"listener's port, any address", "EPERM", false},
	{"bind the listener's port", "EPERM", false},
}

// TestNothingGoesAroundTheGuard watches the database's link while a pod with the
// runtime's default capabilities tries every way, once without the guard and once
// with it.
func TestNothingGoesAroundTheGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "open"})
	w.start(t, pod{name: "client"})
	w.label(t, "client")
	w.guarded(t, "client")
	seen := (&world{namespace: "data"}).watch(t, "shop", "postgres", "src portrange 19999-20099")
	listener := w.status(t, "client").Listeners[0].Port()

	for _, name := range []string{"open", "client"} {
		for i, attempt := range w.attempts(t, name, int(listener), seen) {
			way := bypasses[i]
			t.Logf("%s: %s: %s, %d packets arrived", name, way.name, attempt.outcome, attempt.arrived)
			switch {
			case name == "open" && (attempt.arrived > 0) != way.open:
				t.Errorf("got %d packets of %q at the database without the guard (%s), want some: %v", attempt.arrived, way.name, attempt.outcome, way.open)
			case name == "client" && (attempt.arrived > 0 || attempt.outcome != way.guarded):
				t.Errorf("got %q and %d packets at the database by %q, want %q and none", attempt.outcome, attempt.arrived, way.name, way.guarded)
			}
		}
	}
	w.guarded(t, "client") // and the guard has taken no harm
}

// attempt is what became of a way.
type attempt struct {
	outcome string
	arrived int // packets, at the database
}

// attempts tries every way in a pod, while its packets are seen at the database.
func (w *world) attempts(t *testing.T, name string, listener int, seen *output) []attempt {
	t.Helper()
	here, there := addresses(t, w.namespace, name), addresses(t, "data", "shop")
	service := kubectl(t, "get", "service", "-n", "data", "shop", "-o", "jsonpath={.spec.clusterIPs[0]}")
	out, err := w.exec(name, "python3", "-c", bypassProgram, here[0], here[1], there[0], there[1], service, strconv.Itoa(listener))
	if err != nil {
		t.Fatalf("got %v from the attempts of %s, want them made: %s", err, name, out)
	}
	eventually(t, "the end of "+name+"'s packets", func() bool { return seen.count(fmt.Sprintf("IP %s.19999 > ", here[0])) > 0 })
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(bypasses) {
		t.Fatalf("got %d attempts, want %d:\n%s", len(lines), len(bypasses), out)
	}
	attempts := make([]attempt, len(lines))
	for i, way := range bypasses {
		fields := strings.Split(lines[i], "\t")
		if len(fields) != 3 || fields[1] != way.name {
			t.Fatalf("got attempt %q, want %q", lines[i], way.name)
		}
		arrived := seen.count(fmt.Sprintf("IP %s.%s > ", here[0], fields[0])) + seen.count(fmt.Sprintf("IP6 %s.%s > ", here[1], fields[0]))
		attempts[i] = attempt{outcome: fields[2], arrived: arrived}
	}
	return attempts
}

// watch writes each packet of a pod's links that the filter chooses.
func (w *world) watch(t *testing.T, name, container, filter string) *output {
	t.Helper()
	o := w.backgroundIn(t, name, container, "tcpdump", "-Z", "root", "-i", "any", "-nn", "-l", filter)
	eventually(t, "tcpdump listens", func() bool { return o.count("listening on") > 0 })
	return o
}

// addresses are a pod's: IPv4, then IPv6.
func addresses(t *testing.T, namespace, name string) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.podIPs[*].ip}"))
}

// podStatus is what `postern status` says of a pod.
type podStatus struct {
	UID, Namespace, Name, Class string
	Since                       time.Time // of the class
	Listeners                   []netip.AddrPort
	Counters                    struct{ Redirected uint64 }
}

// statuses are those of the node's guarded pods.
func statuses(t *testing.T) []podStatus {
	t.Helper()
	out := kubectl(t, "exec", "-n", system, "daemonset/postern-agent", "-c", "agent", "--", "/postern", "status", "--json")
	var report struct{ Pods []podStatus }
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("got %v from postern status, want JSON: %s", err, out)
	}
	return report.Pods
}

// status is a guarded pod's.
func (w *world) status(t *testing.T, name string) podStatus {
	t.Helper()
	for _, p := range statuses(t) {
		if p.Namespace == w.namespace && p.Name == name {
			return p
		}
	}
	t.Fatalf("got no status of %s, want it guarded", name)
	return podStatus{}
}

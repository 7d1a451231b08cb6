package e2e

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

//go:embed testdata/latency.py
var latencyProgram string

// scale is how many pods are labelled at once, batch how many are made at once.
const scale, batch = 60, 20

// TestSixtyPodsLeaveNothing labels a namespace with many pods, and removes them.
// It counts what the gate holds, so that no other test may run beside it. Times
// are measured and not judged.
func TestSixtyPodsLeaveNothing(t *testing.T) {
	w := newWorld(t)
	eventually(t, "the end of other tests' pods", func() bool { return len(statuses(t)) == 0 })
	before := gateHolds(t)
	names := w.startMany(t)
	direct := w.latency(t, names[0])

	start := time.Now()
	kubectl(t, "label", "namespace", w.namespace, "postern.dev/guard=true")
	var took []time.Duration
	eventually(t, "every pod guarded", func() bool {
		took = nil
		for _, p := range statuses(t) {
			if p.Namespace == w.namespace && p.Class == "guarded" && len(p.Listeners) > 0 {
				took = append(took, p.Since.Sub(start))
			}
		}
		return len(took) == scale
	})
	slices.Sort(took)
	t.Logf("%d pods, from the label to the kernel's class: p50 %s, p99 %s", scale, took[len(took)/2], took[len(took)*99/100])
	w.allGuarded(t, names)
	t.Logf("direct: %s; guarded: %s (p50, in µs)", direct, w.latency(t, names[0]))
	t.Logf("the gate holds %v; with %d guarded pods %v", before, scale, gateHolds(t))

	kubectl(t, "delete", "pods", "-n", w.namespace, "--all", "--grace-period=1")
	after := before
	defer func() {
		if t.Failed() {
			t.Logf("the gate held %v, and at last %v", before, after)
		}
	}()
	eventually(t, "nothing left of the pods", func() bool {
		after = gateHolds(t)
		for what, n := range after {
			if n > before[what] {
				return false
			}
		}
		return len(statuses(t)) == 0
	})
}

// startMany makes pods that idle, some at a time.
func (w *world) startMany(t *testing.T) []string {
	t.Helper()
	var names []string
	for range scale / batch {
		var manifests strings.Builder
		for range batch {
			name := fmt.Sprintf("p%02d", len(names))
			names = append(names, name)
			fmt.Fprintf(&manifests, `
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  enableServiceLinks: false
  containers: [{name: app, image: %s, imagePullPolicy: Never, command: [idle]}]
`, name, w.namespace, imageWorkload)
		}
		apply(t, manifests.String())
		kubectl(t, "wait", "-n", w.namespace, "pods", "--all", "--for=condition=Ready", "--timeout=120s")
	}
	return names
}

// allGuarded asks in every pod.
func (w *world) allGuarded(t *testing.T, names []string) {
	t.Helper()
	var asked errgroup.Group
	asked.SetLimit(4)
	for _, name := range names {
		asked.Go(func() error {
			if got, err := w.whoami(name); err != nil || got != loginUser {
				return fmt.Errorf("got %q, %w from %s, want it guarded", got, err, name)
			}
			return nil
		})
	}
	if err := asked.Wait(); err != nil {
		t.Error(err)
	}
}

// latency is what connections from a pod take.
func (w *world) latency(t *testing.T, name string) string {
	t.Helper()
	dsn := fmt.Sprintf("user=%s password=%s dbname=shop", directUser, directPassword)
	out, err := w.exec(name, "python3", "-c", latencyProgram, addresses(t, "data", "shop")[0], dsn, "100")
	if err != nil {
		t.Fatalf("got %v from connections of %s, want them to succeed: %s", err, name, out)
	}
	return strings.Join(strings.Fields(out), " ")
}

// gateHolds counts the gate's descriptors, and the entries of its maps by name.
func gateHolds(t *testing.T) map[string]int {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", gatePID(t)))
	if err != nil || len(infos) == 0 {
		t.Fatalf("got %d descriptors of the gate, %v, want some", len(infos), err)
	}
	holds := map[string]int{"descriptors": len(infos)}
	seen := make(map[string]bool)
	for _, info := range infos {
		text, _ := os.ReadFile(info) // one may be closed by now
		_, id, isMap := strings.Cut(string(text), "map_id:")
		if id, _, _ = strings.Cut(strings.TrimSpace(id), "\n"); isMap && !seen[id] {
			seen[id] = true
			name, entries := mapEntries(t, id)
			holds[name] += entries
		}
	}
	return holds
}

// gatePID is the process of the node's gate.
func gatePID(t *testing.T) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if text, err := os.ReadFile(path); err == nil && bytes.HasPrefix(text, []byte("/postern\x00agent\x00gate\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("got no process of the gate, want one")
	return 0
}

// mapEntries counts what comes and goes in a map: nothing in arrays and rings.
func mapEntries(t *testing.T, id string) (name string, n int) {
	t.Helper()
	number, err := strconv.Atoi(id)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(number))
	if errors.Is(err, os.ErrNotExist) {
		return "gone", 0
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	switch info.Type {
	case ebpf.ArrayOfMaps: // a slot is empty or has a map
		for slot := range info.MaxEntries {
			var inner ebpf.MapID
			if err := m.Lookup(slot, &inner); err == nil {
				n++
			} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
				t.Fatal(err)
			}
		}
	case ebpf.Hash, ebpf.LPMTrie:
		for key, err := m.NextKeyBytes(nil); key != nil; key, err = m.NextKeyBytes(key) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return info.Name, n
}

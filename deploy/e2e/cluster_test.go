package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience bounds how long a test waits for what has to happen.
const patience = 60 * time.Second

// kubectl must succeed.
func kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := kubectlRun("", args...)
	if err != nil {
		t.Fatalf("got %v from kubectl %s, want it to succeed: %s", err, strings.Join(args, " "), out)
	}
	return out
}

// apply must succeed.
func apply(t testing.TB, manifests string) {
	t.Helper()
	if out, err := kubectlRun(manifests, "apply", "--server-side", "--force-conflicts", "-f", "-"); err != nil {
		t.Fatalf("got %v from kubectl apply, want it to succeed: %s", err, out)
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	within(t, patience, what, holds)
}

// within does so for as long.
func within(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	start := time.Now()
	for ; !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > limit {
			t.Fatalf("got it not in %s, want %s", limit, what)
		}
	}
	if took := time.Since(start); took > noticed {
		t.Logf("waited %s for %s", took.Round(time.Second), what)
	}
}

// noticed is from when on a wait is worth a line.
const noticed = 10 * time.Second

// inNode runs a program among the node's processes, in its namespaces.
func inNode(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(cluster.program, append([]string{"enter"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("got %v from %s in the node, want it to succeed: %s", err, strings.Join(args, " "), out)
	}
	return string(out)
}

// record is what the tests read of one.
type record struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Session  string `json:"session"`
	Stale    int64  `json:"stale_us"`
	Workload struct {
		Namespace      string `json:"namespace"`
		Pod            string `json:"pod"`
		UID            string `json:"uid"`
		ServiceAccount string `json:"service_account"`
		Container      string `json:"container"`
		Process        string `json:"process"`
		Exe            string `json:"exe"`
		Verified       string `json:"verified"`
	} `json:"workload"`
	Target struct {
		Name    string `json:"name"`
		Address string `json:"address"`
	} `json:"target"`
	Request struct {
		Operations []string `json:"operations"`
		Relations  []string `json:"relations"`
	} `json:"request"`
	Decision struct {
		Action, Policy, Rule string
	} `json:"decision"`
	Refusal struct {
		Reason, Message string
	} `json:"refusal"`
	Ledger *struct {
		Seen, Redirected, Sessions uint64
		Missing                    int64
	} `json:"ledger"`
	Event struct {
		Reason string            `json:"reason"`
		Detail map[string]string `json:"detail"`
	} `json:"event"`
}

// records are those of every log of the node that pick chooses, oldest first.
func records(t testing.TB, pick func(record) bool) (picked []record) {
	t.Helper()
	out, err := exec.Command(filepath.Join(cluster.root, "bin/postern"), "audit", "tail", "--json", "--all", "--log-dir", cluster.logs).Output()
	if err != nil {
		t.Fatalf("read the trail in %s: %v", cluster.logs, err)
	}
	for line := range strings.Lines(string(out)) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("read a record: %v", err)
		}
		if pick(r) {
			picked = append(picked, r)
		}
	}
	return picked
}

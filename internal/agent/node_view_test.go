package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
)

const kubeconfig = `{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}],
contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}`

// newViewing gives a node that says what it sees, without a gate or an API server.
func newViewing(t *testing.T) (n *node, told *announced, folder string) {
	t.Helper()
	folder = t.TempDir()
	a, stop := newRecording(t, folder)
	t.Cleanup(stop)
	told = new(announced)
	n = &node{
		o: NodeOptions{Version: "0.1.0", Node: "n1", Log: a.o.Log.(*logrus.Logger), StrictPods: StrictReport, MaxStale: time.Hour}, link: new(link), pods: newPods(),
		metrics: metrics.New(), announce: told, recorder: a.recorder, targets: &targets{log: a.o.Log},
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.watcher, err = cluster.New(cluster.Config{Kubeconfig: file, Node: "n1", Namespace: "postern-system", Log: n.o.Log}); err != nil {
		t.Fatal(err)
	}
	n.gauges = n.metrics.Node(nil, nil)
	n.view = newView(n)
	n.witness = &witness{node: "n1", pods: n.pods}
	n.logins = newLogins(&safe{err: os.ErrNotExist}, n.policy.Load, func(*audit.Record) {})
	n.policy.Store(ordersSet(t))
	return n, told, folder
}

func TestNodeStatusSaysWhatTheNodeSees(t *testing.T) {
	n, _, _ := newViewing(t)
	n.fed.Store(true)
	n.pods.replace([]cluster.Pod{
		{UID: "1", Namespace: "agents", Name: "a", ServiceAccount: "s", Guarded: true},
		{UID: "2", Namespace: "agents", Name: "b", ServiceAccount: "s", Guarded: true},
		{UID: "3", Namespace: "other", Name: "c", ServiceAccount: "s", Guarded: true},
		{UID: "4", Namespace: "agents", Name: "plain", ServiceAccount: "s"},
	})
	n.view.loggedIn("orders", "")
	n.view.loggedIn("stock", "the server of target stock does not answer")
	n.view.rejected(map[string]error{"Target/bad": os.ErrInvalid})
	n.hearNotEnforced(gate.Event{PodUID: "2", Reasons: []string{"hostPID"}})
	armed := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	got := n.view.state(gate.Status{Armed: armed, Unarmed: 1500 * time.Millisecond}, true)
	if got.Agent != "0.1.0" || !strings.HasPrefix(got.PolicyHash, "sha256:") || got.ArmedSince == nil || !got.ArmedSince.Time.Equal(armed) {
		t.Errorf("got %+v, want the agent, its policy, and since when it is armed", got)
	}
	if got.Guarded == nil || *got.Guarded != 3 {
		t.Errorf("got %v guarded, want 3", got.Guarded)
	}
	if len(got.NotEnforceable) != 1 || got.NotEnforceable[0].Name != "b" || !slices.Equal(got.NotEnforceable[0].Reasons, []string{"hostPID"}) {
		t.Errorf("got %v not enforceable, want pod b", got.NotEnforceable)
	}
	if len(got.Policies) != 1 || got.Policies[0].Name != "reports" || got.Policies[0].Pods != 2 {
		t.Errorf("got policies %v, want reports with two pods", got.Policies)
	}
	if len(got.Targets) != 2 || got.Targets[0].LastLogin == nil || got.Targets[0].LoginError != "" || got.Targets[1].LastLogin != nil || got.Targets[1].LoginError == "" {
		t.Errorf("got targets %+v, want a log-in at orders and a failed one at stock", got.Targets)
	}
	if len(got.Rejected) != 1 || got.Rejected[0].Object != "Target/bad" {
		t.Errorf("got %v rejected, want Target/bad", got.Rejected)
	}
	for kind, want := range map[string]metav1.ConditionStatus{
		policy.ConditionArmed: metav1.ConditionTrue, policy.ConditionEnforced: metav1.ConditionFalse, policy.ConditionFresh: metav1.ConditionTrue,
	} {
		if c := meta.FindStatusCondition(got.Conditions, kind); c == nil || c.Status != want {
			t.Errorf("got condition %+v, want %s %s", c, kind, want)
		}
	}
	if c := meta.FindStatusCondition(got.Conditions, policy.ConditionArmed); !strings.Contains(c.Message, "ran for 1.5s before") {
		t.Errorf("got %q, want for how long pods ran unarmed", c.Message)
	}
	if c := meta.FindStatusCondition(n.view.state(gate.Status{}, false).Conditions, policy.ConditionArmed); c.Status != metav1.ConditionFalse {
		t.Errorf("got %+v without a gate, want the node not armed", c)
	}
}

// leakRecords are the reasons in the trail's records of pods that are not held.
func leakRecords(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*", "*", "leaves-*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got %v and %v, want one file", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(strings.TrimRight(string(text), "\x00")) {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Kind == audit.KindAgentDegraded && r.Event.Reason == "not-enforceable" {
			all = append(all, r.Workload.Namespace+"/"+r.Workload.Pod+" "+r.Event.Detail["reasons"])
		}
	}
	return all
}

func TestPodThatIsNotHeldIsToldOfByEventAndRecord(t *testing.T) {
	n, told, folder := newViewing(t)
	n.pods.replace([]cluster.Pod{{UID: "1", Namespace: "agents", Name: "a", Guarded: true}})
	for range 3 { // the same again is no news
		n.hearNotEnforced(gate.Event{PodUID: "1", Reasons: []string{"hostPID", "a link"}})
	}
	want := []string{"1 NotEnforceable This pod can go around its guard: hostPID; a link"}
	if !slices.Equal(*told, want) {
		t.Errorf("got Events %q, want %q", *told, want)
	}
	if got := leakRecords(t, folder); !slices.Equal(got, []string{"agents/a hostPID; a link"}) {
		t.Errorf("got records %q, want one", got)
	}
	n.hearNotEnforced(gate.Event{PodUID: "1"})
	if got := n.view.leaks("1"); len(got) != 0 {
		t.Errorf("got %v when no reason is left, want none", got)
	}
}

func TestPodThatChangesItsLinksWithoutEndDoesNotFloodTheTrail(t *testing.T) {
	n, told, folder := newViewing(t)
	n.pods.replace([]cluster.Pod{{UID: "1", Namespace: "agents", Name: "a", Guarded: true}})
	for i := range 500 {
		n.hearNotEnforced(gate.Event{PodUID: "1"})
		n.hearNotEnforced(gate.Event{PodUID: "1", Reasons: []string{fmt.Sprintf("link %d", i)}})
	}
	if got := leakRecords(t, folder); len(got) != maxLeakRecords || len(*told) != maxLeakRecords {
		t.Errorf("got %d records and %d Events, want %d", len(got), len(*told), maxLeakRecords)
	}
	n.tellOwed()
	if got := leakRecords(t, folder); len(got) != maxLeakRecords+1 || got[maxLeakRecords] != "agents/a link 499" {
		t.Errorf("got %q at the round's end, want the newest too", got)
	}
	n.tellOwed()
	if got := leakRecords(t, folder); len(got) != maxLeakRecords+1 {
		t.Errorf("got %d records in a round in which nothing changed, want no more", len(got))
	}
	n.pods.replace(nil)
	n.tellOwed()
	if len(n.view.leaky.why) != 0 {
		t.Errorf("got %v kept of a pod that is gone, want nothing", n.view.leaky.why)
	}
}

func TestGuardOfOtherProtocolsAloneIsSaidToGuardNothing(t *testing.T) {
	n, told, _ := newViewing(t)
	list := []cluster.Pod{
		{UID: "1", Namespace: "agents", Name: "a", Guarded: true, Protocols: []string{"kubernetes"}},
		{UID: "2", Namespace: "agents", Name: "b", Guarded: true, Protocols: []string{"kubernetes", "postgres"}},
	}
	n.pods.replace(list)
	n.noticeProtocols(list)
	n.noticeProtocols(list)
	if len(*told) != 1 || !strings.HasPrefix((*told)[0], "1 NotEnforceable") || !strings.Contains((*told)[0], notGuardedYet) {
		t.Errorf("got %q, want one Event on the one pod", *told)
	}
	if got := n.view.state(gate.Status{}, true); *got.Guarded != 1 || len(got.NotEnforceable) != 1 || got.NotEnforceable[0].Name != "a" {
		t.Errorf("got %d guarded, %v not enforceable, want pod b and pod a", *got.Guarded, got.NotEnforceable)
	}
	list[0].Protocols = nil
	n.noticeProtocols(list)
	if got := n.view.leaks("1"); len(got) != 0 {
		t.Errorf("got %v when it is guarded for everything, want nothing", got)
	}
}

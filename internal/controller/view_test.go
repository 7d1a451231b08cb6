package controller

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"postern.dev/postern/internal/policy"
)

const (
	ordersTarget = `{apiVersion: postern.dev/v1alpha1, kind: Target, metadata: {name: orders, generation: 3}, spec: {protocol: postgres,
  hosts: [orders.example], credential: {secret: orders-login}, tls: {ca: {secret: orders-ca}}, sensitive: [{columns: ["public.users.email", "public.users.ssn"], mask: redact}]}}`
	weakTarget = `{apiVersion: postern.dev/v1alpha1, kind: Target, metadata: {name: weak}, spec: {protocol: postgres,
  hosts: [10.0.0.9], credential: {secret: weak-login}, tls: {mode: require}, source: node}}`
	faultyTarget = `{apiVersion: postern.dev/v1alpha1, kind: Target, metadata: {name: faulty}, spec: {protocol: postgres, hosts: ["*.example"]}}`
	reportPolicy = `{apiVersion: postern.dev/v1alpha1, kind: AccessPolicy, metadata: {name: reports}, spec: {subjects: [{namespaces: [agents]}],
  targets: [orders], rules: [{name: reads, allow: [SELECT]}]}}`
	otherPolicy = `{apiVersion: postern.dev/v1alpha1, kind: AccessPolicy, metadata: {name: writers}, spec: {subjects: [{namespaces: [agents]}],
  credential: {secret: writers-login}, targets: [orders], rules: [{name: writes, allow: [INSERT]}]}}`
	thirdPolicy = `{apiVersion: postern.dev/v1alpha1, kind: AccessPolicy, metadata: {name: third}, spec: {subjects: [{namespaces: [agents]}],
  credential: {secret: third-login}, targets: [orders], rules: [{name: writes, allow: [INSERT]}]}}`
	nodeOne = `{apiVersion: postern.dev/v1alpha1, kind: NodeStatus, metadata: {name: one}, status: {targets: [{name: orders,
  addresses: ["10.0.0.2:5432", "10.0.0.1:5432"], lastLogin: "2026-11-01T10:00:00Z", sensitiveFound: [public.users.email]}],
  policies: [{name: reports, pods: 2}]}}`
	nodeTwo = `{apiVersion: postern.dev/v1alpha1, kind: NodeStatus, metadata: {name: two}, status: {targets: [{name: orders,
  addresses: ["10.0.0.1:5432"], lastLogin: "2026-11-01T11:00:00Z", loginError: "certificate has expired", sensitiveMissing: [public.users.email, public.users.ssn]}],
  policies: [{name: reports, pods: 3}]}}`
	nodeBlind = `{apiVersion: postern.dev/v1alpha1, kind: NodeStatus, metadata: {name: blind}, status: {targets: [{name: orders}]}}`
)

func seen(t *testing.T, texts ...string) map[schema.GroupVersionResource][]*unstructured.Unstructured {
	t.Helper()
	resources := map[string]schema.GroupVersionResource{"Target": targets, "AccessPolicy": policies, "Issuer": issuers, "NodeStatus": nodeStatuses}
	out := make(map[schema.GroupVersionResource][]*unstructured.Unstructured)
	for _, text := range texts {
		var object unstructured.Unstructured
		asJSON, err := yaml.YAMLToJSON([]byte(text))
		if err == nil {
			err = object.UnmarshalJSON(asJSON)
		}
		if err != nil {
			t.Fatal(err)
		}
		resource := resources[object.GetKind()]
		out[resource] = append(out[resource], &object)
	}
	return out
}

// statusOf is the status of the first object of a kind, as its type.
func statusOf[T any](t *testing.T, objects map[schema.GroupVersionResource][]*unstructured.Unstructured, resource schema.GroupVersionResource, of func(*view) func(*unstructured.Unstructured) (any, error)) T {
	t.Helper()
	v, err := newView(objects)
	if err != nil {
		t.Fatal(err)
	}
	status, err := of(v)(objects[resource][0])
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func ofTarget(v *view) func(*unstructured.Unstructured) (any, error) { return v.target }
func ofPolicy(v *view) func(*unstructured.Unstructured) (any, error) { return v.accessPolicy }

// mustBe checks status and a part of the message of a condition.
func mustBe(t *testing.T, list policy.Conditions, kind string, status metav1.ConditionStatus, part string) {
	t.Helper()
	c := meta.FindStatusCondition(list, kind)
	if c == nil {
		t.Errorf("got no condition %s in %v, want it %s", kind, list, status)
		return
	}
	if c.Status != status || !strings.Contains(c.Message, part) {
		t.Errorf("got %s %s: %q, want %s with %q", kind, c.Status, c.Message, status, part)
	}
}

func TestTargetStatusSaysWhatEveryNodeSees(t *testing.T) {
	got := statusOf[policy.TargetStatus](t, seen(t, ordersTarget, nodeOne, nodeTwo), targets, ofTarget)
	if want := []string{"10.0.0.1:5432", "10.0.0.2:5432"}; !slices.Equal(got.Addresses, want) {
		t.Errorf("got addresses %v, want %v", got.Addresses, want)
	}
	if got.ObservedGeneration != 3 || got.LastLogin == nil || got.LastLogin.UTC().Hour() != 11 {
		t.Errorf("got generation %d and last log-in %v, want 3 and the later one", got.ObservedGeneration, got.LastLogin)
	}
	if !slices.Equal(got.SensitiveFound, []string{"public.users.email"}) || !slices.Equal(got.SensitiveMissing, []string{"public.users.ssn"}) {
		t.Errorf("got found %v, missing %v, want what one node found to count", got.SensitiveFound, got.SensitiveMissing)
	}
	mustBe(t, got.Conditions, policy.ConditionAccepted, metav1.ConditionTrue, "")
	mustBe(t, got.Conditions, policy.ConditionVerifiedTLS, metav1.ConditionTrue, "")
	mustBe(t, got.Conditions, policy.ConditionResolved, metav1.ConditionTrue, "")
	mustBe(t, got.Conditions, policy.ConditionLoggedIn, metav1.ConditionFalse, "two: certificate has expired")
	mustBe(t, got.Conditions, policy.ConditionSensitive, metav1.ConditionFalse, "public.users.ssn")
}

func TestTargetStatusSaysWhatIsNotKnown(t *testing.T) {
	got := statusOf[policy.TargetStatus](t, seen(t, ordersTarget), targets, ofTarget)
	for _, kind := range []string{policy.ConditionResolved, policy.ConditionLoggedIn, policy.ConditionSensitive} {
		mustBe(t, got.Conditions, kind, metav1.ConditionUnknown, "No agent")
	}
	got = statusOf[policy.TargetStatus](t, seen(t, ordersTarget, nodeOne, nodeBlind), targets, ofTarget)
	mustBe(t, got.Conditions, policy.ConditionResolved, metav1.ConditionFalse, "blind")
	got = statusOf[policy.TargetStatus](t, seen(t, weakTarget), targets, ofTarget)
	mustBe(t, got.Conditions, policy.ConditionVerifiedTLS, metav1.ConditionFalse, "require")
}

func TestFaultyTargetSaysWhyAndNothingElse(t *testing.T) {
	got := statusOf[policy.TargetStatus](t, seen(t, faultyTarget, ordersTarget), targets, ofTarget)
	mustBe(t, got.Conditions, policy.ConditionAccepted, metav1.ConditionFalse, "hosts[0]")
	if len(got.Conditions) != 1 || len(got.Addresses) != 0 {
		t.Errorf("got %v and %v, want the one condition and no addresses", got.Conditions, got.Addresses)
	}
}

func TestPolicyStatusCountsPodsAndNamesRivals(t *testing.T) {
	got := statusOf[policy.AccessPolicyStatus](t, seen(t, reportPolicy, ordersTarget, nodeOne, nodeTwo), policies, ofPolicy)
	if got.Pods == nil || *got.Pods != 5 {
		t.Errorf("got %v pods, want 5", got.Pods)
	}
	mustBe(t, got.Conditions, policy.ConditionUnambiguous, metav1.ConditionTrue, "")
	got = statusOf[policy.AccessPolicyStatus](t, seen(t, otherPolicy, thirdPolicy, ordersTarget), policies, ofPolicy)
	if !slices.Equal(got.AmbiguousWith, []string{"third"}) {
		t.Errorf("got ambiguous with %v, want third", got.AmbiguousWith)
	}
	mustBe(t, got.Conditions, policy.ConditionUnambiguous, metav1.ConditionFalse, "third")
}

func TestConditionKeepsItsTimeWhileItsStatusStays(t *testing.T) {
	objects := seen(t, ordersTarget)
	first := statusOf[policy.TargetStatus](t, objects, targets, ofTarget)
	for i := range first.Conditions {
		first.Conditions[i].LastTransitionTime = metav1.Unix(1, 0)
	}
	fields, err := fieldsOf(first)
	if err != nil {
		t.Fatal(err)
	}
	objects[targets][0].Object["status"] = fields
	second := statusOf[policy.TargetStatus](t, objects, targets, ofTarget)
	for _, c := range second.Conditions {
		if c.LastTransitionTime.Unix() != 1 {
			t.Errorf("got %s since %v, want it unchanged", c.Type, c.LastTransitionTime)
		}
	}
}

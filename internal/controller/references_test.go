package controller

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"postern.dev/postern/internal/policy"
)

const (
	lostPolicy = `{apiVersion: postern.dev/v1alpha1, kind: AccessPolicy, metadata: {name: lost}, spec: {subjects: [{users: ["okta:ada", "okta:bob", "k8s:system:serviceaccount:a:b"]}],
  targets: [orders, nowhere, faulty], rules: [{name: reads, allow: [SELECT]}]}}`
	orphanPolicy = `{apiVersion: postern.dev/v1alpha1, kind: AccessPolicy, metadata: {name: orphan}, spec: {subjects: [{namespaces: [agents]}],
  targets: [nowhere], rules: [{name: reads, allow: [SELECT]}]}}`
	nodePoor = `{apiVersion: postern.dev/v1alpha1, kind: NodeStatus, metadata: {name: %s}, status: {targets: [{name: orders, addresses: ["10.0.0.1:5432"],
  missing: ["service data/orders does not exist"]}], policies: [{name: reports, pods: 1, missing: ["get Secret reports: no such Secret in Postern's namespace"]}]}}`
)

func TestTargetSaysWhatItNamesAndIsNotThere(t *testing.T) {
	got := statusOf[policy.TargetStatus](t, seen(t, ordersTarget, fmt.Sprintf(nodePoor, "one"), fmt.Sprintf(nodePoor, "two"), nodeTwo), targets, ofTarget)
	mustBe(t, got.Conditions, policy.ConditionReferences, metav1.ConditionFalse, "service data/orders does not exist (on one, two). Create what is missing")
	got = statusOf[policy.TargetStatus](t, seen(t, ordersTarget, nodeOne), targets, ofTarget)
	mustBe(t, got.Conditions, policy.ConditionReferences, metav1.ConditionTrue, "No agent misses")
	got = statusOf[policy.TargetStatus](t, seen(t, ordersTarget), targets, ofTarget)
	mustBe(t, got.Conditions, policy.ConditionReferences, metav1.ConditionUnknown, "No agent")
}

func TestPolicySaysWhatItNamesAndIsNotThere(t *testing.T) {
	got := statusOf[policy.AccessPolicyStatus](t, seen(t, lostPolicy, ordersTarget, faultyTarget), policies, ofPolicy)
	mustBe(t, got.Conditions, policy.ConditionReferences, metav1.ConditionFalse,
		"there is no Target nowhere, Target faulty is not accepted, its status says why, there is no Issuer okta. Create what is missing")
	got = statusOf[policy.AccessPolicyStatus](t, seen(t, reportPolicy, ordersTarget, fmt.Sprintf(nodePoor, "one")), policies, ofPolicy)
	mustBe(t, got.Conditions, policy.ConditionReferences, metav1.ConditionFalse, "no such Secret in Postern's namespace (on one)")
	got = statusOf[policy.AccessPolicyStatus](t, seen(t, reportPolicy, ordersTarget, nodeOne), policies, ofPolicy)
	mustBe(t, got.Conditions, policy.ConditionReferences, metav1.ConditionTrue, "are there")
}

func TestPolicyWithoutATargetIsRefusedAndSaysWhatIsMissing(t *testing.T) {
	got := statusOf[policy.AccessPolicyStatus](t, seen(t, orphanPolicy), policies, ofPolicy)
	mustBe(t, got.Conditions, policy.ConditionAccepted, metav1.ConditionFalse, "nowhere")
	mustBe(t, got.Conditions, policy.ConditionReferences, metav1.ConditionFalse, "there is no Target nowhere")
}

func TestSensitiveColumnsAreThoseOfTheTargetAsItIs(t *testing.T) {
	renamed := strings.Replace(ordersTarget, "public.users.ssn", "public.users.number", 1)
	got := statusOf[policy.TargetStatus](t, seen(t, renamed, nodeOne, nodeTwo), targets, ofTarget)
	if len(got.SensitiveMissing) != 0 || len(got.SensitiveFound) != 1 {
		t.Errorf("got %v found and %v missing, want nothing of a column that the Target does not name", got.SensitiveFound, got.SensitiveMissing)
	}
	got = statusOf[policy.TargetStatus](t, seen(t, weakTarget, nodeOne), targets, ofTarget)
	mustBe(t, got.Conditions, policy.ConditionSensitive, metav1.ConditionTrue, "names no sensitive columns")
}

func TestStatusHoldsNoMoreThanItsSchemaTakes(t *testing.T) {
	objects := []string{ordersTarget}
	for node := range 3 {
		var addresses []string
		for i := range 900 {
			addresses = append(addresses, fmt.Sprintf("%q", fmt.Sprintf("10.%d.%d.%d:5432", node, i/250, i%250)))
		}
		objects = append(objects, fmt.Sprintf(`{apiVersion: postern.dev/v1alpha1, kind: NodeStatus, metadata: {name: n%d}, status: {targets: [{name: orders, addresses: [%s]}]}}`,
			node, strings.Join(addresses, ",")))
	}
	got := statusOf[policy.TargetStatus](t, seen(t, objects...), targets, ofTarget)
	if len(got.Addresses) != maxItems {
		t.Errorf("got %d addresses, want %d", len(got.Addresses), maxItems)
	}
}

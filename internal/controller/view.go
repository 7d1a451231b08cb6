package controller

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"postern.dev/postern/internal/policy"
)

// view is everything that is known of a cluster at one moment. It is pure: what
// it says of an object follows from what it was made of.
type view struct {
	set      *policy.Set
	rejected map[string]error // by "Kind/name"
	nodes    []*policy.NodeStatus
	now      metav1.Time
}

func newView(seen map[schema.GroupVersionResource][]*unstructured.Unstructured) (*view, error) {
	v := &view{now: metav1.NewTime(time.Now())}
	var documents []policy.Document
	for _, resource := range []schema.GroupVersionResource{targets, policies, issuers} {
		for _, object := range seen[resource] {
			text, err := object.MarshalJSON()
			if err != nil {
				return nil, err
			}
			documents = append(documents, policy.Document{Name: nameOf(object), JSON: text})
		}
	}
	slices.SortFunc(documents, func(a, b policy.Document) int { return cmp.Compare(a.Name, b.Name) })
	var err error
	if v.set, v.rejected, err = policy.Compile(documents); err != nil {
		return nil, err
	}
	for _, object := range seen[nodeStatuses] {
		node, err := typed[policy.NodeStatus](object)
		if err != nil {
			continue // an agent of another version; its node is not heard of
		}
		v.nodes = append(v.nodes, node)
	}
	slices.SortFunc(v.nodes, func(a, b *policy.NodeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return v, nil
}

func nameOf(object *unstructured.Unstructured) string {
	return object.GetKind() + "/" + object.GetName()
}

// target is the status of a Target.
func (v *view) target(object *unstructured.Unstructured) (any, error) {
	before, err := typed[policy.Target](object)
	if err != nil {
		before = &policy.Target{} // it is refused, and its status says so
	}
	status := policy.TargetStatus{ObservedGeneration: object.GetGeneration(), Conditions: before.Status.Conditions}
	set := v.conditions(&status.Conditions, object)
	set(v.accepted(object))
	accepted, ok := v.set.Target(object.GetName())
	if !ok {
		status.Conditions = keep(status.Conditions, policy.ConditionAccepted)
		return status, nil
	}
	set(verifiedTLS(accepted))
	var seen aggregate
	for _, node := range v.nodes {
		seen.add(node, object.GetName())
	}
	slices.Sort(seen.addresses)
	status.Addresses = atMost(slices.Compact(seen.addresses))
	status.LastLogin = seen.lastLogin
	seen.only(accepted.Sensitive().Patterns())
	status.SensitiveFound = atMost(seen.found())
	status.SensitiveMissing = atMost(seen.missing())
	set(seen.resolved())
	set(seen.loggedIn())
	set(seen.sensitive(accepted.Sensitive().Any()))
	set(seen.references())
	return status, nil
}

// accessPolicy is the status of an AccessPolicy.
func (v *view) accessPolicy(object *unstructured.Unstructured) (any, error) {
	before, err := typed[policy.AccessPolicy](object)
	if err != nil {
		before = &policy.AccessPolicy{}
	}
	status := policy.AccessPolicyStatus{ObservedGeneration: object.GetGeneration(), Conditions: before.Status.Conditions}
	set := v.conditions(&status.Conditions, object)
	set(v.accepted(object))
	var pods int32
	var missed misses
	for _, node := range v.nodes {
		for _, p := range node.Status.Policies {
			if p.Name == object.GetName() {
				pods += p.Pods
				missed.add(node.Name, p.Missing)
			}
		}
	}
	if err == nil {
		set(v.references(&before.Spec, missed))
	}
	if v.rejected[nameOf(object)] != nil {
		status.Conditions = keep(status.Conditions, policy.ConditionAccepted, policy.ConditionReferences)
		return status, nil
	}
	status.Pods = &pods
	status.AmbiguousWith = atMost(v.set.AmbiguousWith(object.GetName()))
	set(unambiguous(status.AmbiguousWith))
	return status, nil
}

// issuer is the status of an Issuer.
func (v *view) issuer(object *unstructured.Unstructured) (any, error) {
	before, err := typed[policy.Issuer](object)
	if err != nil {
		before = &policy.Issuer{}
	}
	status := policy.IssuerStatus{ObservedGeneration: object.GetGeneration(), Conditions: before.Status.Conditions}
	v.conditions(&status.Conditions, object)(v.accepted(object))
	return status, nil
}

// conditions returns what sets a condition: its time changes with its status alone.
func (v *view) conditions(list *policy.Conditions, object *unstructured.Unstructured) func(metav1.Condition) {
	return func(c metav1.Condition) {
		c.ObservedGeneration = object.GetGeneration()
		c.LastTransitionTime = v.now
		conditions := []metav1.Condition(*list)
		meta.SetStatusCondition(&conditions, c)
		*list = conditions
	}
}

// accepted tells whether an object counts.
func (v *view) accepted(object *unstructured.Unstructured) metav1.Condition {
	err := v.rejected[nameOf(object)]
	remarks := v.set.Remarks(nameOf(object))
	switch {
	case err == nil && len(remarks) == 0:
		return condition(policy.ConditionAccepted, metav1.ConditionTrue, "Accepted", "It counts.")
	case err == nil:
		return condition(policy.ConditionAccepted, metav1.ConditionTrue, "Remarks", "It counts. "+strings.Join(remarks, "; "))
	}
	return condition(policy.ConditionAccepted, metav1.ConditionFalse, "Faulty", err.Error())
}

// maxMessage is what the API allows a condition to say, in bytes.
//
// Source: metav1.Condition, Message.
const maxMessage = 32768

func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage-3], "") + "..."
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
}

// keep drops every condition but those of some types: what cannot be told any more.
func keep(list policy.Conditions, types ...string) policy.Conditions {
	return slices.DeleteFunc(list, func(c metav1.Condition) bool { return !slices.Contains(types, c.Type) })
}

func verifiedTLS(t *policy.Target) metav1.Condition {
	if mode := t.Spec.TLS.Mode; mode != policy.VerifyFull {
		return condition(policy.ConditionVerifiedTLS, metav1.ConditionFalse, "Weaker",
			fmt.Sprintf("tls.mode is %s: who answers at its addresses is not proven; use verify-full.", mode))
	}
	return condition(policy.ConditionVerifiedTLS, metav1.ConditionTrue, "VerifyFull", "The server's certificate proves its name.")
}

func unambiguous(with []string) metav1.Condition {
	if len(with) > 0 {
		return condition(policy.ConditionUnambiguous, metav1.ConditionFalse, "TwoCredentials",
			fmt.Sprintf("A subject that matches this and %s is refused: they name different credentials.", strings.Join(with, ", ")))
	}
	return condition(policy.ConditionUnambiguous, metav1.ConditionTrue, "OneCredential", "No other policy names another credential for its subjects.")
}

// typed reads an object of the API server into its type.
func typed[T any](object *unstructured.Unstructured) (*T, error) {
	text, err := object.MarshalJSON()
	if err != nil {
		return nil, err
	}
	it := new(T)
	return it, json.Unmarshal(text, it)
}

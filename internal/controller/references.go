package controller

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"postern.dev/postern/internal/policy"
)

// maxItems is how many items a list of a status takes.
//
// Source: TargetStatus and AccessPolicyStatus, MaxItems.
const maxItems = 1000

// atMost cuts a list to what a status takes: one item too many would keep all of
// the status from being written.
func atMost(list []string) []string { return list[:min(len(list), maxItems)] }

// ownIssuers vouch for subjects without an object.
var ownIssuers = []string{"k8s", "linux", "pod"}

// references tells whether what a policy names is there: its Targets, the Issuers of
// its subjects, and by the nodes' word its Secret.
func (v *view) references(spec *policy.AccessPolicySpec, missed misses) metav1.Condition {
	var list []string
	for _, name := range spec.Targets {
		if _, ok := v.set.Target(name); !ok {
			list = append(list, v.lacks("Target", name))
		}
	}
	issuers := make(map[string]bool)
	for _, issuer := range v.set.Issuers() {
		issuers[issuer.ObjectMeta.Name] = true
	}
	for _, selector := range spec.Subjects {
		for _, subject := range slices.Concat(selector.Users, selector.Groups) {
			issuer, _, _ := strings.Cut(subject, ":")
			if !issuers[issuer] && !slices.Contains(ownIssuers, issuer) {
				issuers[issuer] = true // is told once
				list = append(list, v.lacks("Issuer", issuer))
			}
		}
	}
	if list = append(list, missed.list()...); len(list) > 0 {
		return missing(list)
	}
	return condition(policy.ConditionReferences, metav1.ConditionTrue, "Found", "The Targets and Issuers that it names are there.")
}

// lacks says that an object is not there, or is and does not count.
func (v *view) lacks(kind, name string) string {
	if v.rejected[kind+"/"+name] != nil {
		return fmt.Sprintf("%s %s is not accepted, its status says why", kind, name)
	}
	return fmt.Sprintf("there is no %s %s", kind, name)
}

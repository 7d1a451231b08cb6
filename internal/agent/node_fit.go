package agent

import (
	"encoding/json"
	"fmt"

	"postern.dev/postern/internal/policy"
)

// The most that a NodeStatus takes, as its schema says.
const (
	maxStatusPods      = 500
	maxStatusObjects   = 1000
	maxStatusAddresses = 1000
	maxStatusColumns   = 1000
	maxStatusMissing   = 100
	maxStatusReasons   = 20
	maxStatusReason    = 1024 // bytes
	maxStatusRejection = 4096 // bytes
)

// maxStatusBytes is how large a NodeStatus gets, as JSON: etcd takes 1.5 MiB of an
// object, and the API server notes for each member of a list who wrote it.
//
// Source: etcd documentation, System limits; Kubernetes documentation, Server-Side Apply.
const maxStatusBytes = 256 << 10

// fit cuts a NodeStatus to what its schema and the API server take. Tenants choose
// how many pods, Services and names there are, and one object too many would keep
// all of it from being written. What is cut can be asked for on the node.
func fit(state policy.NodeState) policy.NodeState {
	for share := 1.0; ; share /= 8 {
		cut := cutTo(state, share)
		text, err := json.Marshal(cut)
		if err != nil || len(text) <= maxStatusBytes || share < 1.0/(1<<20) {
			return cut
		}
	}
}

// cutTo keeps a share of each list and text.
func cutTo(state policy.NodeState, share float64) policy.NodeState {
	few := func(most int) int { return int(share * float64(most)) }
	text := func(most int) int { return max(few(most), 64) }
	state.NotEnforceable = first(state.NotEnforceable, few(maxStatusPods), func(p policy.NodePod) policy.NodePod {
		p.Reasons = texts(p.Reasons, max(few(maxStatusReasons), 1), text(maxStatusReason))
		return p
	})
	// All Targets and policies are there, however little is said of each.
	state.Targets = first(state.Targets, maxStatusObjects, func(t policy.NodeTarget) policy.NodeTarget {
		t.Addresses = first(t.Addresses, few(maxStatusAddresses), same)
		t.LoginError = clip(t.LoginError, text(maxStatusReason))
		t.SensitiveFound = first(t.SensitiveFound, few(maxStatusColumns), same)
		t.SensitiveMissing = first(t.SensitiveMissing, few(maxStatusColumns), same)
		t.Missing = texts(t.Missing, few(maxStatusMissing), text(maxStatusReason))
		return t
	})
	state.Policies = first(state.Policies, maxStatusObjects, func(p policy.NodePolicy) policy.NodePolicy {
		p.Missing = texts(p.Missing, few(maxStatusMissing), text(maxStatusReason))
		return p
	})
	state.Rejected = first(state.Rejected, few(maxStatusObjects), func(r policy.NodeRejection) policy.NodeRejection {
		r.Reason = clip(r.Reason, text(maxStatusRejection))
		return r
	})
	return state
}

func same(text string) string { return text }

// first gives the first of a list, each changed; the list stays as it is.
func first[T any](list []T, most int, change func(T) T) []T {
	var out []T
	for _, item := range list[:min(len(list), most)] {
		out = append(out, change(item))
	}
	return out
}

// texts gives the first of a list for people to read; the last says how many more there are.
func texts(list []string, most, bytes int) []string {
	if more := len(list) - most + 1; most > 0 && more > 1 {
		return append(texts(list[:most-1], most, bytes), fmt.Sprintf("and %d more", more))
	}
	return first(list, most, func(text string) string { return clip(text, bytes) })
}

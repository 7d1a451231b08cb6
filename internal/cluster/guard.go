package cluster

import (
	"slices"
	"strings"
)

// GuardLabel on a pod or a namespace guards the pod, or every pod of the namespace.
const GuardLabel = "postern.dev/guard"

// protocols are those that a guard may be limited to.
var protocols = []string{"kubernetes", "postgres"}

// guard is what a label asks for. The zero value guards nothing.
type guard struct {
	on bool
	// protocols is what is guarded, sorted; nil: everything.
	protocols []string
}

// guardOf reads the value of [GuardLabel].
//
// Shape: "false" and no label guard nothing; protocols joined by dots guard these;
// "true", a protocol that nobody knows and whatever else guard everything, so that
// a slip of the pen never leaves a pod open.
func guardOf(labels map[string]string) guard {
	value, ok := labels[GuardLabel]
	if !ok || value == "false" {
		return guard{}
	}
	list := strings.Split(value, ".")
	for _, name := range list {
		if !slices.Contains(protocols, name) {
			return guard{on: true}
		}
	}
	slices.Sort(list)
	return guard{on: true, protocols: slices.Compact(list)}
}

// with is what two guards make together: neither undoes the other.
func (g guard) with(other guard) guard {
	switch {
	case !g.on:
		return other
	case !other.on:
		return g
	case g.protocols == nil || other.protocols == nil:
		return guard{on: true}
	}
	both := slices.Concat(g.protocols, other.protocols)
	slices.Sort(both)
	return guard{on: true, protocols: slices.Compact(both)}
}

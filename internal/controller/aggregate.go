package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"postern.dev/postern/internal/policy"
)

// aggregate is what all nodes see of one Target.
type aggregate struct {
	nodes      int
	unresolved []string // names of nodes that know no address
	failed     []string // "node: why", of those whose last log-in failed
	addresses  []string
	lastLogin  *metav1.Time
	columns    map[string]bool // sensitive ones: whether some node found it
	misses     misses
}

// misses are what nodes miss of what an object names, and which nodes.
type misses map[string][]string

func (m *misses) add(node string, texts []string) {
	for _, text := range texts {
		if *m == nil {
			*m = make(misses)
		}
		(*m)[text] = append((*m)[text], node)
	}
}

// list tells each, with the nodes that miss it.
func (m misses) list() []string {
	var list []string
	for _, text := range slices.Sorted(maps.Keys(m)) {
		list = append(list, text+" (on "+clipped(m[text])+")")
	}
	return list
}

// add takes what a node says of a Target.
func (a *aggregate) add(node *policy.NodeStatus, target string) {
	i := slices.IndexFunc(node.Status.Targets, func(t policy.NodeTarget) bool { return t.Name == target })
	if i < 0 {
		return // its agent has not seen the Target yet
	}
	seen := node.Status.Targets[i]
	a.nodes++
	if len(seen.Addresses) == 0 {
		a.unresolved = append(a.unresolved, node.Name)
	}
	a.addresses = append(a.addresses, seen.Addresses...)
	if seen.LastLogin != nil && (a.lastLogin == nil || a.lastLogin.Before(seen.LastLogin)) {
		a.lastLogin = seen.LastLogin
	}
	if seen.LoginError != "" {
		a.failed = append(a.failed, node.Name+": "+seen.LoginError)
	}
	a.misses.add(node.Name, seen.Missing)
	if a.columns == nil {
		a.columns = make(map[string]bool)
	}
	for _, column := range seen.SensitiveMissing {
		a.columns[column] = a.columns[column] || false
	}
	for _, column := range seen.SensitiveFound {
		a.columns[column] = true
	}
}

func (a *aggregate) found() []string   { return a.columnsThat(true) }
func (a *aggregate) missing() []string { return a.columnsThat(false) }

func (a *aggregate) columnsThat(found bool) []string {
	var list []string
	for column, is := range a.columns {
		if is == found {
			list = append(list, column)
		}
	}
	slices.Sort(list)
	return list
}

func (a *aggregate) resolved() metav1.Condition {
	switch {
	case a.nodes == 0:
		return condition(policy.ConditionResolved, metav1.ConditionUnknown, "NoAgent", "No agent has said yet which addresses it has.")
	case len(a.unresolved) > 0:
		return condition(policy.ConditionResolved, metav1.ConditionFalse, "NoAddress",
			fmt.Sprintf("No address is known on %s: its hosts do not resolve, or its services are not there.", clipped(a.unresolved)))
	}
	return condition(policy.ConditionResolved, metav1.ConditionTrue, "Resolved", "Every agent knows its addresses.")
}

func (a *aggregate) loggedIn() metav1.Condition {
	switch {
	case len(a.failed) > 0:
		return condition(policy.ConditionLoggedIn, metav1.ConditionFalse, "LoginFailed", "The last log-in failed on "+clipped(a.failed)+".")
	case a.lastLogin == nil:
		return condition(policy.ConditionLoggedIn, metav1.ConditionUnknown, "NoLogin", "No agent has logged in yet.")
	}
	return condition(policy.ConditionLoggedIn, metav1.ConditionTrue, "LoggedIn", "The last log-in of every agent succeeded.")
}

// only drops columns that the Target does not name: an agent may not have seen its
// newest version.
func (a *aggregate) only(patterns []string) {
	maps.DeleteFunc(a.columns, func(column string, _ bool) bool { return !slices.Contains(patterns, column) })
}

func (a *aggregate) sensitive(declared bool) metav1.Condition {
	switch missing := a.missing(); {
	case !declared:
		return condition(policy.ConditionSensitive, metav1.ConditionTrue, "NoneDeclared", "It names no sensitive columns: nothing is masked.")
	case len(a.columns) == 0:
		return condition(policy.ConditionSensitive, metav1.ConditionUnknown, "NotLooked", "No agent has looked for sensitive columns yet; one does when a session logs in.")
	case len(missing) > 0:
		return condition(policy.ConditionSensitive, metav1.ConditionFalse, "Missing",
			clipped(missing)+" fit no column of a database that was looked at: correct the name, which masks nothing as it is.")
	}
	return condition(policy.ConditionSensitive, metav1.ConditionTrue, "Found", "Every sensitive column was found.")
}

// references tells whether what the Target names is there.
func (a *aggregate) references() metav1.Condition {
	if list := a.misses.list(); len(list) > 0 {
		return missing(list)
	}
	if a.nodes == 0 {
		return condition(policy.ConditionReferences, metav1.ConditionUnknown, "NoAgent", "No agent has looked for what it names yet.")
	}
	return condition(policy.ConditionReferences, metav1.ConditionTrue, "Found",
		"No agent misses what it names; a Secret is read when a session logs in.")
}

// missing says what is not there, and what to do.
func missing(list []string) metav1.Condition {
	return condition(policy.ConditionReferences, metav1.ConditionFalse, "NotFound",
		clipped(list)+". Create what is missing (a Secret in Postern's own namespace), or correct the name.")
}

// clipped joins a list, of which a reader needs no more than the beginning.
func clipped(list []string) string {
	const most = 5
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

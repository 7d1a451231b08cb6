package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/policy"
)

// view is what this node has to tell of itself: in its NodeStatus, and to whoever
// asks on the node.
type view struct {
	node  *node
	since time.Time

	checkpoints checkpoints

	mu        sync.Mutex
	refusing  map[string]string // objects that are not accepted, and why
	leaky     leaks
	logins    map[string]login
	columns   map[string]*columns // by Target
	published time.Time
	changed   bool
	states    map[string]metav1.Condition // as last told, for the time of their change
}

// login is how the last log-in at a Target went.
type login struct {
	last   time.Time
	failed string
}

// publishInterval is how old a NodeStatus gets while nothing changes.
const publishInterval = 10 * time.Second

func newView(n *node) *view {
	return &view{
		node: n, since: time.Now(), leaky: newLeaks(), logins: make(map[string]login),
		columns: make(map[string]*columns), states: make(map[string]metav1.Condition),
	}
}

// loggedIn is [postgres.Config.LoggedIn].
func (v *view) loggedIn(target, failed string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	one := v.logins[target]
	v.changed = v.changed || one.failed != failed || one.last.IsZero()
	one.failed = failed
	if failed == "" {
		one.last = time.Now()
	}
	v.logins[target] = one
}

// rejected replaces the objects that are not accepted.
func (v *view) rejected(objects map[string]error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refusing, v.changed = make(map[string]string, len(objects)), true
	for name, why := range objects {
		v.refusing[name] = why.Error()
	}
}

func (v *view) rejections() map[string]string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.refusing)
}

// targets are the Targets as this node sees them.
func (v *view) targets() []TargetReport {
	addresses := v.node.targets.addresses()
	missing := v.node.targets.missing()
	unreadable, _ := v.node.logins.unreadable()
	set := v.node.policy.Load()
	v.mu.Lock()
	defer v.mu.Unlock()
	gone := func(name string) bool { _, ok := set.Target(name); return !ok }
	maps.DeleteFunc(v.logins, func(name string, _ login) bool { return gone(name) })
	maps.DeleteFunc(v.columns, func(name string, _ *columns) bool { return gone(name) })
	var all []TargetReport
	for _, target := range set.Targets() {
		name := target.Name()
		one := v.logins[name]
		report := TargetReport{
			Name: name, Addresses: addresses[name], Missing: append(missing[name], unreadable[name]...), LastLogin: one.last, Failed: one.failed,
		}
		report.SensitiveFound, report.SensitiveMissing = v.sensitive(target)
		all = append(all, report)
	}
	return all
}

// publish reports the node's state when something changed or the last report gets old.
func (v *view) publish(ctx context.Context) {
	v.mu.Lock()
	due := v.changed || time.Since(v.published) >= publishInterval
	if due {
		v.published, v.changed = time.Now(), false
	}
	v.mu.Unlock()
	if due {
		status, err := v.node.gateStatus(ctx)
		if err == nil && !status.Armed.IsZero() {
			v.node.arming.take(status, v.node.recorder)
		}
		v.node.watcher.Report(v.state(status, err == nil))
	}
}

// state is the node's state as its NodeStatus shows it; status is the gate's, if there is one.
func (v *view) state(status gate.Status, hasGate bool) policy.NodeState {
	n, now := v.node, metav1.Now()
	set := n.policy.Load()
	state := policy.NodeState{Agent: n.o.Version, Kernel: kernelRelease(), Observed: &now, PolicyHash: set.Hash()}
	var err error
	if state.Checkpoint, err = v.checkpoints.last(); err != nil {
		n.o.Log.WithError(err).Warn("Checkpoint of the trail not read")
	}
	if hasGate && !status.Armed.IsZero() {
		since := metav1.NewTime(status.Armed)
		state.ArmedSince = &since
	}
	guarded := int32(0)
	matching := make(map[string]int32)
	for _, p := range n.pods.list() {
		if !p.Guarded {
			continue
		}
		if guards(p.Pod) {
			guarded++
		}
		if reasons := v.leaks(p.UID); len(reasons) > 0 {
			state.NotEnforceable = append(state.NotEnforceable, policy.NodePod{Namespace: p.Namespace, Name: p.Name, Reasons: reasons})
		}
		who := n.witness.subjectOf(p)
		for _, access := range set.Policies() {
			if access.Matches(who) {
				matching[access.Name()]++
			}
		}
	}
	n.gauges.Pods(int(guarded), len(state.NotEnforceable))
	state.Guarded = &guarded
	slices.SortFunc(state.NotEnforceable, func(a, b policy.NodePod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	_, unreadable := n.logins.unreadable()
	for _, name := range slices.Sorted(maps.Keys(matching)) {
		state.Policies = append(state.Policies, policy.NodePolicy{Name: name, Pods: matching[name], Missing: unreadable[name]})
	}
	for _, t := range v.targets() {
		state.Targets = append(state.Targets, t.forCluster())
	}
	for name, why := range v.rejections() {
		state.Rejected = append(state.Rejected, policy.NodeRejection{Object: name, Reason: why})
	}
	slices.SortFunc(state.Rejected, func(a, b policy.NodeRejection) int { return strings.Compare(a.Object, b.Object) })
	state.Conditions = v.conditions(hasGate, status.Unarmed, len(state.NotEnforceable))
	return fit(state)
}

func (t TargetReport) forCluster() policy.NodeTarget {
	out := policy.NodeTarget{
		Name: t.Name, LoginError: t.Failed, Missing: t.Missing, SensitiveFound: t.SensitiveFound, SensitiveMissing: t.SensitiveMissing,
	}
	for _, addr := range t.Addresses {
		out.Addresses = append(out.Addresses, addr.String())
	}
	if !t.LastLogin.IsZero() {
		last := metav1.NewTime(t.LastLogin)
		out.LastLogin = &last
	}
	return out
}

// conditions say in three words how the node is.
func (v *view) conditions(hasGate bool, unarmed time.Duration, leaky int) policy.Conditions {
	n := v.node
	fed := "the kernel's programs know what is guarded"
	if unarmed > 0 {
		fed += fmt.Sprintf("; pods of this boot ran for %s before: install the boot layer", unarmed.Round(time.Millisecond))
	}
	if short := n.short.list(); len(short) > 0 {
		fed += "; " + strings.Join(short, "; ")
	}
	armed := condition(policy.ConditionArmed, hasGate && n.fed.Load(), "Fed", fed,
		"NotFed", "the gate is away or does not know yet what is guarded: guarded pods are refused their Targets")
	enforced := condition(policy.ConditionEnforced, leaky == 0, "Held", "every guarded pod is held",
		"NotEnforceable", fmt.Sprintf("%d guarded pods can go around their guard", leaky))
	fresh := condition(policy.ConditionFresh, n.tooOld() == nil, "Confirmed", "the API server answers, or did not long ago",
		"Stale", "the API server has been away for too long: new sessions are refused")
	v.mu.Lock()
	defer v.mu.Unlock()
	conditions := policy.Conditions{armed, enforced, fresh}
	for i, c := range conditions {
		c.LastTransitionTime = metav1.Now()
		if before, ok := v.states[c.Type]; ok && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		v.states[c.Type], conditions[i] = c, c
	}
	return conditions
}

func condition(kind string, holds bool, reason, message, otherReason, otherMessage string) metav1.Condition {
	if holds {
		return metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message}
	}
	return metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: otherReason, Message: otherMessage}
}

// kernelRelease is the running kernel's, as uname -r prints it.
func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}

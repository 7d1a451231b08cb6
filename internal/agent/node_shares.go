package agent

import (
	"net"
	"strconv"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/identity"
)

// Owner is [proxy.Origins]'s: the pod, as far as the cluster has told of it. What
// each pod has is said at [proxy.Limits].
func (w *witness) Owner(conn net.Conn) audit.Workload {
	c, ok := conn.(*gate.Conn)
	if !ok {
		return audit.Workload{}
	}
	workload := audit.Workload{UID: c.PodUID, Verified: identity.Kernel}
	w.describe(&workload, c.ContainerID)
	return workload
}

// tellShares records how often pods were refused without a record of its own, for
// what each of them has of what all pods share.
func (n *node) tellShares() {
	n.shares.Untold(func(uid, why string, refusals int) {
		workload := audit.Workload{UID: uid, Verified: identity.Kernel}
		n.witness.describe(&workload, "")
		n.recorder.put(&audit.Record{Kind: audit.KindAgentDegraded, Workload: &workload, Event: &audit.Event{
			Reason: "refusals-not-recorded", Detail: map[string]string{"why": why, "refusals": strconv.Itoa(refusals)},
		}})
	})
}

package agent

import (
	"strconv"
	"sync"
	"time"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/gate"
)

// arming tells once, in each agent's trail, since when the node's kernel refuses
// what nobody has decided, and for how long pods ran before. A node that arms itself
// before its pods start says zero, which is worth as much as any other answer.
type arming struct {
	mu   sync.Mutex
	told time.Time
}

// take takes a gate's word. The node may be armed after the agent has met its gate,
// and again when its programs were taken away.
func (a *arming) take(status gate.Status, r *recorder) {
	a.mu.Lock()
	news := !status.Armed.IsZero() && !status.Armed.Equal(a.told)
	if news {
		a.told = status.Armed
	}
	a.mu.Unlock()
	if news {
		r.note(audit.KindAgentArm, "", map[string]string{
			"since": status.Armed.UTC().Format(time.RFC3339Nano), "unarmed_us": strconv.FormatInt(status.Unarmed.Microseconds(), 10),
		})
	}
}

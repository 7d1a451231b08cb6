package cluster

import (
	"net/netip"
	"time"

	"postern.dev/postern/internal/policy"
)

// Snapshot is what matters to one node at one moment. It is never changed: a
// newer one takes its place.
type Snapshot struct {
	Pods              []Pod             // by UID; those that have ended are left out
	GuardedNamespaces []string          // by name
	Objects           []policy.Document // by name, "Kind/name"; JSON has no status and no managed fields
	Services          *Services         // the same pointer until one of them changes
	// Stale is for how long nobody had confirmed this when it was made: 0 while
	// the API server answers. See [Watcher.Stale] for the present.
	Stale time.Duration
}

// Pod is a pod of this node.
type Pod struct {
	UID            string // as the kubelet has it: in cgroup names and at the runtime
	Namespace      string
	Name           string
	ServiceAccount string
	Node           string
	Labels         map[string]string
	Guarded        bool
	Protocols      []string // what is guarded; empty: everything
	HostNetwork    bool
	Mesh           string       // that takes what is dialled in the pod's namespace; empty: none
	IPs            []netip.Addr // the first is the primary one; empty before the sandbox is there
	// TokenVolume and TokenFile are the projected volume, and the path within it,
	// of a service account's token with the audience postern; empty: none.
	TokenVolume, TokenFile string
	Containers             map[string]Container // by the runtime's ID, without its scheme
	Privileges             []string             // why the guard may not be enforceable; empty: nothing known

	NoRaw bool // no container may make raw packets

	object string // UID of the API object, for Events: another one for static pods
}

// Container is one container of a pod that has been made: init, ordinary or ephemeral.
type Container struct {
	Name  string
	Image string // with its digest where the runtime knows one
}

// pod finds a pod by its UID.
func (s *Snapshot) pod(uid string) (Pod, bool) {
	for _, p := range s.Pods {
		if p.UID == uid {
			return p, true
		}
	}
	return Pod{}, false
}

package agent

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/redirect"
)

// maxGuards is how many guards the kernel is told of: its table has room for twice as
// many, as new ones are there before old ones go, and some stand for more than one.
const maxGuards = 6000

// everywhere holds every address, of both families.
var everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// bounded keeps the guards to so many that the kernel takes them, and guards more for
// that, never less. Who may write Services decides how many addresses lead to a Target:
// where they are too many, the ports with the most of them are guarded on every address.
// Should there be too many ports as well, everything is refused to guarded pods.
//
// Shape: own are what the Targets' authors wrote, which stay as they are. What is
// guarded everywhere is not exclusive: else whoever makes Services could take a port,
// such as the API server's, from every pod of the cluster.
func bounded(own, guards []redirect.Guard) []redirect.Guard {
	if len(own)+len(guards) <= maxGuards {
		return append(own, guards...)
	}
	count := make(map[uint16]int)
	whole := make(map[uint16]redirect.Guard)
	for _, g := range guards {
		count[g.Port]++
		whole[g.Port] = redirect.Guard{Prefix: everywhere, Port: g.Port, Refuse: g.Port == 0, Target: true}
	}
	if len(own)+len(count) > maxGuards {
		return append(own[:min(len(own), maxGuards-1)], redirect.Guard{Prefix: everywhere, Refuse: true, Target: true})
	}
	// Any port comes last: of it only the written addresses are guarded.
	ports := slices.SortedFunc(maps.Keys(count), func(a, b uint16) int {
		return cmp.Or(-cmp.Compare(min(a, 1), min(b, 1)), cmp.Compare(count[b], count[a]), cmp.Compare(a, b))
	})
	left := len(own) + len(guards)
	out := own
	for _, port := range ports {
		if left <= maxGuards {
			break
		}
		left += 1 - count[port]
		out = append(out, whole[port])
		guards = slices.DeleteFunc(guards, func(g redirect.Guard) bool { return g.Port == port })
	}
	return append(out, guards...)
}

// coarse tells of which Targets more is guarded than their addresses, as guarded last did it.
func (t *targets) coarse() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	if t.crowded {
		all = append(all, "more addresses lead to all Targets than the kernel takes, ports are guarded on every address, or all is refused")
	}
	for _, r := range t.routes {
		if len(r.ports) > 0 {
			all = append(all, fmt.Sprintf("more addresses lead to target %s than can be listed, their ports are guarded on every address", r.target.Name()))
		}
	}
	return all
}

// shortfalls are what is not as it should be, and lasts, by its kind: what the gate
// could not be told as it is, and what the kernel cannot do.
type shortfalls struct {
	mu   sync.Mutex
	said map[string][]string
}

// replace takes what there is of a kind, and tells whether it begins.
func (s *shortfalls) replace(kind string, said []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	begins := len(s.said[kind]) == 0 && len(said) > 0
	if s.said == nil {
		s.said = make(map[string][]string)
	}
	s.said[kind] = said
	return begins
}

// list is all of it.
func (s *shortfalls) list() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(s.said)) {
		all = append(all, texts(s.said[kind], 3, maxStatusReason/4)...)
	}
	return all
}

// shortOf notes what is not as it should be: once in the trail, however often it
// changes while it lasts.
func (n *node) shortOf(kind string, said []string) {
	if !n.short.replace(kind, said) {
		return
	}
	text := strings.Join(texts(said, 3, maxStatusReason/4), "; ")
	n.o.Log.WithField("what", text).Error("The node is not guarded as it should be")
	n.recorder.note(audit.KindAgentDegraded, kind, map[string]string{"what": text})
}

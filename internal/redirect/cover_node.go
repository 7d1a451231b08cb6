package redirect

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"

	"postern.dev/postern/bpf"
)

// Cover puts a program at the node's end of every link of a guarded pod, which
// drops what goes around the hooks of the pod's cgroups: it is the first one
// there, and takes the place of an earlier one of ours. What it puts there stays
// until [Node.Forget], [Uninstall] or the link's end. It is called again when the
// pod's links change ([Node.WatchLinks]), and by every process that takes over.
//
// Shape: uncovered names the links whose packets leave in another way, each with
// the reason; a pod on the node's network has no others.
// Errors: [ErrUnknownPod]. On failure some links may not be covered.
func (n *Node) Cover(uid string) (uncovered []string, err error) {
	c, pod, netns, err := n.toCover(uid)
	if err != nil {
		return nil, fmt.Errorf("cover pod %s: %w", uid, err)
	}
	if netns == nil {
		return []string{"the node's network: its links are the pod's"}, nil
	}
	defer netns.Close()
	uncovered, err = c.pod(uid, netns, pod)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	m, err := n.find(uid)
	n.mu.Unlock()
	if err != nil || m != nil {
		return uncovered, err
	}
	return nil, errors.Join(fmt.Errorf("cover pod %s: %w", uid, ErrUnknownPod), c.forget(uid, pod))
}

// toCover answers what covers the node's links, and of a pod what it has to know;
// the namespace is the caller's to close, nil for a pod on the node's network.
func (n *Node) toCover(uid string) (*cover, bpf.TcxPod, *os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := n.located(uid)
	if err != nil {
		return nil, bpf.TcxPod{}, nil, err
	}
	pod := bpf.TcxPod{Netns: m.pod.Netns, Index: m.pod.Index, Port: m.pod.Port, Class: uint32(m.pod.Class)}
	if m.pod.Class != bpf.RedirectPodClassPOD_GUARDED {
		return nil, pod, nil, errors.New("it is not guarded")
	}
	if m.host {
		return nil, pod, nil, nil
	}
	if n.cover == nil {
		if n.cover, err = openCover(n.host, n.coverMaps()); err != nil {
			return nil, pod, nil, err
		}
	}
	netns, err := duplicate(m.netns)
	return n.cover, pod, netns, err
}

// coverMaps are those of the node's maps that its links' program shares.
func (n *Node) coverMaps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		bpf.TcxMapAgents:      n.maps.Agents,
		bpf.TcxMapCounters:    n.maps.Counters,
		bpf.TcxMapGuards:      n.maps.Guards,
		bpf.TcxMapPosternNode: n.maps.PosternNode,
		bpf.TcxMapRefusals:    n.maps.Refusals,
		bpf.TcxMapTellings:    n.maps.Tellings,
	}
}

// WatchLinks calls changed, not more often than ten times a second, after links
// of a pod were added, changed or removed. It blocks until ctx ends.
//
// Errors: [ErrUnknownPod].
func (n *Node) WatchLinks(ctx context.Context, uid string, changed func()) error {
	n.mu.Lock()
	m, err := n.located(uid)
	var netns *os.File
	if err == nil {
		netns, err = duplicate(m.netns)
	}
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("watch links of pod %s: %w", uid, err)
	}
	defer netns.Close()
	return watchLinks(ctx, netns, changed)
}

// uncover takes the programs from the links of a pod that is forgotten.
func (n *Node) uncover(uid string, m *member) error {
	if n.cover == nil {
		return nil
	}
	return n.cover.forget(uid, bpf.TcxPod{Netns: m.pod.Netns})
}

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// NodeState is what there is to tell of a node's kernel side.
type NodeState struct {
	Root      string    // where the cgroup v2 hierarchy is mounted
	Pods      string    // the pods' cgroup
	Placement Placement // of the programs that rewrite addresses; empty: not attached yet
	Fed       bool      // it is known what is guarded
	Missing   []string  // what the kernel lacks, and what of the guard goes with it
}

// State tells where the programs are and what the kernel lacks.
func (n *Node) State() NodeState {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := NodeState{
		Root: n.root, Pods: filepath.Join(n.root, n.podsPath), Placement: n.where, Fed: n.state.Fed != 0,
	}
	for _, f := range []struct {
		has  bool
		lack string
	}{
		{n.has.setRetval, "bpf_set_retval (Linux 5.18): a refused connection is EPERM, not ECONNREFUSED"},
		{n.has.unixConnect, "connect_unix (Linux 6.7): unix sockets are not guarded"},
		{n.has.sockDestroy, "bpf_sock_destroy (Linux 6.5): earlier connections are ended by netlink"},
		{n.has.packetNetns, "netns cookies of packets (Linux 6.15): packets count by the cgroup that made their socket"},
		{n.where == PlacedFirst || n.where == "", "BPF_F_PREORDER (Linux 6.15): programs are attached at " + string(n.where)},
	} {
		if !f.has {
			s.Missing = append(s.Missing, f.lack)
		}
	}
	return s
}

// KernelRefusal is something that the programs refused.
type KernelRefusal struct {
	UID     string         // of the pod; empty: it is not known
	Dialled netip.AddrPort // zero address for a unix socket
	Why     string         // of a closed list: see [whys]
	Netns   uint64         // cookie of the socket's network namespace; 0: not known
	Cgroup  uint64         // id of the process's cgroup; for a packet, of the one that made the socket
	PID     int            // of the process, in the initial namespace; 0 for packets
	LinuxID uint32         // the process's user; 0 for packets
	Comm    string         // its name as it says itself: a claim
}

// whys are what [KernelRefusal] says of the reason.
var whys = map[bpf.NodeWhy]string{
	bpf.NodeWhyWHY_REFUSED:   "refused",
	bpf.NodeWhyWHY_UNKNOWN:   "pod not known yet",
	bpf.NodeWhyWHY_EXCLUSIVE: "exclusive target",
	bpf.NodeWhyWHY_FOREIGN:   "socket of another namespace",
	bpf.NodeWhyWHY_FULL:      "too many connects under way",
	bpf.NodeWhyWHY_PROTOCOL:  "not TCP",
	bpf.NodeWhyWHY_LISTENER:  "the listener's port",
	bpf.NodeWhyWHY_PACKET:    "packet around connect",
	bpf.NodeWhyWHY_UNIX:      "unix socket",
}

// Refusals tells what the programs refuse until ctx ends, and what they refused
// before as far as there was room. Of two processes that ask, each is told a part.
// A pod that is refused more than 32 times a second is not told of beyond that;
// [Counters] count them.
func (n *Node) Refusals(ctx context.Context, each func(KernelRefusal)) error {
	ring, err := ringbuf.NewReader(n.maps.Refusals)
	if err != nil {
		return fmt.Errorf("read refusals: %w", err)
	}
	defer ring.Close()
	defer context.AfterFunc(ctx, func() { ring.Close() })()
	var record ringbuf.Record
	for {
		err := ring.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrClosed) {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("read refusals: %w", err)
		}
		var raw bpf.NodeRefusal
		size := int(unsafe.Sizeof(raw))
		if len(record.RawSample) < size {
			continue
		}
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&raw)), size), record.RawSample)
		each(n.refusalOf(raw))
	}
}

func (n *Node) refusalOf(raw bpf.NodeRefusal) KernelRefusal {
	return KernelRefusal{
		UID:     n.uidOf(raw.Pod),
		Dialled: netip.AddrPortFrom(addrOf(raw.Addr.Word), networkOrder(raw.Port)),
		Why:     whys[raw.Why],
		Netns:   raw.Netns,
		Cgroup:  raw.Cgroup,
		PID:     int(raw.Tgid),
		LinuxID: raw.Uid,
		Comm:    unix.ByteSliceToString(raw.Comm[:]),
	}
}

func (n *Node) uidOf(index uint32) string {
	var m bpf.NodeMember
	if index == 0 || n.maps.Members.Lookup(index, &m) != nil {
		return ""
	}
	return unix.ByteSliceToString(m.Uid[:])
}

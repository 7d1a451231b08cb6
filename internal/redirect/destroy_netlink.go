package redirect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// destroyByNetlink is for kernels without bpf_sock_destroy. Of a socket in whose
// cgroup the command may be, netlink tells the id, but not what that one is below:
// all of the user's are compared with the Targets alone.
func (r *Run) destroyByNetlink(ctx context.Context) (int, error) {
	r.mu.Lock()
	uid, port := r.state.Uid, networkOrder(r.state.Pod.Port)
	r.mu.Unlock()
	return destroySockets(ctx, func(s diagSocket) (bool, error) {
		toListener := s.remote.Addr().IsLoopback() && s.remote.Port() == port
		return s.uid == uid && !toListener && r.isTarget(s.remote), nil
	})
}

// destroyByNetlink is the same for a pod, in its network namespace.
func (n *Node) destroyByNetlink(ctx context.Context, m *member) (int, error) {
	n.mu.Lock()
	pod, dir := m.pod, m.dir
	n.mu.Unlock()
	var makers map[uint64]bool
	if m.host {
		if dir == "" { // an earlier process knew it
			return 0, ErrUnknownPod
		}
		var err error
		if makers, err = cgroupsBelow(dir); err != nil {
			return 0, err
		}
	}
	wanted := bpf.RedirectGuardFlagGUARD_EXCLUSIVE
	if pod.Class == bpf.RedirectPodClassPOD_GUARDED {
		wanted = bpf.RedirectGuardFlagGUARD_SET
	}
	return destroySockets(ctx, func(s diagSocket) (bool, error) {
		toListener := s.remote.Addr().IsLoopback() && s.remote.Port() == networkOrder(pod.Port)
		if toListener || (m.host && !makers[s.cgroup]) {
			return false, nil
		}
		var one uint8
		err := n.maps.Agents.Lookup(s.cgroup, &one)
		if err == nil || !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, err
		}
		flags, err := n.flagsAt(s.remote)
		return flags&wanted != 0, err
	})
}

// flagsAt does what find in bpf/guards.h does.
func (n *Node) flagsAt(to netip.AddrPort) (flags bpf.RedirectGuardFlag, err error) {
	prefix := netip.PrefixFrom(netip.AddrFrom16(to.Addr().As16()), 128)
	for _, port := range []uint16{to.Port(), 0} {
		var guard bpf.RedirectGuardFlag
		err := n.maps.Guards.Lookup(keyOf(prefix, port), &guard)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read guards: %w", err)
		}
		flags |= guard
	}
	return flags, nil
}

// isTarget does what find in bpf/guards.h does.
func (r *Run) isTarget(to netip.AddrPort) bool {
	addr := netip.AddrFrom16(to.Addr().As16())
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, port := range []uint16{to.Port(), 0} {
		key := keyOf(netip.PrefixFrom(addr, 128), port)
		if (r.guards[key]|above(r.guards, key))&bpf.RedirectGuardFlagGUARD_TARGET != 0 {
			return true
		}
	}
	return false
}

// diagSocket is a TCP socket as netlink tells it.
type diagSocket struct {
	family uint8
	id     []byte // struct inet_diag_sockid
	port   uint16 // its own
	remote netip.AddrPort
	uid    uint32
	cgroup uint64 // that made it; 0: not told
}

// Layout of struct inet_diag_req_v2 and struct inet_diag_msg: both begin with the
// family, and have a struct inet_diag_sockid.
//
// Source: include/uapi/linux/inet_diag.h.
const (
	sizeofDiagRequest = 56
	sizeofDiagMessage = 72
	sizeofSocketID    = 48
	requestIDAt       = 8
	messageIDAt       = 4
	messageUIDAt      = 64
	diagCgroupID      = 21 // INET_DIAG_CGROUP_ID, Linux 5.9
)

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	family uint8
	states uint32 // bits
	id     []byte
}

// States to ask for: include/net/tcp_states.h.
const (
	everyState = ^uint32(0)
	listening  = 1 << 10
)

func (d diagRequest) Len() int { return sizeofDiagRequest }

func (d diagRequest) Serialize() []byte {
	b := make([]byte, sizeofDiagRequest)
	b[0] = d.family
	b[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], d.states)
	copy(b[requestIDAt:], d.id)
	return b
}

// destroySockets ends the connections of this thread's network namespace that the
// caller picks.
func destroySockets(ctx context.Context, pick func(diagSocket) (bool, error)) (ended int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := listSockets(family, everyState)
		if err != nil {
			return ended, fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range sockets {
			if err := ctx.Err(); err != nil {
				return ended, err
			}
			if s.remote.Port() == 0 {
				continue // it listens
			}
			picked, err := pick(s)
			if err != nil {
				return ended, err
			}
			if !picked {
				continue
			}
			err = destroySocket(s)
			if errors.Is(err, unix.ENOENT) {
				continue // it closed meanwhile
			}
			if err != nil {
				return ended, fmt.Errorf("destroy socket: %w", err)
			}
			ended++
		}
	}
	return ended, nil
}

func listSockets(family uint8, states uint32) (list []diagSocket, err error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(diagRequest{family: family, states: states})
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		s, ok := parseSocket(m)
		if ok {
			list = append(list, s)
		}
	}
	return list, nil
}

func parseSocket(m []byte) (s diagSocket, ok bool) {
	if len(m) < sizeofDiagMessage {
		return s, false
	}
	s.family = m[0]
	s.id = m[messageIDAt : messageIDAt+sizeofSocketID]
	address := s.id[20:36] // after two ports and the source
	if s.family == unix.AF_INET {
		address = address[:4]
	}
	addr, ok := netip.AddrFromSlice(address)
	s.port = binary.BigEndian.Uint16(s.id)
	s.remote = netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(s.id[2:]))
	s.uid = binary.NativeEndian.Uint32(m[messageUIDAt:])
	attributes, err := nl.ParseRouteAttr(m[sizeofDiagMessage:])
	if err != nil {
		return s, false
	}
	for _, a := range attributes {
		if a.Attr.Type == diagCgroupID && len(a.Value) == 8 {
			s.cgroup = binary.NativeEndian.Uint64(a.Value)
		}
	}
	return s, ok
}

func destroySocket(s diagSocket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(diagRequest{family: s.family, states: everyState, id: s.id})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

package redirect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// destroyByNetlink is for kernels without bpf_sock_destroy. Netlink does not tell
// the cgroup of a socket: all of the user's are compared with the Targets alone.
func (r *Run) destroyByNetlink(ctx context.Context) (int, error) {
	r.mu.Lock()
	uid, port := r.state.Uid, networkOrder(r.state.Pod.Port)
	r.mu.Unlock()
	ended := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return ended, fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range sockets {
			if err := ctx.Err(); err != nil {
				return ended, err
			}
			remote, ok := netip.AddrFromSlice(s.ID.Destination)
			to := netip.AddrPortFrom(remote.Unmap(), s.ID.DestinationPort)
			toListener := to.Addr().IsLoopback() && to.Port() == port
			if !ok || s.UID != uid || to.Port() == 0 || toListener || !r.isTarget(to) {
				continue
			}
			err := destroySocket(s)
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

// diagRequest is struct inet_diag_req_v2.
//
// Source: include/uapi/linux/inet_diag.h.
type diagRequest struct{ socket *netlink.Socket }

const sizeofDiagRequest = 56

func (d diagRequest) Len() int { return sizeofDiagRequest }

func (d diagRequest) Serialize() []byte {
	b := make([]byte, sizeofDiagRequest)
	b[0] = d.socket.Family
	b[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<d.socket.State)
	id := d.socket.ID
	binary.BigEndian.PutUint16(b[8:], id.SourcePort)
	binary.BigEndian.PutUint16(b[10:], id.DestinationPort)
	copy(b[12:28], addressBytes(d.socket.Family, id.Source))
	copy(b[28:44], addressBytes(d.socket.Family, id.Destination))
	binary.NativeEndian.PutUint32(b[44:], id.Interface)
	binary.NativeEndian.PutUint32(b[48:], id.Cookie[0])
	binary.NativeEndian.PutUint32(b[52:], id.Cookie[1])
	return b
}

func addressBytes(family uint8, ip net.IP) net.IP {
	if family == unix.AF_INET {
		return ip.To4()
	}
	return ip.To16()
}

func destroySocket(s *netlink.Socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(diagRequest{s})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

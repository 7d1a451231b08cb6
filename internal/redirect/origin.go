package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// ErrNoOrigin is a connection that no program led here: it has no record, or
// one of another network namespace or cgroup. It must be closed.
var ErrNoOrigin = errors.New("no origin")

// ErrGone is an [ErrNoOrigin] whose client has reset the connection already: there
// is nobody whom it could be withheld from. A client that resets before its last
// word of the handshake has arrived takes the record along (bpf/origin.h, forget).
var ErrGone = fmt.Errorf("the client is gone: %w", ErrNoOrigin)

// Origin is what the kernel recorded when the connection was opened.
type Origin struct {
	Dialled  netip.AddrPort // never a v4-mapped address
	PID      int            // of the process, in the initial namespace
	TID      int            // of the thread that connected
	UID, GID uint32
	Comm     string        // its name as it says itself: a claim
	Started  time.Duration // when the process started, since boot
	ExeInode uint64        // of the file that it runs
	ExeDev   uint64        // device of that file's filesystem, as in stat(2)
	Cgroup   uint64        // id of the process's cgroup
	Netns    uint64        // cookie of the socket's network namespace
	Cookie   uint64        // of the connecting socket
}

// Origin tells where an accepted connection wanted to go and who opened it.
//
// Shape: c was accepted by a listener of [Run.Listen].
// Errors: [ErrNoOrigin] when no program of this run led it here; of these, [ErrGone].
// Source: bpf/origin.h, accepted.
func (r *Run) Origin(c net.Conn) (Origin, error) {
	record, err := readOrigin(r.maps.Accepted, c)
	if err != nil {
		return Origin{}, err
	}
	return r.check(record)
}

func readOrigin(accepted *ebpf.Map, c net.Conn) (record bpf.RedirectOrigin, err error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return record, fmt.Errorf("%T has no descriptor: %w", c, ErrNoOrigin)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return record, err
	}
	var lookup, gone error
	if err := raw.Control(func(fd uintptr) {
		lookup = accepted.Lookup(uint32(fd), &record)
		if errors.Is(lookup, ebpf.ErrKeyNotExist) {
			gone = checkGone(int(fd))
		}
	}); err != nil {
		return record, err
	}
	if errors.Is(lookup, ebpf.ErrKeyNotExist) {
		return record, gone
	}
	if lookup != nil {
		return record, fmt.Errorf("look origin up: %w", lookup)
	}
	return record, nil
}

// checkGone answers ErrGone of a socket that was reset, else ErrNoOrigin.
//
// Source: include/net/tcp_states.h.
func checkGone(fd int) error {
	const closed = 7
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err == nil && info.State == closed {
		return ErrGone
	}
	return ErrNoOrigin
}

// check refuses a record of a socket of the command that another process
// connected, or that was connected in another namespace.
func (r *Run) check(record bpf.RedirectOrigin) (Origin, error) {
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	if record.Netns != state.Pod.Netns {
		return Origin{}, fmt.Errorf("connected in another network namespace: %w", ErrNoOrigin)
	}
	if record.Owner != state.Command {
		return Origin{}, fmt.Errorf("connected from another cgroup: %w", ErrNoOrigin)
	}
	return originOf(record), nil
}

func originOf(record bpf.RedirectOrigin) Origin {
	// include/linux/kdev_t.h: 12 bits of major, 20 of minor.
	dev := unix.Mkdev(record.ExeDev>>20, record.ExeDev&(1<<20-1))
	return Origin{
		Dialled:  netip.AddrPortFrom(addrOf(record.Addr.Word), networkOrder(record.Port)),
		PID:      int(record.Tgid),
		TID:      int(record.Pid),
		UID:      record.Uid,
		GID:      record.Gid,
		Comm:     unix.ByteSliceToString(record.Comm[:]),
		Started:  time.Duration(record.Started),
		ExeInode: record.ExeInode,
		ExeDev:   dev,
		Cgroup:   record.Cgroup,
		Netns:    record.Netns,
		Cookie:   record.Cookie,
	}
}

package redirect

import (
	"errors"
	"net/netip"
	"time"
)

// ErrNoOrigin is a connection that no program led here: it has no record, or
// one of another network namespace or cgroup. It must be closed.
var ErrNoOrigin = errors.New("no origin")

// Origin is what the kernel recorded when the connection was opened.
type Origin struct {
	Dialled  netip.AddrPort // never a v4-mapped address
	PID      int            // of the process, in the initial namespace
	TID      int            // of the thread that connected
	UID, GID uint32
	Comm     string        // its name as it says itself: a claim
	Started  time.Duration // when the process started, since boot
	ExeInode uint64        // of the file that it runs
	ExeDev   uint64        // its device, as stat(2) has it
	Cgroup   uint64        // id of the process's cgroup
	Netns    uint64        // cookie of the socket's network namespace
	Cookie   uint64        // of the connecting socket
}

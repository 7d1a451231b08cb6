package gate

import (
	"context"
	"net"
	"os"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// kernel is the kernel side: [redirect.Node].
type kernel interface {
	guards
	classes
	sockets
	covers
	ledger
	heritage
}

// heritage is what an earlier process left.
type heritage interface {
	Pods() (uids []string, err error)
	Activate() error
}

// guards say what is guarded, and who is not looked at.
type guards interface {
	Set(redirect.Guarded) error
	Exempt(cgroup string) error
}

// classes say which pods are guarded.
type classes interface {
	Classify(redirect.Pod) error
	Class(uid string) (redirect.Class, error)
	Forget(uid string) error
	Destroy(ctx context.Context, uid string) (int, error)
}

// sockets are in pods' network namespaces.
type sockets interface {
	Listen(uid string) ([]net.Listener, error)
	Origin(uid string, c net.Conn) (redirect.Origin, error)
	Socket(uid, network string) (*os.File, error)
}

// covers are the programs at the node's ends of pods' links.
type covers interface {
	Cover(uid string) (uncovered []string, err error)
	WatchLinks(ctx context.Context, uid string, changed func()) error
}

// ledger is what the programs did.
type ledger interface {
	Counters(uid string) (redirect.Counters, error)
	Refusals(ctx context.Context, each func(redirect.KernelRefusal)) error
	State() redirect.NodeState
}

// finder finds where pods live: [workload.Finder].
type finder interface {
	Find(workload.Wanted) (workload.Place, error)
}

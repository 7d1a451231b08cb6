package redirect

import (
	"context"
	"net"
	"os"

	"github.com/sirupsen/logrus"
)

// Options say what a guarded command is.
type Options struct {
	ID         string // of the run: its cgroup is postern-<ID>
	UID        uint32 // the command's user; never 0
	Cgroups    string // where the cgroup v2 root is mounted; empty: found
	Connecting uint32 // connects under way at once, more are refused; 0: 4096
	Log        logrus.FieldLogger
}

// Run is the kernel side of one guarded command.
type Run struct {
}

// New makes the run's cgroups, moves this process into the agent's, and loads
// and attaches the programs. Everything is refused to the command until
// [Run.Listen] and [Run.Set] have been called.
func New(o Options) (*Run, error) { return nil, nil }

// Command is the command's cgroup, to start it there: its descriptor goes to
// syscall.SysProcAttr.CgroupFD.
func (r *Run) Command() *os.File { return nil }

// Listen opens the listeners that guarded connections arrive at: 127.0.0.1
// first, then ::1 on the same port where the machine has IPv6.
func (r *Run) Listen() ([]net.Listener, error) { return nil, nil }

// Set replaces what is guarded.
func (r *Run) Set(g Guarded) error { return nil }

// Destroy ends connections to what is guarded that the command, or another
// process of its user, opened before it was; it answers how many.
func (r *Run) Destroy(ctx context.Context) (int, error) { return 0, nil }

// Origin tells where an accepted connection wanted to go and who opened it.
func (r *Run) Origin(c net.Conn) (Origin, error) { return Origin{}, nil }

// Counters tell what the programs did so far.
func (r *Run) Counters() (Counters, error) { return Counters{}, nil }

// Close lets go of this process's descriptors. The guard stays as it is:
// [Release] ends it.
func (r *Run) Close() error { return nil }

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/sirupsen/logrus"

	"postern.dev/postern/bpf"
)

// defaultConnecting is the room for connects under way. On loopback one takes
// some 50 µs, so that only a full backlog makes many.
const defaultConnecting = 4096

// Options say what a guarded command is.
type Options struct {
	ID         string // of the run: its cgroup is postern-<ID>
	UID        uint32 // the command's user; never 0
	Cgroups    string // where the cgroup v2 root is mounted; empty: found
	Connecting uint32 // connects under way at once, more are refused; 0: 4096
	Log        logrus.FieldLogger
}

// Run is the kernel side of one guarded command. Its methods may be called at
// the same time.
type Run struct {
	place   place
	command *os.File
	log     logrus.FieldLogger
	maps    bpf.RedirectMaps
	canEnd  bool // the kernel has bpf_sock_destroy

	mu      sync.Mutex
	state   bpf.RedirectRun
	guards  map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag
	sockets map[bpf.RedirectSocketName]bpf.RedirectGuardFlag
}

var idPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,62}$`)

// New makes the run's cgroups, moves this process into the agent's, and loads
// and attaches the programs. Every connection is refused to the command until
// [Run.Listen] and [Run.Set] have been called. On failure nothing is left.
func New(o Options) (*Run, error) {
	if !idPattern.MatchString(o.ID) {
		return nil, fmt.Errorf("run %q: its name may hold letters, digits and hyphens", o.ID)
	}
	if o.UID == 0 {
		return nil, errors.New("a command of root cannot be guarded")
	}
	root, err := findRoot(o.Cgroups)
	if err != nil {
		return nil, err
	}
	r := &Run{place: placeOf(root, o.ID), log: o.Log}
	for tries := 1; ; tries++ {
		err := r.place.make()
		if err == nil {
			break
		}
		if tries == 3 || !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := r.start(o); err != nil {
		return nil, errors.Join(err, r.Close(), r.place.abandon())
	}
	return r, nil
}

func (r *Run) start(o Options) error {
	var err error
	if r.command, err = os.Open(r.place.command); err != nil {
		return err
	}
	if r.state.Command, err = cgroupID(r.place.command); err != nil {
		return err
	}
	r.state.Uid = o.UID
	has, err := probe()
	if err != nil {
		return err
	}
	r.canEnd = has.sockDestroy
	programs, err := r.load(o, has)
	if err != nil {
		return err
	}
	defer programs.Close()
	if err := r.writeState(); err != nil {
		return err
	}
	return attach(r.place, programs)
}

// load loads the collection: maps and programs are this run's own, so that one
// command cannot use up what another needs.
func (r *Run) load(o Options, has features) (*ebpf.Collection, error) {
	spec, err := bpf.LoadRedirect()
	if err != nil {
		return nil, err
	}
	spec.Maps[bpf.RedirectMapTuples].MaxEntries = defaultConnecting
	if o.Connecting > 0 {
		spec.Maps[bpf.RedirectMapTuples].MaxEntries = o.Connecting
	}
	if err := spec.Variables[bpf.RedirectVarHasSetRetval].Set(has.setRetval); err != nil {
		return nil, err
	}
	if !has.unixConnect {
		delete(spec.Programs, bpf.RedirectProgConnectUnix)
		delete(spec.Programs, bpf.RedirectProgOthersUnix)
		r.log.Warn("Unix sockets are not guarded: the kernel has no hook for them")
	}
	programs, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	if err := programs.Assign(&r.maps); err != nil {
		programs.Close()
		return nil, err
	}
	return programs, nil
}

func (r *Run) writeState() error {
	if err := r.maps.PosternRun.Put(uint32(0), r.state); err != nil {
		return fmt.Errorf("write run: %w", err)
	}
	return nil
}

// Command is the command's cgroup, to start it there: its descriptor goes to
// syscall.SysProcAttr.CgroupFD.
func (r *Run) Command() *os.File { return r.command }

// Close lets go of this process's descriptors. The guard stays as it is:
// [Release] ends it.
func (r *Run) Close() error {
	var errs []error
	if r.maps.PosternRun != nil {
		errs = append(errs, r.maps.Close())
	}
	if r.command != nil {
		errs = append(errs, r.command.Close())
	}
	return errors.Join(errs...)
}

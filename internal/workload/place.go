package workload

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotItsOwn is a network namespace that is there and cannot be the pod's.
var ErrNotItsOwn = errors.New("not the pod's own network namespace")

// ErrNotStarted is a pod of which no process is there yet, or any more.
var ErrNotStarted = errors.New("no process is there")

// Place is where a pod lives on the node.
type Place struct {
	UID     string
	Cgroup  string   // folder of the pod's cgroup
	Sandbox string   // the container that holds the namespace; empty: not known
	Held    string   // folder of that container's cgroup; empty: it has none
	Netns   *os.File // nil: the node's
	ID      Namespace
	Proven  bool // it has an address of the pod
}

// IsThere tells whether the sandbox is still there, as far as its cgroup tells.
func (p Place) IsThere() bool {
	if p.Held == "" {
		return true
	}
	_, err := os.Stat(p.Held)
	return err == nil || gone(err) != nil
}

// Close closes the file of the namespace, without which the namespace may go.
func (p Place) Close() error {
	if p.Netns == nil {
		return nil
	}
	return p.Netns.Close()
}

// Wanted is what is known of a pod that is to be found.
type Wanted struct {
	UID         string
	Cgroup      string // folder of the pod's cgroup
	HostNetwork bool
	IPs         []netip.Addr // none: not known yet
	Sandbox     Sandbox      // what the runtime told; its ID is empty when it told nothing
}

// Finder finds the network namespaces of pods.
//
// A pod's namespace is that of its sandbox. The runtime names it where it can be
// asked. Else the sandbox's process is the oldest in the containers of the pod's
// cgroup, for the runtime starts it before all others, and the kernel keeps when
// a process was started and where. Because a process may leave the namespace for
// one that it made, and because CRI-O mostly starts no process for a sandbox,
// what is found that way must belong to the node's user namespace: what a process
// without privileges makes does not. However it was found, it must have one of
// the pod's addresses as soon as one is known, and must not be the node's. A pod
// in a user namespace of its own is thus found by the runtime's word alone.
//
// That a namespace is nobody else's is the caller's to see to. A pod whose
// namespace is not found, or that hides it, gains nothing: the kernel refuses the
// Targets to namespaces that it does not know.
type Finder struct {
	Parent int       // a process in the node's mount namespace: who started this container
	Node   Namespace // the node's network namespace
}

// Find finds where a pod lives.
//
// Shape: the caller closes the place.
// Errors: [ErrNotStarted], [ErrNotItsOwn].
func (f Finder) Find(w Wanted) (Place, error) {
	w.IPs = telling(w.IPs)
	place := Place{UID: w.UID, Cgroup: w.Cgroup, Sandbox: w.Sandbox.ID}
	netns, told, err := f.told(w)
	if err != nil {
		return Place{}, err
	}
	if netns == nil {
		if netns, place.Sandbox, err = oldest(w.Cgroup); err != nil {
			return Place{}, err
		}
	}
	if place.ID, err = NamespaceOf(netns); err == nil {
		err = f.check(netns, place.ID, told, w)
	}
	if err == nil {
		place.Held, err = held(w.Cgroup, place.Sandbox)
	}
	place.Proven = len(w.IPs) > 0
	if err != nil || w.HostNetwork {
		err = errors.Join(err, netns.Close())
	}
	if err != nil {
		return Place{}, err
	}
	if !w.HostNetwork {
		place.Netns = netns
	}
	return place, nil
}

// held is the folder of a container's cgroup.
func held(cgroup, container string) (string, error) {
	names, err := list(cgroup)
	for _, name := range names {
		if container != "" && containerOf(name) == container {
			return filepath.Join(cgroup, name), err
		}
	}
	return "", err
}

// check refuses a namespace that cannot be the pod's.
func (f Finder) check(netns *os.File, id Namespace, told bool, w Wanted) error {
	if w.HostNetwork {
		if id != f.Node {
			return fmt.Errorf("a pod on the node's network: %w", ErrNotItsOwn)
		}
		return nil
	}
	if id == f.Node {
		return fmt.Errorf("it is the node's: %w", ErrNotItsOwn)
	}
	if !told {
		owned, err := nodeOwns(netns)
		if err != nil {
			return err
		}
		if !owned {
			return fmt.Errorf("it belongs to a user namespace of the pod: %w", ErrNotItsOwn)
		}
	}
	return prove(netns, w.IPs)
}

// Prove checks a place that was found before the pod's addresses were known.
//
// Errors: [ErrNotItsOwn].
func (p *Place) Prove(ips []netip.Addr) error {
	ips = telling(ips)
	if p.Netns == nil || p.Proven || len(ips) == 0 {
		return nil
	}
	if err := prove(p.Netns, ips); err != nil {
		return err
	}
	p.Proven = true
	return nil
}

func prove(netns *os.File, ips []netip.Addr) error {
	if len(ips) == 0 {
		return nil
	}
	has, err := hasAddress(netns, ips)
	if err != nil {
		return err
	}
	if !has {
		return fmt.Errorf("it has none of the addresses %v: %w", ips, ErrNotItsOwn)
	}
	return nil
}

// telling are the addresses that tell one namespace from another.
func telling(ips []netip.Addr) (own []netip.Addr) {
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.IsValid() && !ip.IsLoopback() && !ip.IsUnspecified() {
			own = append(own, ip)
		}
	}
	return own
}

// told opens the namespace that the runtime named: by its path on the node, else
// by the sandbox's process.
func (f Finder) told(w Wanted) (*os.File, bool, error) {
	if w.Sandbox.ID == "" || w.HostNetwork {
		return nil, false, nil
	}
	if w.Sandbox.Netns != "" && f.Parent > 0 {
		netns, err := OpenOnNode(f.Parent, w.Sandbox.Netns)
		if err == nil && isNetns(netns) {
			return netns, true, nil
		}
		if err == nil {
			netns.Close() // the runtime has unmounted it
		}
	}
	if w.Sandbox.PID <= 0 {
		return nil, false, nil
	}
	p, err := openProcess(w.Sandbox.PID)
	if err == nil {
		defer p.dir.Close()
		p.cgroup, err = search(w.Cgroup, p.pid)
	}
	if err != nil {
		return nil, false, gone(err)
	}
	netns, err := p.netns()
	if errors.Is(err, ErrNotStarted) {
		return nil, false, nil
	}
	return netns, err == nil, err
}

// isNetns tells whether f is a network namespace.
func isNetns(f *os.File) bool {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET
}

// oldest opens the namespace of the oldest process in the pod's containers.
func oldest(cgroup string) (*os.File, string, error) {
	names, err := list(cgroup)
	if err != nil {
		return nil, "", err
	}
	var found []process
	defer func() {
		for _, p := range found {
			p.dir.Close()
		}
	}()
	for _, name := range names {
		container := containerOf(name)
		if container == "" {
			continue // CRI-O's monitor is there, on the node's network
		}
		p, err := first(filepath.Join(cgroup, name))
		if err != nil {
			return nil, "", err
		}
		if p.dir != nil {
			p.container = container
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b process) int {
		return cmp.Or(cmp.Compare(a.started, b.started), cmp.Compare(a.pid, b.pid))
	})
	for _, p := range found {
		netns, err := p.netns()
		if errors.Is(err, ErrNotStarted) {
			continue // it ended
		}
		return netns, p.container, err
	}
	return nil, "", fmt.Errorf("look into %s: %w", cgroup, ErrNotStarted)
}

// first is the oldest process of a container; its dir is nil when there is none.
func first(dir string) (process, error) {
	var first process
	err := walk(dir, func(dir string, _ uint64) error {
		pids, err := processes(dir)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			p, err := openProcess(pid)
			if gone(err) == nil && err != nil {
				continue
			}
			if err != nil {
				return err
			}
			p.cgroup = dir
			if first.dir != nil && first.started <= p.started {
				p.dir.Close()
				continue
			}
			if first.dir != nil {
				first.dir.Close()
			}
			first = p
		}
		return nil
	})
	if err != nil && first.dir != nil {
		first.dir.Close()
	}
	return first, err
}

// FirstStart is when the oldest process of all pods was started, since boot; false
// when there is none.
//
// Shape: dir is the cgroup that the kubelet puts pods in; the pod of UID but does not
// count.
func FirstStart(dir, but string) (time.Duration, bool, error) {
	pods, err := PodCgroups(dir)
	if err != nil {
		return 0, false, err
	}
	var earliest uint64
	found := false
	for uid, pod := range pods {
		if uid == but {
			continue
		}
		p, err := first(pod)
		if err != nil {
			return 0, false, err
		}
		if p.dir == nil {
			continue
		}
		p.dir.Close()
		if !found || p.started < earliest {
			earliest, found = p.started, true
		}
	}
	return time.Duration(earliest) * 10 * time.Millisecond, found, nil // see ticksOf
}

// process is a process that is held by the folder that /proc has of it: unlike
// its number, that never becomes another's.
type process struct {
	pid       int
	dir       *os.File
	started   uint64 // ticks since boot
	cgroup    string // where its number was found
	container string
}

// openProcess opens a process.
//
// Errors: fs.ErrNotExist or ESRCH when it is gone.
func openProcess(pid int) (process, error) {
	dir, err := os.OpenFile("/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return process{}, err
	}
	p := process{pid: pid, dir: dir}
	stat, err := p.read("stat")
	if err != nil {
		return process{}, errors.Join(err, dir.Close())
	}
	ticks, ok := startOf(stat)
	if !ok {
		return process{}, errors.Join(fmt.Errorf("read the start of process %d", pid), dir.Close())
	}
	p.started = ticks
	return p, nil
}

// netns opens the process's network namespace. When the number was found in the
// cgroup it may have been another's, which had just ended: it is looked for
// again, and if the process is there after that, it was the one.
//
// Errors: [ErrNotStarted].
func (p *process) netns() (*os.File, error) {
	f, err := p.open("ns/net")
	if err != nil {
		return nil, notStarted(err)
	}
	pids, err := processes(p.cgroup)
	if err == nil && !slices.Contains(pids, p.pid) {
		err = ErrNotStarted
	}
	if err == nil {
		_, err = p.read("stat")
	}
	if err != nil {
		return nil, errors.Join(notStarted(err), f.Close())
	}
	return f, nil
}

func (p *process) open(name string) (*os.File, error) {
	fd, err := unix.Openat(int(p.dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "openat", Path: filepath.Join(p.dir.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(p.dir.Name(), name)), nil
}

func (p *process) read(name string) ([]byte, error) {
	f, err := p.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// notStarted turns the errors of a process that is gone into [ErrNotStarted].
func notStarted(err error) error {
	if gone(err) == nil {
		return ErrNotStarted
	}
	return err
}

// startOf is when a process was started, of the text of /proc/<pid>/stat.
//
// Source: proc_pid_stat(5), field 22. Field 2 is in parentheses and may hold any
// byte, parentheses and spaces too.
func startOf(stat []byte) (uint64, bool) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const field = 22 - 3 // the first after the parentheses is field 3
	if len(fields) <= field {
		return 0, false
	}
	ticks, err := strconv.ParseUint(string(fields[field]), 10, 64)
	return ticks, err == nil
}

package redirect

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Inspection is what a node's kernel has to offer. Of each pair of an answer and
// an error, the answer counts when there is no error.
type Inspection struct {
	Root    string // where the whole cgroup v2 hierarchy is mounted
	RootErr error
	Pods    string // the pods' cgroup; empty: there is none yet
	PodsErr error

	SetRetval   bool // a refusal can be ECONNREFUSED
	UnixConnect bool // unix sockets can be refused
	SockDestroy bool // earlier connections are ended without netlink
	PacketNetns bool // packets tell whose namespace they are of
	TCX         bool // devices take programs without a queueing discipline
	FeaturesErr error

	First    bool // programs can be attached ahead of others
	FirstErr error

	// Others are programs of other software that rewrite addresses too, at the root
	// and at the pods' cgroup, as "name at hook"; Ours, how many of Postern's are there.
	Others    []string
	Ours      int
	OthersErr error

	LoadErr error // nil: the kernel takes the node's programs
}

// Inspect asks the kernel what a node's guard needs. It attaches nothing, and
// changes nothing.
//
// Shape: of o, Cgroups, Pods and Log count.
func Inspect(o NodeOptions) Inspection {
	var i Inspection
	i.Root, i.RootErr = findRoot(o.Cgroups)
	i.Pods, i.PodsErr = i.pods(o.Pods)
	has, err := probe()
	i.SetRetval, i.UnixConnect, i.SockDestroy, i.PacketNetns = has.setRetval, has.unixConnect, has.sockDestroy, has.packetNetns
	if i.FeaturesErr = err; err == nil {
		i.TCX, i.FeaturesErr = hasTCX()
	}
	i.First, i.FirstErr = takesFlag(preorder)
	i.OthersErr = i.attached()
	if i.LoadErr = i.FeaturesErr; i.LoadErr == nil {
		i.LoadErr = tryLoad(o, has)
	}
	return i
}

// pods is the pods' cgroup that is there. Nothing is made.
func (i *Inspection) pods(given string) (string, error) {
	if i.RootErr != nil {
		return "", i.RootErr
	}
	if given != "" {
		dir := filepath.Join(i.Root, filepath.Clean("/"+given))
		_, err := os.Stat(dir)
		return dir, err
	}
	path, err := podsAnywhere(i.Root)
	if err != nil || path == "" {
		return "", err
	}
	return filepath.Join(i.Root, path), nil
}

// attached looks at what is attached where the programs that rewrite addresses go.
func (i *Inspection) attached() error {
	if i.RootErr != nil {
		return i.RootErr
	}
	var all []named
	for _, dir := range []string{i.Root, i.Pods} {
		if dir == "" {
			continue
		}
		here, err := attachedTo(dir)
		if err != nil {
			return err
		}
		all = append(all, here...)
	}
	// As in findEarlier: some of ours do not use the map that tells whose they are.
	maps := make(map[ebpf.MapID]bool)
	for _, p := range all {
		for _, id := range p.maps {
			maps[id] = maps[id] || p.ours
		}
	}
	for _, p := range all {
		switch {
		case p.ours, p.name == p.hook && slices.ContainsFunc(p.maps, func(id ebpf.MapID) bool { return maps[id] }):
			i.Ours++
		case slices.ContainsFunc(rootHooks[:], func(h hook) bool { return h.program == p.name }):
			// of a postern run: they only refuse
		default:
			i.Others = append(i.Others, p.name+" at "+p.hook)
		}
	}
	slices.Sort(i.Others)
	i.Others = slices.Compact(i.Others)
	return nil
}

// named is an attached program by its name, its maps, and the hook that it is at,
// by the name of ours there. It is ours when a map of it says so.
type named struct {
	name, hook string
	maps       []ebpf.MapID
	ours       bool
}

// attachedTo lists the programs at a cgroup that rewrite addresses.
func attachedTo(path string) ([]named, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var list []named
	for _, h := range earlyHooks {
		ids, err := attachedAt(dir, h)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			p, err := nameOf(h, id)
			if errors.Is(err, os.ErrNotExist) {
				continue // detached meanwhile
			}
			if err != nil {
				return nil, err
			}
			list = append(list, p)
		}
	}
	return list, nil
}

func nameOf(h hook, id ebpf.ProgramID) (named, error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return named{}, fmt.Errorf("open program %d: %w", id, err)
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return named{}, err
	}
	p := named{name: info.Name, hook: h.program}
	p.maps, _ = info.MapIDs()
	if p.name == p.hook {
		abi, _, err := identify(found{hook: h, program: program, maps: p.maps})
		if err != nil {
			return named{}, err
		}
		p.ours = abi != 0
	}
	return p, nil
}

// takesFlag tells whether the kernel attaches programs with a flag: it looks at
// the flags before it looks at the program, of which there is none here.
//
// Source: kernel/bpf/syscall.c, bpf_prog_attach.
func takesFlag(flag uint32) (bool, error) {
	const progAttach = 8 // enum bpf_cmd, BPF_PROG_ATTACH
	attr := struct{ target, program, at, flags uint32 }{
		target: ^uint32(0), program: ^uint32(0), at: uint32(ebpf.AttachCGroupInet4Connect), flags: allowMulti | flag,
	}
	_, _, number := unix.Syscall(unix.SYS_BPF, progAttach, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&attr)
	switch number {
	case unix.EBADF:
		return true, nil
	case unix.EINVAL:
		return false, nil
	}
	return false, fmt.Errorf("try to attach with flag %#x: %w", flag, number)
}

// tryLoad has the kernel verify all programs of a node, and lets go of them.
func tryLoad(o NodeOptions, has features) error {
	n := &Node{connecting: defaultConnecting, log: o.Log, has: has}
	programs, err := n.load(nil)
	if err != nil {
		return err
	}
	programs.Close()
	if err := n.maps.Close(); err != nil {
		return err
	}
	objects, err := new(cover).load(nil)
	if err != nil {
		return err
	}
	return objects.close()
}

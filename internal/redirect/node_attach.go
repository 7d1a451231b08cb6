package redirect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// preorder is BPF_F_PREORDER: before the programs of all cgroups below, and those
// beside it that do not have it. Linux 6.15.
//
// Source: include/uapi/linux/bpf.h.
const preorder = 1 << 6

// earlyHooks change what a socket is connected to. Another one's that do so too
// (a socket load balancer's) must come after them: it would have replaced the
// address that the client dialled.
var earlyHooks = [...]hook{
	{bpf.NodeProgConnect4, ebpf.AttachCGroupInet4Connect},
	{bpf.NodeProgConnect6, ebpf.AttachCGroupInet6Connect},
	{bpf.NodeProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{bpf.NodeProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
	{bpf.NodeProgGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{bpf.NodeProgGetpeername6, ebpf.AttachCgroupInet6GetPeername},
}

// anyHooks say yes or no, or only look on: their order does not matter. They
// come first, as the others count on them.
var anyHooks = [...]hook{
	{bpf.NodeProgSockOps, ebpf.AttachCGroupSockOps},
	{bpf.NodeProgSockRelease, ebpf.AttachCgroupInetSockRelease},
	{bpf.NodeProgBind4, ebpf.AttachCGroupInet4Bind},
	{bpf.NodeProgBind6, ebpf.AttachCGroupInet6Bind},
	{bpf.NodeProgEgress, ebpf.AttachCGroupInetEgress},
	{bpf.NodeProgConnectUnix, ebpf.AttachCgroupUnixConnect},
}

func nodeHooks() []hook { return slices.Concat(anyHooks[:], earlyHooks[:]) }

// Placement says where programs that rewrite addresses are attached.
type Placement string

// Placements, the best one first.
const (
	// PlacedFirst is the root of all cgroups, before all others.
	PlacedFirst Placement = "root, first"
	// PlacedAtRoot is the root, where nobody else is attached. Who attaches there
	// later comes after us, and sees the listener's address.
	PlacedAtRoot Placement = "root"
	// PlacedAtPods is the pods' cgroup, below others at the root, which run later.
	// Sockets of pods that processes outside the pods' cgroup connect are not
	// redirected then; their packets to what is guarded are dropped.
	PlacedAtPods Placement = "pods"
)

// found is a program of this node that is attached.
type found struct {
	hook    hook
	program *ebpf.Program
	maps    []ebpf.MapID
}

// earlier is what an earlier process left attached.
type earlier struct {
	abi          uint32 // 0: nothing
	root, pods   []found
	maps         map[string]*ebpf.Map
	podsPath     string
	podsAttached string // directory of the pods' cgroup
}

func (e *earlier) close() {
	for _, f := range slices.Concat(e.root, e.pods) {
		f.program.Close()
	}
	for _, m := range e.maps {
		m.Close()
	}
}

// usable are the maps, if they look as ours.
func (e *earlier) usable() map[string]*ebpf.Map {
	if e.abi != nodeABI {
		return nil
	}
	return e.maps
}

// findEarlier finds the programs of the node with the given pods' cgroup.
func findEarlier(root, podsPath string) (*earlier, error) {
	e := &earlier{podsPath: podsPath, podsAttached: filepath.Join(root, podsPath)}
	all, err := ourPrograms(root)
	if err != nil {
		return nil, err
	}
	below, err := ourPrograms(e.podsAttached)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, closeFound(all))
	}
	ids := make(map[ebpf.MapID]bool)
	for _, f := range slices.Concat(all, below) {
		abi, path, err := identify(f)
		if err != nil {
			return nil, errors.Join(err, closeFound(all), closeFound(below))
		}
		if path == podsPath {
			e.abi = abi
			for _, id := range f.maps {
				ids[id] = true
			}
		}
	}
	// Some programs do not use the map that tells whose they are.
	foreign := func(f found) bool {
		if slices.ContainsFunc(f.maps, func(id ebpf.MapID) bool { return ids[id] }) {
			return false
		}
		f.program.Close()
		return true
	}
	e.root, e.pods = slices.DeleteFunc(all, foreign), slices.DeleteFunc(below, foreign)
	if err := e.openMaps(ids); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *earlier) openMaps(ids map[ebpf.MapID]bool) error {
	e.maps = make(map[string]*ebpf.Map)
	for id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return fmt.Errorf("open map %d: %w", id, err)
		}
		info, err := m.Info()
		if err != nil {
			m.Close()
			return err
		}
		if old := e.maps[info.Name]; old != nil {
			old.Close() // each program may have constants of its own
		}
		e.maps[info.Name] = m
	}
	return nil
}

// ourPrograms are the programs attached to a cgroup that have the names of ours.
func ourPrograms(dir string) ([]found, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []found
	for _, h := range nodeHooks() {
		ids, err := attachedAt(f, h)
		if err != nil {
			return nil, errors.Join(err, closeFound(list))
		}
		for _, id := range ids {
			got, err := openProgram(h, id)
			if errors.Is(err, os.ErrNotExist) {
				continue // detached by another meanwhile
			}
			if err != nil {
				return nil, errors.Join(err, closeFound(list))
			}
			if got.program != nil {
				list = append(list, got)
			}
		}
	}
	return list, nil
}

// queryTries is how often a list of attached programs may have grown between the two
// calls that read it, its length and then itself: others attach too.
const queryTries = 100

// queryPrograms lists the programs at one hook.
//
// Source: kernel/bpf/cgroup.c, __cgroup_bpf_query, and kernel/bpf/mprog.c,
// bpf_mprog_query: ENOSPC when not all fit.
func queryPrograms(o link.QueryOptions) (got *link.QueryResult, err error) {
	for range queryTries {
		got, err = link.QueryPrograms(o)
		if !errors.Is(err, unix.ENOSPC) {
			break
		}
	}
	return got, err
}

func attachedAt(dir *os.File, h hook) ([]ebpf.ProgramID, error) {
	got, err := queryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: h.at})
	if h.at == ebpf.AttachCgroupUnixConnect && err != nil {
		return nil, nil // the kernel has no such hook
	}
	if err != nil {
		return nil, fmt.Errorf("query %s at %s: %w", h.program, dir.Name(), err)
	}
	var ids []ebpf.ProgramID
	for _, p := range got.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

// openProgram answers no program if it is not called as ours.
func openProgram(h hook, id ebpf.ProgramID) (found, error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return found{}, fmt.Errorf("open program %d: %w", id, err)
	}
	info, err := program.Info()
	if err != nil || info.Name != h.program {
		return found{}, errors.Join(err, program.Close())
	}
	maps, _ := info.MapIDs()
	return found{hook: h, program: program, maps: maps}, nil
}

func closeFound(list []found) error {
	for _, f := range list {
		f.program.Close()
	}
	return nil
}

// identify reads which node a program belongs to; none if it is not a node's.
func identify(f found) (abi uint32, podsPath string, err error) {
	for _, id := range f.maps {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, "", fmt.Errorf("open map %d: %w", id, err)
		}
		abi, podsPath, err := readNode(m)
		m.Close()
		if err != nil || abi != 0 {
			return abi, podsPath, err
		}
	}
	return 0, "", nil
}

// readNode reads what is at its place in every version.
func readNode(m *ebpf.Map) (abi uint32, podsPath string, err error) {
	info, err := m.Info()
	if err != nil || info.Name != bpf.NodeMapPosternNode {
		return 0, "", err
	}
	raw, err := m.LookupBytes(uint32(0))
	const pathAt, pathEnd = 4, 4 + len(bpf.NodeNode{}.PodsPath)
	if err != nil || len(raw) < pathEnd {
		return 0, "", err
	}
	path, _, _ := bytes.Cut(raw[pathAt:pathEnd], []byte{0})
	return binary.NativeEndian.Uint32(raw), string(path), nil
}

// Activate replaces programs of another version of Postern, if [OpenNode] found
// any; else it does nothing.
func (n *Node) Activate() error {
	e, err := findEarlier(n.root, n.podsPath)
	if err != nil {
		return err
	}
	defer e.close()
	return n.activate(e)
}

// activate attaches the programs, each in the place of its predecessor where that
// is in the right one, and then detaches what is left of the predecessors. So
// there is always one of them.
func (n *Node) activate(e *earlier) error {
	if n.programs == nil {
		return nil
	}
	root, err := os.Open(n.root)
	if err != nil {
		return err
	}
	defer root.Close()
	pods, err := os.Open(filepath.Join(n.root, n.podsPath))
	if err != nil {
		return err
	}
	defer pods.Close()
	flags, early, err := n.choose(root, pods, e)
	if err != nil {
		return err
	}
	for _, h := range anyHooks[1:] {
		if err := n.attachOne(root, h, flags, e.root); err != nil {
			return err
		}
	}
	old := e.root
	if early == pods {
		old = e.pods
	}
	for _, h := range earlyHooks {
		if err := n.attachOne(early, h, flags, old); err != nil {
			return err
		}
	}
	if err := errors.Join(detachFound(root, e.root), detachFound(pods, e.pods)); err != nil {
		return err
	}
	n.programs.Close()
	n.programs = nil
	return nil
}

// choose says where the early hooks belong, and attaches the first of the others:
// whether the kernel can attach programs ahead of others, it says when tried.
func (n *Node) choose(root, pods *os.File, e *earlier) (flags uint32, early *os.File, err error) {
	err = n.attachOne(root, anyHooks[0], n.flags, e.root)
	if err == nil && n.flags&preorder != 0 {
		n.where = PlacedFirst
		return n.flags, root, nil
	}
	if errors.Is(err, unix.EINVAL) {
		err = n.attachOne(root, anyHooks[0], allowMulti, e.root)
	}
	if err != nil {
		return 0, nil, err
	}
	for _, h := range earlyHooks[:2] {
		others, err := othersAt(root, h)
		if err != nil {
			return 0, nil, err
		}
		if others {
			n.where = PlacedAtPods
			return allowMulti, pods, nil
		}
	}
	n.where = PlacedAtRoot
	return allowMulti, root, nil
}

// othersAt tells whether a program is attached that is not Postern's: those of
// commands and of nodes within this one mind their own alone.
func othersAt(dir *os.File, h hook) (bool, error) {
	ids, err := attachedAt(dir, h)
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		program, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // detached meanwhile
		}
		if err != nil {
			return false, fmt.Errorf("open program %d: %w", id, err)
		}
		ours, err := isPosterns(program)
		if err := errors.Join(err, program.Close()); err != nil || !ours {
			return true, err
		}
	}
	return false, nil
}

func isPosterns(program *ebpf.Program) (bool, error) {
	info, err := program.Info()
	if err != nil {
		return false, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("open map %d: %w", id, err)
		}
		info, err := m.Info()
		if err := errors.Join(err, m.Close()); err != nil {
			return false, err
		}
		if info.Name == bpf.NodeMapPosternNode || info.Name == bpf.RedirectMapPosternRun {
			return true, nil
		}
	}
	return false, nil
}

// attachOne attaches a program, in the place of an earlier one if there is one.
// What the collection lacks, the kernel has no hook for.
func (n *Node) attachOne(dir *os.File, h hook, flags uint32, old []found) error {
	program := n.programs.Programs[h.program]
	if program == nil {
		return nil
	}
	o := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: h.at, Flags: flags}
	i := slices.IndexFunc(old, func(f found) bool { return f.hook == h })
	if i >= 0 {
		o.Anchor = link.ReplaceProgram(old[i].program)
	}
	err := link.RawAttachProgram(o)
	if errors.Is(err, fs.ErrNotExist) && i >= 0 { // another process replaced it meanwhile
		o.Anchor = nil
		err = link.RawAttachProgram(o)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", h.program, dir.Name(), err)
	}
	return nil
}

// detachFound detaches programs that are still attached.
func detachFound(dir *os.File, list []found) error {
	var errs []error
	for _, f := range list {
		err := link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: int(dir.Fd()), Program: f.program, Attach: f.hook.at,
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("detach %s from %s: %w", f.hook.program, dir.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// Uninstall detaches all programs of the node with these options, or, where Pods is
// empty, of every node whose cgroups are below the root and whose network namespace
// is Host. It may be called again.
func Uninstall(o NodeOptions) error {
	root, err := findRoot(o.Cgroups)
	if err != nil {
		return err
	}
	paths := []string{o.Pods}
	if o.Pods == "" {
		if paths, err = nodesAt(root); err != nil {
			return err
		}
	}
	host, err := openHost(o.Host)
	if err != nil {
		return err
	}
	defer host.Close()
	errs := []error{uncoverAll(host, o.Pods)}
	for _, path := range paths {
		errs = append(errs, uninstall(root, path))
	}
	return errors.Join(errs...)
}

// nodesAt are the pods' cgroups of the nodes with programs at the root: some are
// there, wherever the others are.
func nodesAt(root string) ([]string, error) {
	list, err := ourPrograms(root)
	if err != nil {
		return nil, err
	}
	defer closeFound(list)
	var paths []string
	for _, f := range list {
		abi, path, err := identify(f)
		if err != nil {
			return nil, err
		}
		if abi != 0 && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

func uninstall(root, podsPath string) error {
	e, err := findEarlier(root, podsPath)
	if err != nil {
		return err
	}
	defer e.close()
	var errs []error
	for dir, list := range map[string][]found{root: e.root, e.podsAttached: e.pods} {
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		// The first ones to go are those that lead somewhere.
		slices.Reverse(list)
		errs = append(errs, detachFound(f, list), f.Close())
	}
	return errors.Join(errs...)
}

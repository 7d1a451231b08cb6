package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// What bpf/pods.h says.
const (
	nodeABI = 1
	maxPods = 2048
)

// NodeOptions say where a node's kernel side is.
type NodeOptions struct {
	// Cgroups is where the cgroup v2 root is mounted; empty: found.
	Cgroups string
	// Pods is the pods' cgroup below the root; it is made if it is not there.
	// Empty: found (kubepods or kubepods.slice, at the root or one level deeper),
	// else made as the kubelet would at the root.
	Pods string
	// Host is the node's own network namespace; nil: this process's.
	Host *os.File
	// Connecting is the share of a pod: more connects under way at once are
	// refused to it. 0: 4096.
	Connecting uint32
	Log        logrus.FieldLogger
}

// Node is the kernel side of a node's guarded pods. Its methods may be called at
// the same time.
type Node struct {
	root       string // of the cgroup v2 hierarchy
	podsPath   string // of the pods' cgroup below it
	host       *os.File
	connecting uint32
	log        logrus.FieldLogger
	has        features
	flags      uint32 // to attach with
	maps       bpf.NodeMaps
	share      *ebpf.MapSpec    // of a pod's tuples
	programs   *ebpf.Collection // not attached yet; nil: they are

	mu    sync.Mutex // of all below, and of writing to the maps
	state bpf.NodeNode
	pods  map[string]*member // by UID
	where Placement
	cover *cover // of pods' links; nil: none is covered yet

	destroying sync.Mutex // of the next
	destroy    *ebpf.Program
}

// OpenNode loads and attaches the node's programs, or takes over from an earlier
// process: then what it knew and said stays in force, and each of its programs is
// replaced by one of this process, in one step each.
//
// Programs attached by a version of Postern whose maps look otherwise stay in
// force until [Node.Activate], to be called when [Node.Set] and [Node.Classify]
// have said all.
//
// Errors: on failure what was there stays as it was.
func OpenNode(o NodeOptions) (*Node, error) {
	has, err := probe()
	if err != nil {
		return nil, err
	}
	return openNode(o, has, allowMulti|preorder)
}

// openNode uses these features of the kernel alone, and attaches with these flags
// if it takes them.
func openNode(o NodeOptions, has features, flags uint32) (*Node, error) {
	root, err := findRoot(o.Cgroups)
	if err != nil {
		return nil, err
	}
	n := &Node{
		root: root, connecting: o.Connecting, log: o.Log, has: has, flags: flags,
		pods: make(map[string]*member),
	}
	if n.connecting == 0 {
		n.connecting = defaultConnecting
	}
	if err := n.open(o); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) open(o NodeOptions) error {
	var err error
	if n.host, err = openHost(o.Host); err != nil {
		return err
	}
	if n.podsPath, err = findPods(n.root, o.Pods); err != nil {
		return err
	}
	earlier, err := findEarlier(n.root, n.podsPath)
	if err != nil {
		return err
	}
	defer earlier.close()
	if n.programs, err = n.load(earlier.usable()); err != nil {
		return err
	}
	if err := errors.Join(n.adopt(), n.pruneAgents()); err != nil {
		return err
	}
	if earlier.abi != 0 && earlier.abi != nodeABI {
		return nil
	}
	return n.activate(earlier)
}

// adopt reads what an earlier process knew, and writes what this one knows better.
func (n *Node) adopt() error {
	if err := n.maps.PosternNode.Lookup(uint32(0), &n.state); err != nil {
		return fmt.Errorf("read node: %w", err)
	}
	if err := n.readMembers(); err != nil {
		return err
	}
	n.state.Abi = nodeABI
	if len(n.podsPath) >= len(n.state.PodsPath) {
		return fmt.Errorf("pods' cgroup %s: the path is too long", n.podsPath)
	}
	copy(n.state.PodsPath[:], n.podsPath)
	err := inNetns(n.host, func() (err error) { n.state.Netns, err = ownCookie(); return err })
	if err != nil {
		return err
	}
	return n.refreshPods()
}

// refreshPods writes which cgroup is the pods': the kubelet makes a new one when
// it finds none.
func (n *Node) refreshPods() error {
	id, err := cgroupID(filepath.Join(n.root, n.podsPath))
	if err != nil {
		return err
	}
	n.state.PodsCgroup = id
	n.state.PodsLevel = uint32(levelOf(n.podsPath))
	return n.writeState()
}

func (n *Node) writeState() error {
	if err := n.maps.PosternNode.Put(uint32(0), n.state); err != nil {
		return fmt.Errorf("write node: %w", err)
	}
	return nil
}

// load loads the programs, with the maps of an earlier process where there are.
func (n *Node) load(maps map[string]*ebpf.Map) (*ebpf.Collection, error) {
	spec, err := bpf.LoadNode()
	if err != nil {
		return nil, err
	}
	spec.Maps[bpf.NodeMapCounters].MaxEntries *= maxPods
	n.share = spec.Maps[bpf.NodeMapTuples].InnerMap
	n.share.Name, n.share.MaxEntries = "pod_tuples", n.connecting
	for variable, value := range map[string]bool{
		bpf.NodeVarHasSetRetval:   n.has.setRetval,
		bpf.NodeVarHasPacketNetns: n.has.packetNetns,
	} {
		if err := spec.Variables[variable].Set(value); err != nil {
			return nil, err
		}
	}
	if !n.has.unixConnect {
		delete(spec.Programs, bpf.NodeProgConnectUnix)
		n.log.Warn("Unix sockets are not guarded: the kernel has no hook for them")
	}
	replacements := make(map[string]*ebpf.Map)
	for name, m := range maps {
		if spec.Maps[name] != nil {
			replacements[name] = m
		}
	}
	programs, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	if err := errors.Join(bindMaps(programs), programs.Assign(&n.maps)); err != nil {
		programs.Close()
		return nil, err
	}
	return programs, nil
}

// bindMaps lets the maps that no program uses live and be found as those that some
// do.
func bindMaps(programs *ebpf.Collection) error {
	for name, m := range programs.Maps {
		if err := programs.Programs[bpf.NodeProgSockOps].BindMap(m); err != nil {
			return fmt.Errorf("bind map %s: %w", name, err)
		}
	}
	return nil
}

// Close lets go of this process's descriptors. The guard stays as it is:
// [Uninstall] ends it.
func (n *Node) Close() error {
	n.destroying.Lock()
	defer n.destroying.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, p := range n.pods {
		errs = append(errs, p.close())
	}
	n.pods = nil
	if n.cover != nil {
		errs = append(errs, n.cover.Close())
	}
	if n.programs != nil {
		n.programs.Close()
	}
	if n.destroy != nil {
		errs = append(errs, n.destroy.Close())
	}
	if n.maps.PosternNode != nil {
		errs = append(errs, n.maps.Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	return errors.Join(errs...)
}

// Set replaces what is guarded, as [Run.Set] does. Until it was called once,
// guarded pods are refused every connection.
func (n *Node) Set(g Guarded) error {
	var own []net.Addr
	err := inNetns(n.host, func() (err error) { own, err = net.InterfaceAddrs(); return err })
	if err != nil {
		return err
	}
	// A server on one address of the node mostly listens on all of them. Of these,
	// 127.0.0.1 is the pod itself to a pod.
	guards, err := entries(g.Guards, slices.DeleteFunc(localPrefixes(own), isLoopback))
	if err != nil {
		return err
	}
	sockets, err := names(g.Sockets)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	exclusive := slices.ContainsFunc(g.Guards, func(g Guard) bool { return g.Exclusive })
	if exclusive && n.state.Exclusive == 0 { // else last, so that nothing is open in between
		n.state.Exclusive = 1
		if err := n.writeState(); err != nil {
			return err
		}
	}
	if err := replaceAll(n.maps.Guards, guards); err != nil {
		return fmt.Errorf("write guards: %w", err)
	}
	if err := replaceAll(n.maps.Sockets, sockets); err != nil {
		return fmt.Errorf("write sockets: %w", err)
	}
	n.state.Fed = 1
	n.state.Exclusive = 0
	if exclusive {
		n.state.Exclusive = 1
	}
	return n.refreshPods()
}

// replaceAll makes a map hold want, whoever wrote what it holds.
func replaceAll[K comparable](m *ebpf.Map, want map[K]bpf.RedirectGuardFlag) error {
	have := make(map[K]bpf.RedirectGuardFlag)
	var key K
	var flags bpf.RedirectGuardFlag
	all := m.Iterate()
	for all.Next(&key, &flags) {
		have[key] = flags
	}
	if err := all.Err(); err != nil {
		return err
	}
	return replace(m, &have, want)
}

func isLoopback(p netip.Prefix) bool { return p.Addr().IsLoopback() }

// Exempt lets the processes in a cgroup, and the sockets that they make, pass
// every hook: one of Postern's own containers. The cgroup is the very one that
// they are in. Never the root, whose sockets the kernel makes for others too.
func (n *Node) Exempt(cgroup string) error {
	id, err := n.agentID(cgroup)
	if err != nil {
		return err
	}
	err = n.maps.Agents.Put(id, uint8(1))
	if errors.Is(err, unix.E2BIG) { // of an agent that was started again and again
		if err = n.pruneAgents(); err == nil {
			err = n.maps.Agents.Put(id, uint8(1))
		}
	}
	if err != nil {
		return fmt.Errorf("exempt %s: %w", cgroup, err)
	}
	return nil
}

// Unexempt takes [Node.Exempt] back, also of a cgroup that is gone.
func (n *Node) Unexempt(cgroup string) error {
	id, err := n.agentID(cgroup)
	if errors.Is(err, os.ErrNotExist) {
		return nil // no other cgroup gets its id (fs/kernfs/dir.c, kernfs_id)
	}
	if err != nil {
		return err
	}
	err = n.maps.Agents.Delete(id)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("unexempt %s: %w", cgroup, err)
	}
	return nil
}

// pruneAgents drops the cgroups that are gone: each container has a new one.
func (n *Node) pruneAgents() error {
	var gone []uint64
	var id uint64
	var one uint8
	all := n.maps.Agents.Iterate()
	for all.Next(&id, &one) {
		gone = append(gone, id)
	}
	if err := all.Err(); err != nil || len(gone) == 0 {
		return err
	}
	alive, err := cgroupsBelow(n.root)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range gone {
		if !alive[id] {
			errs = append(errs, deleteKey(n.maps.Agents, id))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) agentID(cgroup string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroup, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", cgroup, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, fmt.Errorf("exempt %s: it is no directory of the cgroup v2 hierarchy", cgroup)
	}
	id, err := cgroupID(cgroup)
	if err != nil {
		return 0, err
	}
	root, err := cgroupID(n.root)
	if err != nil {
		return 0, err
	}
	if id == root {
		return 0, errors.New("exempt the root of all cgroups: others live there")
	}
	return id, nil
}

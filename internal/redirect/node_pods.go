package redirect

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// ErrUnknownPod is a pod that [Node.Classify] was not told of, or not where its
// network namespace is.
var ErrUnknownPod = errors.New("unknown pod")

// Class says what becomes of a pod's connections.
type Class uint8

// Classes.
const (
	ClassPlain   Class = iota + 1 // refused what is exclusive, else untouched
	ClassGuarded                  // led to its listeners
)

// Pod is what there is to know of a pod.
type Pod struct {
	UID    string
	Class  Class
	Netns  *os.File // its network namespace; nil: the node's
	Cgroup string   // directory of its cgroup; needed where Netns is nil
}

// member is a pod that is known.
type member struct {
	pod    bpf.RedirectPod
	cgroup uint64   // 0: not known
	dir    string   // of the cgroup; empty: an earlier process knew it
	netns  *os.File // nil: an earlier process knew it; the node's, never closed, if host
	host   bool     // it is on the node's network
}

func (m *member) close() error {
	if m.netns == nil || m.host {
		return nil
	}
	return m.netns.Close()
}

// Classify says what a pod is: until then it is unknown, and refused Targets. It
// may be called again, as when the pod gets another namespace; of a pod that was
// guarded once, also by an earlier process, the class stays so until [Node.Forget].
//
// Shape: Netns is duplicated.
func (n *Node) Classify(p Pod) error {
	if p.Class != ClassPlain && p.Class != ClassGuarded {
		return fmt.Errorf("classify pod %s: there is no class %d", p.UID, p.Class)
	}
	if p.UID == "" || len(p.UID) >= len(bpf.NodeMember{}.Uid) {
		return fmt.Errorf("classify pod %q: that is no UID", p.UID)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refreshPods(); err != nil {
		return err
	}
	next, err := n.newMember(p)
	if err != nil {
		return fmt.Errorf("classify pod %s: %w", p.UID, err)
	}
	if err := n.enroll(p, next); err != nil {
		return errors.Join(fmt.Errorf("classify pod %s: %w", p.UID, err), next.close())
	}
	return nil
}

// newMember finds out the keys of a pod.
func (n *Node) newMember(p Pod) (*member, error) {
	m := &member{netns: n.host, host: true}
	if p.Cgroup != "" {
		id, err := n.podCgroup(p.Cgroup)
		if err != nil {
			return nil, err
		}
		m.cgroup, m.dir = id, p.Cgroup
	}
	if p.Netns != nil {
		var cookie uint64
		err := inNetns(p.Netns, func() (err error) { cookie, err = ownCookie(); return err })
		if err != nil {
			return nil, err
		}
		if cookie != n.state.Netns {
			m.host = false
			m.pod.Netns = cookie
			m.netns, err = duplicate(p.Netns)
			return m, err
		}
	}
	if m.cgroup == 0 {
		return nil, errors.New("a pod on the node's network is known by its cgroup alone, which is not given")
	}
	return m, nil
}

// enroll makes the programs know a pod: its share first, so that it is there when
// the pod's first connect is.
func (n *Node) enroll(p Pod, next *member) error {
	old, err := n.find(p.UID)
	if err != nil {
		return err
	}
	next.pod.Class = bpf.RedirectPodClass(p.Class)
	if old != nil {
		next.pod.Index = old.pod.Index
		next.pod.Class = max(next.pod.Class, old.pod.Class)
		if next.cgroup == 0 {
			next.cgroup, next.dir = old.cgroup, old.dir
		}
	}
	if err := n.notAnothers(next); err != nil {
		return err
	}
	record := bpf.NodeMember{Netns: next.pod.Netns, Cgroup: next.cgroup}
	copy(record.Uid[:], p.UID)
	if old == nil {
		if next.pod.Index, err = n.takeIndex(record); err != nil {
			return err
		}
		n.pods[p.UID] = next // what fails from here on, Forget undoes
	} else if err := n.maps.Members.Put(next.pod.Index, record); err != nil {
		return fmt.Errorf("write members: %w", err)
	}
	if next.pod.Class == bpf.RedirectPodClassPOD_GUARDED {
		if err := n.giveTuples(next.pod.Index); err != nil {
			return err
		}
	}
	if old != nil && old.pod.Netns == next.pod.Netns {
		if next.pod.Port, err = n.portOf(old); err != nil {
			return err
		}
	}
	if err := n.writePod(next); err != nil {
		return err
	}
	n.pods[p.UID] = next
	if old == nil || old == next {
		return nil
	}
	return errors.Join(n.dropKeys(old, next), old.close())
}

// notAnothers refuses keys that lead to another pod.
func (n *Node) notAnothers(m *member) error {
	for _, in := range n.keysOf(m) {
		var got bpf.RedirectPod
		err := in.m.Lookup(in.key, &got)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if got.Index == m.pod.Index {
			continue
		}
		if anothers, err := n.leadsTo(got.Index, in); err != nil {
			return err
		} else if anothers {
			return fmt.Errorf("its namespace or cgroup is that of pod %d, which is not forgotten yet", got.Index)
		}
	}
	return nil
}

// leadsTo tells whether the pod of an index has that key: if not, it was left over
// by two processes that forgot and classified a pod at once.
func (n *Node) leadsTo(index uint32, key podKey) (bool, error) {
	var owner bpf.NodeMember
	err := n.maps.Members.Lookup(index, &owner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read members: %w", err)
	}
	if key.m == n.maps.Pods {
		return owner.Netns == key.key, nil
	}
	return owner.Cgroup == key.key, nil
}

// place of a pod in a map.
type podKey struct {
	m   *ebpf.Map
	key uint64
}

func (n *Node) keysOf(m *member) (keys []podKey) {
	if !m.host {
		keys = append(keys, podKey{n.maps.Pods, m.pod.Netns})
	}
	if m.cgroup != 0 {
		keys = append(keys, podKey{n.maps.HostPods, m.cgroup})
	}
	return keys
}

func (n *Node) writePod(m *member) error {
	for _, in := range n.keysOf(m) {
		if err := in.m.Put(in.key, m.pod); err != nil {
			return fmt.Errorf("write pods: %w", err)
		}
	}
	return nil
}

// dropKeys deletes what leads to a pod, but the keys of keep.
func (n *Node) dropKeys(m, keep *member) error {
	var kept []podKey
	if keep != nil {
		kept = n.keysOf(keep)
	}
	var errs []error
	for _, in := range n.keysOf(m) {
		if !slices.Contains(kept, in) {
			errs = append(errs, deleteKey(in.m, in.key))
		}
	}
	return errors.Join(errs...)
}

// portOf reads the port of a pod's listeners: another process may have opened
// them.
func (n *Node) portOf(m *member) (uint16, error) {
	for _, in := range n.keysOf(m) {
		var got bpf.RedirectPod
		err := in.m.Lookup(in.key, &got)
		if err == nil {
			return got.Port, nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, fmt.Errorf("read pods: %w", err)
		}
	}
	return 0, nil
}

// takeIndex finds an index that no pod of any agent has: the kernel inserts a key
// only once.
func (n *Node) takeIndex(record bpf.NodeMember) (uint32, error) {
	for index := uint32(1); index < maxPods; index++ {
		err := n.maps.Members.Update(index, record, ebpf.UpdateNoExist)
		if errors.Is(err, ebpf.ErrKeyExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("write members: %w", err)
		}
		return index, n.resetCounters(index)
	}
	return 0, fmt.Errorf("there are %d pods already", maxPods-1)
}

// giveTuples gives a pod its share of connects under way, unless it has one.
func (n *Node) giveTuples(index uint32) error {
	var id ebpf.MapID
	err := n.maps.Tuples.Lookup(index, &id)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("read tuples: %w", err)
	}
	m, err := ebpf.NewMap(n.share)
	if err != nil {
		return fmt.Errorf("make tuples: %w", err)
	}
	defer m.Close()
	if err := n.maps.Tuples.Put(index, m); err != nil {
		return fmt.Errorf("write tuples: %w", err)
	}
	return nil
}

// Forget forgets a pod that is gone, also one that an earlier process knew. What
// still runs in it is unknown from then on. What another process knows of the pod since
// then, it keeps.
func (n *Node) Forget(uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := n.still(uid)
	if err != nil || m == nil {
		return err
	}
	port, err := n.portOf(m)
	if err != nil {
		return err
	}
	if m.host && port != 0 {
		if err := deleteKey(n.maps.HostPorts, port); err != nil {
			return err
		}
	}
	if err := n.uncover(uid, m); err != nil {
		return err
	}
	// That took its time: what another process knows anew by now is not dropped.
	if now, err := n.still(uid); err != nil || now != m {
		return err
	}
	if err := n.dropKeys(m, nil); err != nil {
		return err
	}
	if err := deleteKey(n.maps.Tuples, m.pod.Index); err != nil {
		return err
	}
	if err := deleteKey(n.maps.Members, m.pod.Index); err != nil { // last: the index is free
		return err
	}
	delete(n.pods, uid)
	return m.close()
}

// Pods are the UIDs of all that are known, to whatever process.
func (n *Node) Pods() (uids []string, err error) {
	var index uint32
	var record bpf.NodeMember
	all := n.maps.Members.Iterate()
	for all.Next(&index, &record) {
		uids = append(uids, unix.ByteSliceToString(record.Uid[:]))
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	slices.Sort(uids)
	return uids, nil
}

// Class is what the programs take a pod for, whichever process said so.
//
// Errors: [ErrUnknownPod].
func (n *Node) Class(uid string) (Class, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := n.find(uid)
	if err != nil {
		return 0, err
	}
	if m == nil {
		return 0, fmt.Errorf("pod %s: %w", uid, ErrUnknownPod)
	}
	for _, in := range n.keysOf(m) {
		var got bpf.RedirectPod
		if err := in.m.Lookup(in.key, &got); err == nil {
			return Class(got.Class), nil
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, fmt.Errorf("read pods: %w", err)
		}
	}
	return Class(m.pod.Class), nil
}

// find finds a pod of this process, or what the maps hold of it. Another process
// may have forgotten it meanwhile, and given its index away.
func (n *Node) find(uid string) (*member, error) {
	if m := n.pods[uid]; m != nil {
		var record bpf.NodeMember
		err := n.maps.Members.Lookup(m.pod.Index, &record)
		if err == nil && unix.ByteSliceToString(record.Uid[:]) == uid && record.Netns == m.pod.Netns {
			return m, nil
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read members: %w", err)
		}
		delete(n.pods, uid)
		if err := m.close(); err != nil {
			return nil, err
		}
	}
	if err := n.readMembers(); err != nil {
		return nil, err
	}
	return n.pods[uid], nil
}

// still finds a pod that nobody has forgotten since this process classified it. One
// that another process has is nil, even if that one knows it again by now, in another
// network namespace.
func (n *Node) still(uid string) (*member, error) {
	own := n.pods[uid]
	m, err := n.find(uid)
	if own != nil && m != own {
		return nil, err
	}
	return m, err
}

// readMembers reads of the pods that other processes know.
func (n *Node) readMembers() error {
	var index uint32
	var record bpf.NodeMember
	all := n.maps.Members.Iterate()
	for all.Next(&index, &record) {
		uid := unix.ByteSliceToString(record.Uid[:])
		if n.pods[uid] != nil {
			continue
		}
		m := &member{cgroup: record.Cgroup, host: record.Netns == 0}
		m.pod.Netns, m.pod.Index = record.Netns, index
		if m.host {
			m.netns = n.host
		}
		for _, in := range n.keysOf(m) {
			err := in.m.Lookup(in.key, &m.pod)
			if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("read pods: %w", err)
			}
		}
		n.pods[uid] = m
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	return nil
}

func deleteKey(m *ebpf.Map, key any) error {
	err := m.Delete(key)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from %v: %w", m, err)
	}
	return nil
}

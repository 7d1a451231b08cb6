package redirect

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"postern.dev/postern/bpf"
)

// cover is the node's side of pods' links: a program at the node's end of each
// drops what went around the hooks of the pod's cgroups.
//
// It is attached to the device by itself and not by a link of ours, so that it
// stays for as long as the device does, whoever dies. Its maps but two are the
// node's; these two say only what [Node.Cover] says again after a restart.
//
// A packet that passes costs some 190 ns (BenchmarkCover); a link's throughput with
// the program and without is the same within the noise (BenchmarkCoveredLink).
//
// # What carries packets inside others
//
// A device of kind ipip, sit, gre or ip6tnl takes what anybody sends to the node, and
// what is inside leaves it as if another node had sent it; so does one of kind vxlan
// or geneve, with datagrams that need no privilege at all. Protocols of the first
// kind are dropped wherever they go, datagrams at the ports that this node opens
// itself, as the cluster's other nodes mostly open the same. What needs a key (IPsec,
// WireGuard) passes. Ports of fou devices are not looked for.
//
// # Why there is no second one behind the node's address translation
//
// kube-proxy may send to a Target what was dialled at another Service's address,
// and this program sees addresses from before that. A guard in the node's forward
// chain would see the ones from after it, but only where this node translates
// (another node's port is translated there), not with kube-proxy's IPVS or
// Cilium's own translation, and it would have to live in tables that other programs
// flush. The guarded set holds every address of every Service that shares an
// endpoint with a Target instead, and PostgreSQL's port is guarded on every
// address. What is left is the moment between a hostile Service's creation and
// its coming to the agent's knowledge.
type cover struct {
	host    *os.File // the node's network namespace
	shared  map[string]*ebpf.Map
	classic bool // the kernel has classifiers of a queueing discipline only

	mu      sync.Mutex // of all below, and of changes to the node's devices
	objects coverObjects
	covered map[string][]int // pod's UID -> devices; they stay so, wherever the pod moves its end
}

type coverObjects struct {
	Cover   *ebpf.Program `ebpf:"cover"`
	Links   *ebpf.Map     `ebpf:"links"`
	Tunnels *ebpf.Map     `ebpf:"tunnels"`
}

func (o coverObjects) close() error {
	return errors.Join(o.Cover.Close(), o.Links.Close(), o.Tunnels.Close())
}

// openCover loads the program. The shared maps, by their names in package bpf,
// are those of the node's other programs.
func openCover(host *os.File, shared map[string]*ebpf.Map) (*cover, error) {
	has, err := hasTCX()
	if err != nil {
		return nil, err
	}
	c := &cover{host: host, shared: shared, classic: !has, covered: make(map[string][]int)}
	c.objects, err = c.load(nil)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// load loads the program with the shared maps and those of have, if any.
func (c *cover) load(have map[string]*ebpf.Map) (coverObjects, error) {
	spec, err := bpf.LoadTcx()
	if err != nil {
		return coverObjects{}, err
	}
	replacements := make(map[string]*ebpf.Map)
	for _, maps := range []map[string]*ebpf.Map{c.shared, have} {
		for name, m := range maps {
			if spec.Maps[name] == nil {
				continue
			}
			spec.Maps[name].MaxEntries = m.MaxEntries() // the agent says how many
			replacements[name] = m
		}
	}
	var objects coverObjects
	err = spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return coverObjects{}, fmt.Errorf("load cover: %w", err)
	}
	return objects, nil
}

// renew loads the program once more: the kernel attaches one only once to a
// device, so that only another can come before others' that came before it.
func (c *cover) renew() error {
	objects, err := c.load(map[string]*ebpf.Map{
		bpf.TcxMapLinks: c.objects.Links, bpf.TcxMapTunnels: c.objects.Tunnels,
	})
	if err != nil {
		return err
	}
	old := c.objects
	c.objects = objects
	return old.close()
}

// Close lets go of descriptors; the programs stay at their devices.
func (c *cover) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.objects.close()
}

// pod covers a pod's links and names those that it cannot.
func (c *cover) pod(uid string, netns *os.File, pod bpf.TcxPod) (uncovered []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ends, uncovered, err := endsOf(netns, c.host)
	if err != nil {
		return nil, fmt.Errorf("list the links of pod %s: %w", uid, err)
	}
	err = inNetns(c.host, func() error {
		devices, err := listLinks(maxDevices)
		if err != nil {
			return fmt.Errorf("list the node's links: %w", err)
		}
		if err := c.writeTunnels(devices); err != nil {
			return err
		}
		if err := c.dropGone(uid, devices); err != nil {
			return err
		}
		for _, e := range ends {
			why, err := c.end(uid, devices, e, pod)
			if err != nil {
				return fmt.Errorf("cover %s of pod %s: %w", e.name, uid, err)
			}
			if why != "" {
				uncovered = append(uncovered, e.name+": "+why)
			}
		}
		return nil
	})
	return uncovered, err
}

// end covers one link. The entry comes first, so that the program knows the pod
// from its first packet on.
func (c *cover) end(uid string, devices []device, e end, pod bpf.TcxPod) (why string, err error) {
	if why := e.mismatch(devices); why != "" {
		return why, nil
	}
	if err := c.objects.Links.Put(uint32(e.peer), pod); err != nil {
		return "", fmt.Errorf("write links: %w", err)
	}
	if !slices.Contains(c.covered[uid], e.peer) {
		c.covered[uid] = append(c.covered[uid], e.peer)
	}
	if c.classic {
		return "", c.attachClassic(e.peer)
	}
	return "", c.attach(e.peer)
}

// dropGone forgets devices that are gone.
func (c *cover) dropGone(uid string, devices []device) error {
	var errs []error
	c.covered[uid] = slices.DeleteFunc(c.covered[uid], func(index int) bool {
		exists := slices.ContainsFunc(devices, func(d device) bool { return d.index == index })
		if !exists {
			errs = append(errs, c.unlink(index))
		}
		return !exists
	})
	return errors.Join(errs...)
}

// forget takes the program from a pod's links, as far as they still exist and no
// other pod has their index now.
func (c *cover) forget(uid string, pod bpf.TcxPod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	devices := c.covered[uid]
	delete(c.covered, uid)
	return inNetns(c.host, func() error {
		var errs []error
		for _, index := range devices {
			var now bpf.TcxPod
			if err := c.objects.Links.Lookup(uint32(index), &now); err != nil || now.Netns != pod.Netns {
				continue
			}
			errs = append(errs, detachCover(index, ""), c.unlink(index))
		}
		return errors.Join(errs...)
	})
}

func (c *cover) unlink(index int) error {
	err := c.objects.Links.Delete(uint32(index))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("write links: %w", err)
	}
	return nil
}

// uncoverAll takes the programs of one node's agents from every device, or, if
// podsPath is empty, of every node's.
func uncoverAll(host *os.File, podsPath string) error {
	return inNetns(host, func() error {
		devices, err := listLinks(maxDevices)
		if err != nil {
			return fmt.Errorf("list the node's links: %w", err)
		}
		var errs []error
		for _, d := range devices {
			errs = append(errs, detachCover(d.index, podsPath))
		}
		return errors.Join(errs...)
	})
}

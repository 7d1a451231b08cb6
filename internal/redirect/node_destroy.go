package redirect

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"postern.dev/postern/bpf"
)

// Destroy ends connections to what is guarded that are older than the guard: of
// the pod if it is guarded, of whatever pod if the destination is exclusive; their
// owners get ECONNABORTED. On the node's network it does so for all of its
// guarded pods. It answers how many, and is called after [Node.Set] and
// [Node.Classify].
//
// Errors: [ErrUnknownPod].
func (n *Node) Destroy(ctx context.Context, uid string) (int, error) {
	n.mu.Lock()
	m, err := n.located(uid)
	var ns *os.File
	if err == nil {
		ns, err = duplicate(m.netns)
	}
	n.mu.Unlock()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	ended := 0
	err = inNetns(ns, func() (err error) {
		if n.has.sockDestroy {
			ended, err = n.destroyByProgram(ctx)
		} else {
			ended, err = n.destroyByNetlink(ctx, m)
		}
		return err
	})
	if err != nil {
		return ended, fmt.Errorf("end connections of pod %s: %w", uid, err)
	}
	return ended, nil
}

func (n *Node) destroyByProgram(ctx context.Context) (int, error) {
	n.destroying.Lock()
	defer n.destroying.Unlock()
	if n.destroy == nil {
		if err := n.loadDestroy(); err != nil {
			return 0, err
		}
	}
	return walk(ctx, n.destroy)
}

func (n *Node) loadDestroy() error {
	spec, err := bpf.LoadDestroy()
	if err != nil {
		return err
	}
	var objects struct {
		Destroy *ebpf.Program `ebpf:"destroy_pods"`
	}
	err = spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{
			bpf.DestroyMapPosternNode: n.maps.PosternNode,
			bpf.DestroyMapGuards:      n.maps.Guards,
			bpf.DestroyMapAgents:      n.maps.Agents,
			bpf.DestroyMapPods:        n.maps.Pods,
			bpf.DestroyMapHostPods:    n.maps.HostPods,
		},
	})
	if err != nil {
		return fmt.Errorf("load destroy: %w", err)
	}
	n.destroy = objects.Destroy
	return nil
}

// walk runs a program for each socket of this thread's network namespace, and
// answers how many bytes it wrote.
func walk(ctx context.Context, program *ebpf.Program) (int, error) {
	iter, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return 0, fmt.Errorf("attach destroy: %w", err)
	}
	sockets, err := iter.Open()
	if err != nil {
		return 0, errors.Join(err, iter.Close())
	}
	count, err := countBytes(ctx, sockets)
	return count, errors.Join(err, sockets.Close(), iter.Close())
}

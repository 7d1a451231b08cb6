package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// Options say where a gate runs. Paths are as this process sees them.
type Options struct {
	Socket    string        // where the agent finds the gate
	AgentUID  uint32        // the agent's user; never 0
	State     string        // folder for what has to outlive the gate
	Cgroups   string        // where the whole cgroup v2 hierarchy is mounted; empty: found
	Pods      string        // the pods' cgroup below it; empty: found
	Kubelet   string        // the kubelet's folder
	NRI       string        // the container runtime's NRI socket; empty: the runtime is not asked
	Hold      time.Duration // how long the runtime may be held before it starts a pod's containers
	Namespace string        // Postern's own: see spares; empty: there is none
	Log       logrus.FieldLogger
}

// check answers all mistakes at once.
func (o Options) check() error {
	var errs []error
	if o.AgentUID == 0 {
		errs = append(errs, errors.New("the agent's user is root: it must have no privilege"))
	}
	for name, value := range map[string]string{"socket": o.Socket, "state folder": o.State, "kubelet's folder": o.Kubelet} {
		if !filepath.IsAbs(value) {
			errs = append(errs, fmt.Errorf("%s: %q is no absolute path", name, value))
		}
	}
	if o.NRI != "" && o.Hold <= 0 {
		errs = append(errs, fmt.Errorf("a pod's start cannot be held for %v", o.Hold))
	}
	return errors.Join(errs...)
}

// Run is the gate: it returns when ctx ends. The guard stays as it is.
//
// Shape: it runs in the node's process namespace (hostPID), and the process that
// started it (the runtime's) is in the node's mount and network namespaces: pid 1
// need not be, where the node is itself a container.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	parent := os.Getppid()
	host, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", parent))
	if err != nil {
		return fmt.Errorf("open the node's network namespace: %w", err)
	}
	defer host.Close()
	id, err := workload.NamespaceOf(host)
	if err != nil {
		return err
	}
	known, err := readState(o.State)
	if err != nil {
		return err
	}
	if o.Pods == "" {
		o.Pods = known.PodsCgroup
	}
	node, err := redirect.OpenNode(redirect.NodeOptions{Cgroups: o.Cgroups, Pods: o.Pods, Host: host, Log: o.Log})
	if err != nil {
		return err
	}
	g := newGate(o, node)
	g.finder = workload.Finder{Parent: parent, Node: id}
	if g.company, err = joinCompany(o.State); err != nil {
		return errors.Join(err, node.Close())
	}
	err = g.prepare(node.State(), known)
	if err == nil {
		err = g.run(ctx)
	}
	return errors.Join(err, g.company.close(), node.Close())
}

// prepare makes what is in force what it was, before anybody is served.
func (g *gate) prepare(at redirect.NodeState, known state) error {
	g.podsDir = at.Pods
	var err error
	if g.o.Pods, err = filepath.Rel(at.Root, at.Pods); err != nil {
		return err
	}
	own, err := workload.CgroupOf(at.Root, os.Getpid())
	if err != nil {
		return err
	}
	// Sockets for the agent are this process's, and are not to be led back to it.
	if err := g.kernel.Exempt(own); err != nil {
		return err
	}
	g.beside = func(pid int) (string, error) { return workload.Beside(own, pid) }
	g.ownUID, _, _ = workload.ParseCgroup(own)
	if err := known.boot(at); err != nil {
		return err
	}
	if err := g.restore(known); err != nil {
		return err
	}
	if known.Fed && !at.Fed {
		return g.arm(known.Guarded)
	}
	return nil
}

// run serves until ctx ends, and then lets go.
func (g *gate) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.listen(ctx) })
	group.Go(func() error { return g.watch(ctx) })
	group.Go(func() error { return g.saver(ctx) })
	group.Go(func() error { return g.refusals(ctx) })
	if g.o.NRI != "" {
		group.Go(func() error {
			return workload.NRI{
				Socket: g.o.NRI, Hold: g.o.Hold, Log: g.log,
				Sandboxes: sandboxes{g}, Connected: g.hears,
			}.Run(ctx)
		})
	}
	err := group.Wait()
	g.releaseAll()
	return errors.Join(err, g.group.Wait())
}

package gate

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/redirect"
)

// ArmOptions say where a node's gate keeps its state, and where its cgroups are.
type ArmOptions struct {
	State   string // folder
	Cgroups string // where the whole cgroup v2 hierarchy is mounted; empty: found
	Pods    string // the pods' cgroup below it; empty: the last gate's, else found
	Log     logrus.FieldLogger
}

// Arm loads the programs with what was guarded last, and no pod known: until a
// gate and an agent are there, pods are refused the Targets and nothing else. It
// is for the time between a boot and the kubelet's start, from the node's network
// namespace. Where a gate is at work already it changes nothing of the guard.
//
// Errors: none on a node where nothing was guarded yet.
func Arm(o ArmOptions) error {
	known, err := readState(o.State)
	if err != nil {
		return err
	}
	if !known.Fed {
		o.Log.Info("Nothing was guarded on this node yet")
		return nil
	}
	if o.Pods == "" {
		o.Pods = known.PodsCgroup
	}
	node, err := redirect.OpenNode(redirect.NodeOptions{Cgroups: o.Cgroups, Pods: o.Pods, Log: o.Log})
	if err != nil {
		return err
	}
	return errors.Join(arm(node, node.State(), known, o), node.Close())
}

func arm(k guards, at redirect.NodeState, known state, o ArmOptions) error {
	if at.Fed {
		o.Log.Info("The node is armed already")
		return nil
	}
	now, err := armNow(at.Pods, "")
	if err != nil {
		return err
	}
	known.Armed = &now // noted first: see gate.arm
	if err := errors.Join(known.write(o.State), k.Set(known.Guarded)); err != nil {
		return err
	}
	o.Log.WithField("guards", len(known.Guarded.Guards)).Info("Armed")
	return nil
}

// Uninstall takes the programs of this node from it, and what the gate wrote
// down. The gate must not run: it is what puts them there.
//
// Shape: it runs in the node's network namespace. Without Pods, and without the state that names them, the programs of
// every node whose cgroups are on this machine go.
func Uninstall(o ArmOptions) error {
	known, err := readState(o.State)
	if err != nil {
		o.Log.WithError(err).Warn("The last gate's state is not readable")
	}
	if o.Pods == "" {
		o.Pods = known.PodsCgroup
	}
	if err := redirect.Uninstall(redirect.NodeOptions{Cgroups: o.Cgroups, Pods: o.Pods, Log: o.Log}); err != nil {
		return fmt.Errorf("detach programs: %w", err) // the state says where they are
	}
	return removeState(filepath.Clean(o.State))
}

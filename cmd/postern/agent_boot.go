package main

import (
	"github.com/spf13/cobra"

	"postern.dev/postern/internal/gate"
)

// armCommand closes the time between a node's boot and the agent's start.
func armCommand() *cobra.Command {
	return onNode(&cobra.Command{
		Use:   "arm",
		Short: "Guard this node as it was guarded last, before the kubelet starts pods",
		Long: `Guard this node as it was guarded last: what is loaded into the kernel is gone after a boot, and the kubelet starts
pods before the agent runs. Until then pods are refused the Targets, and nothing else. Run it as root on the node, before
the kubelet, as by a systemd unit. It may be run again, and beside an agent.`,
	}, gate.Arm)
}

// onNode makes a command of what is done on a node, from outside of any container.
func onNode(cmd *cobra.Command, do func(gate.ArmOptions) error) *cobra.Command {
	var o gate.ArmOptions
	var level string
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log, err := newLog(cmd.ErrOrStderr(), level)
		if err != nil {
			return err
		}
		o.Log = log
		return do(o)
	}
	f := cmd.Flags()
	f.StringVar(&o.State, "state-dir", defaultStateDir, "folder of what the gate wrote down")
	f.StringVar(&o.Cgroups, "cgroup-root", "", "where the cgroup v2 hierarchy is mounted (default: found)")
	f.StringVar(&o.Pods, "pods-cgroup", "", "the pods' cgroup below it (default: the last gate's, else found)")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

package main

import (
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/gate"
)

// Where things are on a node, for commands that run on it and not in the chart's
// containers.
const (
	defaultStateDir = "/var/lib/postern"
	defaultKubelet  = "/var/lib/kubelet"
	defaultNRI      = "/run/nri/nri.sock"
)

// gateCommand is the privileged one of the node's two processes.
func gateCommand() *cobra.Command {
	var o gate.Options
	var level string
	cmd := &cobra.Command{
		Use:   "gate",
		Short: "Own the node's programs, namespaces and sockets on behalf of the agent",
		Long: `Own what needs privilege on a node: the programs in the kernel, the pods' network namespaces, the sockets in
them, and the files of the kubelet. It hands them to the agent, one process of --agent-uid in its own pod, as
descriptors, and reads nothing that a pod or a server sent. The chart runs it beside the agent; nobody else needs to.
When it ends, the programs stay: guarded pods are refused their Targets until the next one is there.`,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Log, err = newLog(cmd.ErrOrStderr(), level); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return gate.Run(ctx, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Socket, "socket", "/run/postern/gate.sock", "where the agent finds the gate")
	f.StringVar(&o.Namespace, "namespace", "", "Postern's own namespace, whose pods are never refused for being unknown")
	f.Uint32Var(&o.AgentUID, "agent-uid", 65532, "the agent's user")
	f.StringVar(&o.State, "state-dir", defaultStateDir, "folder for what has to outlive the gate")
	f.StringVar(&o.Cgroups, "cgroup-root", "", "where the node's cgroup v2 hierarchy is mounted (default: found)")
	f.StringVar(&o.Pods, "pods-cgroup", "", "the pods' cgroup below it (default: found)")
	f.StringVar(&o.Kubelet, "kubelet-root", defaultKubelet, "the kubelet's folder")
	f.StringVar(&o.NRI, "nri-socket", defaultNRI, "the container runtime's NRI socket; empty: the runtime is not asked")
	f.DurationVar(&o.Hold, "hold", time.Second, "how long a pod's start may be held until the pod is classified")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

package main

import (
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/agent"
)

// defaultStatusSocket is where the agent of a node answers postern status.
const defaultStatusSocket = "/run/postern/status.sock"

// agentCommand guards the pods of a node. The privileged part is a process of its own.
func agentCommand(stderr io.Writer) *cobra.Command {
	var o agent.NodeOptions
	var level string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Guard the pods of a Kubernetes node",
		Long: `Guard the pods of a Kubernetes node: those that are labelled postern.dev/guard, or whose namespace
is, reach the Targets of the policy through this process alone. It has no privilege and needs its
gate (postern agent gate) beside it. The chart in deploy/chart installs both on every node.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Log, err = newLog(stderr, level); err != nil {
				return err
			}
			o.Node, o.Version = os.Getenv("NODE_NAME"), version
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return agent.RunNode(ctx, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Gate, "gate", "/run/postern/gate.sock", "socket of the gate")
	f.StringVar(&o.Namespace, "namespace", "", "Postern's own namespace, where the Secrets of Targets lie")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the API server (default: as the pod's service account)")
	f.StringVar(&o.LogDir, "log-dir", defaultLogDir, "folder of the audit trail, and of what outlives a restart")
	f.StringVar(&o.OperatorKey, "operator-key", strings.TrimSuffix(defaultPublicKey, ".pub"), "private key that certifies audit logs")
	f.StringVar(&o.CheckpointFile, "checkpoint-file", "", "where to keep the newest checkpoint outside the trail")
	f.StringVar(&o.MetricsAddress, "metrics-address", "", "address on which to serve /metrics, /livez, /healthz and /readyz")
	f.StringVar(&o.StatusSocket, "status-socket", defaultStatusSocket, "where to answer postern status; empty: nowhere")
	f.StringVar(&o.StrictPods, "strict-pods", agent.StrictReport, "what becomes of guarded pods whose guard cannot be enforced: report, or refuse them their Targets")
	f.DurationVar(&o.MaxStale, "max-stale", time.Hour, "how long objects count that the API server has not confirmed; then new sessions are refused")
	f.DurationVar(&o.Drain, "drain", 30*time.Second, "how long sessions may go on after the agent was told to end")
	f.BoolVar(&o.AllowRoot, "allow-root", false, "run as root all the same")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.AddCommand(gateCommand(), armCommand(), installCommand(), uninstallCommand(), prepareCommand())
	return cmd
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/controller"
)

func controllerCommand(stderr io.Writer) *cobra.Command {
	var o controller.Options
	var level string
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Check a cluster's policy objects and tell their status",
		Long: `Check a cluster's Targets, AccessPolicies and Issuers, tell in their status what every node sees of
them, and make the key that certifies the nodes' audit logs. The chart runs it; one instance works at a time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Namespace == "" {
				return errors.New("no namespace is given: name Postern's own with --namespace")
			}
			log, err := newLog(stderr, level)
			if err != nil {
				return err
			}
			o.Log, o.Version = log, version
			if o.Name == "" {
				if o.Name, err = os.Hostname(); err != nil {
					return fmt.Errorf("find a name for this instance: %w", err)
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return controller.Run(ctx, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the API server (default: as the pod that this runs in)")
	f.StringVar(&o.Namespace, "namespace", "", "Postern's own namespace")
	f.StringVar(&o.Name, "name", "", "name of this instance (default: the host's)")
	f.StringVar(&o.MetricsAddress, "metrics-address", ":9090", "address on which to serve /metrics, /livez, /healthz and /readyz")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

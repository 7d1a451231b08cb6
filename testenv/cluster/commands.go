package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/boot"
	"postern.dev/postern/testenv/cluster/layout"
	"postern.dev/postern/testenv/cluster/node"
)

// The environment that commands look at.
const (
	envDir    = "POSTERN_CLUSTER"        // the state folder; default testenv/cluster/out
	envProxy  = "POSTERN_CLUSTER_PROXY"  // kube-proxy's mode: nftables (default) or iptables
	envBinary = "POSTERN_CLUSTER_BINARY" // the product's, in place of one built from the repository
)

// run is the whole program; it reports steps to stderr.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	root := &cobra.Command{
		Use: "cluster", Short: "Run a one-node Kubernetes on this machine, for tests.",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(upCommand(stderr), downCommand(stderr), rebootCommand(stderr), imageCommand(stderr),
		imagesCommand(stderr), enterCommand(), kubectlCommand(), holdCommand(), releaseCommand(), statusCommand(), bootCommand())
	root.SetArgs(args)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

func upCommand(stderr io.Writer) *cobra.Command {
	var hook string
	cmd := &cobra.Command{
		Use: "up", Args: cobra.NoArgs, Short: "Build what is lacking, start the cluster, wait until pods can be created.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := open(stderr)
			if err != nil {
				return err
			}
			return u.locked(func() error { return u.up(cmd.Context(), hook) })
		},
	}
	cmd.Flags().StringVar(&hook, "before-kubelet", "", "shell command to run in the node before containerd and the kubelet")
	return cmd
}

func downCommand(stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "down", Args: cobra.NoArgs, Short: "Stop the cluster and remove it; what was built and its logs stay.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := open(stderr)
			if err != nil {
				return err
			}
			return u.locked(func() error { return u.down(cmd.Context()) })
		},
	}
}

func rebootCommand(stderr io.Writer) *cobra.Command {
	var hook string
	cmd := &cobra.Command{
		Use: "reboot", Args: cobra.NoArgs, Short: "Cut the node's power, boot it again, wait until pods can be created.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := open(stderr)
			if err != nil {
				return err
			}
			return u.locked(func() error { return u.reboot(cmd.Context(), hook) })
		},
	}
	cmd.Flags().StringVar(&hook, "before-kubelet", "", "shell command to run in the node before containerd and the kubelet")
	return cmd
}

func imageCommand(stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "image", Args: cobra.NoArgs, Short: "Build the product's image and give it to the running cluster.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := open(stderr)
			if err != nil {
				return err
			}
			return u.locked(func() error { return u.image(cmd.Context()) })
		},
	}
}

func imagesCommand(stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "images", Args: cobra.NoArgs, Short: "Build every program and image; needs no running cluster.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := open(stderr)
			if err != nil {
				return err
			}
			return u.locked(func() error {
				_, err := u.images(cmd.Context())
				return err
			})
		},
	}
}

func enterCommand() *cobra.Command {
	return &cobra.Command{
		Use: "enter COMMAND...", DisableFlagParsing: true, Args: cobra.MinimumNArgs(1),
		Short: "Run a command in the node's namespaces and cgroup, in place of this process.",
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := stateDir()
			if err != nil {
				return err
			}
			return node.Enter(dir, args)
		},
	}
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl ARGUMENT...", DisableFlagParsing: true, Short: "Run kubectl as cluster-admin, in place of this process.",
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := stateDir()
			if err != nil {
				return err
			}
			if _, err := node.Pid(dir); err != nil {
				return err
			}
			if err := os.Setenv("KUBECONFIG", dir.Path("kubeconfig")); err != nil {
				return err
			}
			path := dir.Path("bin", "kubectl")
			return fmt.Errorf("execute %s: %w", path, unix.Exec(path, append([]string{"kubectl"}, args...), os.Environ()))
		},
	}
}

func holdCommand() *cobra.Command {
	return &cobra.Command{
		Use: "hold PROGRAM", Args: cobra.ExactArgs(1),
		Short: "Kill one of the node's programs and keep it away: " + strings.Join(boot.Programs, ", ") + ".",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := stateDir()
			if err != nil {
				return err
			}
			return node.Hold(cmd.Context(), dir, args[0])
		},
	}
}

func releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "release PROGRAM", Args: cobra.ExactArgs(1), Short: "Start a program that was held.",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := stateDir()
			if err != nil {
				return err
			}
			return node.Release(cmd.Context(), dir, args[0])
		},
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Args: cobra.NoArgs, Short: "Print cluster.json; fail when no cluster is up.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir()
			if err != nil {
				return err
			}
			if _, err := node.Pid(dir); err != nil {
				return err
			}
			text, err := os.ReadFile(dir.Path("cluster.json"))
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(text)
			return err
		},
	}
}

// bootCommand is how the program calls itself, inside the node.
func bootCommand() *cobra.Command {
	var args boot.Args
	cmd := &cobra.Command{
		Use: "boot", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return boot.Run(cmd.Context(), args) },
	}
	cmd.Flags().StringVar((*string)(&args.Dir), "dir", "", "")
	cmd.Flags().StringVar(&args.BootID, "boot-id", "", "")
	cmd.Flags().StringVar(&args.BeforeKubelet, "before-kubelet", "", "")
	cmd.Flags().StringVar(&args.ProxyMode, "proxy-mode", "", "")
	return cmd
}

func stateDir() (layout.Dir, error) {
	if dir := os.Getenv(envDir); dir != "" {
		dir, err := filepath.Abs(dir)
		return layout.Dir(dir), err
	}
	root, err := repository()
	return layout.Dir(filepath.Join(root, "testenv", "cluster", "out")), err
}

// repository is the folder of the product's go.mod, above the current directory
// or above this program.
func repository() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{here, filepath.Dir(program)} {
		for ; dir != "/"; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "testenv", "cluster", "go.mod")); err == nil {
				return dir, nil
			}
		}
	}
	return "", errors.New("find the repository: run this inside it")
}

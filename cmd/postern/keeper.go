package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/agent"
)

// keeperCommand is what run starts to watch over itself.
func keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "keeper run-id [ca-file-name]",
		Hidden: true,
		Args:   cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			return agent.Keep(args[0], strings.Join(args[1:], ""))
		},
	}
}

// becomeCommand is what run starts to become the command.
func becomeCommand() *cobra.Command {
	var b agent.Becoming
	cmd := &cobra.Command{
		Use:    "become -- command [argument]...",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			b.Command = args
			err := agent.Become(b, os.Environ())
			switch {
			case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
				return ended{code: notFound, err: err}
			case errors.Is(err, fs.ErrPermission):
				return ended{code: notExecutable, err: err}
			}
			return ended{code: runFailed, err: err}
		},
	}
	f := cmd.Flags()
	f.Uint32Var(&b.UID, "uid", 0, "")
	f.Uint32Var(&b.GID, "gid", 0, "")
	f.IntSliceVar(&b.Groups, "groups", nil, "")
	f.Uint64Var(&b.CoreSize, "core-size", 0, "")
	return cmd
}

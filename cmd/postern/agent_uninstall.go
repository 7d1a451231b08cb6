package main

import (
	"github.com/spf13/cobra"

	"postern.dev/postern/internal/gate"
)

// uninstallCommand takes Postern from a node.
func uninstallCommand() *cobra.Command {
	return onNode(&cobra.Command{
		Use:   "uninstall",
		Short: "Take the programs and what the gate wrote down from this node",
		Long: `Take Postern's programs from this node's cgroups and links, and remove what the gate wrote down. From then on nothing is
guarded here. Run it as root on the node when the agent is gone: it would put the programs back. It may be run again.`,
	}, gate.Uninstall)
}

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/gate"
)

// uninstallCommand takes Postern from a node.
func uninstallCommand() *cobra.Command {
	var bin, units string
	cmd := onNode(&cobra.Command{
		Use:   "uninstall",
		Short: "Take the programs, what the gate wrote down and what arms at boot from this node",
		Long: `Take Postern's programs from this node's cgroups and links, and remove what the gate wrote down and what postern agent
install has put here. From then on nothing is guarded here. Run it as root on the node when the agent is gone: it would
put the programs back. It may be run again.`,
	}, func(o gate.ArmOptions) error { return errors.Join(gate.Uninstall(o), removeArm(bin, units)) })
	cmd.Flags().StringVar(&bin, "bin-dir", defaultBinDir, "folder of the program that arms at boot")
	cmd.Flags().StringVar(&units, "unit-dir", defaultUnitDir, "folder of systemd's units")
	return cmd
}

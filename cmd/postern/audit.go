package main

import (
	"github.com/spf13/cobra"
)

// Where the trail lies unless a flag says otherwise.
const (
	defaultLogDir    = "/var/lib/postern/log"
	defaultPublicKey = "/var/lib/postern/operator.pub"
)

// auditCommand reads and verifies the trail.
func auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Read and verify the audit trail",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(tailCommand(), showCommand(), reportCommand(), verifyCommand())
	return c
}

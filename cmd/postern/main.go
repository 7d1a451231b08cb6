// Command postern guards a command's database connections: they are decided,
// recorded and masked, and logged in with a credential that the command never
// has. See the README.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(exitCode(run(context.Background(), os.Args[1:], os.Stderr), os.Stderr))
}

// run executes what args say.
//
// Errors: one with a method ExitCode where a command has exit codes of its own.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	root := &cobra.Command{
		Use:           "postern",
		Short:         "Guard the database connections of pods and commands: decide, record, mask",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(runCommand(stderr), agentCommand(stderr), statusCommand(), controllerCommand(stderr), doctorCommand(), policyCommand(), auditCommand(), versionCommand(), keeperCommand(), becomeCommand())
	root.SetArgs(args)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// exitCode tells an error to whoever typed the command, and gives its code.
func exitCode(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(stderr, "postern:", text)
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}

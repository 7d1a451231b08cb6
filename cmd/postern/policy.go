package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/policy"
)

// policyCommand works on policy files.
func policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Check policy files",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(policyCheckCommand())
	return c
}

// mistakesError is policy files that were not accepted; what is wrong with them is printed already.
type mistakesError struct{ mistakes int }

func (e mistakesError) Error() string {
	return fmt.Sprintf("the policy files are not accepted: mistakes found: %d", e.mistakes)
}

// ExitCode is 1: nothing would be run with these files.
func (mistakesError) ExitCode() int { return 1 }

func policyCheckCommand() *cobra.Command {
	var files []string
	c := &cobra.Command{
		Use:   "check -f file...",
		Short: "Say everything that is wrong with policy files",
		Long: "Read policy files as one set, and say everything that is wrong with them, each\n" +
			"with file, line and field; and, as warnings, what is legal and deserves a second\n" +
			"look. Files that name Secrets, Services or pods are judged as a cluster would,\n" +
			"others as postern run does. Nothing but these files is read: hosts are not looked\n" +
			"up, credential files are not opened, and no cluster is asked.\n\n" +
			"Exit code: 0 the files are accepted, 1 they are not.",
		Example: "  postern policy check -f targets.yaml -f access.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return checkPolicy(c.OutOrStdout(), c.ErrOrStderr(), files)
		},
	}
	c.Flags().StringArrayVarP(&files, "file", "f", nil, "policy file, with one or several YAML documents; may be repeated")
	_ = c.MarkFlagRequired("file") // fails only for a flag that is not there
	return c
}

// checkPolicy prints mistakes to stderr, all else to stdout.
func checkPolicy(stdout, stderr io.Writer, files []string) error {
	set, place, err := policy.Check(files...)
	if err != nil {
		if _, err := fmt.Fprintln(stderr, err); err != nil {
			return fmt.Errorf("print the mistakes: %w", err)
		}
		return mistakesError{countMistakes(err)}
	}
	for _, warning := range set.Warnings() {
		if _, err := fmt.Fprintf(stdout, "warning: %s\n", warning); err != nil {
			return fmt.Errorf("print the warnings: %w", err)
		}
	}
	user := "postern run"
	if place == policy.Cluster {
		user = "a cluster"
	}
	_, err = fmt.Fprintf(stdout, "ok, for %s: %d targets, %d access policies, %d issuers\n",
		user, len(set.Targets()), len(set.Policies()), len(set.Issuers()))
	return err
}

// countMistakes tells how many errors are joined in one.
func countMistakes(err error) int {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return len(joined.Unwrap())
	}
	return 1
}

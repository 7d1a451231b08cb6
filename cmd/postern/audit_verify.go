package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/audit"
)

// maxKeptBytes bounds a file with a key or with checkpoints.
const maxKeptBytes = 1 << 20

// tamperedError is a verification that found something. The exit code of main
// tells it from one that could not be made.
type tamperedError struct{ problems int }

func (e tamperedError) Error() string {
	return fmt.Sprintf("the audit trail does not verify: problems found: %d", e.problems)
}

// ExitCode is 1: the trail was read and something is wrong with it.
func (tamperedError) ExitCode() int { return 1 }

// unverifiedError is a verification that could not be made.
type unverifiedError struct{ error }

// ExitCode is 2: nothing is known of the trail.
func (unverifiedError) ExitCode() int { return 2 }

func (e unverifiedError) Unwrap() error { return e.error }

func unverified(err error) error {
	if err == nil {
		return nil
	}
	return unverifiedError{err}
}

func verifyCommand() *cobra.Command {
	var keys, kept []string
	c := &cobra.Command{
		Use:   "verify [dir]",
		Short: "Find any change, removal or cut of what a checkpoint covers",
		Long: "Recompute the trees of all logs below a folder and compare them with what was\n" +
			"signed. The key, and the checkpoints that were kept, should come from a place\n" +
			"that nobody who could change the logs could change.\n\n" +
			"Exit code: 0 it verifies, 1 something is wrong, 2 it could not be verified.",
		Args: func(c *cobra.Command, args []string) error { return unverified(cobra.MaximumNArgs(1)(c, args)) },
		RunE: func(c *cobra.Command, args []string) error {
			o := audit.VerifyOptions{Dir: defaultLogDir}
			if len(args) > 0 {
				o.Dir = args[0]
			}
			if err := load(&o, keys, kept); err != nil {
				return unverified(err)
			}
			r, err := audit.Verify(c.Context(), o)
			if err != nil {
				return unverified(err)
			}
			if err := printReport(c.OutOrStdout(), r); err != nil {
				return unverified(err)
			}
			if len(r.Problems) > 0 {
				return tamperedError{len(r.Problems)}
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&keys, "key", []string{defaultPublicKey}, "files with public keys of the operator")
	c.Flags().StringArrayVar(&kept, "checkpoint", nil, "files with checkpoints that were kept elsewhere")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unverified(err) })
	return c
}

// load reads the keys and checkpoints that the flags name.
func load(o *audit.VerifyOptions, keys, kept []string) error {
	for _, path := range keys {
		b, err := readKept(path)
		if err != nil {
			return fmt.Errorf("read the operator's public key: %w", err)
		}
		if key := strings.TrimSpace(string(b)); !slices.Contains(o.OperatorKeys, key) { // of two that are the same, neither would count
			o.OperatorKeys = append(o.OperatorKeys, key)
		}
	}
	for _, path := range kept {
		b, err := readKept(path)
		if err != nil {
			return fmt.Errorf("read kept checkpoint: %w", err)
		}
		o.Checkpoints = append(o.Checkpoints, b)
	}
	return nil
}

func readKept(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeptBytes+1))
	if err == nil && len(b) > maxKeptBytes {
		err = errors.New("it is too long")
	}
	return b, err
}

func printReport(out io.Writer, r *audit.Report) error {
	var p strings.Builder
	var records, values int64
	for _, l := range r.Logs {
		records, values = records+l.Records, values+l.Values
		fmt.Fprintf(&p, "%s  %s, %d records, %d of them covered by signatures", safe(l.ID), l.State, l.Records, l.Covered)
		if l.Records > 0 {
			fmt.Fprintf(&p, ", %s to %s", l.First.Local().Format(shortTime), l.Last.Local().Format(shortTime))
		}
		p.WriteByte('\n')
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&p, "\nWARNING  %s\n", describe(w))
	}
	for _, problem := range r.Problems {
		fmt.Fprintf(&p, "\nPROBLEM  %s\n         %s\n", describe(problem), advice(problem.Fault))
	}
	if len(r.Problems) == 0 {
		but := ""
		if len(r.Warnings) > 0 {
			but = fmt.Sprintf(", but for the warnings above (%d)", len(r.Warnings))
		}
		fmt.Fprintf(&p, "\nThe trail verifies%s: logs %d, records %d, values %d.\n", but, len(r.Logs), records, values)
	}
	_, err := io.WriteString(out, p.String())
	return err
}

func describe(p audit.Problem) string {
	s := string(p.Fault) + " in " + p.Log
	if p.Index >= 0 {
		s += fmt.Sprintf(", record %d", p.Index)
	}
	if p.ID != "" {
		s += " (" + p.ID + ")"
	}
	return safe(s + ": " + p.Text)
}

// advice says what to do about a fault.
func advice(f audit.Fault) string {
	const keep = "Keep the folder as it is, and find out who could write to it"
	switch f {
	case audit.FaultKey:
		return keep + ". If the operator's key was replaced, give the old public key too: --key old.pub --key new.pub."
	case audit.FaultHistoryChanged, audit.FaultHashes:
		return keep + ". A copy of the folder from before tells which record it was."
	case audit.FaultRecordsCut, audit.FaultLogMissing, audit.FaultRecordMissing:
		return keep + ". Look for the records in backups: what is here is not all that was."
	case audit.FaultValueMissing, audit.FaultValueChanged:
		return keep + ". The record itself is as it was signed; its value is not."
	case audit.FaultLoss:
		return "An agent found the earlier log shorter than it had signed: a disk that lost what it had confirmed, or a cut."
	case audit.FaultCheckpoint:
		return keep + ". Compare with a checkpoint that was kept elsewhere: --checkpoint file."
	}
	return keep + ". What this record says cannot be relied on."
}

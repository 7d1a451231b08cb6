package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// prepareCommand gives the agent, which has no rights, what it needs of the
// node: the chart runs it before the agent, as root, and nobody else needs it.
func prepareCommand() *cobra.Command {
	var logDir, keyFrom, keyTo string
	var uid int
	cmd := &cobra.Command{
		Use:    "prepare",
		Short:  "Give the trail's folder and the operator key to the agent's user",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if uid <= 0 {
				return errors.New("no user is given: name the agent's with --uid; it is not root")
			}
			return errors.Join(giveFolder(logDir, uid), giveCopy(keyFrom, keyTo, uid))
		},
	}
	f := cmd.Flags()
	f.StringVar(&logDir, "log-dir", defaultLogDir, "folder of the audit trail")
	f.StringVar(&keyFrom, "operator-key-from", "", "operator key as the cluster hands it out")
	f.StringVar(&keyTo, "operator-key", "", "where to copy it, for the agent alone")
	f.IntVar(&uid, "uid", 0, "the agent's user")
	return cmd
}

// giveFolder makes a folder that a user alone can use. What is in it is his already.
func giveFolder(path string, uid int) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make the trail's folder: %w", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("make the trail's folder private: %w", err)
	}
	if err := os.Chown(path, uid, uid); err != nil {
		return fmt.Errorf("give the trail's folder away: %w", err)
	}
	return nil
}

// giveCopy copies a small file for a user alone.
func giveCopy(from, to string, uid int) error {
	if from == "" && to == "" {
		return nil
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read the operator key: %w", err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		return fmt.Errorf("copy the operator key: %w", err)
	}
	if err := os.Chown(to, uid, uid); err != nil {
		return fmt.Errorf("give the operator key away: %w", err)
	}
	return nil
}

package main

import (
	"errors"
	"io"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"postern.dev/postern/internal/agent"
)

// Exit codes of run that are not the command's.
//
// Source: POSIX.1-2024, Shell Command Language, 2.8.2, for 126 and 127; 125 is
// what env(1), nice(1) and timeout(1) answer when they fail themselves.
const (
	runFailed     = 125
	notExecutable = 126
	notFound      = 127
)

// ended is the end of a command, or of run itself.
type ended struct {
	code int
	err  error // nil: the command has said itself what there is to say
}

// Error is empty for a command that ended by itself.
func (e ended) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

// Unwrap returns why it ended.
func (e ended) Unwrap() error { return e.err }

// ExitCode is the command's, or one of those above.
func (e ended) ExitCode() int { return e.code }

func runCommand(stderr io.Writer) *cobra.Command {
	var o agent.Options
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run -f policy.yaml [flags] -- command [argument]...",
		Short: "Run a command under guard",
		Long: `Run a command under guard: its connections to the policy's Targets are led through Postern, as
the policy allows; nothing else is touched. The command runs as the user who called sudo, or --user.

The exit code is the command's, 128 and the signal's number when a signal ended it, 125 when run
itself failed, 126 when the command cannot be executed, 127 when it is not found.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return ended{code: runFailed, err: errors.New("no command is given: put it behind --, as in postern run -f policy.yaml -- psql")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(o.Policies) == 0 {
				return ended{code: runFailed, err: errors.New("no policy is given: name its file with -f")}
			}
			log := logrus.New()
			log.SetOutput(stderr)
			log.SetLevel(logrus.WarnLevel) // the terminal is the command's
			if verbose {
				log.SetLevel(logrus.DebugLevel)
			}
			o.Command, o.Version, o.Stderr, o.Log = args, version, stderr, log
			code, err := agent.Run(cmd.Context(), o)
			switch {
			case err != nil:
				return ended{code: runFailed, err: err}
			case code != 0:
				return ended{code: code}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringArrayVarP(&o.Policies, "file", "f", nil, "policy file; may be given several times")
	f.StringVar(&o.User, "user", "", "user as whom the command runs (default: who called sudo)")
	f.StringVar(&o.TokenFile, "token-file", "", "OIDC token that proves who the command is (default: the Linux user is)")
	f.StringVar(&o.LogDir, "log-dir", defaultLogDir, "folder of the audit trail")
	f.StringVar(&o.OperatorKey, "operator-key", strings.TrimSuffix(defaultPublicKey, ".pub"), "private key that certifies audit logs; made when it is not there")
	f.StringVar(&o.CheckpointFile, "checkpoint-file", "", "where to keep the newest checkpoint outside the trail")
	f.StringVar(&o.CAFile, "ca-file", "", "where to write the run's CA certificate, for clients that verify the server")
	f.StringVar(&o.MetricsAddress, "metrics-address", "", "address on which to serve /metrics, /healthz and /readyz")
	f.DurationVar(&o.Drain, "drain", 5*time.Second, "how long sessions may go on after the command has ended")
	f.BoolVarP(&verbose, "verbose", "v", false, "log what the agent does")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return ended{code: runFailed, err: err} })
	return cmd
}

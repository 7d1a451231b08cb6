package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/redirect"
)

// doctorOptions say where a node keeps what the doctor looks at.
type doctorOptions struct {
	cgroups, pods, kubelet, nri, logDir, units string
}

func doctorCommand() *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check a node, and say what of the guard will be missing",
		Long: `Check this node, and say what of the guard will be missing, one line a check: ok, missing or cannot tell,
what that means for what is guarded, and what to do. Nothing is changed. Run it as root on the node, or in
the gate's container: kubectl -n postern-system exec ds/postern-agent -c gate -- /postern doctor
--cgroup-root=/host/cgroup --kubelet-root=/host/kubelet --nri-socket=/host/nri/nri.sock

Exit code: 0 nothing essential is missing, 1 something essential is missing or cannot be told.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := newLog(io.Discard, "error")
			if err != nil {
				return err
			}
			kernel := redirect.Inspect(redirect.NodeOptions{Cgroups: o.cgroups, Pods: o.pods, Log: log})
			findings := examine(gather(o, kernel))
			for _, f := range findings {
				if _, err := fmt.Fprintln(c.OutOrStdout(), f); err != nil {
					return err
				}
			}
			if names := notFit(findings); len(names) > 0 {
				return unfitError{names}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.cgroups, "cgroup-root", "", "where the node's cgroup v2 hierarchy is mounted (default: found)")
	f.StringVar(&o.pods, "pods-cgroup", "", "the pods' cgroup below it (default: found)")
	f.StringVar(&o.kubelet, "kubelet-root", defaultKubelet, "the kubelet's folder")
	f.StringVar(&o.nri, "nri-socket", defaultNRI, "the container runtime's NRI socket")
	f.StringVar(&o.logDir, "log-dir", "/var/log/postern", "where the audit trail will lie")
	f.StringVar(&o.units, "unit-dir", defaultUnitDir, "the node's folder of systemd units")
	return c
}

// verdict on one check.
type diagnosis string

const (
	fine       diagnosis = "ok"
	missing    diagnosis = "missing"
	cannotTell diagnosis = "cannot tell"
)

// finding is the result of one check.
type finding struct {
	check     string
	is        diagnosis
	essential bool   // without it nothing is guarded here
	found     string // what there is
	means     string // for what is guarded; empty where it is fine
	do        string // about it
}

// String is the finding on one line.
func (f finding) String() string {
	text := []string{f.found}
	if f.is != fine {
		text = append(text, f.means, f.do)
	}
	sentences := strings.Join(text, ". ")
	if f.is != fine {
		sentences += "."
	}
	return fmt.Sprintf("%-11s  %-13s  %s", f.is, f.check, safe(sentences))
}

// notFit names the essential checks that are not fine.
func notFit(findings []finding) []string {
	var names []string
	for _, f := range findings {
		if f.essential && f.is != fine {
			names = append(names, f.check)
		}
	}
	return names
}

// unfitError is a node on which nothing can be guarded.
type unfitError struct{ checks []string }

func (e unfitError) Error() string {
	return "this node cannot be guarded, or nobody can tell: " + strings.Join(e.checks, ", ")
}

// ExitCode is 1, for scripts that prepare nodes.
func (unfitError) ExitCode() int { return 1 }

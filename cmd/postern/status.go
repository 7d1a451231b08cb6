package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/agent"
	"postern.dev/postern/internal/gate"
)

// statusCommand shows what a node's agent does.
func statusCommand() *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent of this node guards",
		Long: `Show what the agent of this node guards: the kernel's programs, the Targets with their addresses, the
guarded pods with their listeners, and the ledger: what the kernel led here and what was recorded.
It runs on the node, in the agent's container: kubectl exec ds/postern-agent -c agent -- /postern status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := agent.AskNode(cmd.Context(), socket)
			if err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(report)
			}
			return printNode(cmd.OutOrStdout(), report)
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", defaultStatusSocket, "where the agent answers")
	f.BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}

func printNode(to io.Writer, r agent.NodeReport) error {
	out := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	state := "ready"
	if !r.Ready {
		state = "not ready: " + strings.Join(r.Why, "; ")
	}
	fmt.Fprintf(out, "agent\t%s on %s, since %s, %s\n", r.Agent, r.Node, r.Since.Format(time.RFC3339), state)
	fmt.Fprintf(out, "log\t%s\n", r.Log)
	fmt.Fprintf(out, "policy\t%s, confirmed %s ago\n", r.Policy, r.Stale.Truncate(time.Second))
	if r.Gate != nil {
		fmt.Fprintf(out, "gate\tsince %s, NRI %v\n", r.Gate.Since.Format(time.RFC3339), r.Gate.NRI)
		fmt.Fprintf(out, "armed\t%s\n", armedSince(r.Gate))
		fmt.Fprintf(out, "programs\tattached at %s: %s\n", r.Gate.Programs.Root, r.Gate.Programs.Placement)
		for _, lack := range r.Gate.Programs.Missing {
			fmt.Fprintf(out, "\twithout %s\n", lack)
		}
		if c := r.Gate.Counters; c != nil {
			fmt.Fprintf(out, "unknown\tpods that nobody knew yet: %d refused, %d dropped\n", c.Refused, c.Dropped)
		}
	}
	for _, name := range sortedKeys(r.Rejected) {
		fmt.Fprintf(out, "rejected\t%s: %s\n", name, r.Rejected[name])
	}
	fmt.Fprintln(out, "\nTARGET\tADDRESSES\tLAST LOG-IN")
	for _, t := range r.Targets {
		fmt.Fprintf(out, "%s\t%s\t%s\n", t.Name, joined(t.Addresses), lastLogin(t))
		for _, why := range t.Missing {
			fmt.Fprintf(out, "\t%s\n", why)
		}
		if len(t.SensitiveMissing) > 0 {
			fmt.Fprintf(out, "\tno column for %s, which masks nothing\n", strings.Join(t.SensitiveMissing, ", "))
		}
	}
	fmt.Fprintln(out, "\nPOD\tCLASS\tLISTENERS\tOPEN\tLED HERE\tRECORDED\tMISSING\tREFUSED\tDROPPED\tNOT ENFORCED")
	for _, p := range r.Pods {
		fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", podName(p), p.Class, joined(p.Listeners),
			p.Connections, p.Counters.Redirected, p.Recorded, p.Missing, p.Counters.Refused, p.Counters.Dropped, strings.Join(p.Reasons, "; "))
	}
	return out.Flush()
}

// podName is what people call a pod; nobody has told the name of an unknown one.
func podName(p agent.PodReport) string {
	if p.Name == "" {
		return p.UID
	}
	return p.Namespace + "/" + p.Name
}

// armedSince says since when the kernel refuses what nobody has decided.
func armedSince(g *gate.Status) string {
	if g.Armed.IsZero() {
		return "not yet"
	}
	return fmt.Sprintf("since %s, pods ran for %s before", g.Armed.Format(time.RFC3339), g.Unarmed.Round(time.Millisecond))
}

func lastLogin(t agent.TargetReport) string {
	switch {
	case t.Failed != "":
		return "failed: " + t.Failed
	case t.LastLogin.IsZero():
		return "none"
	}
	return t.LastLogin.Format(time.RFC3339)
}

func joined[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, one := range list {
		texts[i] = one.String()
	}
	return strings.Join(texts, " ")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

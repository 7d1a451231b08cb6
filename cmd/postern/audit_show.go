package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/audit"
)

// minID is how much of an ID must be given: no less than a line of tail shows.
const minID = shortID

func showCommand() *cobra.Command {
	var dir string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show <id>",
		Short: "Print one record whole, and what belongs to it",
		Long:  "Print one record whole, with its values, and its outcome or request.\nThe ID may be shortened to its last 8 characters or more.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return show(c.Context(), c.OutOrStdout(), dir, args[0], asJSON)
		},
	}
	c.Flags().StringVar(&dir, "log-dir", defaultLogDir, "folder of the logs")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a record")
	return c
}

func show(ctx context.Context, out io.Writer, dir, id string, asJSON bool) error {
	if len(id) < minID {
		return fmt.Errorf("show record %q: give at least the last %d characters of its ID", id, minID)
	}
	found, err := related(ctx, dir, id)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("show record %q: no log below %s has it", id, dir)
	}
	for i, e := range found {
		text := full(e)
		if asJSON {
			if text, err = toJSON(e); err != nil {
				return err
			}
			text += "\n"
		} else if i > 0 {
			text = "\n" + text
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	return nil
}

// related finds the records that an ID names or that belong to one of those.
func related(ctx context.Context, dir, id string) ([]*audit.Entry, error) {
	dirs, err := audit.Logs(dir)
	if err != nil {
		return nil, err
	}
	var found []*audit.Entry
	for _, dir := range dirs {
		here, err := relatedIn(ctx, dir, id)
		if err != nil {
			return nil, err
		}
		found = append(found, here...)
	}
	return found, nil
}

func relatedIn(ctx context.Context, dir, id string) ([]*audit.Entry, error) {
	r := audit.NewReader(dir)
	defer r.Close()
	var found []*audit.Entry
	for {
		e, err := r.Next()
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
			return found, nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, err
		}
		if strings.HasSuffix(e.ID, id) || strings.HasSuffix(e.RequestID, id) {
			found = append(found, e)
		}
	}
}

// full is a record with all that it says, one fact a line.
func full(e *audit.Entry) string {
	var p page
	p.add("record", e.ID)
	p.add("kind", string(e.Kind))
	p.add("time", e.Time.Format(time.RFC3339Nano))
	p.add("log", fmt.Sprintf("%s, index %d", e.Log, e.Index))
	p.add("session", e.Session)
	if e.Seq != 0 {
		p.add("request no.", fmt.Sprint(e.Seq))
	}
	p.add("of request", e.RequestID)
	p.add("in log", e.RequestLog)
	p.workload(e.Workload)
	p.said(e)
	p.target(e.Target)
	p.request(e.Request)
	p.add("verdict", verdict(e))
	if e.Decision != nil {
		p.add("policies", e.Decision.Hash)
	}
	if e.StaleUS != 0 {
		p.add("stale", fmt.Sprintf("the API server had not answered for %v", (time.Duration(e.StaleUS)*time.Microsecond).Truncate(time.Second)))
	}
	if e.Outcome != nil {
		p.add("result", result(e))
		for _, column := range slices.Sorted(maps.Keys(e.Outcome.Masked)) {
			p.add("masked", fmt.Sprintf("%s: %d values", column, e.Outcome.Masked[column]))
		}
	}
	p.add("event", event(e))
	if e.Key != nil {
		p.add("log key", e.Key.Public)
		p.add("certificate", e.Key.Certificate)
	}
	if len(e.Missing) > 0 {
		p.add("erased", strings.Join(e.Missing, ", ")+": only the commitment is left")
	}
	return p.String()
}

// page lays out facts in two columns.
type page struct{ strings.Builder }

const labelWidth = 12

// add adds a fact, unless it is empty. Lines after its first are indented.
func (p *page) add(label, text string) {
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		fmt.Fprintf(p, "%-*s  %s\n", labelWidth, label, safe(line))
		label = ""
	}
}

func (p *page) workload(w *audit.Workload) {
	if w == nil {
		return
	}
	p.add("who", w.User)
	p.add("groups", strings.Join(w.Groups, " "))
	p.add("verified", w.Verified)
	if w.Token != nil {
		p.add("token", fmt.Sprintf("%s of %s, ID %s", w.Token.Subject, w.Token.Issuer, w.Token.ID))
	}
	p.add("pod", strings.Trim(w.Namespace+"/"+w.Pod, "/"))
	p.add("process", fmt.Sprintf("%s, pid %d, uid %d %s", w.Process, w.PID, w.LinuxUID, w.LinuxUser))
	p.add("executable", w.Exe)
}

// said is what is known second hand: who caused the workload, and what the
// client says of itself.
func (p *page) said(e *audit.Entry) {
	if i := e.Initiator; i != nil {
		p.add("initiator", fmt.Sprintf("%s %s, by %s, verified: %t", i.User, strings.Join(i.Groups, " "), i.Source, i.Verified))
	}
	if c := e.Claimed; c != nil {
		p.add("claims", strings.TrimSpace(strings.Join([]string{c.ApplicationName, c.User, c.UserAgent, c.Traceparent}, " ")))
	}
}

func (p *page) target(t *audit.Target) {
	if t == nil {
		return
	}
	p.add("target", t.Name)
	p.add("address", t.Address)
	p.add("host", t.Host)
	p.add("TLS", t.TLS)
	p.add("database", t.Database)
	p.add("logged in as", t.User)
	p.add("credential", t.CredentialVersion)
}

func (p *page) request(q *audit.Request) {
	if q == nil {
		return
	}
	p.add("operations", strings.Join(q.Operations, " "))
	p.add("relations", strings.Join(q.Relations, " "))
	p.add("functions", strings.Join(q.Functions, " "))
	p.add("text", q.Text)
	for i, v := range q.Parameters {
		p.add(fmt.Sprintf("$%d", i+1), v)
	}
	p.add("fingerprint", q.Fingerprint)
	if q.Truncated {
		p.add("truncated", "it was longer than what is kept")
	}
}

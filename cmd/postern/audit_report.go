package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/audit"
)

func reportCommand() *cobra.Command {
	var dir string
	var since time.Duration
	var would, asJSON bool
	c := &cobra.Command{
		Use:   "report",
		Short: "Sum a trail up: what was refused, or what observed policies would refuse",
		Long: `Sum a trail up: requests by decision, and refusals by reason. With --would: what policies in mode observe
would have refused or masked, by policy, rule, subject and statement, the most frequent first, each with the
ID of its newest record for postern audit show. An empty report is the sign to take mode: observe away.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := newReport()
			if since > 0 {
				r.Since = time.Now().Add(-since).UTC()
			}
			if err := r.read(c.Context(), dir); err != nil {
				return err
			}
			switch {
			case asJSON && would:
				return r.printJSON(c.OutOrStdout(), wouldReport{r.Since, r.Requests, r.Observed, r.Damaged, r.would()})
			case asJSON:
				return r.printJSON(c.OutOrStdout(), r.summary())
			case would:
				return r.printWould(c.OutOrStdout())
			}
			return r.print(c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "log-dir", defaultLogDir, "folder of the logs")
	f.DurationVar(&since, "since", 0, "only records that are not older, as in 24h (default: all)")
	f.BoolVar(&would, "would", false, "what observed policies would have refused or masked")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// maxStatements is how many statements are told apart. A workload chooses its
// statements: more of them count together, by policy, rule and subject.
const maxStatements = 10_000

// report sums up records.
type report struct {
	Since    time.Time
	Requests int64
	Observed int64 // requests on which an observed policy had a word
	Sessions int64
	Masked   int64 // values
	Damaged  int64 // lines that are no records

	decisions map[decided]int64
	refusals  map[string]int64
	verdicts  map[verdictKey]*wouldRow
	most      int // of verdicts, before statements are not told apart any more
}

// decided is what requests are summed up by.
type decided struct {
	Action string `json:"action"`
	Policy string `json:"policy,omitempty"`
	Rule   string `json:"rule,omitempty"`
}

// verdictKey is what verdicts of observed policies are summed up by.
type verdictKey struct{ action, policy, rule, subject, target, statement string }

// wouldRow is one line of what would have been refused or masked.
type wouldRow struct {
	Would       string    `json:"would"` // deny or mask
	Policy      string    `json:"policy"`
	Rule        string    `json:"rule,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Subject     string    `json:"subject"`
	Target      string    `json:"target"`
	Operations  []string  `json:"operations,omitempty"`
	Relations   []string  `json:"relations,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Count       int64     `json:"count"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Example     string    `json:"example"` // ID of the newest record
}

func newReport() *report {
	return &report{
		decisions: make(map[decided]int64), refusals: make(map[string]int64), verdicts: make(map[verdictKey]*wouldRow), most: maxStatements,
	}
}

// read adds all records of the logs below a folder.
func (r *report) read(ctx context.Context, dir string) error {
	dirs, err := audit.Logs(dir)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := r.readLog(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) readLog(ctx context.Context, dir string) error {
	reader := audit.NewReader(dir)
	defer reader.Close()
	for {
		e, err := reader.Next()
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		r.add(e)
	}
}

func (r *report) add(e *audit.Entry) {
	if e.Damaged {
		r.Damaged++
		return
	}
	if e.Time.Before(r.Since) {
		return
	}
	switch {
	case e.Kind == audit.KindSessionOpen:
		r.Sessions++
	case e.Refusal != nil:
		r.refusals[e.Refusal.Reason]++
	case e.Kind == audit.KindRequest && e.Decision != nil:
		r.Requests++
		d := e.Decision
		r.decisions[decided{d.Action, d.Policy, d.Rule}]++
		if len(d.Would) > 0 {
			r.Observed++
		}
		for _, w := range d.Would {
			r.weigh(e, w)
		}
	case e.Kind == audit.KindOutcome && e.Outcome != nil:
		for _, n := range e.Outcome.Masked {
			r.Masked += n
		}
	}
}

// weigh adds what an observed policy said of a request, unless it agreed.
func (r *report) weigh(e *audit.Entry, w audit.Verdict) {
	if w.Action == "allow" {
		return
	}
	row := wouldRow{Would: w.Action, Policy: w.Policy, Rule: w.Rule, Reason: w.Reason, Subject: subject(e), First: e.Time, Last: e.Time}
	if e.Target != nil {
		row.Target = cmp.Or(e.Target.Name, e.Target.Address)
	}
	if q := e.Request; q != nil {
		row.Operations, row.Relations, row.Fingerprint = q.Operations, q.Relations, q.Fingerprint
	}
	key := verdictKey{row.Would, row.Policy, row.Rule, row.Subject, row.Target, row.Fingerprint}
	if key.statement == "" {
		key.statement = row.statement()
	}
	known := r.verdicts[key]
	if known == nil && len(r.verdicts) >= r.most {
		key.statement, row.Operations, row.Relations, row.Fingerprint = "", nil, nil, ""
		known = r.verdicts[key]
	}
	if known == nil {
		known = &row
		r.verdicts[key] = known
	}
	known.Count++
	if e.Time.Before(known.First) {
		known.First = e.Time
	}
	if !e.Time.Before(known.Last) {
		known.Last, known.Example = e.Time, e.ID
	}
}

// subject is who asked, as a policy could name it.
func subject(e *audit.Entry) string {
	w := e.Workload
	switch {
	case w == nil:
		return ""
	case w.Namespace != "":
		return w.Namespace + "/" + w.ServiceAccount
	}
	return cmp.Or(w.User, w.LinuxUser, fmt.Sprintf("uid:%d", w.LinuxUID))
}

func (w *wouldRow) statement() string {
	return strings.Join(slices.Concat(w.Operations, w.Relations), " ")
}

// would is the report's lines, the most frequent first.
func (r *report) would() []wouldRow {
	rows := make([]wouldRow, 0, len(r.verdicts))
	for _, row := range r.verdicts {
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b wouldRow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Example, b.Example))
	})
	return rows
}

// wouldReport is what --would --json prints.
type wouldReport struct {
	Since    time.Time  `json:"since,omitzero"`
	Requests int64      `json:"requests"`
	Observed int64      `json:"observed"` // of these, by policies in mode observe
	Damaged  int64      `json:"damaged,omitempty"`
	Rows     []wouldRow `json:"rows"`
}

func (r *report) printWould(out io.Writer) error {
	p := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	rows := r.would()
	if len(rows) > 0 {
		fmt.Fprintln(p, "COUNT\tWOULD\tBY\tSUBJECT\tTARGET\tSTATEMENT\tFIRST\tLAST\tEXAMPLE")
	}
	for _, row := range rows {
		by := strings.TrimSuffix(row.Policy+"/"+row.Rule, "/")
		if row.Reason != "" {
			by += ": " + row.Reason
		}
		fmt.Fprintf(p, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Count, safe(row.Would), safe(by), safe(row.Subject), safe(row.Target),
			safe(cmp.Or(row.statement(), "(others)")), row.First.Local().Format(time.DateTime), row.Last.Local().Format(time.DateTime), short(row.Example))
	}
	if err := p.Flush(); err != nil {
		return err
	}
	switch {
	case r.Observed == 0:
		fmt.Fprintf(out, "No policy in mode observe had a word on any of %d requests.\n", r.Requests)
	case len(rows) == 0:
		fmt.Fprintf(out, "Of %d requests, observed policies would have allowed all %d that they are about.\n", r.Requests, r.Observed)
	}
	return r.printDamage(out)
}

// summary is what --json prints without --would.
func (r *report) summary() any {
	type decision struct {
		decided
		Count int64 `json:"count"`
	}
	decisions := []decision{}
	for _, d := range r.ranked() {
		decisions = append(decisions, decision{d, r.decisions[d]})
	}
	return struct {
		Since     time.Time        `json:"since,omitzero"`
		Sessions  int64            `json:"sessions"`
		Requests  int64            `json:"requests"`
		Masked    int64            `json:"masked"` // values
		Damaged   int64            `json:"damaged,omitempty"`
		Decisions []decision       `json:"decisions"`
		Refusals  map[string]int64 `json:"refusals"`
	}{r.Since, r.Sessions, r.Requests, r.Masked, r.Damaged, decisions, r.refusals}
}

func (r *report) ranked() []decided {
	return slices.SortedFunc(maps.Keys(r.decisions), func(a, b decided) int {
		return cmp.Or(cmp.Compare(a.Action, b.Action), cmp.Compare(r.decisions[b], r.decisions[a]), cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Rule, b.Rule))
	})
}

func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "%d sessions, %d requests, %d values masked\n", r.Sessions, r.Requests, r.Masked)
	p := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(r.decisions) > 0 {
		fmt.Fprintln(p, "\nCOUNT\tDECISION\tBY")
	}
	for _, d := range r.ranked() {
		fmt.Fprintf(p, "%d\t%s\t%s\n", r.decisions[d], safe(d.Action), safe(cmp.Or(strings.Trim(d.Policy+"/"+d.Rule, "/"), "(no rule)")))
	}
	if len(r.refusals) > 0 {
		fmt.Fprintln(p, "\nCOUNT\tREFUSED BEFORE A REQUEST")
	}
	for _, reason := range slices.Sorted(maps.Keys(r.refusals)) {
		fmt.Fprintf(p, "%d\t%s\n", r.refusals[reason], safe(reason))
	}
	return errors.Join(p.Flush(), r.printDamage(out))
}

func (r *report) printDamage(out io.Writer) error {
	if r.Damaged == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "\nLines that are no records, and count nowhere: %d. Run postern audit verify.\n", r.Damaged)
	return err
}

// printJSON prints what no terminal obeys: what encoding/json leaves as it is can
// be written as an escape.
func (r *report) printJSON(out io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	_, err = fmt.Fprintln(out, escaped(string(text)))
	return err
}

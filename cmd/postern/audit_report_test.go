package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/audit"
)

// observedTrail is a folder of logs of two nodes on which policies were observed.
func observedTrail(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	key := filepath.Join(root, "operator.key")
	if _, err := audit.EnsureOperatorKey(key); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "log")
	reporter := &audit.Workload{Namespace: "agents", Pod: "reporter-7", ServiceAccount: "reporter"}
	whole := audit.Verdict{Action: "deny", Policy: "first-look", Rule: "whole-table-writes", Reason: "name the rows\x1b[2J"}
	none := audit.Verdict{Action: "deny", Policy: "first-look", Reason: "no rule allows DDL"}
	agrees := audit.Verdict{Action: "allow", Policy: "first-look", Rule: "reads"}
	masks := audit.Verdict{Action: "mask", Policy: "first-look", Reason: "public.users.email"}
	writeLog(t, dir, key, "n1",
		requested(reporter, "UPDATE", "aa", whole), requested(reporter, "UPDATE", "aa", whole), requested(reporter, "SELECT", "bb", agrees, masks),
		&audit.Record{Kind: audit.KindRefusal, Workload: reporter, Refusal: &audit.Refusal{Reason: "no-policy"}})
	writeLog(t, dir, key, "n2",
		requested(reporter, "UPDATE", "aa", whole), requested(reporter, "UPDATE", "cc", whole),
		requested(&audit.Workload{User: "linux:ada"}, "DDL", "", none))
	return dir
}

func requested(w *audit.Workload, word, fingerprint string, would ...audit.Verdict) *audit.Record {
	return &audit.Record{
		Kind: audit.KindRequest, Session: audit.NewID(), Seq: 1, Workload: w, Target: &audit.Target{Name: "orders-db"},
		Request:  &audit.Request{Operations: []string{word}, Relations: []string{"public.users"}, Fingerprint: fingerprint},
		Decision: &audit.Decision{Action: "allow", Would: would},
	}
}

func writeLog(t *testing.T, dir, key, node string, records ...*audit.Record) {
	t.Helper()
	l, err := audit.Open(audit.Options{Dir: dir, Node: node, Agent: "0.1.0", OperatorKey: key})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run errgroup.Group
	run.Go(func() error { return l.Run(ctx) })
	for _, r := range records {
		if _, err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := run.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestAuditReportSaysWhatWouldBeRefused(t *testing.T) {
	dir := observedTrail(t)
	out, err := auditRun(t, "report", "--would", "--log-dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if got, want := len(lines), 5; got != want {
		t.Fatalf("got %d lines, want %d, the same statement on two nodes on one:\n%s", got, want, out)
	}
	if want := `^3 +deny +first-look/whole-table-writes: name the rows\\x1b\[2J +agents/reporter +orders-db +UPDATE public.users +\d{4}-`; !regexp.MustCompile(want).MatchString(lines[1]) {
		t.Errorf("got %q first, want the most frequent: %s", lines[1], want)
	}
	for _, want := range []string{"no rule allows DDL", "linux:ada", "mask ", "public.users.email"} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s\nwant it to say %q", out, want)
		}
	}
	noControls(t, out)
}

func TestAuditReportNamesARecordThatCanBeShown(t *testing.T) {
	dir := observedTrail(t)
	out, err := auditRun(t, "report", "--would", "--json", "--log-dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	noControls(t, out)
	var got wouldReport
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Requests != 6 || got.Observed != 6 || len(got.Rows) != 4 {
		t.Fatalf("got %d requests, %d observed, %d rows, want 6, 6, 4", got.Requests, got.Observed, len(got.Rows))
	}
	first := got.Rows[0]
	if first.Count != 3 || first.Fingerprint != "aa" || first.Last.Before(first.First) {
		t.Errorf("got %+v first, want 3 of fingerprint aa", first)
	}
	if out, err := auditRun(t, "show", "--log-dir", dir, first.Example); err != nil || !strings.Contains(out, "would deny by first-look") {
		t.Errorf("got %q, %v for the example, want its record", out, err)
	}
}

func TestAuditReportSumsUp(t *testing.T) {
	dir := observedTrail(t)
	out, err := auditRun(t, "report", "--log-dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`^0 sessions, 6 requests, 0 values masked`, `(?m)^6 +allow +\(no rule\)$`, `(?m)^1 +no-policy$`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("got\n%s\nwant %s", out, want)
		}
	}
	x := newTrail(t)
	if out, err = auditRun(t, "report", "--log-dir", x.dir); err != nil || !regexp.MustCompile(`(?m)^1 +deny +report-agents/no-ddl$`).MatchString(out) {
		t.Errorf("got\n%s, %v, want the denied request by its rule", out, err)
	}
	if !strings.Contains(out, "12 values masked") {
		t.Errorf("got\n%s\nwant the masked values", out)
	}
	if out, err = auditRun(t, "report", "--json", "--log-dir", x.dir); err != nil || !strings.Contains(out, `"rule": "no-ddl"`) {
		t.Errorf("got\n%s, %v, want the same as JSON", out, err)
	}
	if out, err = auditRun(t, "report", "--would", "--log-dir", x.dir); err != nil || !strings.HasPrefix(out, "No policy in mode observe") {
		t.Errorf("got\n%s, %v, want it said that nothing was observed", out, err)
	}
	x.change(t, `{"v":0,"log":"n1`, `["v":0,"log":"n1`)
	if out, err = auditRun(t, "report", "--log-dir", x.dir); err != nil || !strings.Contains(out, "count nowhere: 1") {
		t.Errorf("got\n%s, %v, want the damaged line said", out, err)
	}
	if _, err = auditRun(t, "report", "--log-dir", filepath.Join(dir, "nowhere")); err == nil {
		t.Error("got no error for a folder that is not there, want one")
	}
}

// TestAuditReportLooksBackAsFarAsAsked: what is older does not count.
func TestAuditReportLooksBackAsFarAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReport()
		r.Since = time.Now().Add(-time.Hour)
		for _, age := range []time.Duration{2 * time.Hour, time.Hour, time.Minute} {
			e := &audit.Entry{Record: *requested(nil, "DDL", "aa", audit.Verdict{Action: "deny", Policy: "p"})}
			e.ID, e.Time = age.String(), time.Now().Add(-age)
			r.add(e)
		}
		rows := r.would()
		if len(rows) != 1 || rows[0].Count != 2 || rows[0].Example != "1m0s" || rows[0].Last.Sub(rows[0].First) != 59*time.Minute {
			t.Errorf("got %+v, want the two that are young enough, with the newest as example", rows)
		}
	})
}

// TestAuditReportStaysSmall: a workload that makes up statements fills no memory,
// and hides nobody else's.
func TestAuditReportStaysSmall(t *testing.T) {
	r := newReport()
	r.most = 10
	for i := range 1000 {
		r.add(&audit.Entry{Record: *requested(nil, "DDL", fmt.Sprint(i), audit.Verdict{Action: "deny", Policy: "p"})})
	}
	r.add(&audit.Entry{Record: *requested(nil, "DDL", "another", audit.Verdict{Action: "deny", Policy: "q"})})
	rows := r.would()
	if len(rows) != 12 || rows[0].Count != 990 || rows[0].Fingerprint != "" {
		t.Errorf("got %d rows, the first %+v, want 10, one of the others, and one of the other policy", len(rows), rows[0])
	}
}

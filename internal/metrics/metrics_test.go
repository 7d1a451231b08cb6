package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestEveryMetricIsServed(t *testing.T) {
	m := New()
	m.Build("1.2.3")
	m.Kernel(func() (map[string]uint64, error) { return map[string]uint64{"redirected": 7}, nil })
	m.SessionOpened("orders")
	m.SessionOpened("orders")
	m.SessionClosed("orders")
	m.Request("orders", Allow)
	m.Request("orders", Deny)
	m.Refused(UnknownHost)
	m.Masked("orders", 12)
	m.LoggedIn("orders", 3*time.Millisecond, nil)
	m.LoggedIn("orders", time.Second, errors.New("refused"))
	m.AuditRecord("request")
	m.AuditWaited(time.Millisecond)
	m.AuditWritable(true)
	m.AuditWritable(false)
	m.PolicyLoaded(true)
	m.PolicyLoaded(false)
	got := scrape(t, m)
	for _, want := range []string{
		`postern_build_info{go="go1.`,
		`postern_kernel_connections_total{verdict="redirected"} 7`,
		`postern_sessions_open{target="orders"} 1`,
		`postern_sessions_total{target="orders"} 2`,
		`postern_requests_total{action="allow",target="orders"} 1`,
		`postern_requests_total{action="deny",target="orders"} 1`,
		`postern_refusals_total{reason="unknown-host"} 1`,
		`postern_masked_cells_total{target="orders"} 12`,
		`postern_login_seconds_count{target="orders"} 1`,
		`postern_login_failures_total{target="orders"} 1`,
		`postern_audit_records_total{kind="request"} 1`,
		`postern_audit_wait_seconds_count 1`,
		`postern_audit_failed 1`,
		`postern_policy_loaded 0`,
		`postern_policy_reloads_total{result="ok"} 1`,
		`postern_policy_reloads_total{result="faulty"} 1`,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("got no line %q, want it among\n%s", want, got)
		}
	}
}

func TestScrapeSurvivesKernelCountersThatCannotBeRead(t *testing.T) {
	m := New()
	m.Kernel(func() (map[string]uint64, error) { return nil, errors.New("map is gone") })
	m.Refused(Busy)
	got := scrape(t, m)
	if !strings.Contains(got, `postern_refusals_total{reason="busy"} 1`) {
		t.Errorf("got %q, want the other metrics", got)
	}
	if strings.Contains(got, "postern_kernel_connections_total{") {
		t.Errorf("got %q, want no kernel counters", got)
	}
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("got status %d, want 200", answer.Code)
	}
	return answer.Body.String()
}

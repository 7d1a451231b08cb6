// Package metrics holds every metric of Postern. A label has a closed set of
// values, or names that the policy's author chose: nothing that a workload can
// choose becomes a label.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Action is what became of a request.
type Action string

// Every action.
const (
	Allow     Action = "allow"
	Deny      Action = "deny"
	WouldDeny Action = "would-deny" // allowed, because the policy only observes
)

// Refusal is why a connection ended before its first request.
type Refusal string

// Every refusal.
const (
	NoOrigin    Refusal = "no-origin"    // the kernel has no record of the connection
	UnknownHost Refusal = "unknown-host" // a guarded port of an address that belongs to no Target
	Identity    Refusal = "identity"     // not proven
	Policy      Refusal = "policy"       // no policy matches, or it forbids the session
	Upstream    Refusal = "upstream"     // the server cannot be reached, verified or logged in at
	Protocol    Refusal = "protocol"     // the client's bytes are not the protocol, or a form not served
	Audit       Refusal = "audit"        // the trail cannot be written
	Busy        Refusal = "busy"         // over the share of one workload
	Draining    Refusal = "draining"     // the agent is on its way out
	Stale       Refusal = "stale"        // what the agent knows of the cluster is too old, or not there yet
	Loop        Refusal = "loop"         // Postern's own connection to a server, led back to it
	Kernel      Refusal = "kernel"       // by the kernel's programs; no connection came about
)

// Metrics are the metrics of one agent.
type Metrics struct {
	sessionsOpen  *prometheus.GaugeVec
	sessions      *prometheus.CounterVec
	requests      *prometheus.CounterVec
	refusals      *prometheus.CounterVec
	maskedCells   *prometheus.CounterVec
	logins        *prometheus.HistogramVec
	loginFailures *prometheus.CounterVec
	auditRecords  *prometheus.CounterVec
	auditWaits    prometheus.Histogram
	auditFailed   prometheus.Gauge
	policyLoaded  prometheus.Gauge
	policyReloads *prometheus.CounterVec
	registry      *prometheus.Registry
}

// New makes every metric, at zero.
func New() *Metrics {
	m := &Metrics{
		registry:      prometheus.NewRegistry(),
		sessionsOpen:  gauges("sessions_open", "Sessions that are open now.", "target"),
		sessions:      counters("sessions_total", "Sessions that were opened.", "target"),
		requests:      counters("requests_total", "Requests that were decided.", "target", "action"),
		refusals:      counters("refusals_total", "Connections that were refused before their first request.", "reason"),
		maskedCells:   counters("masked_cells_total", "Values that were masked.", "target"),
		logins:        durations("login_seconds", "Time to connect and log in at a target.", "target"),
		loginFailures: counters("login_failures_total", "Log-ins at a target that failed.", "target"),
		auditRecords:  counters("audit_records_total", "Records that were written to the trail.", "kind"),
		auditWaits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "postern", Name: "audit_wait_seconds", Help: "Time that a request or its reply waited for the trail to be durable.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 14),
		}),
		auditFailed:   gauge("audit_failed", "1 when the trail cannot be written, so that every session is refused."),
		policyLoaded:  gauge("policy_loaded", "1 when the policy in force is the newest one, 0 when a newer one is faulty."),
		policyReloads: counters("policy_reloads_total", "Newer policies that were read.", "result"),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.sessionsOpen, m.sessions, m.requests, m.refusals, m.maskedCells, m.logins, m.loginFailures,
		m.auditRecords, m.auditWaits, m.auditFailed, m.policyLoaded, m.policyReloads)
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// SessionOpened counts a session with a target.
func (m *Metrics) SessionOpened(target string) {
	m.sessions.WithLabelValues(target).Inc()
	m.sessionsOpen.WithLabelValues(target).Inc()
}

// SessionClosed ends what SessionOpened counted.
func (m *Metrics) SessionClosed(target string) { m.sessionsOpen.WithLabelValues(target).Dec() }

// Request counts a request that was decided.
func (m *Metrics) Request(target string, action Action) {
	m.requests.WithLabelValues(target, string(action)).Inc()
}

// Refused counts a connection that ended before its first request.
func (m *Metrics) Refused(reason Refusal) { m.refusals.WithLabelValues(string(reason)).Inc() }

// Masked counts values of a target that were masked.
func (m *Metrics) Masked(target string, cells int) {
	m.maskedCells.WithLabelValues(target).Add(float64(cells))
}

// LoggedIn records how long a log-in at a target took, or that it failed.
func (m *Metrics) LoggedIn(target string, took time.Duration, err error) {
	if err != nil {
		m.loginFailures.WithLabelValues(target).Inc()
		return
	}
	m.logins.WithLabelValues(target).Observe(took.Seconds())
}

// AuditRecord counts a record of the trail; kind is one of the schema's kinds.
func (m *Metrics) AuditRecord(kind string) { m.auditRecords.WithLabelValues(kind).Inc() }

// AuditWaited records how long a request or its reply waited for the disk.
func (m *Metrics) AuditWaited(took time.Duration) { m.auditWaits.Observe(took.Seconds()) }

// AuditWritable says whether the trail can be written.
func (m *Metrics) AuditWritable(ok bool) {
	m.auditFailed.Set(1)
	if ok {
		m.auditFailed.Set(0)
	}
}

// PolicyLoaded says whether the policy's newest version is in force.
func (m *Metrics) PolicyLoaded(ok bool) {
	result, value := "ok", 1.0
	if !ok {
		result, value = "faulty", 0
	}
	m.policyLoaded.Set(value)
	m.policyReloads.WithLabelValues(result).Inc()
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "postern", Name: name, Help: help}, labels)
}

func gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "postern", Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "postern", Name: name, Help: help})
}

func durations(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "postern", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	}, labels)
}

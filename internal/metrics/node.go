package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Node are the metrics that a node's agent has beside those of [Metrics].
type Node struct {
	guarded, unenforced, rejected prometheus.Gauge
	missing, kernelRefusals, lost prometheus.Counter
	guarding                      prometheus.Histogram
}

// Node makes the metrics of a node.
//
// Shape: stale is asked at each scrape, for how long nobody has confirmed what the
// agent knows of the cluster; connected whether it has its gate.
func (m *Metrics) Node(stale func() time.Duration, connected func() bool) *Node {
	n := &Node{
		guarded:        gauge("pods_guarded", "Pods of this node that are guarded."),
		unenforced:     gauge("pods_not_enforceable", "Guarded pods of this node that can go around their guard."),
		rejected:       gauge("objects_rejected", "Targets, AccessPolicies and Issuers whose newest version is not accepted."),
		missing:        counter("ledger_missing_total", "Connections that the kernel led to the agent and that no record names."),
		kernelRefusals: counter("kernel_refusals_total", "Refusals of the kernel's programs that were told to the agent."),
		lost:           counter("gate_events_lost_total", "Events of the gate for which the agent had no room."),
		guarding: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "postern", Name: "guard_seconds", Help: "Time from the first word of a guarded pod to its guard.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
	}
	m.registry.MustRegister(n.guarded, n.unenforced, n.rejected, n.missing, n.kernelRefusals, n.lost, n.guarding,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "postern", Name: "cluster_stale_seconds", Help: "For how long the API server has not confirmed what the agent knows.",
		}, func() float64 { return stale().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "postern", Name: "gate_connected", Help: "1 while the agent has its gate.",
		}, func() float64 {
			if connected() {
				return 1
			}
			return 0
		}))
	return n
}

// Pods says how many pods are guarded, and how many of these can go around it.
func (n *Node) Pods(guarded, unenforced int) {
	n.guarded.Set(float64(guarded))
	n.unenforced.Set(float64(unenforced))
}

// Guarded records how long it took to guard a pod.
func (n *Node) Guarded(took time.Duration) { n.guarding.Observe(took.Seconds()) }

// Rejected says how many objects are not accepted.
func (n *Node) Rejected(objects int) { n.rejected.Set(float64(objects)) }

// Missing counts connections that no record names.
func (n *Node) Missing(connections int64) { n.missing.Add(float64(connections)) }

// KernelRefused counts a refusal of the kernel's.
func (n *Node) KernelRefused() { n.kernelRefusals.Inc() }

// EventsLost counts events of the gate that found no room.
func (n *Node) EventsLost(events uint64) { n.lost.Add(float64(events)) }

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "postern", Name: name, Help: help})
}

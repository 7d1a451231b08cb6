package metrics

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// Build says which version runs.
func (m *Metrics) Build(version string) {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "postern", Name: "build_info", Help: "1, with the version that runs.",
	}, []string{"version", "go"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(info)
}

// Kernel publishes the counters of the kernel's programs: read is called at
// each scrape and returns connections by verdict.
//
// Errors: a scrape during which read fails is answered without these counters
// and says so.
func (m *Metrics) Kernel(read func() (map[string]uint64, error)) {
	m.registry.MustRegister(kernel{read: read, desc: prometheus.NewDesc(
		"postern_kernel_connections_total", "Connections by what the kernel's programs did with them.", []string{"verdict"}, nil)})
}

// kernel reads its counters when it is scraped: they live in BPF maps.
type kernel struct {
	read func() (map[string]uint64, error)
	desc *prometheus.Desc
}

// Describe tells the registry what Collect sends.
func (k kernel) Describe(descs chan<- *prometheus.Desc) { descs <- k.desc }

// Collect sends one counter for each verdict.
func (k kernel) Collect(metrics chan<- prometheus.Metric) {
	verdicts, err := k.read()
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(k.desc, err)
		return
	}
	for verdict, n := range verdicts {
		metrics <- prometheus.MustNewConstMetric(k.desc, prometheus.CounterValue, float64(n), verdict)
	}
}

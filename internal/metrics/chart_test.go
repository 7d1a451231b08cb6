package metrics

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// descName finds the name of what a metric's description describes.
var descName = regexp.MustCompile(`fqName: "([^"]+)"`)

// served are the names under which everything that a node's agent can have is served.
func served(t *testing.T) []string {
	t.Helper()
	m := New()
	m.Build("1.2.3")
	m.Kernel(func() (map[string]uint64, error) { return nil, nil })
	m.Node(func() time.Duration { return 0 }, func() bool { return true })
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		m.registry.Describe(descs)
	}()
	var names []string
	for desc := range descs {
		found := descName.FindStringSubmatch(desc.String())
		if found == nil {
			t.Errorf("got a description %s, want a name in it", desc)
			continue
		}
		names = append(names, found[1])
		// A description does not say whether it is a histogram's; those that are, are of seconds.
		if strings.HasSuffix(found[1], "_seconds") {
			names = append(names, found[1]+"_bucket", found[1]+"_sum", found[1]+"_count")
		}
	}
	return names
}

func TestChartAsksForMetricsThatThereAre(t *testing.T) {
	names := served(t)
	asked := regexp.MustCompile(`\bpostern_[a-z_]+`)
	for _, file := range []string{"rules.yaml", "dashboards/postern.json"} {
		text, err := os.ReadFile("../../deploy/chart/" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := asked.FindAllString(string(text), -1)
		if len(found) < 5 {
			t.Errorf("got %d metrics in %s, want those that it asks for", len(found), file)
		}
		for _, name := range found {
			if !slices.Contains(names, name) {
				t.Errorf("got %s in %s, want one of %s", name, file, strings.Join(names, " "))
			}
		}
	}
}

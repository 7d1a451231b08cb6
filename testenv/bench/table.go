package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A table holds every figure, by case and way, in the order of the rounds.
type table struct {
	ways    []string
	cases   []string
	figures map[[2]string][]figure
}

func newTable(ways []*way) *table {
	t := &table{figures: make(map[[2]string][]figure)}
	for _, w := range ways {
		t.ways = append(t.ways, w.name)
	}
	return t
}

func (t *table) add(caseName, wayName string, f figure) {
	if !slices.Contains(t.cases, caseName) {
		t.cases = append(t.cases, caseName)
	}
	key := [2]string{caseName, wayName}
	t.figures[key] = append(t.figures[key], f)
}

// print writes Markdown: absolute medians for direct, for the others the median
// of the rounds' ratios to direct with its range, and the proxy's CPU.
func (t *table) print(out io.Writer, o options) error {
	fmt.Fprintf(out, "%s\n\n", t.caption(o))
	fmt.Fprintf(out, "| pgbench -S: mode, clients | %s |\n", strings.Join(t.ways, " | "))
	fmt.Fprintf(out, "|---|%s\n", strings.Repeat("---|", len(t.ways)))
	for _, c := range t.cases {
		cells := []string{t.label(c, o)}
		for _, w := range t.ways {
			cells = append(cells, t.cell(c, w))
		}
		if _, err := fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | ")); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) caption(o options) string {
	var name unix.Utsname
	kernel := "unknown"
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("%s, %s, %d CPUs, Linux %s, %s: medians of %d rounds of %s; ratio to direct of the same round (lowest-highest), CPU of the proxy.",
		time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), kernel, runtime.Version(), o.rounds, o.length)
}

func processor() string {
	content, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(content)) {
		if name, ok := strings.CutPrefix(line, "model name\t: "); ok {
			return strings.TrimSpace(name)
		}
	}
	return runtime.GOARCH
}

func (t *table) label(caseName string, o options) string {
	if caseName == "rows" {
		return fmt.Sprintf("%d rows, rows/s", o.rows)
	}
	return caseName + ", tps"
}

func (t *table) cell(caseName, wayName string) string {
	direct, own := t.figures[[2]string{caseName, t.ways[0]}], t.figures[[2]string{caseName, wayName}]
	if wayName == t.ways[0] {
		rates := column(own, func(f figure) float64 { return f.rate })
		return fmt.Sprintf("%.0f", median(rates))
	}
	var ratios []float64
	for i := range own {
		ratios = append(ratios, own[i].rate/direct[i].rate)
	}
	unit, precision := "µs", 0
	if caseName == "rows" {
		unit, precision = "s/GB", 1
	}
	cpu := median(column(own, func(f figure) float64 { return f.cpu }))
	return fmt.Sprintf("**%.2f** (%.2f-%.2f), %.*f %s", median(ratios), slices.Min(ratios), slices.Max(ratios), precision, cpu, unit)
}

func column(figures []figure, of func(figure) float64) []float64 {
	var all []float64
	for _, f := range figures {
		all = append(all, of(f))
	}
	return all
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

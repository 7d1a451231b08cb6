package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

const chart = "../../deploy/chart/"

// valueLine is a line of values.yaml: how deep, key, value, comment.
var valueLine = regexp.MustCompile(`^( *)([A-Za-z]+):(?: +(.*?))?(?: +# (.*))?$`)

// valueRows lists the chart's values by their lines. The comment is the one above or
// behind; that of a section goes with its first value.
func valueRows(t *testing.T) []string {
	t.Helper()
	var rows, path, above []string
	for line := range strings.SplitSeq(chartFile(t, "values.yaml"), "\n") {
		if comment, is := strings.CutPrefix(strings.TrimSpace(line), "#"); is {
			above = append(above, strings.TrimSpace(comment))
			continue
		}
		if strings.TrimSpace(line) == "" {
			if len(path) == 0 {
				above = nil // what is said of the whole file
			}
			continue
		}
		part := valueLine.FindStringSubmatch(line)
		if part == nil {
			t.Fatalf("got a line %q in values.yaml, want key: value and a comment", line)
		}
		path = append(path[:len(part[1])/2], part[2])
		if part[3] == "" {
			continue // a section: its comment waits
		}
		comment := strings.Join(append(above, part[4]), " ")
		above = nil
		rows = append(rows, row("`"+strings.Join(path, ".")+"`", "`"+part[3]+"`", strings.TrimSpace(comment)))
	}
	return rows
}

// gateLine is a capability, or a mount, of the gate in the chart.
var (
	capabilityLine = regexp.MustCompile(`^ +- ([A-Z_]+) +# (.*)$`)
	mountLine      = regexp.MustCompile(`^ +- \{name: ([a-z-]+), mountPath: ([^,}]+)(, readOnly: true)?`)
	profileLine    = regexp.MustCompile(`^ +appArmorProfile: \{type: (\w+)\} # (.*)$`)
	hostPathLine   = regexp.MustCompile(`- name: ([a-z-]+)\n +hostPath: \{path: \{\{ (\S+) \}\}`)
)

// privilegeRows lists what the gate is given, and why, as the chart's comments say.
func privilegeRows(t *testing.T) []string {
	t.Helper()
	text := chartFile(t, "templates/agent.yaml")
	_, gate, found := strings.Cut(text, "- name: gate\n")
	gate, _, ends := strings.Cut(gate, "- name: agent\n")
	if !found || !ends {
		t.Fatal("got no gate before the agent in the chart, want it there")
	}
	hostPaths := make(map[string]string)
	for _, volume := range hostPathLine.FindAllStringSubmatch(text, -1) {
		hostPaths[volume[1]] = strings.TrimPrefix(volume[2], ".Values.")
	}
	rows := []string{row("hostPID", "pods, their namespaces and the processes that connect are found among the node's processes")}
	comment := ""
	for line := range strings.SplitSeq(gate, "\n") {
		if above, is := strings.CutPrefix(strings.TrimSpace(line), "# "); is {
			comment = above
			continue
		}
		if c := capabilityLine.FindStringSubmatch(line); c != nil {
			rows = append(rows, row(c[1], c[2]))
		}
		if p := profileLine.FindStringSubmatch(line); p != nil {
			rows = append(rows, row("AppArmor: "+strings.ToLower(p[1]), p[2]))
		}
		if m := mountLine.FindStringSubmatch(line); m != nil && hostPaths[m[1]] != "" {
			access := "read and written"
			if m[3] != "" {
				access = "read only"
			}
			if comment == "" {
				t.Errorf("got %s mounted without a comment, want it explained", m[1])
			}
			rows = append(rows, row("the node's `"+hostPaths[m[1]]+"`, "+access, comment))
		}
		comment = ""
	}
	return rows
}

func chartFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(chart + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestREADMEMessagesAreWhatTheCodeSays: whoever looks a message up finds it there by
// its words. What is quoted in the first column of the table is in the code.
func TestREADMEMessagesAreWhatTheCodeSays(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, begins := strings.Cut(string(readme), "### When something is refused, or stuck\n")
	section, _, ends := strings.Cut(section, "\n#")
	if !begins || !ends {
		t.Fatal("got no table of messages in the README, want it")
	}
	said := productText(t)
	quoted := regexp.MustCompile("`([^`]+)`")
	messages := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) < 3 {
			continue
		}
		for _, span := range quoted.FindAllStringSubmatch(cells[0], -1) {
			messages++
			if !strings.Contains(said, strings.ReplaceAll(span[1], `"`, `\"`)) {
				t.Errorf("got %q in the README, which nothing says", span[1])
			}
		}
	}
	if messages < 40 {
		t.Errorf("got %d messages in the table, want all of them", messages)
	}
}

// productText is the text of what can speak to users: the programs and the chart.
func productText(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, root := range []string{"../../cmd", "../../internal", "../../proxy", "../../deploy/chart/templates"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

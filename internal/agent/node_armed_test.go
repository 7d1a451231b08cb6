package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/gate"
)

func TestTrailSaysOnceSinceWhenTheNodeIsArmed(t *testing.T) {
	folder := t.TempDir()
	a, stop := newRecording(t, folder)
	one := new(arming)
	first := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, status := range []gate.Status{
		{}, // not armed yet
		{Armed: first}, {Armed: first},
		{Armed: first.Add(time.Hour), Unarmed: 1500 * time.Millisecond}, {Armed: first.Add(time.Hour), Unarmed: 1500 * time.Millisecond},
	} {
		one.take(status, a.recorder)
	}
	stop()
	leaves, err := filepath.Glob(filepath.Join(folder, "*", "*", "leaves-*.jsonl"))
	if err != nil || len(leaves) != 1 {
		t.Fatalf("got %v and %v, want one file", leaves, err)
	}
	text, err := os.ReadFile(leaves[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(text), `"kind":"agent.arm"`); got != 2 {
		t.Errorf("got %d records, want one for each time", got)
	}
	for _, want := range []string{
		`"detail":{"since":"2026-11-23T12:00:00Z","unarmed_us":"0"}`, `"detail":{"since":"2026-11-23T13:00:00Z","unarmed_us":"1500000"}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("got no %s in %s", want, text)
		}
	}
}

package main

import (
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/agent"
	"postern.dev/postern/internal/gate"
)

func TestStatusSaysSinceWhenTheNodeIsArmed(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for want, status := range map[string]gate.Status{
		"not yet": {},
		"since 2026-11-23T12:00:00Z, pods ran for 0s before":   {Armed: at},
		"since 2026-11-23T12:00:00Z, pods ran for 1.5s before": {Armed: at, Unarmed: 1500 * time.Millisecond},
	} {
		var out strings.Builder
		if err := printNode(&out, agent.NodeReport{Gate: &status}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s, want it to say %s", out.String(), want)
		}
	}
}

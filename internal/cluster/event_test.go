package cluster

import (
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/policy"
)

func newTestEvents() *events {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return newEvents(nil, "n1", log)
}

func TestEventIsOnThePodAsTheAPIServerHasIt(t *testing.T) {
	p := Pod{UID: "6f2dd5f6ad8d05c0f0dbdfa3d2b9a1c4", Namespace: "agents", Name: "reporter", object: "2c1a5f38"}
	now := time.Now()
	for _, row := range []struct {
		reason Reason
		kind   string
	}{
		{Guarded, corev1.EventTypeNormal}, {Refused, corev1.EventTypeWarning},
		{NotEnforceable, corev1.EventTypeWarning}, {Unaudited, corev1.EventTypeWarning},
	} {
		got := newTestEvents().event(p, row.reason, "rule no-ddl", now)
		if got.Type != row.kind || got.Reason != string(row.reason) || got.Message != "rule no-ddl" || got.Namespace != "agents" {
			t.Errorf("got %+v, want a %s %s in agents", got, row.kind, row.reason)
		}
		want := corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "agents", Name: "reporter", UID: "2c1a5f38"}
		if got.InvolvedObject != want {
			t.Errorf("got %+v, want %+v", got.InvolvedObject, want)
		}
	}
}

func TestLongMessageIsCutToWhatTheAPIServerTakes(t *testing.T) {
	got := newTestEvents().event(Pod{}, Refused, strings.Repeat("ä", 2000), time.Now()).Message
	if len(got) > 1024 || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
		t.Errorf("got %d bytes, valid %v, want at most 1024 of UTF-8 that end with …", len(got), utf8.ValidString(got))
	}
}

func TestNobodyWaitsForEventsOrReports(t *testing.T) {
	e := newTestEvents() // nothing writes them
	for range 1000 {
		e.raise(Pod{}, Refused, "again", time.Now())
	}
	if got, want := int(e.lost.Load()), 1000-eventQueue; got != want {
		t.Errorf("got %d Events lost, want %d", got, want)
	}
	r := &reports{newest: make(chan []byte, 1)}
	for _, version := range []string{"1", "2", "3"} {
		if err := r.offer(policy.NodeState{Agent: version}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := string(<-r.newest), `{"agent":"3"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

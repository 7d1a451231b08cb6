package cluster

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// TestEventsWaitForTheAPIServer: the first answers are those of a server that is
// not there, and of one that has just begun.
func TestEventsWaitForTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEvents()
		forbidden := apierrors.NewForbidden(corev1.Resource("events"), "", errors.New("roles not read yet"))
		terminating := apierrors.NewForbidden(corev1.Resource("events"), "", errors.New("the namespace is being terminated"))
		terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		for _, row := range []struct {
			name    string
			answers []error
			lost    bool
			tries   int
		}{
			{"away for an hour", slices.Repeat([]error{io.ErrUnexpectedEOF}, 3600), false, 3601},
			{"begins", []error{io.ErrUnexpectedEOF, forbidden, forbidden}, false, 4},
			{"forbids for good", slices.Repeat([]error{forbidden}, 100), true, eventTries},
			{"errs for good", slices.Repeat([]error{apierrors.NewInternalError(io.EOF)}, 100), true, eventTries},
			{"namespace ends", []error{terminating}, true, 1},
			{"refuses", []error{apierrors.NewBadRequest("no Event")}, true, 1},
		} {
			tries := 0
			err := e.deliver(t.Context(), func(context.Context) error {
				if tries++; tries > len(row.answers) {
					return nil
				}
				return row.answers[tries-1]
			})
			if (err != nil) != row.lost || tries != row.tries {
				t.Errorf("%s: got %v after %d tries, want it lost %v after %d", row.name, err, tries, row.lost, row.tries)
			}
		}
	})
}

func TestPodThatIsRefusedWithoutEndLeavesOthersTheirEvents(t *testing.T) {
	e := newTestEvents() // the API server is away: nobody takes what waits
	for range 10 * eventQueue {
		e.raise(Pod{Namespace: "agents", Name: "loud", object: "1"}, Refused, "m", time.Now())
	}
	if got := len(e.queue); got != eventShare {
		t.Errorf("got %d Events of one pod waiting, want %d", got, eventShare)
	}
	e.raise(Pod{Namespace: "agents", Name: "quiet", object: "2"}, Refused, "m", time.Now())
	if got := len(e.queue); got != eventShare+1 {
		t.Errorf("got %d waiting, want the other pod's too", got)
	}
	for range eventShare + 1 {
		e.taken(<-e.queue)
	}
	if len(e.waiting) != 0 {
		t.Errorf("got %v counted of an empty queue, want nothing", e.waiting)
	}
}

func TestNobodyWaitsForEventsOrReports(t *testing.T) {
	e := newTestEvents() // nothing writes them
	for i := range 1000 {
		e.raise(Pod{UID: strconv.Itoa(i)}, Refused, "again", time.Now())
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

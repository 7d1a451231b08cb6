package cluster

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
)

// Reason says what an Event is about.
type Reason string

// The reasons of Events. Guarded is a normal Event, the others are warnings.
const (
	Guarded        Reason = "Guarded"
	Refused        Reason = "Refused"
	NotEnforceable Reason = "NotEnforceable"
	Unaudited      Reason = "Unaudited" // the kernel counted connections that no record names
)

// Of a pod and reason, so many Events are written at once, and one a minute after
// them; of those that differ in their message alone, so many before they are
// counted in one.
const (
	eventBurst   = 10
	eventRate    = 1.0 / 60 // a second
	eventSimilar = 5
	eventQueue   = 256
	eventShare   = 16 // of the queue, for one pod: one that is refused without end must not cost others their word
	eventTimeout = 5 * time.Second
	eventPause   = time.Second // before one is tried again
	eventTries   = 5           // of one that the API server answers with an error of its own
	maxMessage   = 1000        // bytes; the API server takes 1024
)

const component = "postern-agent"

// events writes Events, one after the other.
type events struct {
	client     *rest.RESTClient
	node       string
	log        logrus.FieldLogger
	correlator *record.EventCorrelator
	queue      chan *corev1.Event
	lost       atomic.Int64 // since they were last spoken of

	mu      sync.Mutex
	waiting map[types.UID]int // in the queue, by pod
}

func newEvents(client *rest.RESTClient, node string, log logrus.FieldLogger) *events {
	return &events{
		client: client, node: node, log: log, queue: make(chan *corev1.Event, eventQueue),
		waiting: make(map[types.UID]int),
		correlator: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{
			BurstSize: eventBurst, QPS: eventRate, MaxEvents: eventSimilar,
			SpamKeyFunc: func(e *corev1.Event) string { return string(e.InvolvedObject.UID) + "/" + e.Reason },
		}),
	}
}

// raise takes an Event to be written, or drops it when too many wait, of this pod or of all.
func (e *events) raise(p Pod, reason Reason, message string, now time.Time) {
	event := e.event(p, reason, message, now)
	uid := event.InvolvedObject.UID
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting[uid] >= eventShare {
		e.lost.Add(1)
		return
	}
	select {
	case e.queue <- event:
		e.waiting[uid]++
	default:
		e.lost.Add(1)
	}
}

// taken notes that an Event does not wait any more.
func (e *events) taken(event *corev1.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	uid := event.InvolvedObject.UID
	if e.waiting[uid]--; e.waiting[uid] <= 0 {
		delete(e.waiting, uid)
	}
}

func (e *events) event(p Pod, reason Reason, message string, now time.Time) *corev1.Event {
	kind := corev1.EventTypeWarning
	if reason == Guarded {
		kind = corev1.EventTypeNormal
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	at := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: p.Namespace, Name: fmt.Sprintf("%s.%x", p.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: types.UID(cmp.Or(p.object, p.UID))},
		Source:         corev1.EventSource{Component: component, Host: e.node},
		Type:           kind, Reason: string(reason), Message: message,
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		ReportingController: component, ReportingInstance: e.node,
	}
}

// run writes until ctx is done.
func (e *events) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-e.queue:
			e.taken(event)
			what, err := e.correlator.EventCorrelate(event)
			if err == nil && !what.Skip {
				err = e.deliver(ctx, func(ctx context.Context) error { return e.write(ctx, what) })
			}
			if err != nil && ctx.Err() == nil {
				e.lost.Add(1)
			}
			if lost := e.lost.Load(); lost > 0 && len(e.queue) == 0 {
				e.lost.Add(-lost)
				e.log.WithField("events", lost).Warn("Events on pods were lost")
			}
		}
	}
}

// deliver writes an Event, as soon as there is an API server. Those after it wait
// in the queue for as long.
func (e *events) deliver(ctx context.Context, write func(context.Context) error) error {
	for tries := 1; ; {
		err := write(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown { // it answers
			if tries++; tries > eventTries || !passing(err, reason) {
				return err
			}
		}
		pause(ctx, eventPause)
	}
}

// passing tells whether an answer may be another one in a moment. An API server
// that has just begun forbids everything until it has read its roles.
func passing(err error, reason metav1.StatusReason) bool {
	switch reason {
	case metav1.StatusReasonForbidden:
		return !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
	case metav1.StatusReasonServerTimeout, metav1.StatusReasonTimeout, metav1.StatusReasonTooManyRequests,
		metav1.StatusReasonInternalError, metav1.StatusReasonServiceUnavailable:
		return true
	}
	return false
}

// write makes the Event, or counts it in one that says the same.
func (e *events) write(ctx context.Context, what *record.EventCorrelateResult) error {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	written := &corev1.Event{}
	err := error(errNotMade)
	if what.Event.Count > 1 {
		err = e.client.Patch(types.StrategicMergePatchType).Namespace(what.Event.Namespace).Resource("events").
			Name(what.Event.Name).Body(what.Patch).Do(ctx).Into(written)
	}
	if apierrors.IsNotFound(err) {
		what.Event.ResourceVersion = "" // it has expired meanwhile
		err = e.client.Post().Namespace(what.Event.Namespace).Resource("events").Body(what.Event).Do(ctx).Into(written)
	}
	if err == nil {
		e.correlator.UpdateState(written)
	}
	return err
}

// errNotMade stands for the answer to a patch of an Event that nobody wrote yet.
var errNotMade = apierrors.NewNotFound(corev1.Resource("events"), "")

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// source stands for one kind of object behind a lister: a list, and watches that
// hear of changes.
type source struct {
	empty   func() runtime.Object // a list
	mu      sync.Mutex
	objects []runtime.Object
	err     error // with which everything is declined
	watches []*watch.RaceFreeFakeWatcher
}

func (s *source) lister() lister {
	return lister{
		func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			list := s.empty()
			return list, errors.Join(s.err, meta.SetList(list, s.objects))
		},
		func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.err != nil {
				return nil, s.err
			}
			if o.SendInitialEvents != nil {
				return nil, apierrors.NewBadRequest("an old API server")
			}
			w := watch.NewRaceFreeFake()
			s.watches = append(s.watches, w)
			return w, nil
		},
	}
}

// put adds an object, or says that it is another one now.
func (s *source) put(object runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects = []runtime.Object{object}
	for _, w := range s.watches {
		if !w.IsStopped() {
			w.Modify(object)
		}
	}
}

// fail declines everything from now on, and ends what goes on; nil: no more.
func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	for _, w := range s.watches {
		if err != nil && !w.IsStopped() {
			w.Stop()
		}
	}
}

// apiServer is a source for each kind.
type apiServer map[string]*source

func newAPIServer() apiServer {
	api := apiServer{
		"pods":           {empty: func() runtime.Object { return &corev1.PodList{} }},
		"namespaces":     {empty: func() runtime.Object { return &metav1.PartialObjectMetadataList{} }},
		"nodes":          {empty: func() runtime.Object { return &corev1.NodeList{} }},
		"services":       {empty: func() runtime.Object { return &corev1.ServiceList{} }},
		"endpointslices": {empty: func() runtime.Object { return &discoveryv1.EndpointSliceList{} }},
	}
	for _, kind := range policyKinds {
		api[kind] = &source{empty: func() runtime.Object { return &unstructured.UnstructuredList{} }}
	}
	return api
}

// TestMain takes away the handlers of errors that client-go has: one waits by a
// time that it took note of outside synctest's clock.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// watch runs a Watcher of this API server until the test ends.
func (api apiServer) watch(t *testing.T, file string) (w *Watcher, stop func()) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	w = bare(Config{Node: "n1", Namespace: "postern", File: file, Log: log})
	of := func(kind string, object runtime.Object) *store {
		return newStore(kind, object, api[kind].lister(), w.contact, w.changed)
	}
	w.stores = &stores{
		pods: of("pods", &corev1.Pod{}), namespaces: of("namespaces", &metav1.PartialObjectMetadata{}), nodes: of("nodes", &corev1.Node{}),
		services: of("services", &corev1.Service{}), slices: of("endpointslices", &discoveryv1.EndpointSlice{}),
	}
	for i, kind := range policyKinds {
		w.stores.policies[i] = of(kind, &unstructured.Unstructured{})
	}
	w.events, w.reports = newEvents(nil, "n1", log), &reports{log: log, newest: make(chan []byte, 1)}
	w.ask = func(context.Context) error {
		pods := api["pods"]
		pods.mu.Lock()
		defer pods.mu.Unlock()
		return pods.err
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("got %v from Run, want none", err)
			}
		})
	}
	return w, stop
}

// enough is as long as client-go waits at most before it asks again: 30 s, and as
// much by chance.
const enough = time.Minute + time.Second

// next is the Snapshot that comes before [enough] has passed, nil if none does.
func next(w *Watcher) *Snapshot {
	select {
	case s := <-w.Snapshots():
		return s
	case <-time.After(enough):
		return nil
	}
}

func (s *Snapshot) summary() string {
	if s == nil {
		return "none"
	}
	var guarded []string
	for _, p := range s.Pods {
		if p.Guarded {
			guarded = append(guarded, p.Name)
		}
	}
	return fmt.Sprintf("pods %d guarded %v namespaces %v objects %d", len(s.Pods), guarded, s.GuardedNamespaces, len(s.Objects))
}

func TestFirstSnapshotWaitsForEveryKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		api["pods"].put(pod("a", "1", label("true")))
		api["targets"].put(target("1", "ready"))
		api["issuers"].fail(apierrors.NewNotFound(policyResource("issuers").GroupResource(), ""))
		w, stop := api.watch(t, "")
		defer stop()
		if got := next(w); got != nil {
			t.Errorf("got %s before the Issuers are known, want no Snapshot", got.summary())
		}
		if got := w.Stale(); got != enough {
			t.Errorf("got stale for %v, want %v", got, enough)
		}
		api["issuers"].fail(nil)
		const want = "pods 1 guarded [a] namespaces [] objects 1"
		if got := next(w).summary(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := w.Stale(); got != 0 {
			t.Errorf("got stale for %v, want fresh", got)
		}
	})
}

func TestABurstOfChangesMakesOneSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		w, stop := api.watch(t, "")
		defer stop()
		next(w)
		began := time.Now()
		api["pods"].put(pod("a", "1", nil))
		api["pods"].put(pod("a", "1", label("true")))
		api["namespaces"].put(spaces("agents", "true")[0])
		api["targets"].put(target("1", "ready"))
		const want = "pods 1 guarded [a] namespaces [agents] objects 1"
		if got := next(w).summary(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := time.Since(began); got > 2*settle {
			t.Errorf("got it after %v, want %v", got, settle)
		}
		api["targets"].put(target("2", "degraded"))
		if got := next(w); got != nil {
			t.Errorf("got %s for a status, want no Snapshot", got.summary())
		}
	})
}

func TestLastSnapshotStaysWhileTheAPIServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		api["pods"].put(pod("a", "1", label("true")))
		w, stop := api.watch(t, "")
		defer stop()
		next(w)
		for _, s := range api {
			s.fail(errors.New("connection refused"))
		}
		if got := next(w); got != nil {
			t.Errorf("got %s when the API server went, want no Snapshot", got.summary())
		}
		if got := w.Stale(); got < enough-10*time.Second || got > enough {
			t.Errorf("got stale for %v, want about %v", got, enough)
		}
		api["pods"].put(pod("a", "1", nil)) // unlabelled while nobody looked
		for _, s := range api {
			s.fail(nil)
		}
		time.Sleep(enough)
		if got := w.Stale(); got != 0 {
			t.Errorf("got stale for %v, want fresh", got)
		}
		if got, ok := w.latest.Load().pod("1"); !ok || !got.Guarded {
			t.Errorf("got %+v, want the pod still guarded", got)
		}
	})
}

func TestStartWithoutAPIServerTakesWhatWasKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.json")
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		api["pods"].put(pod("a", "1", label("true")))
		api["targets"].put(target("1", "ready"))
		w, stop := api.watch(t, file)
		next(w)
		stop() // keeps it
		if err := confirm(file, time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)

		for _, s := range api {
			s.fail(errors.New("connection refused"))
		}
		w, stop = api.watch(t, file)
		defer stop()
		s := next(w)
		const want = "pods 1 guarded [a] namespaces [] objects 1"
		if got := s.summary(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if s != nil && s.Stale != 10*time.Minute {
			t.Errorf("got stale for %v, want 10m", s.Stale)
		}
		if got := w.Stale(); got != 10*time.Minute+patience {
			t.Errorf("got stale for %v, want 10m5s", got)
		}
		api["pods"].put(pod("a", "1", nil))
		for _, s := range api {
			s.fail(nil)
		}
		s = next(w)
		if got := s.summary(); got != want {
			t.Errorf("got %s once it is back, want %s: the guard sticks", got, want)
		}
		if got := w.Stale(); got != 0 || s.Stale != 0 {
			t.Errorf("got stale for %v, want fresh", got)
		}
	})
}

func TestGuardSticksOverARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.json")
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		api["pods"].put(pod("a", "1", label("postgres")))
		w, stop := api.watch(t, file)
		next(w)
		stop()
		if err := confirm(file, time.Now()); err != nil {
			t.Fatal(err)
		}
		api["pods"].put(pod("a", "1", nil))
		w, stop = api.watch(t, file)
		defer stop()
		const want = "pods 1 guarded [a] namespaces [] objects 0"
		if got := next(w).summary(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

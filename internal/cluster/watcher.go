package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"postern.dev/postern/internal/policy"
)

const (
	settle       = 10 * time.Millisecond // so that a burst of changes makes one Snapshot
	maxRest      = 5 * time.Second       // between two, however long one takes to make
	patience     = 5 * time.Second       // with an API server, before what was kept is used
	keepInterval = 30 * time.Second
	// Requests a second, and how many at once: those that client-go makes by
	// itself are few and slow down where it errs.
	requestRate  = 20
	requestBurst = 50
)

// Config says which cluster, node and namespace a [Watcher] is for.
type Config struct {
	Kubeconfig string // file; empty: the service account of the pod that this process is in
	Node       string // this node's name
	Namespace  string // Postern's own, where the Secrets lie
	File       string // keeps the last Snapshot, readable by its owner alone; empty: none is kept
	Memory     string // folder in memory where Secrets outlive this process; one on a disk is not used; empty: none
	Log        logrus.FieldLogger
}

// Watcher reads what [Snapshot] holds and writes Events and the NodeStatus.
type Watcher struct {
	config  Config
	stores  *stores
	contact *contact
	builder *builder
	secrets *secrets
	events  *events
	reports *reports
	core    *rest.RESTClient
	ask     func(context.Context) error // the API server for something small

	wake      chan struct{} // holds one: something has changed
	snapshots chan *Snapshot
	latest    atomic.Pointer[Snapshot]
	guards    atomic.Pointer[map[string]guard]
	confirmed atomic.Pointer[time.Time] // until when the API server showed us everything; nil: it still does
}

// New reads how the API server is reached; it does not ask it anything.
func New(c Config) (*Watcher, error) {
	if c.Node == "" || c.Namespace == "" {
		return nil, errors.New("watch the cluster: the node's name or Postern's namespace is not given")
	}
	config, err := rest.InClusterConfig()
	if c.Kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("watch the cluster: %w", err)
	}
	config.QPS, config.Burst = requestRate, requestBurst
	config.UserAgent = component
	config.WarningHandler = rest.NoWarnings{}
	w := bare(c)
	if err := w.connect(config); err != nil {
		return nil, fmt.Errorf("watch the cluster: %w", err)
	}
	return w, nil
}

// bare is a Watcher that reads from nowhere yet.
func bare(c Config) *Watcher {
	started := time.Now()
	w := &Watcher{
		config: c, contact: &contact{log: c.Log}, builder: &builder{},
		wake: make(chan struct{}, 1), snapshots: make(chan *Snapshot, 1),
	}
	w.confirmed.Store(&started)
	return w
}

// connect says where to read from and to write to.
func (w *Watcher) connect(config *rest.Config) error {
	var err error
	if w.stores, err = newStores(config, w.config.Node, w.contact, w.changed); err != nil {
		return err
	}
	// Each client has a rate of its own: Events do not delay Secrets.
	reading, err := restClients(config)
	if err != nil {
		return err
	}
	writing, err := restClients(config)
	if err != nil {
		return err
	}
	free, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	w.core = reading.core
	w.secrets = &secrets{get: func(ctx context.Context, name string) (*corev1.Secret, error) {
		got := &corev1.Secret{}
		return got, w.core.Get().Namespace(w.config.Namespace).Resource("secrets").Name(name).Do(ctx).Into(got)
	}}
	if w.config.Memory != "" {
		warn := func(err error) { w.config.Log.WithError(err).Warn("A start without API server would have no Secrets") }
		if err := w.secrets.remember(w.config.Memory, warn); err != nil {
			warn(err)
		}
	}
	w.ask = func(ctx context.Context) error {
		return w.core.Get().Resource("namespaces").Name(w.config.Namespace).Do(ctx).Error()
	}
	w.events = newEvents(writing.core, w.config.Node, w.config.Log)
	w.reports = &reports{
		client: free.Resource(policyResource("nodestatuses")), node: w.config.Node, uid: w.nodeUID,
		log: w.config.Log, newest: make(chan []byte, 1),
	}
	return nil
}

// changed wakes whoever makes Snapshots.
func (w *Watcher) changed(kind string) {
	w.builder.changed(kind)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run reads and writes until ctx is done. Without an API server it waits for one.
func (w *Watcher) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(klog.NewContext(ctx, klog.Logger{})) // contact tells what goes wrong
	for _, s := range w.stores.all() {
		group.Go(func() error {
			s.controller.RunWithContext(ctx)
			return nil
		})
	}
	group.Go(func() error { return w.build(ctx) })
	group.Go(func() error { return w.keep(ctx) })
	group.Go(func() error { return w.contact.look(ctx, w.ask) })
	group.Go(func() error { return w.events.run(ctx) })
	group.Go(func() error { return w.reports.run(ctx) })
	return group.Wait()
}

// build makes Snapshots, the first one from the file if the API server is away.
func (w *Watcher) build(ctx context.Context) error {
	earlier, confirmed := w.restore()
	if !w.sync(ctx, patience) && ctx.Err() == nil {
		if earlier != nil {
			w.config.Log.WithField("since", confirmed.Format(time.RFC3339)).Warn("No API server, the kept objects count")
			w.confirmed.Store(&confirmed)
			w.builder.last = earlier
			w.publish(earlier)
		}
		w.sync(ctx, -1)
	}
	if ctx.Err() != nil {
		return nil
	}
	all := map[string]bool{"pods": true, "services": true}
	for _, kind := range policyKinds {
		all[kind] = true
	}
	w.builder.take()
	w.confirmed.Store(nil)
	for dirty := all; ctx.Err() == nil; dirty = w.builder.take() {
		began := time.Now()
		next, err := w.builder.build(w.inputs(), dirty)
		if err != nil {
			w.config.Log.WithError(err).Error("Snapshot of the cluster not made, the last one counts")
		}
		if next != nil {
			w.publish(next)
		}
		// A tenth of one processor at most, however big the cluster is.
		pause(ctx, min(10*time.Since(began), maxRest))
		select {
		case <-ctx.Done():
		case <-w.wake:
			pause(ctx, settle)
		}
	}
	return nil
}

// sync waits until every store is complete, for so long; below 0: for ever.
func (w *Watcher) sync(ctx context.Context, patience time.Duration) bool {
	if patience >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for _, s := range w.stores.all() {
		select {
		case <-ctx.Done():
			return false
		case <-s.controller.HasSyncedChecker().Done():
		}
	}
	return true
}

// restore reads what an earlier agent kept. Its guards stick whether or not the
// API server is there.
func (w *Watcher) restore() (*Snapshot, time.Time) {
	if w.config.File == "" {
		return nil, time.Time{}
	}
	s, guards, confirmed, err := restore(w.config.File, time.Now())
	if err != nil {
		w.config.Log.WithError(err).Warn("Kept objects not read, nothing is known of earlier guards")
	}
	w.builder.guards = guards
	return s, confirmed
}

func (w *Watcher) inputs() inputs {
	in := inputs{
		pods:       objects[*corev1.Pod](w.stores.pods),
		namespaces: objects[*metav1.PartialObjectMetadata](w.stores.namespaces),
		nodes:      objects[*corev1.Node](w.stores.nodes),
		services:   objects[*corev1.Service](w.stores.services),
		slices:     objects[*discoveryv1.EndpointSlice](w.stores.slices),
	}
	for _, s := range w.stores.policies {
		in.policies = append(in.policies, objects[*unstructured.Unstructured](s)...)
	}
	return in
}

// publish hands a Snapshot over, instead of one that nobody took.
func (w *Watcher) publish(s *Snapshot) {
	guards := w.builder.guards
	w.guards.Store(&guards)
	w.latest.Store(s)
	select {
	case <-w.snapshots:
	default:
	}
	w.snapshots <- s // nobody else sends
}

// keep writes the last Snapshot to the file, now and then and at the end.
func (w *Watcher) keep(ctx context.Context) error {
	if w.config.File == "" {
		return nil
	}
	var saved *Snapshot
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		}
		s := w.latest.Load()
		if s == nil || w.confirmed.Load() != nil || !w.contact.since().IsZero() {
			continue // what is there is as good
		}
		var err error
		if s == saved {
			err = confirm(w.config.File, time.Now())
		} else {
			err = save(w.config.File, s, *w.guards.Load())
		}
		if err != nil {
			w.config.Log.WithError(err).Warn("Objects not kept for a start without API server")
			continue
		}
		saved = s
	}
	return nil
}

// Snapshots hands over the newest Snapshot; one that nobody took is replaced by
// the next. It is for one receiver, and is never closed.
func (w *Watcher) Snapshots() <-chan *Snapshot { return w.snapshots }

// Stale is for how long nobody has confirmed what the last Snapshot says: 0 while
// the API server shows us everything. One that is back is noticed within a minute.
func (w *Watcher) Stale() time.Duration {
	since := w.contact.since()
	if confirmed := w.confirmed.Load(); confirmed != nil {
		since = *confirmed
	}
	if since.IsZero() {
		return 0
	}
	return max(time.Since(since), 1)
}

// Secret gets a Secret of Postern's namespace.
//
// Shape: version changes with the content; the map must not be changed.
// Units: the answer may be 30 s old; see [Watcher.SecretFailed].
// Errors: [ErrNoSecret] when there is none; else the API server's. While it is
// away, a Secret that was read before is returned as it was.
func (w *Watcher) Secret(ctx context.Context, name string) (data map[string][]byte, version string, err error) {
	return w.secrets.read(ctx, name)
}

// SecretFailed says that a log-in with this version of a Secret was refused, so
// that the next [Watcher.Secret] asks the API server, though once a second at most.
func (w *Watcher) SecretFailed(name, version string) { w.secrets.failed(name, version) }

// Get reads a path of the API server such as /openid/v1/jwks, of at most max bytes.
func (w *Watcher) Get(ctx context.Context, path string, max int64) ([]byte, error) {
	body, err := w.core.Get().AbsPath(path).SetHeader("Accept", "*/*").Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("more than %d bytes", max)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return data, nil
}

// Event raises an Event on the pod with this UID, if it is there. It never blocks:
// those of a pod and reason that come too often are counted together, and while the
// API server is away some hundred wait for it.
func (w *Watcher) Event(podUID string, reason Reason, message string) {
	if s := w.latest.Load(); s != nil {
		if p, ok := s.pod(podUID); ok {
			w.events.raise(p, reason, message, time.Now())
		}
	}
}

// Report makes a status that of this node's NodeStatus object, which is made if it
// is not there. It never blocks: the newest is written when it differs from the last
// one, at most every 10 s, and every five minutes in any case.
//
// Shape: Observed is filled in when it is written.
func (w *Watcher) Report(status policy.NodeState) {
	if err := w.reports.offer(status); err != nil {
		w.config.Log.WithError(err).Error("NodeStatus not written")
	}
}

// nodeUID is the UID of this node's object.
func (w *Watcher) nodeUID() (string, bool) {
	object, ok, err := w.stores.nodes.GetByKey(w.config.Node)
	node, isNode := object.(*corev1.Node)
	if err != nil || !ok || !isNode {
		return "", false
	}
	return string(node.UID), true
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

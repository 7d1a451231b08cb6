package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/internal/trust"
	"postern.dev/postern/proxy"
	"postern.dev/postern/proxy/postgres"
)

const (
	askTimeout    = 5 * time.Second  // of the gate
	feedTimeout   = 30 * time.Second // pods of a whole node are classified in it
	gatePause     = 200 * time.Millisecond
	roundInterval = time.Minute
	// A node has up to some hundred pods, each with a share of its own.
	nodeConnections = 16384
	nodeSessions    = 8192
)

var errRestart = errors.New("the agent restarts")

// node is the agent of one node: the process that reads what pods and servers
// send. What needs privilege is the gate's.
type node struct {
	o        NodeOptions
	watcher  *cluster.Watcher
	announce announcer
	link     *link
	pods     *pods
	shares   *proxy.Shares
	targets  *targets
	short    shortfalls
	objects  *objects
	logins   *logins
	arming   arming
	policy   atomic.Pointer[policy.Set]
	witness  *witness
	parser   *sql.Parser
	metrics  *metrics.Metrics
	gauges   *metrics.Node
	trail    *audit.Log
	recorder *recorder
	ledger   *ledger
	handler  *postgres.Handler
	server   *proxy.Server
	view     *view

	wake   chan struct{} // holds one, as the next two: the gate is to be told everything
	look   chan struct{} // the name server is to be asked
	looked chan struct{} // it was
	known  chan struct{} // closed when the first objects are in force
	warm   chan struct{} // closed when the SQL parser is compiled
	fed    atomic.Bool   // the gate has been told, and has not gone since
	failed atomic.Int64  // tries to tell it that failed one after the other
}

// RunNode guards the pods of a node until ctx is done, and then lets sessions go
// on for [NodeOptions.Drain].
//
// Errors: what is missing at the start. Later, what is away is waited for.
func RunNode(ctx context.Context, o NodeOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	if _, err := harden(); err != nil {
		return err
	}
	unconfined, err := confine(o.reach())
	if err != nil {
		return err
	}
	n, err := newNode(o)
	if err != nil {
		return err
	}
	if unconfined != "" {
		n.shortOf("confinement", []string{"other pods' processes of the agent's user are open to it, should it be taken over: " + unconfined})
	}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var writer errgroup.Group
	writer.Go(func() error { return n.trail.Run(writing) })
	err = n.run(ctx)
	stop()
	return errors.Join(err, writer.Wait())
}

// newNode opens the trail; it starts nothing.
func newNode(o NodeOptions) (*node, error) {
	n := &node{
		o: o, link: new(link), pods: newPods(), shares: proxy.NewShares(proxy.Limits{}), metrics: metrics.New(), parser: sql.New(sql.Options{}),
		targets: &targets{resolve: net.DefaultResolver.LookupNetIP, log: o.Log},
		wake:    make(chan struct{}, 1), look: make(chan struct{}, 1), looked: make(chan struct{}, 1),
		known: make(chan struct{}), warm: make(chan struct{}),
	}
	var err error
	if n.watcher, err = cluster.New(cluster.Config{
		Kubeconfig: o.Kubeconfig, Node: o.Node, Namespace: o.Namespace, File: filepath.Join(o.LogDir, o.Node+".snapshot"),
		Memory: filepath.Dir(o.Gate), Log: o.Log, // which the chart has in memory
	}); err != nil {
		return nil, err
	}
	n.announce = n.watcher
	n.metrics.Build(o.Version)
	n.gauges = n.metrics.Node(n.watcher.Stale, n.connected)
	n.metrics.Kernel(n.verdicts)
	if n.objects, err = openObjects(filepath.Join(o.LogDir, o.Node+".objects")); err != nil {
		o.Log.WithError(err).Warn("Last good objects not read")
	}
	n.view = newView(n)
	n.witness = &witness{
		node: o.Node, pods: n.pods, tokens: n.link, cluster: identity.NewCluster(n.watcher.Get), refuses: n.tooOld, log: o.Log,
	}
	n.policy.Store(new(policy.Set)) // which refuses everything
	if n.handler, err = n.newHandler(); err != nil {
		return nil, err
	}
	if n.trail, err = audit.Open(audit.Options{
		Dir: o.LogDir, Node: notInNodeName.ReplaceAllString(o.Node, "_"), Agent: o.Version, OperatorKey: o.OperatorKey,
		CheckpointFile: o.CheckpointFile, Log: o.Log,
	}); err != nil {
		return nil, err
	}
	n.view.checkpoints.path = checkpointsOf(o.LogDir, n.trail.ID())
	n.recorder = &recorder{trail: n.trail, metrics: n.metrics, log: o.Log, denied: n.tellDenied, stale: n.watcher.Stale}
	n.ledger = newLedger(n.recorder, n.pods, n.gauges, n.announce, o.Log)
	n.server = proxy.New(proxy.Config{
		Handler: n, Origins: n.witness, Recorder: n.recorder, Metrics: n.metrics, Log: o.Log, MaxConns: nodeConnections,
		Shares: n.shares,
	})
	return n, nil
}

// newHandler makes what serves PostgreSQL.
func (n *node) newHandler() (*postgres.Handler, error) {
	ca, err := trust.NewCA("Postern on " + n.o.Node)
	if err != nil {
		return nil, err
	}
	n.logins = newLogins(credential.NewSecrets(n.watcher), n.policy.Load, func(r *audit.Record) { n.recorder.put(r) })
	return postgres.New(postgres.Config{
		Policy: n.policy.Load, Targets: n.targets, Identifier: n.witness, Credentials: n.logins,
		Parser: n.parser, CA: ca, Metrics: n.metrics, Log: n.o.Log, MaxSessions: nodeSessions, LoggedIn: n.view.loggedIn, Looked: n.view.looked,
		Dial: func(ctx context.Context, origin proxy.Origin, to proxy.Destination) (net.Conn, error) {
			return dial(ctx, n.link, origin, n.pods.mesh(origin.Workload.UID) != "", to)
		},
	})
}

// Serve is [proxy.Handler]'s: a connection for as long as there is its pod.
func (n *node) Serve(ctx context.Context, s *proxy.Session) error {
	ctx, leave := n.pods.enter(ctx, s.Origin.Workload.UID)
	defer leave()
	return n.handler.Serve(ctx, s)
}

// tooOld tells why nobody new is served: what the agent knows is older than it may be.
func (n *node) tooOld() *proxy.Refused {
	stale := n.watcher.Stale()
	if stale <= n.o.MaxStale {
		return nil
	}
	return &proxy.Refused{Reason: metrics.Stale, Message: fmt.Sprintf(
		"the cluster's API server has not answered for %s, so nobody knows what holds today", stale.Truncate(time.Second))}
}

// run starts everything, and ends it in order: no new connections, then sessions,
// then what they need.
func (n *node) run(ctx context.Context) (err error) {
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	sessions, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	parts, failed := errgroup.WithContext(working)
	serving, stopServing := context.WithCancel(failed)
	defer stopServing()
	defer context.AfterFunc(ctx, stopServing)()
	if err := n.serveStatus(parts, failed); err != nil {
		return err
	}
	parts.Go(func() error { return n.watcher.Run(failed) })
	parts.Go(func() error { return n.feed(failed) })
	parts.Go(func() error { return n.lookUp(failed) })
	parts.Go(func() error { return n.lookForLogins(failed) })
	parts.Go(func() error { return n.keepBooks(failed) })
	parts.Go(func() error { return n.warmParser(failed) })
	var guests errgroup.Group // servers of one gate after the other, until their last session ends
	n.attend(serving, sessions, &guests)
	n.o.Log.Info("Draining")
	timer := time.AfterFunc(n.o.Drain, func() { end(errRestart) })
	err = guests.Wait()
	timer.Stop()
	n.ledger.round()
	n.tellShares()
	err = errors.Join(err, n.handler.Close())
	stopWorking()
	return errors.Join(err, parts.Wait())
}

// warmParser compiles the grammar, which takes seconds, so that no client waits for it.
func (n *node) warmParser(ctx context.Context) error {
	err := n.parser.Warm(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("start the SQL parser: %w", err)
	}
	close(n.warm)
	return nil
}

// attend serves one gate after the other until ctx is done. It waits for the first
// objects: they are what the gate is told.
func (n *node) attend(ctx, sessions context.Context, guests *errgroup.Group) {
	select {
	case <-n.known:
	case <-ctx.Done():
		return
	}
	for told := false; ctx.Err() == nil; {
		client, err := gate.Dial(ctx, n.o.Gate)
		if err != nil {
			if !told && ctx.Err() == nil {
				n.o.Log.WithError(err).Warn("Gate is away, guarded pods are refused their Targets")
				told = true
			}
			select {
			case <-ctx.Done():
			case <-time.After(gatePause):
			}
			continue
		}
		told = false
		if err := n.serveGate(ctx, sessions, client, guests); err != nil && ctx.Err() == nil {
			n.o.Log.WithError(err).Warn("Gate has gone")
			n.recorder.note(audit.KindAgentDegraded, "gate", nil)
		}
	}
}

// serveGate serves the connections of one gate until it is gone. Sessions outlive it.
func (n *node) serveGate(ctx, sessions context.Context, client *gate.Client, guests *errgroup.Group) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var own errgroup.Group
	own.Go(func() error {
		defer cancel()
		return client.Run(ctx)
	})
	own.Go(func() error { n.listen(client.Events()); return nil })
	n.awaitTurn(ctx, client)
	n.link.client.Store(client)
	if status, err := n.gateStatus(ctx); err == nil {
		n.ledger.begin(status)
		n.arming.take(status, n.recorder)
	}
	n.recorder.note(audit.KindAgentAttach, "gate", nil)
	notify(n.wake)
	guests.Go(func() error {
		err := n.server.Serve(ctx, sessions, arrivals{client})
		if errors.Is(err, net.ErrClosed) {
			return nil // the gate went before ctx
		}
		return err
	})
	err := own.Wait()
	n.link.client.CompareAndSwap(client, nil)
	n.ledger.part()
	n.fed.Store(false)
	return err
}

// awaitTurn waits until the SQL parser is compiled, if another gate and its agent
// serve the node until then: the pods' listeners open when this one is told of the
// pods. Alone, a client rather waits than is refused.
func (n *node) awaitTurn(ctx context.Context, client *gate.Client) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if status, err := client.Status(asking); err != nil || !status.Alone.IsZero() {
		return
	}
	select {
	case <-n.warm:
	case <-ctx.Done():
	}
}

// connected tells whether there is a gate.
func (n *node) connected() bool { return n.link.client.Load() != nil }

// verdicts are the kernel's counters as metrics.
func (n *node) verdicts() (map[string]uint64, error) {
	if !n.connected() { // a scrape is not to fail for that, another metric says it
		return nil, nil
	}
	status, err := n.gateStatus(context.Background())
	if err != nil {
		return nil, err
	}
	sum := make(map[string]uint64)
	for _, p := range status.Pods {
		sum["redirected"] += p.Counters.Redirected
		sum["refused"] += p.Counters.Refused
		sum["dropped"] += p.Counters.Dropped
	}
	return sum, nil
}

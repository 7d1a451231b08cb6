package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
)

const (
	// nriName and nriIndex are how the runtime knows this plugin. The index is
	// its place among the plugins: what others change of a pod does not matter here.
	nriName  = "postern"
	nriIndex = "10"
	// nriConfigure is how long the runtime may take to accept the plugin.
	nriConfigure = 10 * time.Second
	// nriRetry is how long the runtime is left alone after it was not there.
	nriRetry = time.Second
)

// Sandbox is a pod as the container runtime tells of it.
type Sandbox struct {
	ID          string
	UID         string // of the pod, as the kubelet has it
	Namespace   string
	Name        string
	Labels      map[string]string // of the pod, when it was made
	PID         int               // of the sandbox's first process; 0: it has none
	HostNetwork bool
	Netns       string // path of its network namespace on the node; empty: not told
	IPs         []netip.Addr
}

// Sandboxes is told what the runtime tells. The runtime waits for the answer of
// Started and of Present, and starts no container of the pod before.
type Sandboxes interface {
	// Present is called at the beginning, with all that there are.
	Present(context.Context, []Sandbox)
	// Started is called when a pod's network is there and before its containers are.
	Started(context.Context, Sandbox)
	// Stopped is called when the last container has ended.
	Stopped(Sandbox)
}

// NRI is a plugin of the container runtime (containerd's and CRI-O's Node
// Resource Interface), by which the runtime tells of a pod before it starts the
// pod's containers.
type NRI struct {
	Socket    string        // of the runtime
	Hold      time.Duration // after which the runtime goes on without an answer
	Sandboxes Sandboxes
	Connected func(bool) // told when the runtime has come or gone
	Log       logrus.FieldLogger
}

// Run serves the runtime until ctx ends. A runtime that is not there, or goes, is
// waited for.
func (n NRI) Run(ctx context.Context) error {
	absent := false
	for ctx.Err() == nil {
		err := n.serve(ctx)
		if ctx.Err() != nil {
			break
		}
		if !absent {
			absent = true
			n.Log.WithError(err).Warn("The runtime does not tell of pods before they start; waiting for it")
		}
		select {
		case <-ctx.Done():
		case <-time.After(nriRetry):
		}
		if err == nil {
			absent = false // it was there
		}
	}
	return nil
}

// serve serves one connection to its end.
//
// Errors: nil when the runtime accepted the plugin.
func (n NRI) serve(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", n.Socket)
	if err != nil {
		return err
	}
	p := &plugin{nri: n, gone: make(chan struct{})}
	defer conn.Close()
	defer p.calls.Wait()
	s, err := stub.New(p, stub.WithConnection(conn), stub.WithPluginName(nriName), stub.WithPluginIdx(nriIndex),
		stub.WithOnClose(p.lost), stub.WithLogger(nriLog{n.Log}))
	if err != nil {
		return err
	}
	ended := context.AfterFunc(ctx, func() { conn.Close() })
	defer ended()
	if err := p.start(ctx, s); err != nil {
		return err
	}
	n.Connected(true)
	defer n.Connected(false)
	select {
	case <-p.gone:
	case <-ctx.Done():
	}
	s.Stop()
	return nil
}

// plugin is one connection's.
type plugin struct {
	nri   NRI
	gone  chan struct{}
	once  sync.Once // closes gone
	calls errgroup.Group
}

func (p *plugin) lost() { p.once.Do(func() { close(p.gone) }) }

// start registers the plugin. The stub waits without end, holding its lock, for
// a runtime that accepts it and then says no more: it is told that it was
// configured with an error then.
func (p *plugin) start(ctx context.Context, s stub.Stub) error {
	var once sync.Once
	fail := func() {
		once.Do(func() {
			if service, ok := s.(api.PluginService); ok {
				service.Configure(ctx, &api.ConfigureRequest{Config: configureLate})
			}
		})
	}
	late := time.AfterFunc(nriConfigure, fail)
	defer late.Stop()
	defer context.AfterFunc(ctx, fail)()
	return s.Start(ctx)
}

// configureLate is the configuration by which this plugin tells itself that the
// runtime sent none.
const configureLate = "postern: the runtime sent no configuration"

// Configure is the runtime's first call.
func (p *plugin) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	if config == configureLate {
		return 0, errors.New("the runtime sent no configuration")
	}
	return 0, nil // all that this plugin has methods for
}

// Synchronize is the runtime's second call.
func (p *plugin) Synchronize(ctx context.Context, pods []*api.PodSandbox, _ []*api.Container) ([]*api.ContainerUpdate, error) {
	sandboxes := make([]Sandbox, 0, len(pods))
	for _, pod := range pods {
		sandboxes = append(sandboxes, sandboxOf(pod))
	}
	p.hold(ctx, func(ctx context.Context) { p.nri.Sandboxes.Present(ctx, sandboxes) })
	return nil, nil
}

// RunPodSandbox never answers with an error: a pod that is not known is refused
// the Targets and nothing else.
func (p *plugin) RunPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	p.hold(ctx, func(ctx context.Context) { p.nri.Sandboxes.Started(ctx, sandboxOf(pod)) })
	return nil
}

// StopPodSandbox lets the network namespace go.
func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.nri.Sandboxes.Stopped(sandboxOf(pod))
	return nil
}

// hold calls f and waits for it, but no longer than the runtime may be held: a
// plugin that does not answer in time is dropped by the runtime (containerd's
// plugin_request_timeout, 2 s), and the node's pods would start late.
func (p *plugin) hold(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, p.nri.Hold)
	done := make(chan struct{})
	p.calls.Go(func() error {
		defer close(done)
		f(ctx)
		return nil
	})
	select {
	case <-done:
	case <-ctx.Done():
		p.nri.Log.Warn("The runtime goes on before the pod is classified")
	}
	cancel()
}

func sandboxOf(pod *api.PodSandbox) Sandbox {
	s := Sandbox{
		ID: pod.GetId(), UID: pod.GetUid(), Namespace: pod.GetNamespace(), Name: pod.GetName(),
		Labels: pod.GetLabels(), PID: int(pod.GetPid()), HostNetwork: true,
	}
	for _, ns := range pod.GetLinux().GetNamespaces() {
		if ns.GetType() == "network" {
			s.Netns, s.HostNetwork = ns.GetPath(), false
		}
	}
	for _, ip := range pod.GetIps() {
		if addr, err := netip.ParseAddr(ip); err == nil {
			s.IPs = append(s.IPs, addr.Unmap())
		}
	}
	return s
}

// nriLog makes what the plugin's library says a debug message: its sentences are
// its own.
type nriLog struct{ log logrus.FieldLogger }

func (l nriLog) say(format string, args []any) {
	l.log.WithField("said", fmt.Sprintf(format, args...)).Debug("NRI")
}

func (l nriLog) Debugf(_ context.Context, format string, args ...any) { l.say(format, args) }
func (l nriLog) Infof(_ context.Context, format string, args ...any)  { l.say(format, args) }
func (l nriLog) Warnf(_ context.Context, format string, args ...any)  { l.say(format, args) }
func (l nriLog) Errorf(_ context.Context, format string, args ...any) { l.say(format, args) }

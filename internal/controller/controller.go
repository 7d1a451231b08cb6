package controller

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"postern.dev/postern/internal/metrics"
)

const leaseName = "postern-controller"

// lease is in what time what becomes of the Lease.
type lease struct {
	duration time.Duration // another instance takes over when it was not renewed for so long
	deadline time.Duration // and this one has given up by then
	retry    time.Duration
}

var usual = lease{15 * time.Second, 10 * time.Second, 2 * time.Second}

// errLost ends the process: whatever it holds in memory may be out of date.
var errLost = errors.New("another instance took over")

// Options say for which cluster the controller works.
type Options struct {
	Kubeconfig     string // file; empty: the service account of the pod that this process is in
	Namespace      string // Postern's own
	Name           string // of this instance: its pod's
	MetricsAddress string // where to serve metrics and health
	Version        string
	Log            logrus.FieldLogger
}

// controller is one instance.
type controller struct {
	o       Options
	lease   lease
	core    kubernetes.Interface
	objects dynamic.Interface
	ready   atomic.Bool // it leads and has seen every object, or another one leads
}

// Run works until ctx is done.
//
// Errors: the cluster cannot be reached as configured, or another instance took over.
func Run(ctx context.Context, o Options) error {
	c := &controller{o: o, lease: usual}
	config, err := configOf(o.Kubeconfig)
	if err == nil {
		config.UserAgent = "postern-controller/" + o.Version
		err = c.connect(config)
	}
	if err != nil {
		return fmt.Errorf("configure the API server: %w", err)
	}
	m := metrics.New()
	m.Build(o.Version)
	server, err := metrics.Listen(o.MetricsAddress, m, func() error { return nil }, c.ready.Load)
	if err != nil {
		return err
	}
	working, ctx := errgroup.WithContext(ctx)
	working.Go(func() error { return server.Run(ctx) })
	working.Go(func() error { return c.elect(ctx) })
	return working.Wait()
}

func configOf(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

func (c *controller) connect(config *rest.Config) (err error) {
	if c.core, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	c.objects, err = dynamic.NewForConfig(config)
	return err
}

// elect waits until this instance leads, and works while it does. The Lease is let go
// when the work has ended: no other instance works meanwhile.
//
// Errors: errLost when another instance may have taken over.
func (c *controller) elect(ctx context.Context) error {
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	leads := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.o.Namespace, Name: leaseName},
			Client:     c.core.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.o.Name},
		},
		LeaseDuration:   c.lease.duration,
		RenewDeadline:   c.lease.deadline,
		RetryPeriod:     c.lease.retry,
		ReleaseOnCancel: true,
		Name:            leaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { leads <- leading },
			OnStoppedLeading: func() {},
			OnNewLeader: func(name string) {
				if name != c.o.Name {
					c.ready.Store(true)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("configure the election: %w", err)
	}
	var election errgroup.Group
	election.Go(func() error { elector.Run(electing); return nil })
	select {
	case <-ctx.Done():
	case leading := <-leads: // until the Lease is lost
		leading, end := context.WithCancel(leading)
		defer end()
		defer context.AfterFunc(ctx, end)()
		c.o.Log.Info("Leading")
		err = c.lead(leading)
	}
	stop()
	err = errors.Join(err, election.Wait())
	if err == nil && ctx.Err() == nil {
		return errLost
	}
	return err
}

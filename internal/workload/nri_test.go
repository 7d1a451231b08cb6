package workload

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
)

// heard is what a plugin was told.
type heard struct {
	present chan []Sandbox
	stopped chan Sandbox
	started func(context.Context, Sandbox)
}

func (h heard) Present(_ context.Context, all []Sandbox) { h.present <- all }
func (h heard) Started(ctx context.Context, s Sandbox)   { h.started(ctx, s) }
func (h heard) Stopped(s Sandbox)                        { h.stopped <- s }

func silent() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// pluginAt runs a plugin for the runtime at a socket until the test ends.
func pluginAt(t *testing.T, socket string, hold time.Duration, started func(context.Context, Sandbox)) (heard, *atomic.Bool) {
	t.Helper()
	h := heard{present: make(chan []Sandbox, 8), stopped: make(chan Sandbox, 8), started: started}
	var connected atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	plugin := NRI{Socket: socket, Hold: hold, Sandboxes: h, Connected: connected.Store, Log: silent()}
	go func() { ended <- plugin.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v from a plugin that was ended, want nil", err)
		}
	})
	return h, &connected
}

// runtimeAt is the runtime's end, as containerd has it.
func runtimeAt(t *testing.T, socket string, pods ...*api.PodSandbox) *adaptation.Adaptation {
	t.Helper()
	r, err := newRuntime(socket, t.TempDir(), pods...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

func newRuntime(socket, dir string, pods ...*api.PodSandbox) (*adaptation.Adaptation, error) {
	sync := func(ctx context.Context, tell adaptation.SyncCB) error {
		_, err := tell(ctx, pods, nil)
		return err
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	return adaptation.New("containerd", "v2.0.0", sync, update, adaptation.WithSocketPath(socket),
		adaptation.WithPluginPath(dir), adaptation.WithPluginConfigPath(dir))
}

var sandboxB = &api.PodSandbox{
	Id: "sandbox", Uid: uidB, Name: "pod", Namespace: "agents", Pid: 4312,
	Labels: map[string]string{"app": "reporter"}, Ips: []string{"10.244.0.9", "fd00::9", "none"},
	Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{{Type: "pid"}, {Type: "network", Path: "/var/run/netns/cni-1"}}},
}

func TestRuntimeTellsOfAPodBeforeItGoesOn(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	r := runtimeAt(t, socket, sandboxB)
	var told atomic.Pointer[Sandbox]
	h, connected := pluginAt(t, socket, time.Minute, func(_ context.Context, s Sandbox) { told.Store(&s) })
	want := Sandbox{
		ID: "sandbox", UID: uidB, Namespace: "agents", Name: "pod", Labels: map[string]string{"app": "reporter"}, PID: 4312,
		Netns: "/var/run/netns/cni-1", IPs: []netip.Addr{netip.MustParseAddr("10.244.0.9"), netip.MustParseAddr("fd00::9")},
	}
	if got := <-h.present; len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %+v present, want %+v", got, want)
	}
	r.BlockPluginSync().Unblock() // from here on it is one of the runtime's plugins
	if err := r.RunPodSandbox(t.Context(), &api.RunPodSandboxRequest{Pod: sandboxB}); err != nil {
		t.Fatal(err)
	}
	if got := told.Load(); got == nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v when the runtime went on, want %+v", got, want)
	}
	if !connected.Load() {
		t.Error("got a plugin that is not connected, want one that is")
	}
	if err := r.StopPodSandbox(t.Context(), &api.StopPodSandboxRequest{Pod: sandboxB}); err != nil {
		t.Fatal(err)
	}
	if got := <-h.stopped; got.ID != "sandbox" {
		t.Errorf("got %q stopped, want sandbox", got.ID)
	}
}

func TestPodWithoutANetworkNamespaceIsOnTheNodes(t *testing.T) {
	got := sandboxOf(&api.PodSandbox{Uid: uidB, Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{{Type: "pid"}}}})
	if !got.HostNetwork || got.Netns != "" {
		t.Errorf("got %+v, want a pod on the node's network", got)
	}
}

func TestRuntimeIsNotHeldByASickPlugin(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	r := runtimeAt(t, socket)
	sick := make(chan struct{})
	h, _ := pluginAt(t, socket, time.Millisecond, func(context.Context, Sandbox) { <-sick })
	t.Cleanup(func() { close(sick) }) // runs first: the plugin ends when its calls have
	<-h.present
	r.BlockPluginSync().Unblock()
	if err := r.RunPodSandbox(t.Context(), &api.RunPodSandboxRequest{Pod: sandboxB}); err != nil {
		t.Errorf("got %v, want a runtime that goes on", err)
	}
}

// asRuntime in the environment makes the test binary a runtime with a pod, at the
// socket of that name.
const asRuntime = "POSTERN_TEST_RUNTIME"

func TestMain(m *testing.M) {
	socket := os.Getenv(asRuntime)
	if socket == "" {
		os.Exit(m.Run())
	}
	r, err := newRuntime(socket, filepath.Dir(socket)+"/none", sandboxB)
	if err == nil {
		err = r.Start()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

func TestPluginWaitsForARuntimeThatIsStartedAgain(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	h, connected := pluginAt(t, socket, time.Second, func(context.Context, Sandbox) {})
	for range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{asRuntime + "=" + socket}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		if got := <-h.present; len(got) != 1 || got[0].UID != uidB {
			t.Errorf("got %v of the runtime, want pod %s", got, uidB)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for connected.Load() {
			time.Sleep(time.Millisecond)
		}
	}
}

// mute is a runtime that registers plugins and then says no more.
type mute struct{ registered chan struct{} }

func (m mute) RegisterPlugin(context.Context, *api.RegisterPluginRequest) (*api.Empty, error) {
	close(m.registered)
	return &api.Empty{}, nil
}

func (mute) UpdateContainers(context.Context, *api.UpdateContainersRequest) (*api.UpdateContainersResponse, error) {
	return nil, errors.ErrUnsupported
}

func TestPluginOfARuntimeThatFallsSilentCanBeEnded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	m := mute{registered: make(chan struct{})}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		services, err := multiplex.Multiplex(conn).Listen(multiplex.RuntimeServiceConn)
		if err != nil {
			return
		}
		server, err := ttrpc.NewServer()
		if err != nil {
			return
		}
		api.RegisterRuntimeService(server, m)
		server.Serve(context.Background(), services)
	}()
	_, connected := pluginAt(t, socket, time.Second, func(context.Context, Sandbox) {})
	<-m.registered
	if connected.Load() {
		t.Error("got a plugin that is connected, want one that waits to be configured")
	}
} // and the plugin ends: see pluginAt

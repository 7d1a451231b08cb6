package gate

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
)

// criRuntime is a container runtime that tells the node's gate of pods.
type criRuntime struct {
	node *node
	nri  *adaptation.Adaptation
}

// newTold makes a node whose gate is told by a runtime, beginning with what present
// answers.
func newTold(t *testing.T, present func(*node) []*api.PodSandbox) *criRuntime {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "nri.sock")
	n := newNode(t, func(o *Options) { o.NRI, o.Hold, o.Namespace = socket, time.Minute, "postern-system" })
	sync := func(ctx context.Context, tell adaptation.SyncCB) error {
		_, err := tell(ctx, present(n), nil)
		return err
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	adaptation.SetPluginRequestTimeout(time.Minute) // an emulated machine is slow
	r, err := adaptation.New("containerd", "v2.0.0", sync, update, adaptation.WithSocketPath(socket),
		adaptation.WithPluginPath(t.TempDir()), adaptation.WithPluginConfigPath(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	eventually(t, "a gate at the runtime", func() bool { return strings.Contains(n.log.String(), "Started plugin") })
	r.BlockPluginSync().Unblock()
	return &criRuntime{node: n, nri: r}
}

func nothing(*node) []*api.PodSandbox { return nil }

// sandboxOf is the pod's sandbox as a runtime tells of it.
func (p *testPod) sandboxOf() *api.PodSandbox {
	return &api.PodSandbox{
		Id: p.container(0), Uid: p.UID, Name: p.Name, Namespace: p.Namespace, Pid: uint32(p.sandbox.Process.Pid),
		Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{{Type: "network", Path: "/var/run/netns/gone"}}},
		Ips:   []string{p.IPs[0].String()},
	}
}

// run makes a pod and tells of it.
func (r *criRuntime) run(t *testing.T, change func(*api.PodSandbox)) *testPod {
	t.Helper()
	p := r.node.newPod(t)
	sandbox := p.sandboxOf()
	change(sandbox)
	p.Namespace = sandbox.Namespace
	if err := r.nri.RunPodSandbox(t.Context(), &api.RunPodSandboxRequest{Pod: sandbox}); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPodIsClassifiedBeforeItsContainersStart(t *testing.T) {
	r := newTold(t, nothing)
	a := r.node.newAgent(t)
	a.tell(t, order{Guard: &guardedSet})
	a.tell(t, order{Namespaces: []string{"guarded"}})
	p := r.run(t, func(s *api.PodSandbox) { s.Labels = map[string]string{guardLabel: "true"} })
	p.expect(t, "at once, by its label", p.proxied())
	p = r.run(t, func(s *api.PodSandbox) { s.Namespace = "guarded" })
	p.expect(t, "at once, by its namespace", p.proxied())
	p = r.run(t, func(s *api.PodSandbox) { s.Labels = map[string]string{guardLabel: "false"} })
	p.expect(t, "of which the agent has not heard", refused)
	a.pods(t, p)
	p.expect(t, "when the agent has", directReply)
}

func TestSystemsPodsAreNotRefusedForBeingUnknown(t *testing.T) {
	r := newTold(t, nothing)
	a := r.node.newAgent(t)
	a.tell(t, order{Guard: &guardedSet})
	a.tell(t, order{})
	in := func(namespace string, labels map[string]string) *testPod {
		return r.run(t, func(s *api.PodSandbox) { s.Namespace, s.Labels = namespace, labels })
	}
	in("kube-system", nil).expect(t, "from the cluster's own", directReply)
	in("postern-system", nil).expect(t, "from Postern's own", directReply)
	in("kube-system-2", nil).expect(t, "from one with a name alike", refused)
	in("agents", map[string]string{"kubernetes.io/metadata.name": "kube-system"}).expect(t, "from one that says so itself", refused)
	p := in("kube-system", map[string]string{guardLabel: "true"})
	p.expect(t, "from one with the label", p.proxied())
	p = in("kube-system", nil)
	a.tell(t, order{Pods: []Pod{p.Pod}, Namespaces: []string{"kube-system"}})
	p.expect(t, "when its namespace has the label", p.proxied())
	p = in("kube-system", nil)
	p.expect(t, "from the next of such a namespace", p.proxied())

	untold := r.node.newPod(t)
	untold.Namespace = "postern-system"
	untold.expect(t, "of which the runtime did not tell", refused)
	a.pods(t, untold)
	untold.expect(t, "when the agent has listed it", directReply)
}

func TestSandboxesOfBeforeDoNotCount(t *testing.T) {
	var p *testPod
	before := func(s *api.PodSandbox) *api.PodSandbox { // the runtime keeps it until it is collected
		s.Id, s.Pid = strings.Repeat("d", 64), 0
		return s
	}
	for name, told := range map[string]func() []*api.PodSandbox{
		"first": func() []*api.PodSandbox { return []*api.PodSandbox{before(p.sandboxOf()), p.sandboxOf()} },
		"last":  func() []*api.PodSandbox { return []*api.PodSandbox{p.sandboxOf(), before(p.sandboxOf())} },
		"alone": func() []*api.PodSandbox { return []*api.PodSandbox{before(p.sandboxOf())} },
	} {
		t.Run(name, func(t *testing.T) {
			var once sync.Once // a gate that is there early is told twice
			r := newTold(t, func(n *node) []*api.PodSandbox {
				once.Do(func() { p = n.newPod(t) })
				return told()
			})
			p.Guarded = true
			c := r.node.client(t, "gate/agent", agentID)
			if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
				t.Fatal(err)
			}
			first := statusOf(t, c, p)
			for range 3 {
				if err := c.Pods(t.Context(), []Pod{p.Pod}, nil); err != nil {
					t.Fatal(err)
				}
			}
			if got := statusOf(t, c, p); got.Class != "guarded" || got.Sandbox != first.Sandbox {
				t.Errorf("got a pod that is %s in sandbox %d, want it guarded in %d still", got.Class, got.Sandbox, first.Sandbox)
			}
		})
	}
}

func TestRuntimeThatGoesLeavesNoPodEnded(t *testing.T) {
	g := newGate(Options{Log: quietLog()}, nil)
	p := newPod("p", time.Now())
	g.pods["p"], p.wish.stopped = p, true
	for runtime, want := range map[bool]bool{true: true, false: false} {
		p.wish.stopped = true
		if g.hears(runtime); p.wish.stopped != want {
			t.Errorf("got a pod that has ended: %v, with a runtime: %v, want %v", p.wish.stopped, runtime, want)
		}
	}
}

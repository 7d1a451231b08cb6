package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const refused = "connection refused"

// proxied is how a connection of the pod begins that the agent joined.
func (p *testPod) proxied() string { return fmt.Sprintf("pod=%s container=c001 exe=", p.UID) }

// expect dials the database from the pod.
func (p *testPod) expect(t *testing.T, when, want string) {
	t.Helper()
	if got := p.dial(t, database); !strings.Contains(got, want) {
		t.Errorf("got %q %s, want %q", got, when, want)
	}
}

func TestConnectionsOfAGuardedPodAreLedThroughTheAgent(t *testing.T) {
	n := newNode(t)
	p, other := n.newPod(t), n.newPod(t)
	p.expect(t, "before anything was guarded", directReply)
	a := n.newAgent(t)
	p.Guarded = true
	a.guard(t, p, other)
	got := p.dial(t, database)
	want := p.proxied() + "gate.test direct from 10.79.1.2"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := other.dial(t, database), "direct from 10.79.2.2"; got != want {
		t.Errorf("got %q from a pod that is not guarded, want %q", got, want)
	}
	if got, want := p.dial(t, elsewhere), "direct from 10.79.1.2"; got != want {
		t.Errorf("got %q from what is not guarded, want %q", got, want)
	}
}

func TestPodThatNobodyToldOfIsRefusedTargetsOnly(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	c := n.client(t, "gate/agent", agentID)
	if err := c.Guard(t.Context(), guardedSet); err != nil {
		t.Fatal(err)
	}
	if err := c.Pods(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	p.expect(t, "from an unknown pod", refused)
	if got := p.dial(t, elsewhere); !strings.HasPrefix(got, directReply) {
		t.Errorf("got %q from what is not guarded, want %q", got, directReply)
	}
	for e := range c.Events() {
		if e.Kind != KernelRefused {
			continue
		}
		if e.PodUID != "" || e.Refusal.Dialled != database || e.Refusal.Facts.Process == "" {
			t.Errorf("got %+v, %+v refused, want a process that dialled %v", e, e.Refusal, database)
		}
		break
	}
	if err := c.Pods(t.Context(), []Pod{p.Pod}, nil); err != nil {
		t.Fatal(err)
	}
	p.expect(t, "from a plain pod", directReply)
}

func TestConnectionsFromBeforeTheGuardAreEnded(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	cmd := p.role(t, "dial", held.String())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.begin(t, cmd)
	fmt.Fprintln(in)
	<-n.held // the database has it
	c := n.client(t, "gate/agent", agentID)
	p.Guarded = true
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "connection abort") && !strings.Contains(line, "reset") {
		t.Errorf("got %q, %v from a connection of before, want it ended", line, err)
	}
	if e := <-c.Events(); e.Kind != Guarded || e.Destroyed != 1 || e.PodUID != p.UID {
		t.Errorf("got %+v, want one connection of %s destroyed", e, p.UID)
	}
}

func TestGuardIsSticky(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	a := n.newAgent(t)
	p.Guarded = true
	a.guard(t, p)
	p.Guarded = false
	a.pods(t, p)
	p.expect(t, "without its label", p.proxied())
	a.pods(t)
	p.expect(t, "when the agent knows it no more", p.proxied())
	n.end(t, syscall.SIGTERM)
	n.start(t)
	a = n.newAgent(t)
	a.guard(t, p)
	p.expect(t, "under the next gate", p.proxied())
}

func TestNamespaceGuardsItsPods(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	a := n.newAgent(t)
	a.tell(t, order{Guard: &guardedSet})
	a.tell(t, order{Pods: []Pod{p.Pod}, Namespaces: []string{"other"}})
	p.expect(t, "of another namespace", directReply)
	a.tell(t, order{Pods: []Pod{p.Pod}, Namespaces: []string{"agents", "other"}})
	p.expect(t, "of a guarded namespace", p.proxied())
}

func TestWithoutAgentGuardedConnectsAreRefused(t *testing.T) {
	n := newNode(t)
	p, other := n.newPod(t), n.newPod(t)
	p.Guarded = true
	for range 2 {
		a := n.newAgent(t)
		a.guard(t, p, other)
		p.expect(t, "with an agent", p.proxied())
		a.cmd.Process.Kill()
		a.cmd.Wait()
		eventually(t, "a gate that closes its listeners", func() bool { return strings.Contains(p.dial(t, database), refused) })
		other.expect(t, "from a plain pod without an agent", directReply)
	}
}

func TestGateThatIsKilledLeavesTheGuard(t *testing.T) {
	n := newNode(t)
	p, other, late := n.newPod(t), n.newPod(t), n.newPod(t)
	p.Guarded = true
	a := n.newAgent(t)
	a.guard(t, p, other)
	n.end(t, syscall.SIGKILL)
	p.expect(t, "without a gate", refused)
	other.expect(t, "from a plain pod without a gate", directReply)
	late.expect(t, "from an unknown pod without a gate", refused)
	a.cmd.Wait() // its gate is gone
	n.start(t)
	p.expect(t, "with a gate and no agent", refused)
	other.expect(t, "from a plain pod with a gate and no agent", directReply)
	a = n.newAgent(t)
	a.guard(t, p, other, late)
	p.expect(t, "under the next gate", p.proxied())
	late.expect(t, "from a pod that the next agent knows", directReply)
}

func TestWhatCannotBeEnforcedIsSaid(t *testing.T) {
	n := newNode(t)
	raw, wrong, privileged, host := n.newPod(t), n.newPod(t), n.newPod(t), n.newPod(t)
	for _, p := range []*testPod{raw, wrong, privileged, host} {
		p.Guarded = true
	}
	raw.command(t, 0, "true") // its namespace has a link that leads nowhere
	err := raw.netns.Do(func() error { return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lonely"}}) })
	if err != nil {
		t.Fatal(err)
	}
	wrong.IPs[0] = wrong.IPs[0].Next()
	privileged.Privileges = []string{"container app is privileged"}
	host.HostNetwork = true // and it is not there
	c := n.client(t, "gate/agent", agentID)
	pods := []Pod{raw.Pod, wrong.Pod, privileged.Pod, host.Pod}
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), pods, nil)); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		wrong.UID: "none of the addresses", privileged.UID: "container app is privileged", host.UID: "on the node's network",
	}
	got := reasons(t, c)
	for uid, part := range want {
		if !strings.Contains(got[uid], part) {
			t.Errorf("got reasons %q of %s, want %q", got[uid], uid, part)
		}
	}
	wrong.expect(t, "from a pod that is not found", refused)
	pods[0].NoRaw = true
	if err := c.Pods(t.Context(), pods, nil); err != nil {
		t.Fatal(err)
	}
	if got := reasons(t, c)[raw.UID]; got != "" {
		t.Errorf("got reasons %q of a pod that makes no raw packets, want none", got)
	}
}

// reasons are why pods are not enforced, as the status has them.
func reasons(t *testing.T, c *Client) map[string]string {
	t.Helper()
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, p := range s.Pods {
		got[p.UID] = strings.Join(p.Reasons, "; ")
	}
	return got
}

func TestRefusedPodReachesNoTarget(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	a := n.newAgent(t)
	a.guard(t, p)
	p.expect(t, "while it may", p.proxied())
	p.Strict = true
	a.pods(t, p)
	p.expect(t, "while nothing speaks against it", p.proxied())
	p.Privileges = []string{"hostPID"}
	a.pods(t, p)
	p.expect(t, "when its guard can be gone around", refused)
	p.Privileges = nil
	a.pods(t, p)
	p.expect(t, "when it cannot any more", p.proxied())
}

func TestOnePodsFloodWaitsInItsOwnListener(t *testing.T) {
	n := newNode(t)
	loud, quiet := n.newPod(t), n.newPod(t)
	loud.Guarded, quiet.Guarded = true, true
	c := n.client(t, "gate/agent", agentID)
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{loud.Pod, quiet.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	cmd := loud.role(t, "flood", fmt.Sprintf("%v %d", database, 3*MaxInFlight))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	loud.begin(t, cmd)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, fmt.Sprint(3*MaxInFlight)) {
		t.Fatalf("got %q, %v from a pod that floods, want %d connections", line, err, 3*MaxInFlight)
	}
	eventually(t, "as many handed over as may be", func() bool { return inFlight(t, c, loud) == MaxInFlight })
	quietly := make(chan string, 1)
	go func() { quietly <- quiet.dial(t, database) }()
	eventually(t, "the quiet pod's connection handed over", func() bool { return inFlight(t, c, quiet) == 1 })
	for range MaxInFlight + 1 {
		conn, err := c.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "taken")
		conn.Close()
		if conn.PodUID == quiet.UID {
			if got := <-quietly; got != "taken" {
				t.Errorf("got %q by the quiet pod, want it taken", got)
			}
			return
		}
	}
	t.Errorf("got %d connections of the loud pod first, want the quiet pod's among them", MaxInFlight+1)
}

func inFlight(t *testing.T, c *Client, p *testPod) int {
	t.Helper()
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range s.Pods {
		if pod.UID == p.UID {
			return pod.InFlight
		}
	}
	return -1
}

// descriptors counts the gate's.
func (n *node) descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.gate))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// removeTree removes a pod's cgroups as the kubelet does.
func removeTree(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(t, filepath.Join(dir, e.Name()))
		}
	}
	removeCgroup(t, dir)
}

func TestGateHasTheChartsCapabilitiesAndNoMore(t *testing.T) {
	n := newNode(t)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.gate))
	if err != nil {
		t.Fatal(err)
	}
	var want uint64
	for _, c := range capabilities {
		want |= 1 << c
	}
	if line := fmt.Sprintf("CapEff:\t%016x\n", want); !strings.Contains(string(status), line) {
		t.Errorf("got a gate with %s, want %s", status, line)
	}
}

func TestSandboxThatIsReplacedTakesTheGuardAlong(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	a := n.newAgent(t)
	a.guard(t, p)
	p.expect(t, "in its first sandbox", p.proxied())
	p.end(t)
	p.expect(t, "in a sandbox that is not known yet", refused)
	p.sandbox = p.command(t, 0, "sleep", "600")
	p.begin(t, p.sandbox)
	a.pods(t, p) // with its new address
	p.expect(t, "in its second sandbox", p.proxied())
}

func TestPodOnTheNodesNetworkIsGuardedByItsCgroup(t *testing.T) {
	n := newNode(t)
	p, other := n.newPod(t), n.newPod(t)
	for _, pod := range []*testPod{p, other} {
		pod.sandbox.Process.Kill()
		pod.sandbox.Wait()
		pod.netns, pod.HostNetwork = n.netns, true
		pod.sandbox = pod.command(t, 2, "sleep", "600")
		pod.begin(t, pod.sandbox)
	}
	p.Guarded = true
	p.IPs, other.IPs = nil, nil
	n.newAgent(t).guard(t, p, other)
	p.expect(t, "from a guarded pod", p.proxied())
	other.expect(t, "from a plain pod", directReply)
}

func TestLinkThatComesLaterIsLookedAt(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	if err := errors.Join(c.Guard(t.Context(), guardedSet), c.Pods(t.Context(), []Pod{p.Pod}, nil)); err != nil {
		t.Fatal(err)
	}
	if got := reasons(t, c)[p.UID]; got != "" {
		t.Fatalf("got reasons %q, want none", got)
	}
	other := n.newPod(t)
	add := func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "later"}, PeerName: "there", PeerNamespace: netlink.NsPid(other.sandbox.Process.Pid),
		})
	}
	if err := p.netns.Do(add); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a reason", func() bool { return strings.Contains(reasons(t, c)[p.UID], "later") })
	for e := range c.Events() {
		if e.Kind == NotEnforced {
			if e.PodUID != p.UID || len(e.Reasons) != 1 {
				t.Errorf("got %+v, want one reason of pod %s", e, p.UID)
			}
			break
		}
	}
}

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/proxy"
	"postern.dev/postern/testenv"
)

// asRole in the environment makes the test binary one of a node's processes.
const (
	asRole  = "POSTERN_TEST_ROLE"
	asSpec  = "POSTERN_TEST_SPEC"
	agentID = 65532
	podUID  = "00000001-1111-4222-8333-444444444444"
)

// podCgroup is that of the pod's container, which has the length of a runtime's name.
var podCgroup = "pods/besteffort/pod" + podUID + "/" + strings.Repeat("c0", 32)

// guardedAddress is of a Target that no policy knows: every connection is refused,
// with a record.
var guardedAddress = netip.MustParseAddrPort("10.80.0.1:5432")

func TestMain(m *testing.M) {
	roles := map[string]func(spec string) error{"runtime": runtimeRole, "gate": gateRole, "agent": agentRole, "dial": dialRole}
	role := os.Getenv(asRole)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](os.Getenv(asSpec)); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// runtimeRole starts a gate as a container runtime does, in the node's network
// namespace and, by descriptor 3, in the gate's cgroup.
func runtimeRole(spec string) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{asRole + "=gate", asSpec + "=" + spec}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: 3}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin) // until the test ends it
	return errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
}

func gateRole(spec string) error {
	var o gate.Options
	if err := json.Unmarshal([]byte(spec), &o); err != nil {
		return err
	}
	log := logrus.New()
	log.SetOutput(os.Stderr)
	o.Log = log
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return gate.Run(ctx, o)
}

// dialRole is a program in a pod: it connects once, says what is not the protocol,
// and waits for the end.
func dialRole(to string) error {
	conn, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	fmt.Println("ended:", err)
	return nil
}

// agentSpec is what the agent of the test is told.
type agentSpec struct{ Socket, Dir string }

// told is what it tells when its standard input ends a line.
type told struct {
	Events  []string
	Missing int64
	Records string // of the trail: the ledger's, one a line
	Served  int64
}

// faulty is the fault: while on, a connection is served and leaves no record.
type faulty struct {
	*recorder

	on     atomic.Bool
	served atomic.Int64
}

func (f *faulty) Append(r *audit.Record) (int64, error) {
	if r.Kind == audit.KindRefusal {
		defer f.served.Add(1)
	}
	if f.on.Load() {
		return 0, nil
	}
	return f.recorder.Append(r)
}

// agentRole is the node's agent, but for what it has of a cluster. A line of
// standard input is "fault", "sound" or "round".
func agentRole(text string) error {
	var spec agentSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	events := new(lockedEvents)
	n, fault, err := newFaultyNode(spec, events)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var parts, guests errgroup.Group
	parts.Go(func() error { return n.trail.Run(ctx) })
	client, err := gate.Dial(ctx, spec.Socket)
	if err != nil {
		return err
	}
	parts.Go(func() error { return n.serveGate(ctx, ctx, client, &guests) })
	guarded := redirect.Guarded{Guards: []redirect.Guard{{
		Prefix: netip.PrefixFrom(guardedAddress.Addr(), 32), Port: guardedAddress.Port(), Target: true,
	}}}
	pods := []gate.Pod{{UID: podUID, Namespace: "agents", Name: "pod", Guarded: true}}
	if err := errors.Join(client.Guard(ctx, guarded), client.Pods(ctx, pods, nil)); err != nil {
		return err
	}
	fmt.Println("{}")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fault.on.Store(in.Text() == "fault")
		if in.Text() == "round" {
			status, err := n.gateStatus(ctx)
			if err != nil {
				return err
			}
			n.ledger.update(status)
			n.ledger.round()
		}
		out := told{Events: events.all(), Missing: n.ledger.missing(podUID), Served: fault.served.Load(), Records: ledgerLines(spec.Dir)}
		if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
			return err
		}
	}
	cancel()
	return nil
}

// lockedEvents are those that several goroutines raise.
type lockedEvents struct {
	mu   sync.Mutex
	list announced
}

func (e *lockedEvents) Event(uid string, reason cluster.Reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list.Event(uid, reason, message)
}

func (e *lockedEvents) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

// ledgerLines are the trail's records of the ledger.
func ledgerLines(dir string) string {
	var lines []string
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*", "leaves-*.jsonl"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, `"ledger"`) {
				lines = append(lines, line)
			}
		}
	}
	return strings.Join(lines, "")
}

func newFaultyNode(spec agentSpec, events announcer) (*node, *faulty, error) {
	log := logrus.New()
	log.SetOutput(os.Stderr)
	key := filepath.Join(spec.Dir, "operator")
	if _, err := audit.EnsureOperatorKey(key); err != nil {
		return nil, nil, err
	}
	n := &node{
		o: NodeOptions{Node: "node", Log: log}, link: new(link), pods: newPods(), metrics: metrics.New(), announce: events,
		parser: sql.New(sql.Options{}), targets: &targets{log: log}, wake: make(chan struct{}, 1),
	}
	n.policy.Store(new(policy.Set)) // which refuses everything
	n.pods.replace([]cluster.Pod{{UID: podUID, Namespace: "agents", Name: "pod"}})
	n.view = newView(n)
	n.gauges = n.metrics.Node(nil, nil)
	n.witness = &witness{node: "node", pods: n.pods, tokens: n.link, refuses: func() *proxy.Refused { return nil }, log: log}
	var err error
	if n.handler, err = n.newHandler(); err != nil {
		return nil, nil, err
	}
	if n.trail, err = audit.Open(audit.Options{Dir: spec.Dir, Node: "node", Agent: "test", OperatorKey: key, Log: log}); err != nil {
		return nil, nil, err
	}
	n.recorder = &recorder{trail: n.trail, metrics: n.metrics, log: log}
	n.ledger = newLedger(n.recorder, n.pods, n.gauges, events, log)
	fault := &faulty{recorder: n.recorder}
	n.server = proxy.New(proxy.Config{Handler: n, Origins: n.witness, Recorder: fault, Metrics: n.metrics, Log: log})
	return n, fault, nil
}

// faultNode is a node with one pod, a gate and an agent, each a process.
type faultNode struct {
	cgroup *testenv.Cgroup
	netns  *testenv.Netns // the pod's
	in     io.Writer
	out    *json.Decoder
}

func (n *faultNode) tell(t *testing.T, line string) (answer told) {
	t.Helper()
	if _, err := fmt.Fprintln(n.in, line); err != nil {
		t.Fatal(err)
	}
	if err := n.out.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// connect opens a connection in the pod, which the agent serves and ends.
func (n *faultNode) connect(t *testing.T) {
	t.Helper()
	cmd := n.command(t, podCgroup, "dial", guardedAddress.String())
	out := new(strings.Builder)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, out, out
	if err := n.netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(out.String(), "ended:") {
		t.Fatalf("got %q, %v in the pod, want a connection", out, err)
	}
}

func (n *faultNode) command(t *testing.T, cgroup, role, spec string) *exec.Cmd {
	t.Helper()
	cmd := testenv.OpenCgroup(t, filepath.Join(n.cgroup.Path, cgroup)).Command("/proc/self/exe")
	cmd.Env, cmd.Dir, cmd.Stderr = []string{asRole + "=" + role, asSpec + "=" + spec}, "/", os.Stderr
	return cmd
}

package gate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/testenv"
)

// database is a Target that every pod reaches by way of the node.
var database = netip.MustParseAddrPort("10.80.0.1:5432")

// elsewhere is a server that is not guarded; held is a Target that says no more
// than a word.
var (
	elsewhere = netip.MustParseAddrPort("10.80.0.1:7777")
	held      = netip.MustParseAddrPort("10.80.0.1:5433")
)

const directReply = "direct"

// guardedSet is what one PostgreSQL Target makes guarded.
var guardedSet = redirect.Guarded{Guards: []redirect.Guard{
	{Prefix: netip.MustParsePrefix("10.80.0.1/32"), Port: 5432, Target: true},
	{Prefix: netip.MustParsePrefix("10.80.0.1/32"), Port: 5433, Target: true},
}}

// node is a node of a test: cgroups, a network namespace with a database in it,
// and a gate.
type node struct {
	root    string // of the hierarchy
	cgroup  *testenv.Cgroup
	netns   *testenv.Netns
	options Options
	gate    int // process
	runtime *exec.Cmd
	log     syncBuffer
	pods    atomic.Int32
	held    chan struct{} // connections that the held server has
}

// syncBuffer is a buffer that a process writes and the test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newNode(t *testing.T, change ...func(*Options)) *node {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root")
	n := &node{cgroup: testenv.NewCgroup(t), netns: testenv.NewNetns(t), held: make(chan struct{}, 8)}
	n.root = filepath.Dir(n.cgroup.Path)
	for _, dir := range []string{"pods/besteffort", "pods/burstable", "gate/gate", "gate/agent"} {
		n.mkdir(t, dir)
	}
	pods := filepath.Join(filepath.Base(n.cgroup.Path), "pods")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// The path of a socket has room for 107 bytes (unix(7)).
	run, err := os.MkdirTemp("/tmp", "gate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	if err := os.Chmod(run, 0o755); err != nil {
		t.Fatal(err)
	}
	n.options = Options{
		Socket: filepath.Join(run, "gate.sock"), AgentUID: agentID, State: filepath.Join(dir, "state"),
		Cgroups: n.root, Pods: pods, Kubelet: filepath.Join(dir, "kubelet"),
	}
	t.Cleanup(func() { n.uninstall(t) })
	for _, c := range change {
		c(&n.options)
	}
	n.serveDatabase(t)
	n.start(t)
	return n
}

// mkdir makes a cgroup below the node's; it goes with the node's.
func (n *node) mkdir(t *testing.T, dir string) string {
	t.Helper()
	path := n.cgroup.Path
	for part := range strings.SplitSeq(dir, "/") {
		path = filepath.Join(path, part)
		err := os.Mkdir(path, 0o755)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		made := path
		t.Cleanup(func() { removeCgroup(t, made) })
	}
	return path
}

func removeCgroup(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kill %s: %v", path, err)
	}
	eventually(t, "removed "+path, func() bool {
		err := os.Remove(path)
		return err == nil || errors.Is(err, os.ErrNotExist)
	})
}

// eventually waits for what happens in another process.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 6000 { // an emulated machine is slow
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("got nothing for a minute, want %s", what)
}

func (n *node) serveDatabase(t *testing.T) {
	t.Helper()
	err := n.netns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: database.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return err
		}
		for _, at := range []netip.AddrPort{database, elsewhere, held} {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprintf(c, "%s from %v", directReply, c.RemoteAddr().(*net.TCPAddr).IP)
					if at != held {
						c.Close()
						continue
					}
					t.Cleanup(func() { c.Close() })
					n.held <- struct{}{}
				}
			}()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// start starts the gate, as a container runtime on the node does.
func (n *node) start(t *testing.T) {
	t.Helper()
	spec, err := json.Marshal(n.options)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(filepath.Join(n.cgroup.Path, "gate/gate"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{asRole + "=runtime", asSpec + "=" + string(spec)}
	cmd.ExtraFiles = []*os.File{dir}
	cmd.Stderr = &n.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("got no gate: %v\n%s", err, n.log.String())
	}
	if n.gate, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatal(err)
	}
	n.runtime = cmd
	t.Cleanup(func() {
		n.end(t, syscall.SIGTERM)
		if t.Failed() {
			t.Log(n.log.String())
		}
	})
	eventually(t, "a gate at its socket", func() bool {
		_, err := os.Stat(n.options.Socket)
		return err == nil || cmd.ProcessState != nil
	})
}

// end ends the gate; it may be called again.
func (n *node) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if n.runtime == nil {
		return
	}
	if err := syscall.Kill(n.gate, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Errorf("end the gate: %v", err)
	}
	err := n.runtime.Wait()
	if err != nil && signal == syscall.SIGTERM {
		t.Errorf("got a gate that ends with %v, want none", err)
	}
	n.runtime = nil
	if signal == syscall.SIGKILL {
		os.Remove(n.options.Socket) // else the next looks as if it was there
	}
}

// testPod is a pod of a test.
type testPod struct {
	Pod
	node    *node
	netns   *testenv.Netns
	dir     string // its cgroup
	sandbox *exec.Cmd
	number  int32
}

// newPod makes a pod as a runtime and a CNI plugin do; its sandbox runs.
func (n *node) newPod(t *testing.T) *testPod {
	t.Helper()
	i := n.pods.Add(1)
	p := &testPod{node: n, netns: testenv.NewNetns(t), number: i}
	p.UID = fmt.Sprintf("%08x-1111-4222-8333-%012x", i, os.Getpid())
	p.Namespace, p.Name = "agents", fmt.Sprintf("pod-%d", i)
	p.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 79, byte(i), 2})}
	p.dir = n.mkdir(t, "pods/besteffort/pod"+p.UID)
	p.connect(t)
	p.sandbox = p.command(t, 0, "sleep", "600")
	p.begin(t, p.sandbox)
	return p
}

// connect gives the pod a link to the node.
func (p *testPod) connect(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("pod%d", p.number)
	gateway := &net.IPNet{IP: net.IPv4(10, 79, byte(p.number), 1), Mask: net.CIDRMask(24, 32)}
	own := &net.IPNet{IP: net.IPv4(10, 79, byte(p.number), 2), Mask: net.CIDRMask(24, 32)}
	handle := make(chan int, 1)
	up := func(link string, addr *net.IPNet) error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(l, &netlink.Addr{IPNet: addr}), netlink.LinkSetUp(l))
	}
	err := p.netns.Do(func() error {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		handle <- fd
		return err
	})
	fd := <-handle
	defer unix.Close(fd)
	err = errors.Join(err, p.node.netns.Do(func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(fd)}
		return errors.Join(netlink.LinkAdd(pair), up(name, gateway))
	}), p.netns.Do(func() error {
		return errors.Join(up("eth0", own), netlink.RouteAdd(&netlink.Route{Gw: gateway.IP}))
	}))
	if err != nil {
		t.Fatalf("connect pod: %v", err)
	}
}

// container is the ID of a pod's container; 0 is the sandbox.
func (p *testPod) container(i int) string {
	return fmt.Sprintf("%04x%060x", 0xc000+i, p.number)
}

// command is a command in one of the pod's containers.
func (p *testPod) command(t *testing.T, container int, name string, args ...string) *exec.Cmd {
	t.Helper()
	dir := p.node.mkdir(t, strings.TrimPrefix(p.dir, p.node.cgroup.Path+"/")+"/"+p.container(container))
	return testenv.OpenCgroup(t, dir).Command(name, args...)
}

func (p *testPod) begin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := p.netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// role is one of the roles as a program in the pod's first container.
func (p *testPod) role(t *testing.T, role, spec string) *exec.Cmd {
	t.Helper()
	cmd := p.command(t, 1, "/proc/self/exe")
	cmd.Env = []string{asRole + "=" + role, asSpec + "=" + spec}
	return cmd
}

// dial dials once from the pod's first container, and answers what is said there.
func (p *testPod) dial(t *testing.T, to netip.AddrPort) string {
	t.Helper()
	cmd := p.role(t, "dial", to.String())
	cmd.Stdin = strings.NewReader("go\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := p.netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("dial: %v: %s", err, out.String())
	}
	return strings.TrimSpace(out.String())
}

// agent is an agent in a process of its own.
type agent struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	done   chan report
	events chan Event
}

func (n *node) newAgent(t *testing.T) *agent {
	t.Helper()
	cmd := testenv.OpenCgroup(t, filepath.Join(n.cgroup.Path, "gate/agent")).Command("/proc/self/exe")
	cmd.Env = []string{asRole + "=agent", asSpec + "=" + n.options.Socket}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: agentID, Gid: agentID}
	cmd.Stderr = &n.log
	cmd.Dir = "/"
	a := &agent{cmd: cmd, done: make(chan report, 1), events: make(chan Event, 1024)}
	var err error
	if a.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	go func() {
		defer close(a.done)
		for d := json.NewDecoder(out); ; {
			var r report
			if d.Decode(&r) != nil {
				return
			}
			if r.Event != nil {
				a.events <- *r.Event
			} else {
				a.done <- r
			}
		}
	}()
	return a
}

func (a *agent) tell(t *testing.T, o order) {
	t.Helper()
	if err := json.NewEncoder(a.in).Encode(o); err != nil {
		t.Fatal(err)
	}
	if r, ok := <-a.done; !ok || r.Error != "" {
		t.Fatalf("got agent told %q (%v), want nothing", r.Error, ok)
	}
}

// guard tells the agent that these pods are there.
func (a *agent) guard(t *testing.T, pods ...*testPod) {
	t.Helper()
	a.tell(t, order{Guard: &guardedSet})
	a.pods(t, pods...)
}

func (a *agent) pods(t *testing.T, pods ...*testPod) {
	t.Helper()
	o := order{}
	for _, p := range pods {
		o.Pods = append(o.Pods, p.Pod)
	}
	a.tell(t, o)
}

// client is an agent's end in this process, connected by a process of user in a
// cgroup of the node.
func (n *node) client(t *testing.T, cgroup string, user uint32) *Client {
	t.Helper()
	c := newClient(n.connect(t, cgroup, user))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return c
}

func (n *node) connect(t *testing.T, cgroup string, user uint32) *net.UnixConn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	cmd := testenv.OpenCgroup(t, n.mkdir(t, cgroup)).Command("/proc/self/exe")
	cmd.Env = []string{asRole + "=connect", asSpec + "=" + n.options.Socket}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user, Gid: user}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Dir = "/"
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	oob := make([]byte, 64)
	_, oobn, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(controls) != 1 {
		t.Fatalf("got %d messages with descriptors (%v), want 1", len(controls), err)
	}
	fds, err := unix.ParseUnixRights(&controls[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "gate")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn)
}

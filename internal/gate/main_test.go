package gate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/redirect"
)

// asRole in the environment makes the test binary one of the processes that the
// tests are about.
const (
	asRole  = "POSTERN_TEST_ROLE"
	asSpec  = "POSTERN_TEST_SPEC"
	agentID = 65532
)

func TestMain(m *testing.M) {
	roles := map[string]func() error{
		"gate": gateRole, "runtime": runtimeRole, "agent": agentRole,
		"connect": connectRole, "dial": dialRole, "flood": floodRole,
	}
	role := os.Getenv(asRole)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// gateRole is a gate.
func gateRole() error {
	var o Options
	if err := json.Unmarshal([]byte(os.Getenv(asSpec)), &o); err != nil {
		return err
	}
	log := logrus.New()
	log.SetOutput(os.Stderr)
	log.SetLevel(logrus.DebugLevel)
	o.Log = log
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ask := make(chan os.Signal, 1)
	signal.Notify(ask, syscall.SIGUSR1)
	go tellSize(ask)
	return Run(ctx, o)
}

// tellSize says how large the gate is, whenever it is asked.
func tellSize(ask <-chan os.Signal) {
	for range ask {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(os.Stderr, "goroutines=%d heapKiB=%d\n", runtime.NumGoroutine(), m.HeapInuse>>10)
	}
}

// capabilities are those that the chart gives to the gate, and no others.
var capabilities = []uintptr{
	unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH,
}

// runtimeRole is the container runtime's process that starts the gate: it is in
// the node's namespaces. Descriptor 3 is the cgroup of the gate's container.
func runtimeRole() error {
	runtime.LockOSThread() // a child has what the thread has that starts it
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if slices.Contains(capabilities, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asRole+"=gate")
	cmd.Stderr = os.Stderr
	cmd.Stdout = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: 3, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid)
	return cmd.Wait()
}

func quietLog() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// order is what the test tells an agent.
type order struct {
	Guard      *redirect.Guarded
	Pods       []Pod
	Namespaces []string
}

// report is what an agent tells the test.
type report struct {
	Done  bool
	Error string
	Event *Event
}

// agentRole is an agent: it does what standard input says, and joins each
// connection to where it wanted to go, saying first whose it is.
func agentRole() error {
	ctx := context.Background()
	c, err := dialPatiently(ctx, os.Getenv(asSpec))
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	go c.Run(ctx)
	go func() {
		for e := range c.Events() {
			out.Encode(report{Event: &e})
		}
	}()
	go func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				os.Exit(3)
			}
			go joinUpstream(ctx, c, conn)
		}
	}()
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		if o.Guard != nil {
			err = c.Guard(ctx, *o.Guard)
		} else {
			err = c.Pods(ctx, o.Pods, o.Namespaces)
		}
		r := report{Done: true}
		if err != nil {
			r.Error = err.Error()
		}
		out.Encode(r)
	}
	return nil
}

func dialPatiently(ctx context.Context, path string) (*Client, error) {
	for tries := 0; ; tries++ {
		c, err := Dial(ctx, path)
		if err == nil || tries == 200 {
			return c, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func joinUpstream(ctx context.Context, c *Client, conn *Conn) {
	defer conn.Close()
	upstream, err := c.Dial(ctx, conn.PodUID, conn.Origin.Dialled)
	if err != nil {
		fmt.Fprintln(conn, "upstream:", err)
		return
	}
	defer upstream.Close()
	exe := conn.Facts.Exe[strings.LastIndexByte(conn.Facts.Exe, '/')+1:]
	fmt.Fprintf(conn, "pod=%s container=%.4s exe=%s ", conn.PodUID, conn.ContainerID, exe)
	io.Copy(conn, upstream)
}

// connectRole connects to a unix socket and hands the connection to the test,
// by descriptor 3. It stays until the test has gone.
func connectRole() error {
	conn, err := net.Dial("unix", os.Getenv(asSpec))
	if err != nil {
		return err
	}
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		return err
	}
	conn.Close()
	f.Close()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// dialRole is a program in a pod: it dials, and prints what it is told. For each
// line of standard input it does so once; without any, once.
func dialRole() error {
	once := func() {
		conn, err := net.DialTimeout("tcp", os.Getenv(asSpec), 5*time.Second)
		if err != nil {
			fmt.Println("error:", err)
			return
		}
		defer conn.Close()
		said, err := io.ReadAll(conn)
		if err != nil {
			fmt.Println("error:", err)
			return
		}
		fmt.Println(string(said))
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		once()
	}
	return in.Err()
}

// floodRole is a program in a pod that opens many connections and leaves them.
// It says how many there are.
func floodRole() error {
	to, many, _ := strings.Cut(os.Getenv(asSpec), " ")
	n, err := strconv.Atoi(many)
	if err != nil {
		return err
	}
	var open []net.Conn
	for range n {
		conn, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err != nil {
			return err
		}
		open = append(open, conn)
	}
	fmt.Println(len(open))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

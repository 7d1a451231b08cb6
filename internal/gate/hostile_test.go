package gate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/redirect"
)

// frame is a frame with that body, its length as announced.
func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// call is a frame of a call.
func call(op, body string) []byte {
	return frame(fmt.Sprintf(`{"id":1,"op":%q,"body":%s}`, op, body))
}

func TestPeerThatBreaksTheRulesIsCutOff(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	rows := map[string][]byte{
		"no length":                     []byte("GET / HTTP/1.1\r\n\r\n"),
		"a length beyond the limit":     binary.BigEndian.AppendUint32(nil, maxFrameBytes+1),
		"no JSON":                       frame("guard everything"),
		"another type":                  frame(`[1,2,3]`),
		"nested without end":            frame(strings.Repeat("[", 1<<20)),
		"an unknown operation":          call("exec", `{"path":"/bin/sh"}`),
		"the gate's own operation":      call(opArrival, `{"podUID":"`+p.UID+`"}`),
		"announced descriptors":         frame(`{"id":1,"op":"status","files":7}`),
		"a negative number of them":     frame(`{"id":1,"op":"status","files":-1}`),
		"a network of another kind":     call(opSocket, `{"podUID":"","network":"packet"}`),
		"a call of 10 kB for one thing": call(opToken, `{"file":"`+strings.Repeat("x", 10<<10)+`"}`),
		"pods that are no list":         call(opPods, `{"pods":{"uid":"`+p.UID+`"}}`),
	}
	for name, sent := range rows {
		t.Run(name, func(t *testing.T) {
			conn := n.connect(t, "gate/agent", agentID)
			defer conn.Close()
			conn.Write(sent) // it may be cut off in the middle
			conn.CloseWrite()
			if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want the end", err)
			}
			n.expectServed(t, p)
		})
	}
}

// expectServed connects an agent, with success: whoever was there before is gone
// and has ended nothing but itself.
func (n *node) expectServed(t *testing.T, p *testPod) {
	t.Helper()
	eventually(t, "an agent that is served", func() bool {
		c := newClient(n.connect(t, "gate/agent", agentID))
		defer c.Close()
		ended := make(chan error, 1)
		go func() { ended <- c.Run(t.Context()) }()
		err := c.Pods(t.Context(), []Pod{p.Pod}, nil)
		c.Close()
		<-ended
		return err == nil
	})
}

func TestDescriptorsOfAPeerAreNotTaken(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	n.expectServed(t, p)
	before := n.descriptors(t)
	for range 20 {
		conn := n.connect(t, "gate/agent", agentID)
		null, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		fds := make([]int, 200)
		for i := range fds {
			fds[i] = int(null.Fd())
		}
		if _, _, err := conn.WriteMsgUnix(call(opStatus, "{}"), unix.UnixRights(fds...), nil); err != nil {
			t.Logf("send descriptors: %v", err)
		}
		io.Copy(io.Discard, conn)
		conn.Close()
		null.Close()
	}
	n.expectServed(t, p)
	eventually(t, "no descriptor more than before", func() bool { return n.descriptors(t) <= before })
}

func TestOnlyTheAgentIsServed(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	inPod := strings.TrimPrefix(p.dir, n.cgroup.Path+"/") + "/" + p.container(1)
	for name, row := range map[string]struct {
		cgroup string
		uid    uint32
	}{
		"another user in the agent's container": {"gate/agent", 1000},
		"root in the agent's container":         {"gate/agent", 0},
		"the agent's user in a pod":             {inPod, agentID},
		"the agent's user elsewhere":            {"elsewhere", agentID},
	} {
		t.Run(name, func(t *testing.T) {
			conn := n.connect(t, row.cgroup, row.uid)
			defer conn.Close()
			if got, err := io.ReadAll(conn); err == nil && len(got) > 0 {
				t.Errorf("got %q, want nothing", got)
			}
			n.expectServed(t, p)
		})
	}
	first := n.client(t, "gate/agent", agentID)
	if err := first.Pods(t.Context(), []Pod{p.Pod}, nil); err != nil {
		t.Fatal(err)
	}
	second := n.client(t, "gate/agent", agentID)
	if err := second.Pods(t.Context(), nil, nil); err == nil {
		t.Error("got a second agent served, want it closed")
	}
	if _, err := first.Status(t.Context()); err != nil {
		t.Errorf("got %v by the first agent, want it served", err)
	}
}

func TestAgentGetsNothingOfWhatIsNoPodHere(t *testing.T) {
	n := newNode(t)
	p, plain := n.newPod(t), n.newPod(t)
	p.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	stranger := "00000000-0000-4000-8000-000000000000"
	// Listed, and with a token there, but of another node: it has no cgroup.
	elsewhere := Pod{UID: stranger, Namespace: "agents", Name: "elsewhere", Guarded: true}
	if err := c.Pods(t.Context(), []Pod{p.Pod, plain.Pod, elsewhere}, nil); err != nil {
		t.Fatal(err)
	}
	n.plant(t, stranger, "token", tokenFor(`"postern"`))
	n.plant(t, plain.UID, "token", tokenFor(`"postern"`))
	own := tokenFor(`["postern"]`)
	n.plant(t, p.UID, "token", own)
	for _, uid := range []string{stranger, plain.UID, "", "..", p.UID + "/../" + stranger} {
		if f, err := c.Token(t.Context(), uid, "t", "token"); err == nil {
			f.Close()
			t.Errorf("got a token of %q, want none", uid)
		}
	}
	for _, uid := range []string{stranger, plain.UID, "..", "self"} {
		if f, err := c.Socket(t.Context(), uid, "tcp4"); err == nil {
			f.Close()
			t.Errorf("got a socket of %q, want none", uid)
		}
	}
	f, err := c.Token(t.Context(), p.UID, "t", "token")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != own {
		t.Errorf("got %q, %v, want %q", got, err, own)
	}
	if _, err := f.WriteString("x"); err == nil {
		t.Error("got a file that can be written, want one to read")
	}
}

// plant writes a file into a pod's projected volume.
func (n *node) plant(t *testing.T, uid, name, content string) string {
	t.Helper()
	dir := filepath.Join(n.options.Kubelet, "pods", uid, "volumes/kubernetes.io~projected/t")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMoreThanItsShareIsRefusedToAPod(t *testing.T) {
	n := newNode(t)
	loud, quiet := n.newPod(t), n.newPod(t)
	loud.Guarded, quiet.Guarded = true, true
	c := n.client(t, "gate/agent", agentID)
	if err := c.Pods(t.Context(), []Pod{loud.Pod, quiet.Pod}, nil); err != nil {
		t.Fatal(err)
	}
	n.plant(t, loud.UID, "token", tokenFor(`"postern"`))
	n.plant(t, quiet.UID, "token", tokenFor(`"postern"`))
	var err error
	for range 1000 {
		var f *os.File
		if f, err = c.Token(t.Context(), loud.UID, "t", "token"); err != nil {
			break
		}
		f.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "share") {
		t.Errorf("got %v after 1000 tokens, want a share that is used up", err)
	}
	f, err := c.Token(t.Context(), quiet.UID, "t", "token")
	if err != nil {
		t.Fatalf("got %v by another pod, want its token", err)
	}
	f.Close()
}

func TestTokenIsAFileOfThatVolume(t *testing.T) {
	const uid, other = "2ea9c579-1c6f-4b3a-9a51-0d7a5c1c6d11", "190e130a-0d7a-4c1c-8d11-2ea9c5791c6f"
	n := &node{options: Options{Kubelet: t.TempDir()}}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.plant(t, other, "token", "another pod's")
	dir := n.plant(t, uid, "plain", "own")
	steps := []error{
		// As the kubelet writes a projected volume.
		os.Mkdir(filepath.Join(dir, "..2026"), 0o700),
		os.WriteFile(filepath.Join(dir, "..2026", "token"), []byte("own"), 0o600),
		os.Symlink("..2026", filepath.Join(dir, "..data")),
		os.Symlink("..data/token", filepath.Join(dir, "token")),
		os.Mkdir(filepath.Join(dir, "nested"), 0o700),
		os.Symlink("../..data/token", filepath.Join(dir, "nested", "token")),
		// As somebody else might.
		os.Symlink(secret, filepath.Join(dir, "absolute")),
		os.Symlink("../../../../"+other+"/volumes/kubernetes.io~projected/t/token", filepath.Join(dir, "outside")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink("/proc/self/root"+secret, filepath.Join(dir, "magic")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		os.Symlink("fifo", filepath.Join(dir, "to-fifo")),
		unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir) // the path of a socket has room for 107 bytes
	l, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for file, want := range map[string]bool{
		"plain": true, "token": true, "nested/token": true,
		"absolute": false, "outside": false, "loop": false, "magic": false, "fifo": false, "to-fifo": false,
		"device": false, "socket": false, "nested": false, "": false, ".": false, "gone": false,
		"../t/plain": false, secret: false, "nested/../../t/plain": false, "plain\x00": false,
	} {
		f, err := openToken(n.options.Kubelet, uid, "t", file)
		if (err == nil) != want {
			t.Errorf("got %v for %q, want opened: %v", err, file, want)
		}
		if err != nil {
			continue
		}
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, []byte("own")) {
			t.Errorf("got %q, %v of %q, want own", got, err, file)
		}
		f.Close()
	}
	for _, row := range [][2]string{{"..", "t"}, {uid, ".."}, {uid, "t/../t"}, {uid, ""}, {uid + "/../" + other, "t"}, {"", "t"}} {
		if f, err := openToken(n.options.Kubelet, row[0], row[1], "token"); err == nil {
			f.Close()
			t.Errorf("got a file of pod %q, volume %q, want none", row[0], row[1])
		}
	}
}

func TestWhatTheAgentSendsIsReadAsItWasSent(t *testing.T) {
	want := redirect.Guarded{
		Guards: []redirect.Guard{
			{Prefix: netip.MustParsePrefix("10.8.0.0/28"), Port: 5432, Target: true, Exclusive: true},
			{Prefix: netip.MustParsePrefix("::/0"), Refuse: true},
		},
		Sockets: []string{"/run/postgresql/.s.PGSQL.5432", "@abstract"},
	}
	guards, err := json.Marshal(want.Guards)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := json.Marshal(want.Sockets)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(guardCall{Guards: guards, Sockets: sockets})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeGuarded(body)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

package gate

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern.dev/postern/internal/redirect"
)

// What an agent that was taken over tries, beyond bad frames.

// tokenFor is a token as the kubelet writes one, of nobody's signature.
func tokenFor(audience string) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"RS256"}`) + "." + part(`{"sub":"system:serviceaccount:a:b","aud":`+audience+`}`) + "." + part("signature")
}

func TestTokensForOthersAreNotHandedOver(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	p.Guarded = true
	c := n.client(t, "gate/agent", agentID)
	if err := c.Pods(t.Context(), []Pod{p.Pod}, nil); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		content string
		want    TokenReason
	}{
		"for postern":                {tokenFor(`"postern"`), ""},
		"for postern, in a list":     {tokenFor(`["postern"]`) + "\n", ""},
		"for the API server":         {tokenFor(`["https://kubernetes.default.svc"]`), TokenAudiences},
		"for both":                   {tokenFor(`["postern","https://kubernetes.default.svc"]`), TokenAudiences},
		"for nobody":                 {tokenFor(`[]`), TokenAudiences},
		"for null":                   {tokenFor(`null`), TokenAudiences},
		"for a number":               {tokenFor(`7`), TokenAudiences},
		"of claims that are cut off": {tokenFor(`"postern"`)[:60] + ".x", TokenMalformed},
		"a password":                 {"hunter2", TokenMalformed},
		"a certificate":              {"-----BEGIN CERTIFICATE-----\nMII...\n", TokenMalformed},
		"a configuration":            {`{"aud":"postern"}`, TokenMalformed},
		"three words":                {"a.b.c", TokenMalformed},
		"empty":                      {" \n", TokenEmpty},
		"large":                      {strings.Repeat("a", maxTokenBytes+1), TokenTooLarge},
	} {
		n.plant(t, p.UID, "token", row.content)
		f, err := c.Token(t.Context(), p.UID, "t", "token")
		if f != nil {
			f.Close()
		}
		var got TokenReason
		if refused, ok := errors.AsType[*TokenError](err); ok {
			got, err = refused.Reason, nil
		}
		if err != nil || got != row.want {
			t.Errorf("got %q, %v of a file %s, want %q", got, err, name, row.want)
		}
	}
}

func TestWhatLiesInTheSocketsPlaceIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir) // the path of a socket has room for 107 bytes
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"nothing":                    func(string) error { return nil },
		"a link to a file":           func(path string) error { return os.Symlink(secret, path) },
		"a link to nothing":          func(path string) error { return os.Symlink(filepath.Join(dir, "gone"), path) },
		"a file":                     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a folder":                   func(path string) error { return os.Mkdir(path, 0o700) },
		"a folder that is not empty": func(path string) error { return os.MkdirAll(filepath.Join(path, "inner"), 0o700) },
	} {
		path := strings.ReplaceAll(name, " ", "-")
		if err := errors.Join(plant(path), plant(path+".new")); err != nil {
			t.Fatal(err)
		}
		l, err := bindSocket(path)
		if err != nil {
			t.Errorf("got %v with %s in the way, want a socket", err, name)
			continue
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o666 {
			t.Errorf("got %v, %v with %s in the way, want a socket for everybody", info.Mode(), err, name)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Errorf("got %v with %s in the way, want a connection", err, name)
		} else {
			conn.Close()
		}
		l.Close()
	}
	if err := os.Symlink(secret, "swapped"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"swapped", secret} {
		if err := openToAll(path); err == nil {
			t.Errorf("got %s opened to everybody, want a socket alone", path)
		}
	}
	if info, err := os.Stat(secret); err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v, %v, want a secret for its owner alone", info.Mode(), err)
	}
}

// lossless is a kernel that knows of no connection.
type lossless struct{ kernel }

func (lossless) Origin(string, net.Conn) (redirect.Origin, error) {
	return redirect.Origin{}, errors.New("no record")
}

func TestAgentThatTakesWhatItWasNotGivenHoldsNobodyUp(t *testing.T) {
	g := newGate(Options{Log: quietLog()}, lossless{})
	p := newPod("p", time.Now())
	gates, _ := pair(t)
	s := newSession(gates)
	slots, ok := p.doors.take(s, nil)
	if !ok {
		t.Fatal("got a session that is over, want one")
	}
	into := entry{pod: p, sandbox: g.newSandbox(), session: s, slots: slots}
	conn, _ := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		into.slots <- struct{}{}
		p.doors.took(s) // before it got one
		g.handOver(into, conn)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("got a listener that waits, want the connection closed and the next one accepted")
	}
	if got := into.sandbox.lost.Load(); got != 1 {
		t.Errorf("got %d connections lost, want 1", got)
	}
}

// deserted is a kernel whose connections have lost their clients.
type deserted struct{ kernel }

func (deserted) Origin(string, net.Conn) (redirect.Origin, error) {
	return redirect.Origin{}, fmt.Errorf("origin: %w", redirect.ErrGone)
}

// TestClientsThatGaveUpAreNotLost: what was closed before it was accepted is not
// what somebody did unseen.
func TestClientsThatGaveUpAreNotLost(t *testing.T) {
	g := newGate(Options{Log: quietLog()}, deserted{})
	p := newPod("p", time.Now())
	gates, _ := pair(t)
	s := newSession(gates)
	slots, ok := p.doors.take(s, nil)
	if !ok {
		t.Fatal("got a session that is over, want one")
	}
	into := entry{pod: p, sandbox: g.newSandbox(), session: s, slots: slots}
	conn, _ := net.Pipe()
	into.slots <- struct{}{}
	g.handOver(into, conn)
	if lost, givenUp := into.sandbox.lost.Load(), into.sandbox.givenUp.Load(); lost != 0 || givenUp != 1 {
		t.Errorf("got %d connections lost and %d given up, want 0 and 1", lost, givenUp)
	}
	if got := len(slots); got != 0 {
		t.Errorf("got %d connections that the agent has not taken, want 0", got)
	}
}

func TestWhatTheAgentSaysIsLoggedShort(t *testing.T) {
	n := newNode(t)
	p := n.newPod(t)
	long := strings.Repeat("x", 1<<20)
	for _, sent := range [][]byte{
		call(long, "{}"), call(opSocket, fmt.Sprintf(`{"network":%q}`, long[:2000])), frame(`{"id":` + strings.Repeat("7", 1<<20) + `}`),
	} {
		conn := n.connect(t, "gate/agent", agentID)
		conn.Write(sent) // it may be cut off in the middle
		conn.CloseWrite()
		var buf [4096]byte
		for {
			if _, err := conn.Read(buf[:]); err != nil {
				break
			}
		}
		conn.Close()
		n.expectServed(t, p)
	}
	n.end(t, syscall.SIGTERM)
	if got := len(n.log.String()); got > 64<<10 {
		t.Errorf("got %d bytes of log, want no more than 64 KiB", got)
	}
}

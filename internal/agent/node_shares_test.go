package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/internal/trust"
	"postern.dev/postern/proxy"
	"postern.dev/postern/proxy/postgres"
	"postern.dev/postern/testenv"
)

// What a pod has in this test: little enough to be exceeded in moments, by one that
// does little else, and more than the quiet one needs.
var tested = proxy.Limits{
	Connections: 24, Turned: 4, Connects: proxy.Rate{Burst: 200, PerSecond: 1}, LogIns: proxy.Rate{Burst: 100, PerSecond: 1},
	LookUps: proxy.Rate{Burst: 40, PerSecond: 1}, Trail: proxy.Rate{Burst: 4 << 20, PerSecond: 64 << 10}, Memory: 24 << 20,
}

const sharesPolicy = `apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec:
  protocol: postgres
  hosts: [127.0.0.1]
  ports: [%d]
  tls: {ca: {file: %s}}
  credential: {file: %s}
  sensitive: [{columns: ["*.ssn"], mask: redact}]
---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: agents}
spec: {subjects: [{users: ["linux:ada"]}], targets: [db], record: full, durability: relaxed, rules: [{name: all, allow: [ALL], functions: ["*.*"]}]}
`

// twoPods are two workloads of one agent with one database. Each has a listener of
// its own, as pods have.
type twoPods struct {
	*recorder

	target        *policy.Target
	server        *testenv.Postgres
	quiet, greedy net.Listener
	attacker      atomic.Pointer[string] // UID of the greedy pod: another for each attack

	mu      sync.Mutex
	refused map[string][]string // by UID
}

func (p *twoPods) Owner(conn net.Conn) audit.Workload {
	if conn.LocalAddr().String() == p.greedy.Addr().String() {
		return audit.Workload{UID: *p.attacker.Load(), Cgroup: 1}
	}
	return audit.Workload{UID: "quiet", Cgroup: 2}
}

func (p *twoPods) Origin(conn net.Conn) (proxy.Origin, error) {
	return proxy.Origin{Dialled: netip.MustParseAddrPort(p.server.Address()), Workload: p.Owner(conn)}, nil
}

func (*twoPods) Identify(context.Context, proxy.Origin) (identity.Identity, error) {
	return identity.Linux("ada", nil), nil
}

func (*twoPods) Pod(proxy.Origin) *policy.PodSubject { return nil }

func (p *twoPods) Lookup(_ context.Context, dialled netip.AddrPort) (proxy.Destination, bool) {
	return proxy.Destination{Target: p.target, Host: "127.0.0.1", Address: dialled}, true
}

// hear keeps what was refused to whom.
func (p *twoPods) hear(r *audit.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	message := ""
	switch {
	case r.Refusal != nil:
		message = r.Refusal.Message
	case r.Decision != nil:
		message = r.Decision.Reason
	}
	p.refused[r.Workload.UID] = append(p.refused[r.Workload.UID], message)
}

// told tells whether a pod was refused with a word.
func (p *twoPods) told(uid, word string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.refused[uid], func(message string) bool { return strings.Contains(message, word) })
}

func url(l net.Listener) string {
	return fmt.Sprintf("postgres://anybody:wrong@%s/postgres?sslmode=disable", l.Addr())
}

func newTwoPods(t *testing.T) *twoPods {
	t.Helper()
	a, stop := newRecording(t, t.TempDir())
	p := &twoPods{recorder: a.recorder, server: testenv.StartPostgres(t), refused: make(map[string][]string)}
	p.denied = p.hear
	p.server.MustExec(t, "postgres", "CREATE ROLE app LOGIN PASSWORD 'known'; CREATE TABLE people (id int, ssn text); GRANT ALL ON people TO app")
	login := filepath.Join(t.TempDir(), "login")
	if err := os.WriteFile(login, []byte("{username: app, password: known}"), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.Parse("policy.yaml", fmt.Appendf(nil, sharesPolicy, p.server.Port, p.server.CAFile, login))
	if err != nil {
		t.Fatal(err)
	}
	p.target, _ = set.Target("db")
	p.serve(t, set, stop)
	return p
}

// serve starts the agent's part that reads what pods send.
func (p *twoPods) serve(t *testing.T, set *policy.Set, stopTrail func()) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	ca, err := trust.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	parser := sql.New(sql.Options{Workers: 1}) // each takes seconds to compile
	if err := parser.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	handler, err := postgres.New(postgres.Config{
		Policy: func() *policy.Set { return set }, Targets: p, Identifier: p, Credentials: credential.NewFiles(65534),
		Parser: parser, CA: ca, Metrics: p.metrics, Log: log,
		Dial: func(ctx context.Context, _ proxy.Origin, to proxy.Destination) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", to.Address.String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := proxy.New(proxy.Config{
		Handler: handler, Origins: p, Recorder: p, Metrics: metrics.New(), Log: log, Shares: proxy.NewShares(tested),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	for _, l := range []*net.Listener{&p.quiet, &p.greedy} {
		if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []net.Listener{p.quiet, p.greedy} {
		serving.Go(func() {
			if err := server.Serve(ctx, ctx, l); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		if err := errors.Join(handler.Close(), parser.Close()); err != nil {
			t.Error(err)
		}
		stopTrail()
	})
}

// work is what the quiet pod does: sessions with some statements each, all of which
// succeed. It gives how long each of them took.
func (p *twoPods) work(t *testing.T) []time.Duration {
	t.Helper()
	var took []time.Duration
	for range 4 {
		conn, err := pgconn.Connect(t.Context(), url(p.quiet))
		if err != nil {
			t.Fatalf("got %v for a log-in of the quiet pod, want it let in", err)
		}
		for i := range 25 {
			start := time.Now()
			if _, err := conn.Exec(t.Context(), fmt.Sprintf("SELECT ssn, %d FROM people", i)).ReadAll(); err != nil {
				t.Fatalf("got %v for a statement of the quiet pod, want it run", err)
			}
			took = append(took, time.Since(start))
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(took)
	return took
}

// attacks are what the greedy pod does in each of its goroutines, again and again,
// by the name of the share that it exceeds by that. A parser's turn is not refused
// but waited for.
func attacks() map[string]attack {
	return map[string]attack{
		"connections": {goroutines: tested.Connections + tested.Turned, do: halfOpen},
		"connects":    {goroutines: 4, do: churn},
		"log-ins":     {goroutines: 4, do: logIns},
		"look-ups":    {goroutines: 4, do: look},
		"the trail":   {goroutines: 4, do: chatter},
		"memory":      {goroutines: 4, do: longTexts},
		"parser time": {goroutines: 4, do: parse, waits: true},
	}
}

// attack is what so many goroutines do at once.
type attack struct {
	goroutines int
	do         func(context.Context, net.Listener)
	waits      bool // for its turn: it is not refused
}

// halfOpen says nothing, and another asks for a database then.
func halfOpen(ctx context.Context, l net.Listener) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return
	}
	defer conn.Close()
	logIns(ctx, l)
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

func churn(ctx context.Context, l net.Listener) {
	if conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String()); err == nil {
		conn.Close()
	}
}

func logIns(ctx context.Context, l net.Listener) {
	if conn, err := pgconn.Connect(ctx, url(l)); err == nil {
		conn.Close(ctx)
	}
}

// session runs statements one after the other until one ends it, or all have run.
func session(ctx context.Context, l net.Listener, statement func(i int) string) {
	conn, err := pgconn.Connect(ctx, url(l))
	if err != nil {
		return
	}
	defer conn.Close(ctx)
	for i := 0; i < 1000 && !conn.IsClosed() && ctx.Err() == nil; i++ {
		conn.Exec(ctx, statement(i)).Close()
	}
}

// drawn numbers texts, so that nobody had one before.
var drawn atomic.Int64

func look(ctx context.Context, l net.Listener) {
	session(ctx, l, func(int) string { return fmt.Sprintf("SELECT * FROM nowhere%d", drawn.Add(1)) })
}

func chatter(ctx context.Context, l net.Listener) {
	text := strings.Repeat("x", 60<<10)
	session(ctx, l, func(int) string { return "SELECT length('" + text + "')" })
}

func parse(ctx context.Context, l net.Listener) {
	session(ctx, l, func(int) string {
		return fmt.Sprintf("SELECT %d WHERE 1 IN (1%s)", drawn.Add(1), strings.Repeat(", 2", 5_000))
	})
}

// longTexts sends most of a text as long as they may be, and waits.
func longTexts(ctx context.Context, l net.Listener) {
	conn, err := pgconn.Connect(ctx, url(l))
	if err != nil {
		return
	}
	defer conn.Close(ctx)
	raw, err := conn.Hijack()
	if err != nil {
		return
	}
	defer raw.Conn.Close()
	defer context.AfterFunc(ctx, func() { raw.Conn.SetDeadline(time.Unix(1, 0)) })()
	const size = 16 << 20
	if _, err := raw.Conn.Write(binary.BigEndian.AppendUint32([]byte{'Q'}, size)); err != nil {
		return
	}
	if _, err := raw.Conn.Write(bytes.Repeat([]byte{'x'}, size/2+1)); err != nil {
		return
	}
	front := pgproto3.NewFrontend(raw.Conn, raw.Conn)
	for err == nil { // until it is refused, or the test has seen enough
		_, err = front.Receive()
	}
}

func percentiles(took []time.Duration) (p50, p99 time.Duration) {
	return took[len(took)/2], took[len(took)*99/100]
}

func TestOnePodThatExceedsItsSharesLeavesAnotherItsOwn(t *testing.T) {
	p := newTwoPods(t)
	p.work(t)
	idle50, idle99 := percentiles(p.work(t))
	for share, attack := range attacks() {
		t.Run("of "+share, func(t *testing.T) {
			uid := "greedy for " + share
			p.attacker.Store(&uid)
			ctx, cancel := context.WithCancel(t.Context())
			var attackers sync.WaitGroup
			for range attack.goroutines {
				attackers.Go(func() {
					for ctx.Err() == nil {
						attack.do(ctx, p.greedy)
					}
				})
			}
			defer p.drain(t)
			defer attackers.Wait()
			defer cancel()
			took := p.work(t)
			if !attack.waits {
				p.eventuallyTold(t, uid, share)
			}
			took = append(took, p.work(t)...)
			slices.Sort(took)
			p50, p99 := percentiles(took)
			t.Logf("the quiet pod beside it: p50 %.1f times, p99 %.1f times what it is alone",
				float64(p50)/float64(idle50), float64(p99)/float64(idle99))
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := p.refused["quiet"]; len(got) != 0 {
		t.Errorf("got the quiet pod refused %q, want it let go on", got)
	}
	for uid, refused := range p.refused {
		kinds := make(map[string]bool)
		for _, message := range refused {
			if !strings.Contains(message, "this pod has its share of") || strings.Contains(message, "look-ups") {
				continue // statements have a record each, within the share of the trail
			}
			if kinds[message] {
				t.Errorf("got %q recorded again for the pod that is %s, want it counted", message, uid)
			}
			kinds[message] = true
		}
	}
}

// drain waits until what the greedy pod has opened is accepted: it would count for
// its next attack.
func (p *twoPods) drain(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("tcp", p.greedy.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v behind all that was opened, want the end", err)
	}
}

// eventuallyTold waits until the greedy pod was refused for a share.
func (p *twoPods) eventuallyTold(t *testing.T, uid, share string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !p.told(uid, "this pod has its share of "+share); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got no refusal for the share of %s for a minute", share)
		}
	}
}

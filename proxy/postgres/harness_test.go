package postgres

import (
	"bytes"
	"context"
	"encoding/json"
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
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/internal/trust"
	"postern.dev/postern/proxy"
	"postern.dev/postern/testenv"
)

// guarded is a handler behind a listener of its own, in front of a real server.
// Its clients are a workload that the test describes.
type guarded struct {
	*testDatabase
	address string // that clients connect to
	trail   *trail
	handler *Handler
	ca      *trust.CA
	policy  atomic.Pointer[policy.Set]
	loaded  string // the documents of the policy in force
	origin  atomic.Pointer[proxy.Origin]
	who     atomic.Pointer[identity.Identity]
	pod     atomic.Pointer[policy.PodSubject]
	drain   context.CancelFunc // ends every session
	instead atomic.Value       // address of another server that is dialled, a string
}

// appPassword is what the server knows the role app by; no client ever has it.
const appPassword = "only-postern-knows"

// allowAll is a policy that lets everything pass that can be read.
const allowAll = `{name: all, allow: [ALL], functions: ["*.*"]}`

// guard starts a handler in front of db.
//
// Shape: target and access are fields of the Target's and the AccessPolicy's spec,
// in YAML; rules are the policy's.
func guard(t testing.TB, db *testDatabase, target, access string, rules ...string) *guarded {
	t.Helper()
	g := &guarded{testDatabase: db, trail: &trail{}}
	login := filepath.Join(t.TempDir(), "login.yaml")
	if err := os.WriteFile(login, []byte("{username: app, password: "+appPassword+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(target, "credential:") {
		target += "\n  credential: {file: " + login + "}"
	}
	if !strings.Contains(target, "tls:") {
		target += "\n  tls: {ca: {file: " + db.CAFile + "}}"
	}
	g.load(t, g.documents(target, access, rules...))
	var err error
	if g.ca, err = trust.NewCA("test"); err != nil {
		t.Fatal(err)
	}
	g.origin.Store(&proxy.Origin{
		Dialled:  netip.MustParseAddrPort(db.Address()),
		Workload: audit.Workload{PID: 7, Process: "client", LinuxUID: 1000, LinuxUser: "ada", Cgroup: 42, Verified: "kernel"},
	})
	who := identity.Linux("ada", nil)
	g.who.Store(&who)
	g.serve(t)
	return g
}

func (g *guarded) documents(target, access string, rules ...string) string {
	return fmt.Sprintf(`apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec:
  protocol: postgres
  hosts: [127.0.0.1]
  ports: [%d]
  %s
---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: agents}
spec:
  subjects: [{users: ["linux:ada"]}]
  targets: [db]
  %s
  rules:
    - %s
`, g.Port, target, access, strings.Join(rules, "\n    - "))
}

// load puts a policy into force.
func (g *guarded) load(t testing.TB, documents string) {
	t.Helper()
	set, err := policy.Parse("policy.yaml", []byte(documents))
	if err != nil {
		t.Fatal(err)
	}
	g.policy.Store(set)
	g.loaded = documents
}

func (g *guarded) serve(t testing.TB) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	if testing.Verbose() {
		log.SetOutput(t.Output())
		log.SetLevel(logrus.DebugLevel)
	}
	m := metrics.New()
	var err error
	g.handler, err = New(Config{
		Policy:      g.policy.Load,
		Targets:     g,
		Identifier:  g,
		Credentials: credential.NewFiles(65534),
		Parser:      parser(t),
		CA:          g.ca,
		Dial: func(ctx context.Context, _ proxy.Origin, to proxy.Destination) (net.Conn, error) {
			if instead, ok := g.instead.Load().(string); ok {
				return (&net.Dialer{}).DialContext(ctx, "tcp", instead)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", to.Address.String())
		},
		Metrics: m,
		Log:     log,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = l.Addr().String()
	server := proxy.New(proxy.Config{Handler: g.handler, Origins: g, Recorder: g.trail, Metrics: m, Log: log})
	accepting, stop := context.WithCancel(context.Background())
	sessions, drain := context.WithCancelCause(context.Background())
	g.drain = func() { stop(); drain(fmt.Errorf("the agent restarts")) }
	done := make(chan error, 1)
	go func() { done <- server.Serve(accepting, sessions, l) }()
	t.Cleanup(func() {
		g.drain()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("got sessions that do not end, want them to end when told")
		}
		g.handler.Close()
		g.trail.mu.Lock()
		defer g.trail.mu.Unlock()
		for _, err := range g.trail.invalid {
			t.Errorf("got a record that is not as the schema says: %v", err)
		}
	})
}

func (*guarded) Owner(net.Conn) audit.Workload { return audit.Workload{} }

func (g *guarded) Origin(net.Conn) (proxy.Origin, error) {
	if o := g.origin.Load(); o != nil {
		return *o, nil
	}
	return proxy.Origin{}, fmt.Errorf("no origin")
}

// Pod is [proxy.Identifier]'s.
func (g *guarded) Pod(proxy.Origin) *policy.PodSubject { return g.pod.Load() }

func (g *guarded) Identify(context.Context, proxy.Origin) (identity.Identity, error) {
	if who := g.who.Load(); who != nil {
		return *who, nil
	}
	return identity.Identity{}, &identity.Error{Reason: identity.Expired, Message: "the token has expired"}
}

func (g *guarded) Lookup(_ context.Context, dialled netip.AddrPort) (proxy.Destination, bool) {
	target, ok := g.policy.Load().Target("db")
	if !ok || dialled.String() != g.Address() {
		return proxy.Destination{}, false
	}
	return proxy.Destination{Target: target, Host: "127.0.0.1", Address: dialled}, true
}

// url is the DSN of a client that has no password worth the name.
func (g *guarded) url(options string) string {
	return fmt.Sprintf("postgres://anybody:wrong@%s/%s?%s", g.address, g.database, options)
}

// connect is a client that is in.
func (g *guarded) connect(t testing.TB, options string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), g.url(options))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// testDatabase is a real server and a database of the test's own on it.
type testDatabase struct {
	*testenv.Postgres
	database string
}

// startServer gives a database that the role app may do anything in. The server
// is shared by all tests of the package.
func startServer(t testing.TB) *testDatabase {
	t.Helper()
	shared.server.Do(func() { shared.postgres, shared.err = testenv.RunPostgres(context.Background()) })
	testenv.Need(t, shared.err == nil, fmt.Sprintf("PostgreSQL server as root (apt-get install postgresql): %v", shared.err))
	s := &testDatabase{Postgres: shared.postgres, database: fmt.Sprintf("test%d", shared.databases.Add(1))}
	if s.database == "test1" {
		s.MustExec(t, "postgres", "CREATE ROLE app LOGIN PASSWORD '"+appPassword+"'")
	}
	s.MustExec(t, "postgres", "CREATE DATABASE "+s.database+" OWNER app")
	return s
}

// shared is what takes seconds to make.
var shared struct {
	server    sync.Once
	postgres  *testenv.Postgres
	err       error
	databases atomic.Int32

	compiling sync.Once
	parser    *sql.Parser
	broken    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.postgres != nil {
		if err := shared.postgres.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// parser is shared by all tests.
func parser(t testing.TB) *sql.Parser {
	t.Helper()
	shared.compiling.Do(func() {
		shared.parser = sql.New(sql.Options{})
		shared.broken = shared.parser.Warm(context.Background())
	})
	if shared.broken != nil {
		t.Fatal(shared.broken)
	}
	return shared.parser
}

// trail is an audit trail in memory.
type trail struct {
	mu      sync.Mutex
	records []audit.Record
	waited  map[int64]bool
	fail    error   // of every Append from now on
	lose    error   // of every Wait from now on
	invalid []error // of records that are not as the schema says
}

func (r *trail) Append(record *audit.Record) (int64, error) {
	line, err := json.Marshal(record)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	var kept audit.Record
	if err := json.Unmarshal(line, &kept); err != nil {
		return 0, err
	}
	if kept.ID == "" {
		kept.ID = audit.NewID()
	}
	r.records = append(r.records, kept)
	if err := validate(kept); err != nil {
		r.invalid = append(r.invalid, err)
	}
	return int64(len(r.records)), nil
}

func (*trail) Count(*audit.Record) {}

func (r *trail) Wait(_ context.Context, index int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waited == nil {
		r.waited = make(map[int64]bool)
	}
	r.waited[index] = true
	return r.lose
}

// validate checks a record, and what the log adds to it, against the schema.
func validate(r audit.Record) error {
	r.Log, r.Node, r.Agent, r.Time = "node/log", "node", "test", time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		return err
	}
	schema, err := recordSchema()
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// recordSchema is the schema of records, compiled.
var recordSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(audit.Schema))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("record.json", document); err != nil {
		return nil, err
	}
	return c.Compile("record.json")
})

// all gives the records so far.
func (r *trail) all() []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.records)
}

// of gives the records of a kind, once there are n of them.
func (r *trail) of(t testing.TB, kind audit.Kind, n int) []audit.Record {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		var found []audit.Record
		for _, record := range r.all() {
			if record.Kind == kind {
				found = append(found, record)
			}
		}
		if len(found) >= n {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d records of kind %s, want %d", len(found), kind, n)
		}
		time.Sleep(time.Millisecond)
	}
}

// waitedFor tells whether anybody waited for the disk to have the record of a kind with this number, from 0.
func (r *trail) waitedFor(kind audit.Kind, number int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, record := range r.records {
		if record.Kind != kind {
			continue
		}
		if number == 0 {
			return r.waited[int64(i+1)]
		}
		number--
	}
	return false
}

// failing makes every Append from now on fail, or none.
func (r *trail) failing(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// losing makes every Wait from now on fail.
func (r *trail) losing(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose = err
}

// denials counts the requests that were refused.
func (r *trail) denials() int {
	n := 0
	for _, record := range r.all() {
		if record.Kind == audit.KindRequest && record.Decision.Action == policy.Deny.String() {
			n++
		}
	}
	return n
}

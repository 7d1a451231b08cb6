package postgres

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	v2 "github.com/jackc/pgproto3/v2"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/proxy"
)

// addHostile seeds a target with the bodies of the hostile messages.
func addHostile(f *testing.F) {
	for _, payload := range hostile() {
		f.Add(payload)
		if len(payload) > header {
			f.Add(payload[header:])
		}
	}
}

func FuzzReader(f *testing.F) {
	addHostile(f)
	f.Add(append(message('Q', 'a', 0), message('S')...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := newReader(&trickle{stream}, 64, nil, nil)
		var out bytes.Buffer
		for i := 0; ; i++ {
			f, err := in.next()
			if err != nil {
				break
			}
			if i%2 == 0 {
				err = in.pass(&out, header+f.size)
			} else {
				var whole []byte
				whole, err = in.message(f, 1<<10)
				out.Write(whole)
			}
			if err != nil {
				break
			}
		}
		if !bytes.HasPrefix(stream, out.Bytes()) {
			t.Errorf("got %q out of %q, want its beginning", out.Bytes(), stream)
		}
	})
}

// trickle gives its bytes a few at a time.
type trickle struct{ rest []byte }

func (r *trickle) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest[:min(3, len(r.rest))])
	r.rest = r.rest[n:]
	return n, nil
}

func FuzzStartup(f *testing.F) {
	addHostile(f)
	f.Add([]byte("\x00\x03\x00\x00user\x00ada\x00options\x00-c a=b\x00\x00"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		got, err := parseStartup(packet)
		if err != nil {
			return
		}
		_, _ = got.settings()
		if got.version != protocol30 || len(got.unknown) > 0 {
			return
		}
		var other pgproto3.StartupMessage
		if other.Decode(packet) != nil {
			return
		}
		if len(got.parameters) != len(other.Parameters) {
			return // a name is there twice: the decoders choose another one
		}
		for name, want := range other.Parameters {
			if got.get(name) != want {
				t.Errorf("got %s=%q, want %q", name, got.get(name), want)
			}
		}
	})
}

func FuzzBind(f *testing.F) {
	addHostile(f)
	f.Add([]byte("portal\x00statement\x00\x00\x01\x00\x01\x00\x02\xff\xff\xff\xff\x00\x00\x00\x01x\x00\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		portal, name, values, err := readBind(body, len(body), policy.RecordFull)
		var other pgproto3.Bind
		if otherErr := other.Decode(body); err == nil && otherErr == nil {
			if portal != other.DestinationPortal || name != other.PreparedStatement || len(values.shown) != len(other.Parameters) {
				t.Errorf("got %q %q and %d values, want %q %q and %d", portal, name, len(values.shown),
					other.DestinationPortal, other.PreparedStatement, len(other.Parameters))
			}
		}
		if err == nil && values.truncated {
			t.Error("got a whole message truncated, want all of it")
		}
		// A head shows nothing that the whole does not.
		head := body[:len(body)/2]
		if _, _, some, err := readBind(head, len(body), policy.RecordFull); err == nil && len(some.shown) > 0 && len(values.shown) >= len(some.shown) && some.shown[0] != values.shown[0] {
			t.Errorf("got %q in a head, want %q", some.shown[0], values.shown[0])
		}
	})
}

func FuzzNamesAndTexts(f *testing.F) {
	addHostile(f)
	f.Add([]byte("Sname\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		portal, name, err := readTarget(body)
		var describe v2.Describe
		if err == nil && (describe.Decode(body) != nil || describe.Name != name || describe.ObjectType == 'P' != portal) {
			t.Errorf("got %q (portal=%v), want %+v", name, portal, describe)
		}
		text, rest, ok := cutString(body)
		var query pgproto3.Query
		if ok && len(rest) == 0 && (query.Decode(body) != nil || query.String != text) {
			t.Errorf("got %q, want %q", text, query.String)
		}
	})
}

func FuzzWithhold(f *testing.F) {
	addHostile(f)
	encoded, _ := (&pgproto3.ErrorResponse{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "23505", Message: "secret", Detail: "secret",
		Hint: "secret", Where: "secret", InternalQuery: "secret", ConstraintName: "users_ssn_key",
	}).Encode(nil)
	f.Add(encoded[header:])
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := withhold(nil, message('E', body...))
		if err != nil {
			return
		}
		fields, err := readError(got[header:])
		if err != nil {
			t.Fatalf("got %q, which cannot be read: %v", got, err)
		}
		var old v2.ErrorResponse
		var shown pgproto3.ErrorResponse
		if old.Decode(got[header:]) != nil || shown.Decode(got[header:]) != nil {
			t.Fatalf("got %q, which another decoder refuses", got)
		}
		if old.Code != shown.Code || shown.Code != fields.code {
			t.Errorf("got codes %q, %q and %q, want one", fields.code, shown.Code, old.Code)
		}
		if shown.Detail != "" || shown.Hint != "" || shown.Where != "" || shown.InternalQuery != "" || len(shown.UnknownFields) > 0 {
			t.Errorf("got %+v, want nothing that may hold a value", shown)
		}
	})
}

func FuzzWithoutPayload(f *testing.F) {
	addHostile(f)
	f.Add([]byte("\x00\x00\x00\x07news\x00secret\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := withoutPayload(nil, body)
		if err != nil {
			return
		}
		var before, after pgproto3.NotificationResponse
		if before.Decode(body) != nil || after.Decode(got[header:]) != nil {
			t.Fatalf("got %q of %q, want what other decoders take", got, body)
		}
		if after.PID != before.PID || after.Channel != before.Channel || after.Payload != "" {
			t.Errorf("got %+v of %+v, want all but its payload", after, before)
		}
	})
}

// FuzzServer lets a server that logged Postern in answer with anything.
func FuzzServer(f *testing.F) {
	addHostile(f)
	f.Add(append(message('T', 0, 0), append(message('C', 'S', 0), message('Z', 'I')...)...))
	f.Add(append(message('1'), append(message('2'), append(message('n'), append(message('C', 'S', 0), message('Z', 'T')...)...)...)...))
	f.Add(append(message('G', 0, 0, 0), message('E', 'V', 'E', 'R', 'R', 'O', 'R', 0, 'C', '5', '7', 0, 0)...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		s := fuzzSession(t, nil)
		for _, e := range []*expected{
			{reply: replyQuery, request: &request{}, statement: script()},
			{reply: replyParse}, {reply: replyBind, portal: &portal{}}, {reply: replyDescribe, ours: true, portal: &portal{}},
			{reply: replyExecute, request: &request{}, portal: &portal{}}, {reply: replySync},
			{reply: replyCall, request: &request{denied: "no"}}, {reply: endOfCopy},
		} {
			mustPush(t, s.queue, e)
		}
		s.upstream = &silent{reader: &trickle{stream}}
		if err := s.fromServer(t.Context()); err == nil {
			t.Error("got no error, want one when the server has nothing more to say")
		}
	})
}

// FuzzClient lets a client that is logged in send anything.
func FuzzClient(f *testing.F) {
	addHostile(f)
	for _, payload := range hostile() {
		f.Add(append(message('P', []byte("s\x00SELECT 1\x00\x00\x00")...), payload...))
	}
	statements := parser(f) // takes longer than an input may
	f.Fuzz(func(t *testing.T, stream []byte) {
		s := fuzzSession(t, statements)
		s.in = newReader(&trickle{stream}, clientBuffer, s.up.Flush, nil)
		// A message that waits for an answer would wait for ever.
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		defer context.AfterFunc(ctx, func() { s.queue.close(errOver) })()
		if err := s.fromClient(ctx); err == nil && !s.farewell {
			t.Error("got no error, want one when the client is gone")
		}
	})
}

// fuzzSession is a session that is logged in, without a server.
func fuzzSession(t *testing.T, statements *sql.Parser) *session {
	t.Helper()
	set, err := fuzzSet()
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := &Handler{config: Config{Policy: func() *policy.Set { return set }, Identifier: new(guarded), Parser: statements, Metrics: fuzzMetrics(), Log: log}}
	s := newSession(h, proxy.NewSession(&silent{}, proxy.Origin{}, &trail{}, h.config.Metrics))
	s.target, _ = set.Target("db")
	s.set, s.view = set, set.View("db", policy.Subject{User: "linux:ada"})
	if err := s.admit(); err != nil {
		t.Fatal(err)
	}
	s.values = newValues()
	s.gate = &gate{conn: &silent{}, wait: func(int64) error { return nil }}
	s.down = bufio.NewWriter(s.gate)
	s.up = bufio.NewWriter(io.Discard)
	return s
}

// What a fuzzed session needs, and an input does not change, is made once.
var (
	fuzzSet     = sync.OnceValues(func() (*policy.Set, error) { return policy.Parse("policy.yaml", []byte(fuzzPolicy)) })
	fuzzMetrics = sync.OnceValue(metrics.New)
)

const fuzzPolicy = `apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: db}
spec: {protocol: postgres, hosts: [127.0.0.1], credential: {client: true}}
---
apiVersion: postern.dev/v1alpha1
kind: AccessPolicy
metadata: {name: agents}
spec: {subjects: [{users: ["linux:ada"]}], targets: [db], rules: [{name: reads, allow: [SELECT]}]}
`

// silent is a connection that takes everything and has nothing to say but what reader gives.
type silent struct {
	net.Conn
	reader io.Reader
}

func (c *silent) Read(p []byte) (int, error) {
	if c.reader == nil {
		return 0, io.EOF
	}
	return c.reader.Read(p)
}
func (c *silent) Write(p []byte) (int, error)      { return len(p), nil }
func (c *silent) Close() error                     { return nil }
func (c *silent) SetDeadline(time.Time) error      { return nil }
func (c *silent) SetReadDeadline(time.Time) error  { return nil }
func (c *silent) SetWriteDeadline(time.Time) error { return nil }

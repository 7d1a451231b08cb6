package postgres

import (
	"bufio"
	"context"
	"errors"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/proxy"
)

// A phase does one step of the session and names the next; nil ends it.
type phase func(context.Context) (phase, error)

// session is one connection of a client, and the one of Postern's that serves it.
//
// Shape: phases run one after the other. While relaying there are two loops: what
// is not fixed by then belongs to one of them, as relay.go says.
type session struct {
	*Handler
	conn *proxy.Session
	log  logrus.FieldLogger

	client net.Conn // conn.Conn, or TLS over it
	in     *reader
	tls    bool
	asked  *startup

	who         identity.Identity
	target      *policy.Target
	source      policy.TargetCredential // of the login
	database    string
	access      access
	settings    []parameter
	catalog     *catalog
	detection   *detection // nil where the Target has no detectors
	key         cancelKey
	counted     bool
	farewell    bool // the client took its leave
	doomed      bool // a refused message makes the server ignore everything before the next Sync
	path        *searchPath
	shadows     *shadows
	set         *policy.Set
	pod         *policy.PodSubject
	view        *policy.View
	durable     policy.Durability // of view, as keep is
	keep        policy.Record
	queue       *queue
	upstream    net.Conn
	pg          *pgconn.PgConn
	up          *bufio.Writer // to the server
	down        *bufio.Writer // to the client
	gate        *gate
	values      *values
	status      byte
	unsettled   bool // DDL in a transaction that has not ended
	reported    []parameter
	recent      map[*sql.Script]*statement
	recentBytes int
	row         []byte // the row that is being masked
	last        string // SQLSTATE with which the server ended the session
}

func newSession(h *Handler, conn *proxy.Session) *session {
	s := &session{
		Handler: h,
		conn:    conn,
		log:     h.config.Log.WithField("session", conn.ID),
		client:  conn.Conn,
		in:      newReader(conn.Conn, clientBuffer, nil, conn.Share()),
		queue:   newQueue(),
		recent:  make(map[*sql.Script]*statement),
	}
	s.queue.share, s.queue.names.share = conn.Share(), conn.Share()
	return s
}

// run carries the session from its first byte to its last.
func (s *session) run(ctx context.Context) (err error) {
	defer context.AfterFunc(ctx, s.interrupt)() // a read cannot wait for ctx
	defer func() { err = errors.Join(err, s.finish(ctx, err)) }()
	s.expect(ctx, time.Now().Add(startupTimeout))
	for next := phase(s.negotiate); next != nil && err == nil; {
		next, err = next(ctx)
	}
	return err
}

// interrupt wakes whoever reads or writes. A message that is under way still has
// a moment to get through, for the last one to follow it.
func (s *session) interrupt() {
	s.conn.Conn.SetReadDeadline(time.Unix(1, 0))
	s.conn.Conn.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
}

// identify is the phase that finds out who asks for what.
func (s *session) identify(ctx context.Context) (phase, error) {
	user := s.asked.get("user")
	s.database = s.asked.get("database")
	if s.database == "" {
		s.database = user
	}
	s.conn.Claimed(audit.Claimed{ApplicationName: s.asked.get("application_name"), User: user})
	if turned := s.conn.Turned(); turned != nil {
		return nil, turnedAway(turned)
	}
	if user == "" {
		return nil, refused(metrics.Protocol, stateNotAuthorized, "the startup packet names no user")
	}
	destination, ok := s.config.Targets.Lookup(ctx, s.conn.Origin.Dialled)
	if !ok {
		return nil, refused(metrics.UnknownHost, stateDenied,
			"%s belongs to no target: ask for it to be added to one, or for unknownHosts: pass", s.conn.Origin.Dialled)
	}
	s.target = destination.Target
	s.access = access{
		pristine: s.pristine, dial: s.config.Dial, credentials: s.config.Credentials,
		origin: s.conn.Origin, destination: destination, database: s.database,
	}
	s.conn.Reached(s.reached())
	var err error
	if s.detection, err = newDetection(s.target.Sensitive()); err != nil {
		return nil, err
	}
	who, err := s.config.Identifier.Identify(ctx, s.conn.Origin)
	if err != nil {
		return nil, identityRefusal(err)
	}
	s.who = who
	s.conn.Identified(who)
	return s.authorize, nil
}

// identityRefusal says why an identity is not proven, where that may be said.
func identityRefusal(err error) error {
	var turned *proxy.Refused
	if errors.As(err, &turned) {
		return turnedAway(turned)
	}
	var unproven *identity.Error
	if errors.As(err, &unproven) {
		return refused(metrics.Identity, stateNotAuthorized, "identity is not proven: %s", unproven.Message).because(err)
	}
	return refused(metrics.Identity, stateNotAuthorized, "identity is not proven").because(err)
}

// authorize is the phase that asks the policies, before any byte goes to the server.
func (s *session) authorize(ctx context.Context) (phase, error) {
	s.set, s.pod = s.config.Policy(), s.config.Identifier.Pod(s.conn.Origin)
	s.view = s.set.View(s.target.Name(), s.subject())
	if err := s.admit(); err != nil {
		return nil, err
	}
	s.conn.Claimed(audit.Claimed{ApplicationName: s.forTrail(s.asked.get("application_name")), User: s.asked.get("user")})
	settings, err := s.asked.settings()
	if err != nil {
		return nil, err
	}
	if err := s.decideSettings(ctx, settings); err != nil {
		return nil, err
	}
	if s.sessions.Add(1) > int64(s.config.MaxSessions) {
		s.sessions.Add(-1)
		return nil, refused(metrics.Busy, stateTooManySessions, "too many sessions")
	}
	s.counted = true
	if err := s.fetchCredential(ctx); err != nil {
		return nil, err
	}
	s.access.parameters = make(map[string]string)
	for _, p := range s.asked.parameters {
		if p.name != "user" && p.name != "database" && p.name != "replication" {
			s.access.parameters[p.name] = p.value
		}
	}
	s.settings = settings
	s.conn.Reached(s.reached())
	return s.login, nil
}

// admit asks whether the policies have a place for the session, and with which credential.
func (s *session) admit() error {
	switch {
	case s.view.Empty():
		return refused(metrics.Policy, stateNotAuthorized, "no policy lets %s use target %s", s.who.User, s.target.Name())
	case s.view.RequireToken() && s.who.Verified != identity.Signed:
		why := ""
		if s.who.Without != nil {
			why = ": " + s.who.Without.Message
		}
		return refused(metrics.Policy, stateNotAuthorized, "target %s demands an identity proven by a token%s", s.target.Name(), why)
	}
	var err error
	if s.source, err = s.view.Credential(); err != nil {
		return refused(metrics.Policy, stateNotAuthorized, "no credential: %v", err)
	}
	s.durable, s.keep = s.view.Durability(), s.view.Record()
	return nil
}

// decideSettings asks the policies about the parameters that the client sets by connecting.
func (s *session) decideSettings(ctx context.Context, settings []parameter) error {
	for _, p := range settings {
		if p.name == "application_name" || p.name == "client_encoding" {
			continue // a claim, and what reads has judged
		}
		script, err := s.config.Parser.ParseFor(ctx, s.conn.Origin.Workload.UID, asSet(p))
		if err != nil {
			return err
		}
		asked := policy.Request{Database: s.database, Now: time.Now()}
		for _, st := range script.Statements {
			asked.Statements = append(asked.Statements, policyStatement(st, nil))
		}
		if d := s.view.Decide(asked); d.Action != policy.Allow {
			return refused(metrics.Policy, stateDenied, "parameter %s in the startup packet is %s", p.name, explain(d))
		}
	}
	return nil
}

// fetchCredential finds out what to log in with.
func (s *session) fetchCredential(ctx context.Context) (err error) {
	if s.source.Client {
		s.access.login.User = s.asked.get("user")
		s.access.login.Password, err = s.askPassword()
		return err
	}
	s.access.login, err = s.config.Credentials.Login(ctx, loginOf(s.source))
	if err != nil {
		return refused(metrics.Upstream, stateNotAuthorized, "the credential of target %s cannot be read", s.target.Name()).because(err)
	}
	return nil
}

// greet is the phase that tells the client that it is in.
func (s *session) greet(ctx context.Context) (phase, error) {
	if s.catalog = s.Handler.catalog(s.access, loginOf(s.source)); s.catalog != nil {
		snapshot, err := s.catalog.snapshot(ctx)
		if err != nil {
			return nil, catalogRefusal(err)
		}
		s.config.Looked(s.target, s.database, snapshot.found)
	}
	if s.source.Client {
		s.access.login.Password = "" // the server has it, and the session's catalog where there is one
	}
	if err := s.conn.Open(); err != nil {
		return nil, trailRefusal(err)
	}
	s.key = s.cancels.add(s)
	s.values = newValues(s.settings, s.reported)
	s.client.SetWriteDeadline(time.Now().Add(startupTimeout))
	greeting := appendNegotiation(nil, s.asked)
	if _, err := s.client.Write(appendGreeting(greeting, s.reported, s.key, s.status)); err != nil {
		return nil, err
	}
	return s.relay, nil
}

// refreshView takes the policies that are in force now. They end a session that
// they have no place for any more.
func (s *session) refreshView() error {
	set := s.config.Policy()
	pod := s.config.Identifier.Pod(s.conn.Origin)
	if set == s.set && pod == s.pod {
		return nil
	}
	target, ok := set.Target(s.target.Name())
	if !ok || !reflect.DeepEqual(target.Spec, s.target.Spec) {
		return refused(metrics.Policy, stateShutdown, "target %s was changed: connect again", s.target.Name())
	}
	source := s.source
	s.set, s.pod = set, pod
	s.view = set.View(s.target.Name(), s.subject())
	if err := s.admit(); err != nil || s.source != source {
		return refused(metrics.Policy, stateShutdown, "the policies have no place for this session any more: connect again").because(err)
	}
	return nil
}

func (s *session) subject() policy.Subject {
	return policy.Subject{User: s.who.User, Groups: s.who.Groups, Pod: s.pod}
}

// reached describes the server for the records.
func (s *session) reached() audit.Target {
	return audit.Target{
		Name:              s.target.Name(),
		Protocol:          string(policy.Postgres),
		Host:              s.access.destination.Host,
		TLS:               string(s.target.Spec.TLS.Mode),
		Database:          s.database,
		User:              s.access.login.User,
		CredentialVersion: s.access.login.Version,
	}
}

// dialledHost is the name to certify for a client that says none.
func (s *session) dialledHost(ctx context.Context) string {
	if d, ok := s.config.Targets.Lookup(ctx, s.conn.Origin.Dialled); ok && d.Host != "" {
		return d.Host
	}
	return s.conn.Origin.Dialled.Addr().String()
}

// finish says why the session ends, to the client and to the trail, and lets go of what it holds.
func (s *session) finish(ctx context.Context, ended error) error {
	refusal := s.lastWord(ctx, ended)
	var failed error
	if refusal != nil {
		failed = s.sayLast(refusal)
	}
	failed = errors.Join(failed, s.settle(ctx, ended, refusal))
	s.in.letGo()
	if s.counted {
		s.sessions.Add(-1)
	}
	if s.catalog != nil && s.source.Client {
		s.catalog.close()
	}
	if s.tls {
		s.client.Close() // says so inside TLS; the connection is the caller's
	}
	return failed
}

// lastWord is what a client is told at the end, nil where it left or heard it already.
func (s *session) lastWord(ctx context.Context, ended error) *refusal {
	var r *refusal
	switch {
	case errors.As(ended, &r):
		return r
	case overShare(ended) != nil:
		return overShare(ended)
	case ctx.Err() != nil:
		return refused(metrics.Draining, stateShutdown, "terminating connection: %s", context.Cause(ctx))
	case errors.Is(ended, errMalformed):
		return refused(metrics.Protocol, stateProtocol, "these bytes are not the PostgreSQL protocol").because(ended)
	}
	return nil
}

// sayLast records a refusal, where it is one of a connection or for a share, and
// tells the client.
func (s *session) sayLast(r *refusal) error {
	message := r.message
	var failed error
	if !s.conn.Opened() || r.reason == metrics.Busy {
		record := s.conn.Record(audit.KindRefusal)
		failed = s.conn.Refuse(record, r.reason, r.code, r.message)
		message += " (record " + record.ID + ")"
	}
	if r.code == "" || s.gate != nil && s.gate.torn {
		return failed
	}
	s.client.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	s.client.Write(appendError(nil, "FATAL", r.code, message, ""))
	return failed
}

// settle ends the upstream session and the records of what it was asked.
func (s *session) settle(ctx context.Context, ended error, refusal *refusal) error {
	if s.upstream == nil {
		return nil
	}
	s.cancels.remove(s.key)
	var failed error
	s.queue.close(errOver)
	open := s.queue.rest()
	s.forgetRecent()
	broken, lost := errors.Is(ended, errBroken), s.last
	switch {
	case broken: // there is nobody to cancel at
		lost = stateBroken
	case s.last != "":
	case len(open) > 0 && !s.farewell:
		failed = s.cancelUpstream(ctx)
	}
	failed = errors.Join(failed, s.endAll(open, audit.StatusUnknown, lost))
	if !s.farewell {
		s.upstream.SetDeadline(time.Now().Add(goodbyeTimeout))
		s.upstream.Write([]byte{'X', 0, 0, 0, 4})
	}
	s.upstream.Close()
	status, code := audit.StatusOK, stateSuccess
	switch {
	case lost != "":
		status, code = audit.StatusError, lost
	case refusal != nil:
		status, code = audit.StatusRefused, refusal.code
	case !s.farewell && !left(ended):
		status, code = audit.StatusError, ""
	}
	var sent int64
	if s.gate != nil {
		sent = s.gate.sent
	}
	return errors.Join(failed, s.conn.Close(status, code, sent))
}

// sortedParameters are the server's parameters, in one order.
func sortedParameters(statuses map[string]string) []parameter {
	var all []parameter
	for name, value := range statuses {
		all = append(all, parameter{name, value})
	}
	slices.SortFunc(all, func(a, b parameter) int { return strings.Compare(a.name, b.name) })
	return all
}

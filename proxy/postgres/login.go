package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/proxy"
)

// pristine is a pgconn configuration that takes nothing from the environment but what it
// could not do without: every field that a login uses is set in [access.config].
//
// Errors: PG* variables of the agent's own environment that pgconn cannot read.
func pristine() (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig("host=localhost user=postern password=none database=none sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("read PG* variables of the environment, unset them: %w", err)
	}
	return config, nil
}

// access is how to log in at one database of a Target.
type access struct {
	pristine    *pgconn.Config
	dial        Dial
	credentials Credentials
	origin      proxy.Origin
	destination proxy.Destination
	login       credential.Login
	database    string
	parameters  map[string]string
	marker      string // of loops; empty: none can be
}

// config is what pgconn logs in with. Where the server is not proven by TLS, it
// has to prove itself by SCRAM, which shows an impostor nothing: no password is
// sent in clear or as MD5 there.
func (a access) config(ctx context.Context) (*pgconn.Config, error) {
	target := a.destination.Target
	tlsConfig, err := a.tls(ctx)
	if err != nil {
		return nil, err
	}
	c := a.pristine.Copy()
	c.Host, c.Port = a.destination.Address.Addr().String(), a.destination.Address.Port()
	c.User, c.Password, c.Database = a.login.User, a.login.Password, a.database
	c.RuntimeParams = a.parameters
	c.Fallbacks = nil
	c.TLSConfig, c.SSLNegotiation, c.SSLCertMode = tlsConfig, "postgres", "disable"
	c.ChannelBinding, c.RequireAuth = "prefer", ""
	c.MinProtocolVersion, c.MaxProtocolVersion = "3.0", "3.0"
	c.KerberosSrvName, c.KerberosSpn = "", ""
	c.ValidateConnect, c.AfterConnect, c.OAuthTokenProvider = nil, nil, nil
	c.ConnectTimeout = 0 // the context's
	c.MaxProtocolMessageBodyLen = maxLogin
	if target.Spec.TLS.Mode != policy.VerifyFull {
		c.RequireAuth = "scram-sha-256"
	}
	c.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return a.dial(ctx, a.origin, a.destination) }
	c.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return c, nil
}

// connect logs in. The caller hijacks or closes what it returns.
func (a access) connect(ctx context.Context) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	config, err := a.config(ctx)
	if err != nil {
		return nil, err
	}
	return pgconn.ConnectConfig(ctx, config)
}

// tls is how the server proves itself, nil where it does not.
func (a access) tls(ctx context.Context) (*tls.Config, error) {
	target, to := a.destination.Target, a.destination
	spec := target.Spec.TLS
	var protocols []string
	if a.marker != "" {
		protocols = []string{alpn, a.marker}
	}
	switch spec.Mode {
	case policy.Disable:
		return nil, nil
	case policy.Require:
		return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: protocols}, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, ServerName: target.ServerName(to.Address.Addr())}
	if config.ServerName == "" {
		return nil, errors.New("verify the server: the target gives no name for it")
	}
	if spec.CA == nil {
		return config, nil
	}
	bundle, err := a.credentials.Certificates(ctx, reference(spec.CA))
	if err != nil {
		return nil, fmt.Errorf("read tls.ca: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("read tls.ca %s: no certificate in it", reference(spec.CA))
	}
	return config, nil
}

// loginRefusal tells the client why it cannot be let in, in the words of
// Postern: the server's could name hosts and roles.
func loginRefusal(target string, err error) *refusal {
	var answer *pgconn.PgError
	var unproven *tls.CertificateVerificationError
	switch {
	case errors.As(err, &answer):
		return serverRefusal(target, answer.Code).because(err)
	case errors.As(err, &unproven):
		return refused(metrics.Upstream, stateNoConnection,
			"the server of target %s does not prove its name: check tls.serverName and tls.ca of the target", target).because(err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused(metrics.Upstream, stateNoConnection,
			"the server of target %s cannot be reached: nothing listens there; check that it runs, and the target's hosts and ports", target).because(err)
	case errors.Is(err, context.DeadlineExceeded):
		return refused(metrics.Upstream, stateNoConnection, "the server of target %s does not answer", target).because(err)
	}
	return refused(metrics.Upstream, stateNoConnection,
		"no session with the server of target %s: it cannot be reached, or does not offer what the target demands of TLS and SCRAM", target).because(err)
}

func serverRefusal(target, state string) *refusal {
	switch {
	case state == "28P01" || state == "28000":
		return refused(metrics.Upstream, stateNotAuthorized,
			"the server of target %s refuses the credential: whoever runs Postern has to renew it", target)
	case state == "3D000":
		return refused(metrics.Upstream, state, "the server of target %s has no such database", target)
	case state[:min(2, len(state))] == "57":
		return refused(metrics.Upstream, stateCannotConnect, "the server of target %s is starting or stopping", target)
	}
	return refused(metrics.Upstream, state, "the server of target %s refuses the session (SQLSTATE %s)", target, state)
}

// greeting is what the client reads when it is in.
//
// Shape: the server's parameters are passed on as it sent them.
//
// Source: PostgreSQL 17 documentation, 53.2.1 Start-up.
func appendGreeting(dst []byte, parameters []parameter, key cancelKey, status byte) []byte {
	dst = append(dst, 'R', 0, 0, 0, 8, 0, 0, 0, 0)
	for _, p := range parameters {
		at := len(dst)
		dst = append(dst, 'S', 0, 0, 0, 0)
		dst = append(dst, p.name...)
		dst = append(dst, 0)
		dst = append(dst, p.value...)
		dst = append(dst, 0)
		dst = endMessage(dst, at)
	}
	at := len(dst)
	dst = append(dst, 'K', 0, 0, 0, 0)
	dst = append(dst, key[:]...)
	dst = endMessage(dst, at)
	return append(dst, 'Z', 0, 0, 0, 5, status)
}

// login is the phase that makes the upstream session; only then is the client told that it is in.
func (s *session) login(ctx context.Context) (phase, error) {
	s.client.SetDeadline(time.Time{}) // the client waits now
	pg, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	var shadowed []string
	if s.path, shadowed, err = askNames(ctx, pg); err == nil {
		err = pg.SyncConn(ctx)
	}
	if err != nil {
		pg.Close(ctx)
		return nil, loginRefusal(s.target.Name(), err)
	}
	s.shadows = s.Handler.shadows(s.access)
	s.shadows.add(shadowed)
	hijacked, err := pg.Hijack()
	if err != nil {
		return nil, loginRefusal(s.target.Name(), err)
	}
	s.upstream, s.pg = hijacked.Conn, pg
	s.reported = sortedParameters(hijacked.ParameterStatuses)
	for _, p := range s.reported {
		if err := reads(p.name, p.value); err != nil {
			return nil, err
		}
	}
	s.status = hijacked.TxStatus
	return s.greet, nil
}

// connect makes the upstream session, when it is the pod's turn.
func (s *session) connect(ctx context.Context) (*pgconn.PgConn, error) {
	name, pod := s.target.Name(), s.conn.Origin.Workload.UID
	if turned := s.conn.Share().LogIn(); turned != nil {
		return nil, turnedAway(turned)
	}
	leave, err := s.logins.enter(ctx, pod)
	if err != nil {
		return nil, err
	}
	defer leave()
	if pod != "" && s.target.Spec.Source != policy.SourceNode { // nothing else can lead it back here
		s.access.marker = s.loops.mark()
		defer func() {
			s.loops.unmark(s.access.marker)
			s.access.marker = ""
		}()
	}
	began := time.Now()
	pg, err := s.access.connect(ctx)
	if s.renew(ctx, err) {
		pg, err = s.access.connect(ctx)
	}
	s.config.Metrics.LoggedIn(name, time.Since(began), err)
	if err == nil {
		s.config.LoggedIn(name, "")
		return pg, nil
	}
	failed := loginRefusal(name, err)
	if s.loops.met(s.access.marker) {
		failed = refused(metrics.Loop, stateNoConnection,
			"the way to the server of target %s leads back to Postern, as a mesh's sidecar does: set source: node on the target", name).because(err)
	}
	s.config.LoggedIn(name, failed.message)
	return nil, failed
}

// renew gets a newer login where the server refused the one that was tried: it may
// have been exchanged a moment ago.
func (s *session) renew(ctx context.Context, failed error) bool {
	var answer *pgconn.PgError
	if s.source.Client || !errors.As(failed, &answer) || answer.Code != stateNotAuthorized && answer.Code != statePasswordMandatory {
		return false
	}
	from, tried := loginOf(s.source), s.access.login
	s.config.Credentials.Refused(from, tried.Version)
	newer, err := s.config.Credentials.Login(ctx, from)
	if err != nil || newer == tried {
		return false
	}
	s.access.login = newer
	s.conn.Reached(s.reached())
	return true
}

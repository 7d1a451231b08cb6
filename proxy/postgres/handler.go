package postgres

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/internal/trust"
	"postern.dev/postern/proxy"
)

// defaultMaxSessions is what one server is likely to take from everybody together.
const defaultMaxSessions = 500

// defaultMaxLogins keeps a pod that connects as fast as it can from having the
// processor of the node and of the server to itself: SCRAM costs both milliseconds.
const defaultMaxLogins = 4

// Credentials are the logins and certificates that policies name.
type Credentials interface {
	// Login reads a login as it is now.
	Login(context.Context, credential.Reference) (credential.Login, error)
	// Certificates reads a bundle of CA certificates as it is now, in PEM.
	Certificates(context.Context, credential.Reference) ([]byte, error)
	// Refused says that the server refused this version of a login: the next
	// Login is to be newer, if there is a newer one.
	Refused(from credential.Reference, version string)
}

// Dial opens a connection to a server, for the workload that a session came from.
//
// Shape: origin has no workload where Postern asks for all of them.
type Dial func(ctx context.Context, origin proxy.Origin, to proxy.Destination) (net.Conn, error)

// Config is what a [Handler] needs. All of it but the last four is required.
type Config struct {
	Policy      func() *policy.Set // the one in force; a reload changes its answer
	Targets     proxy.Targets
	Identifier  proxy.Identifier
	Credentials Credentials
	Parser      *sql.Parser
	CA          *trust.CA
	Dial        Dial
	Metrics     *metrics.Metrics
	Log         logrus.FieldLogger
	MaxSessions int // logged in, or on the way there; 500
	MaxLogins   int // of one pod at once, others of its wait; 4
	// LoggedIn, if there is one, hears of each log-in at a Target; failed may be shown.
	LoggedIn func(target string, failed string)
	// Looked, if there is one, hears of each log-in which of the patterns of a Target's
	// sensitive columns fit a column of the database; found must not be changed.
	Looked func(target *policy.Target, database string, found []string)
}

// Handler serves PostgreSQL sessions.
type Handler struct {
	config   Config
	pristine *pgconn.Config
	cancels  cancels
	sessions atomic.Int64
	logins   *share
	loops    loops

	mu       sync.Mutex
	catalogs map[catalogKey]*catalog
	shadowed map[shadowsKey]*shadows
}

// shadowsKey tells databases apart.
type shadowsKey struct {
	address  netip.AddrPort
	database string
}

// catalogKey tells apart what can have different sensitive columns, or be read with different rights.
type catalogKey struct {
	target   *policy.Target
	address  netip.AddrPort
	database string
	login    credential.Reference
	uid      string // of the pod that is dialled from; empty: the node
}

// New makes a handler.
//
// Errors: the agent's environment has PG* variables that cannot be read.
func New(config Config) (*Handler, error) {
	if config.MaxSessions == 0 {
		config.MaxSessions = defaultMaxSessions
	}
	if config.MaxLogins == 0 {
		config.MaxLogins = defaultMaxLogins
	}
	if config.LoggedIn == nil {
		config.LoggedIn = func(string, string) {}
	}
	if config.Looked == nil {
		config.Looked = func(*policy.Target, string, []string) {}
	}
	base, err := pristine()
	if err != nil {
		return nil, err
	}
	return &Handler{
		config: config, pristine: base, logins: newShare(config.MaxLogins),
		catalogs: make(map[catalogKey]*catalog), shadowed: make(map[shadowsKey]*shadows),
	}, nil
}

// Serve carries one session to its end. It closes no connection but those it opened.
func (h *Handler) Serve(ctx context.Context, conn *proxy.Session) error {
	return newSession(h, conn).run(ctx)
}

// Close ends the connections of Postern's own. No session is served any more.
func (h *Handler) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, c := range h.catalogs {
		c.close()
		delete(h.catalogs, key)
	}
	return nil
}

// catalog gives the catalog of a database, which its sessions share. It is nil
// where the Target has no sensitive columns.
//
// Shape: login is read anew for each connection. Without one it is the client's
// own: the catalog is the session's, who has to close it.
func (h *Handler) catalog(a access, login credential.Reference) *catalog {
	target := a.destination.Target
	if !target.Sensitive().Any() {
		return nil
	}
	a.parameters = map[string]string{"application_name": "postern"}
	if login == (credential.Reference{}) {
		return newCatalog(a.connect, target.Sensitive())
	}
	key := catalogKey{target: target, address: a.destination.Address, database: a.database, login: login}
	if target.Spec.Source != policy.SourceNode { // what a pod does to its own packets is to hurt nobody else
		key.uid = a.origin.Workload.UID
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.catalogs[key]; ok {
		return c
	}
	h.forget(target)
	c := newCatalog(func(ctx context.Context) (*pgconn.PgConn, error) {
		own := a
		var err error
		if own.login, err = h.config.Credentials.Login(ctx, login); err != nil {
			return nil, err
		}
		return own.connect(ctx)
	}, target.Sensitive())
	c.common = key.uid == ""
	h.catalogs[key] = c
	return c
}

// shadows gives the shadowed names of a database, which its sessions share.
func (h *Handler) shadows(a access) *shadows {
	key := shadowsKey{a.destination.Address, a.database}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shadowed[key] == nil {
		h.shadowed[key] = new(shadows)
	}
	return h.shadowed[key]
}

// Forget lets go of what was kept for a pod that is gone.
func (h *Handler) Forget(podUID string) {
	if podUID == "" {
		return
	}
	var gone []*catalog
	h.mu.Lock()
	for key, c := range h.catalogs {
		if key.uid == podUID {
			gone = append(gone, c)
			delete(h.catalogs, key)
		}
	}
	h.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}

// forget drops the catalogs of earlier versions of a Target; the sessions that
// still hold one use it to their end.
func (h *Handler) forget(target *policy.Target) {
	for key := range h.catalogs {
		if key.target != target && key.target.Name() == target.Name() {
			delete(h.catalogs, key)
		}
	}
}

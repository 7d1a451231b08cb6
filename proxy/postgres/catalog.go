package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"postern.dev/postern/internal/policy"
	"postern.dev/postern/proxy"
)

// errCatalog wraps every reason for which the catalog could not be asked. What
// it wraps is for the log: it may name hosts and roles.
var errCatalog = errors.New("ask the server which columns are sensitive")

// errUnknownRelation means that a result has a column of a relation which the
// catalog does not have, even when asked anew: most often one that was created
// in a transaction which is not committed.
var errUnknownRelation = errors.New("result of a relation that the catalog does not have")

const (
	catalogMaxAge  = time.Second      // of an answer; the server is asked again after that
	catalogTimeout = 10 * time.Second // for log-in and question together
	catalogIdle    = time.Minute      // without a question, after which the connection is closed
)

// catalog knows which columns of one database are sensitive.
//
// It asks the server over a connection of Postern's own, which all sessions with
// the same Target, database and login share, and which exists only while they
// ask. It may be used by many goroutines.
type catalog struct {
	connect   func(context.Context) (*pgconn.PgConn, error)
	sensitive *policy.Sensitive
	common    bool // pods share it

	last       atomic.Pointer[answer]
	generation atomic.Uint64

	turn chan struct{}  // holds one token while nobody talks to the server
	conn *pgconn.PgConn // only with the token; nil while there is none
	idle *time.Timer    // only with the token; closes conn
}

// answer is what asking gave: a snapshot, or why there is none.
type answer struct {
	snapshot   *snapshot
	err        error
	asked      time.Time // when the question began
	generation uint64    // of the catalog, at that moment
}

// newCatalog gives a catalog that connects when it is first asked.
//
// Shape: connect dials and logs in; the catalog closes what it returns.
func newCatalog(connect func(context.Context) (*pgconn.PgConn, error), sensitive *policy.Sensitive) *catalog {
	c := &catalog{connect: connect, sensitive: sensitive, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c
}

// snapshot tells the state of the catalog, at most 1 s old.
//
// Shape: while nothing changed the answer is the same pointer, so what was made of
// a snapshot stays valid as long as the catalog answers with it.
// Errors: errCatalog; nothing may then be let through.
func (c *catalog) snapshot(ctx context.Context) (*snapshot, error) {
	return c.since(ctx, time.Now().Add(-catalogMaxAge))
}

// refreshed is snapshot with a question that began after the call, of which a
// workload has its share.
//
// Errors: also a [*proxy.Refused].
func (c *catalog) refreshed(ctx context.Context, share *proxy.Share) (*snapshot, error) {
	if turned := share.LookUp(); turned != nil {
		return nil, turned
	}
	return c.since(ctx, time.Now())
}

// invalidate makes the next question go to the server. It is called when DDL is
// relayed and again when its transaction ended: an answer from in between does
// not know what was not committed.
func (c *catalog) invalidate() { c.generation.Add(1) }

// close ends the connection. The catalog opens a new one when it is asked again.
func (c *catalog) close() {
	<-c.turn
	c.hangUp()
	c.turn <- struct{}{}
}

// since answers with the result of a question that began at or after notBefore,
// asking it if nobody else has.
func (c *catalog) since(ctx context.Context, notBefore time.Time) (*snapshot, error) {
	if a := c.last.Load(); c.fresh(a, notBefore) {
		return a.snapshot, a.err
	}
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errCatalog, context.Cause(ctx))
	}
	before := c.last.Load()
	if c.fresh(before, notBefore) { // asked by another session while this one waited
		return before.snapshot, before.err
	}
	a := &answer{asked: time.Now(), generation: c.generation.Load()}
	// A session that ends while its question is under way must not take the
	// connection, or the answer that others wait for, with it.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), catalogTimeout)
	defer cancel()
	a.snapshot, a.err = c.ask(asking, before)
	c.last.Store(a)
	return a.snapshot, a.err
}

func (c *catalog) fresh(a *answer, notBefore time.Time) bool {
	return a != nil && a.generation == c.generation.Load() && !a.asked.Before(notBefore)
}

// ask puts the question, a second time on a new connection where an old one has
// failed: a server or a firewall may have ended it long ago. The caller holds the token.
func (c *catalog) ask(ctx context.Context, before *answer) (*snapshot, error) {
	old := c.conn != nil
	s, err := c.askOnce(ctx, before)
	if err != nil && old && ctx.Err() == nil {
		s, err = c.askOnce(ctx, before)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCatalog, err)
	}
	return s, nil
}

// askOnce gives the snapshot that was there before when the epoch is still its own, else a new one.
func (c *catalog) askOnce(ctx context.Context, before *answer) (s *snapshot, err error) {
	defer func() {
		if err != nil {
			c.hangUp() // it may be in a transaction, or in the middle of a result
		}
	}()
	if err := c.call(ctx); err != nil {
		return nil, err
	}
	if before != nil && before.snapshot != nil {
		epoch, err := readEpoch(ctx, c.conn)
		if err != nil {
			return nil, err
		}
		if epoch == before.snapshot.epoch {
			return before.snapshot, nil
		}
	}
	facts, err := readFacts(ctx, c.conn)
	if err != nil {
		return nil, err
	}
	return facts.resolve(c.sensitive), nil
}

// call opens the connection where there is none. The caller holds the token.
func (c *catalog) call(ctx context.Context) error {
	if c.conn != nil && !c.conn.IsClosed() {
		c.idle.Reset(catalogIdle)
		return nil
	}
	c.hangUp()
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	conn.Frontend().SetMaxBodyLen(maxCatalogRow)
	c.conn = conn
	c.idle = time.AfterFunc(catalogIdle, c.rest)
	return nil
}

// rest closes the connection unless it is in use, after which the timer runs again.
func (c *catalog) rest() {
	select {
	case <-c.turn:
		c.hangUp()
		c.turn <- struct{}{}
	default:
	}
}

// hangUp closes the connection where there is one. The caller holds the token.
func (c *catalog) hangUp() {
	if c.conn == nil {
		return
	}
	c.idle.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.conn.Close(ctx) // nothing was promised to the server
	c.conn = nil
}

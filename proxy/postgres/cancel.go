package postgres

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"sync"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/proxy"
)

// cancelKey is what a client gets to cancel with: a process ID and a secret,
// neither of which is the server's.
//
// Source: PostgreSQL 17 documentation, 53.7, BackendKeyData and CancelRequest.
type cancelKey [8]byte

// id is the process ID in it.
func (k cancelKey) id() uint32 { return binary.BigEndian.Uint32(k[:]) }

// cancels finds the session that a key was made for.
type cancels struct {
	mu       sync.Mutex
	sessions map[uint32]cancellable
}

// cancellable is a session as its cancel requests see it.
type cancellable struct {
	key     cancelKey
	owner   owner
	session *session
}

// owner is who may cancel: the user and cgroup that the session came from.
type owner struct {
	uid    uint32
	cgroup uint64
}

func ownerOf(origin proxy.Origin) owner {
	return owner{uid: origin.Workload.LinuxUID, cgroup: origin.Workload.Cgroup}
}

// add makes a key for a session.
func (c *cancels) add(s *session) cancelKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions == nil {
		c.sessions = make(map[uint32]cancellable)
	}
	for {
		var key cancelKey
		rand.Read(key[:])
		key[0] &= 0x7f // clients show it as a signed number
		if _, taken := c.sessions[key.id()]; taken || key.id() == 0 {
			continue
		}
		c.sessions[key.id()] = cancellable{key: key, owner: ownerOf(s.conn.Origin), session: s}
		return key
	}
}

func (c *cancels) remove(key cancelKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, key.id())
}

// find gives the session of a key that its owner shows.
func (c *cancels) find(shown []byte, who owner) *session {
	if len(shown) != len(cancelKey{}) {
		return nil
	}
	c.mu.Lock()
	found, ok := c.sessions[binary.BigEndian.Uint32(shown)]
	c.mu.Unlock()
	if subtle.ConstantTimeCompare(found.key[:], shown) != 1 || !ok || found.owner != who {
		return nil
	}
	return found.session
}

// cancelPhase passes a cancel request on. It is never answered, as the server
// never does; the record says what became of it.
func (s *session) cancelPhase(shown []byte) phase {
	key := append([]byte(nil), shown...)
	return func(ctx context.Context) (phase, error) {
		if turned := s.conn.Turned(); turned != nil {
			return nil, refused(turned.Reason, "", "%s", turned.Message)
		}
		victim := s.cancels.find(key, ownerOf(s.conn.Origin))
		if victim == nil {
			return nil, refused(metrics.Protocol, "", "a cancel request that fits no session of this workload")
		}
		if turned := s.conn.Share().LogIn(); turned != nil { // it takes a connection to the server
			return nil, refused(turned.Reason, "", "%s", turned.Message)
		}
		leave, err := s.logins.enter(ctx, s.conn.Origin.Workload.UID)
		if err != nil {
			return nil, err
		}
		defer leave()
		r := victim.conn.Record(audit.KindCancel)
		r.RequestID = victim.running()
		if _, err := s.conn.Append(r); err != nil {
			return nil, err
		}
		return nil, victim.cancelUpstream(ctx)
	}
}

// cancelUpstream asks the server to end what the session runs.
func (s *session) cancelUpstream(ctx context.Context) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer done()
	return s.pg.CancelRequest(ctx)
}

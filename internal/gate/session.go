package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// session is an agent that is served.
type session struct {
	link   *link
	over   chan struct{} // closed when it has ended
	events chan Event
	lost   atomic.Uint64 // events
	told   atomic.Bool   // it has told of the pods: from here on their listeners are open
}

func newSession(conn *net.UnixConn) *session {
	return &session{link: newLink(conn, false), over: make(chan struct{}), events: make(chan Event, eventsHeld)}
}

func (s *session) isOver() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

// wait waits, and tells whether the session is still on.
func (s *session) wait(d time.Duration) bool {
	select {
	case <-s.over:
		return false
	case <-time.After(d):
		return true
	}
}

// tell keeps an event for the agent; it never waits.
func (s *session) tell(e Event) {
	select {
	case s.events <- e:
	default:
		s.lost.Add(1)
	}
}

// listen serves agents at the socket until ctx ends.
func (g *gate) listen(ctx context.Context) error {
	l, err := bindSocket(g.o.Socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			l.Close()
			return errors.Join(closeIfAny(conn), os.Remove(g.o.Socket))
		}
		if err != nil {
			g.log.WithError(err).Warn("An agent is not accepted")
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		g.group.Go(func() error { g.admit(ctx, conn); return nil })
	}
}

func closeIfAny(conn *net.UnixConn) error {
	if conn == nil {
		return nil
	}
	return conn.Close()
}

// admit serves a peer if it is the agent, and the only one.
func (g *gate) admit(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	cgroup, err := g.identify(conn)
	if err != nil {
		g.log.WithError(short(err)).Warn("A process is not served")
		return
	}
	if err := g.kernel.Exempt(cgroup); err != nil {
		g.log.WithError(err).Error("The agent's own connections would be led to itself; it is not served")
		return
	}
	s := newSession(conn)
	g.mu.Lock()
	busy := g.current != nil
	if !busy {
		g.current = s
	}
	g.mu.Unlock()
	if busy {
		g.log.Warn("A second agent is not served")
		return
	}
	g.log.Info("Agent connected")
	if err = g.serve(ctx, s); err != nil {
		g.log.WithError(short(err)).Warn("The agent is not served any more")
	}
	for _, p := range g.all() {
		p.mu.Lock()
		p.reasons = nil // the next agent is told of them
		p.mu.Unlock()
	}
	g.mu.Lock()
	g.current = nil
	g.mu.Unlock()
	g.log.Info("Agent gone, listeners closed")
}

// identify tells the cgroup of a peer of the agent's user in this gate's pod.
//
// Source: unix(7), SO_PEERCRED: who called connect.
func (g *gate) identify(conn *net.UnixConn) (string, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return "", err
	}
	var peer *unix.Ucred
	var opt error
	if err := raw.Control(func(fd uintptr) {
		peer, opt = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return "", err
	}
	if opt != nil {
		return "", os.NewSyscallError("getsockopt", opt)
	}
	if peer.Uid != g.o.AgentUID {
		return "", fmt.Errorf("process %d is of user %d, not of the agent's", peer.Pid, peer.Uid)
	}
	return g.beside(int(peer.Pid))
}

// shut closes every pod's listeners, whatever is being done for the agent still.
func (g *gate) shut(s *session) {
	close(s.over)
	for _, p := range g.all() {
		p.doors.close()
	}
}

// serve answers an agent's calls until it goes, breaks the rules, or outer ends.
// Calls that look at all pods wait for each other, and not those that are for one
// connection. An agent that sends faster than it is answered waits.
func (g *gate) serve(outer context.Context, s *session) error {
	group, ctx := errgroup.WithContext(outer)
	defer context.AfterFunc(ctx, func() { s.link.conn.Close() })()
	wide, narrow := make(chan message), make(chan message, 16)
	group.Go(func() error { return s.sendEvents(ctx) })
	for _, lane := range []chan message{wide, narrow} {
		group.Go(func() error {
			for m := range lane {
				if err := g.answer(ctx, s, m); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(wide)
		defer close(narrow)
		defer g.shut(s)
		for {
			m, _, err := s.link.read()
			if errors.Is(err, io.EOF) {
				return errAgentGone
			}
			if err != nil {
				return err
			}
			if err := g.sort(ctx, s, m, wide, narrow); err != nil {
				return err
			}
		}
	})
	err := group.Wait()
	if errors.Is(err, errAgentGone) || outer.Err() != nil {
		return nil
	}
	return err
}

var errAgentGone = errors.New("the agent is gone")

// maxLoggedBytes bounds what is logged of what the agent sent.
const maxLoggedBytes = 512

// short is an error whose text may quote the agent.
func short(err error) error {
	if text := err.Error(); len(text) > maxLoggedBytes {
		return errors.New(strings.ToValidUTF8(text[:maxLoggedBytes], "") + "…")
	}
	return err
}

// sort puts a call in its lane.
func (g *gate) sort(ctx context.Context, s *session, m message, wide, narrow chan<- message) error {
	lane := wide
	switch m.Op {
	case opTook:
		call, err := decodeSmall[tookCall](m.Body)
		if err != nil {
			return err
		}
		g.mu.Lock()
		p := g.pods[call.PodUID]
		g.mu.Unlock()
		if p != nil {
			p.doors.took(s)
		}
		return nil
	case opSocket, opToken:
		lane = narrow
		if len(m.Body) > maxSmallBytes {
			return fmt.Errorf("%w: a call of %d bytes", errProtocol, len(m.Body))
		}
	case opGuard, opPods, opStatus:
	default:
		return fmt.Errorf("%w: %q is no operation", errProtocol, m.Op)
	}
	select {
	case lane <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer does what a call asks for, and replies.
//
// Errors: those after which the agent is not served any more.
func (g *gate) answer(ctx context.Context, s *session, m message) error {
	reply := message{ID: m.ID, Op: opReply}
	body, file, err := g.do(ctx, m)
	if err != nil {
		if errors.Is(err, errProtocol) {
			return err
		}
		reply.Error = short(err).Error()
		if refused, ok := errors.AsType[*TokenError](err); ok {
			reply.Token = refused
		}
		return s.link.write(reply, nil, -1)
	}
	if file == nil {
		err := s.link.write(reply, body, -1)
		if errors.Is(err, errTooLarge) {
			reply.Error = err.Error()
			return s.link.write(reply, nil, -1)
		}
		return err
	}
	defer file.Close()
	return s.link.write(reply, body, int(file.Fd()))
}

func (g *gate) do(ctx context.Context, m message) (body any, file *os.File, err error) {
	switch m.Op {
	case opGuard:
		guarded, err := decodeGuarded(m.Body)
		if err != nil {
			return nil, nil, err
		}
		return nil, nil, g.setGuarded(ctx, guarded)
	case opPods:
		pods, namespaces, left, err := decodePods(m.Body)
		if err != nil {
			return nil, nil, err
		}
		if len(left) > 0 {
			g.log.WithField("what", left).Warn("Of what the agent told, some is left out")
		}
		return podsReply{LeftOut: left}, nil, g.setPods(ctx, pods, namespaces)
	case opStatus:
		return g.status(), nil, nil
	case opSocket:
		file, err = g.socket(m.Body)
		return nil, file, err
	case opToken:
		file, err = g.token(m.Body)
		return nil, file, err
	}
	return nil, nil, fmt.Errorf("%w: %q is no operation", errProtocol, m.Op)
}

func (g *gate) socket(body json.RawMessage) (*os.File, error) {
	call, err := decodeSmall[socketCall](body)
	if err != nil {
		return nil, err
	}
	if call.Network != "tcp4" && call.Network != "tcp6" {
		return nil, fmt.Errorf("%w: %q is no network", errProtocol, call.Network)
	}
	share := g.nodeSockets
	if call.PodUID != "" {
		p, err := g.guardedHere(call.PodUID)
		if err != nil {
			return nil, err
		}
		share = p.sockets
	}
	if !share.take() {
		return nil, fmt.Errorf("pod %q: more sockets than its share", call.PodUID)
	}
	return g.kernel.Socket(call.PodUID, call.Network)
}

func (g *gate) token(body json.RawMessage) (*os.File, error) {
	call, err := decodeSmall[tokenCall](body)
	if err != nil {
		return nil, err
	}
	p, err := g.guardedHere(call.PodUID)
	if err != nil {
		return nil, err
	}
	if !p.tokens.take() {
		return nil, fmt.Errorf("pod %s: more token files than its share", call.PodUID)
	}
	file, err := openToken(g.o.Kubelet, call.PodUID, call.Volume, call.File)
	if err != nil {
		return nil, err
	}
	if err := checkToken(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// guardedHere is a pod of this node that is guarded: with others the agent has no
// business. It has a cgroup here, whatever the agent says.
func (g *gate) guardedHere(uid string) (*pod, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pods[uid]
	if p == nil || p.wish.cgroup == "" || p.wish.target(g.namespaces) != guarded {
		return nil, fmt.Errorf("%q is no guarded pod of this node", uid)
	}
	return p, nil
}

// sendEvents sends what happens until ctx ends.
func (s *session) sendEvents(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.events:
			e.Lost = s.lost.Swap(0)
			if err := s.link.write(message{Op: opEvent}, e, -1); err != nil {
				return err
			}
		}
	}
}

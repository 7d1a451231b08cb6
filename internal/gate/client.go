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
	"sync"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// eventsHeld is how many events wait for whoever reads them; more are lost, and
// counted.
const eventsHeld = 1024

// ErrClosed is a gate that is gone, or that let go of this agent.
var ErrClosed = errors.New("the gate is gone")

// Client is the agent's end of a gate. Its methods may be called at the same
// time, and [Client.Run] must run for them to be answered.
type Client struct {
	link   *link
	events chan Event
	done   chan struct{} // closed when Run has ended

	mu       sync.Mutex
	lastID   uint64
	waiting  map[uint64]chan answer
	arrivals []*Conn
	arrived  chan struct{} // has room for one: arrivals is not empty
	err      error         // why Run ended
	lost     uint64        // events
}

// answer is a reply to a call.
type answer struct {
	message message
	file    *os.File
}

// Conn is a connection of a pod that the gate accepted.
type Conn struct {
	*net.TCPConn
	PodUID      string
	Sandbox     uint64 // of the pod: among whose Accepted it is; see [PodStatus]
	Origin      redirect.Origin
	Facts       workload.Facts
	ContainerID string // of the runtime; empty: not known
}

// Dial connects to the gate whose socket is at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return newClient(conn.(*net.UnixConn)), nil
}

func newClient(conn *net.UnixConn) *Client {
	return &Client{
		link:    newLink(conn, true),
		events:  make(chan Event, eventsHeld),
		done:    make(chan struct{}),
		waiting: make(map[uint64]chan answer),
		arrived: make(chan struct{}, 1),
	}
}

// Run reads what the gate sends until ctx ends or the gate is gone. It is called
// once; when it has returned, the connections that nobody took are closed, and
// the gate has closed every pod's listeners.
//
// Errors: nil when ctx ended.
func (c *Client) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.link.conn.Close() })
	defer stop()
	err := c.readAll()
	if ctx.Err() != nil {
		err = nil
	}
	c.end(err)
	return err
}

// Close ends the connection to the gate, and with it Run.
func (c *Client) Close() error {
	err := c.link.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (c *Client) readAll() error {
	for {
		m, files, err := c.link.read()
		if errors.Is(err, io.EOF) {
			return ErrClosed
		}
		if err != nil {
			return fmt.Errorf("read from the gate: %w", err)
		}
		var file *os.File
		if len(files) > 0 {
			file = files[0]
		}
		if err := c.handle(m, file); err != nil {
			return err
		}
	}
}

// handle passes a frame on, and its descriptor with it.
func (c *Client) handle(m message, file *os.File) error {
	switch m.Op {
	case opReply:
		c.mu.Lock()
		waiting, ok := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if !ok { // the caller has given up
			return closeFile(file)
		}
		waiting <- answer{message: m, file: file}
		return nil
	case opArrival:
		return c.arrive(m, file)
	case opEvent:
		var e Event
		if err := json.Unmarshal(m.Body, &e); err != nil {
			return errors.Join(err, closeFile(file))
		}
		c.tell(e)
		return closeFile(file)
	}
	return errors.Join(fmt.Errorf("%w: %q is no operation", errProtocol, m.Op), closeFile(file))
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func (c *Client) arrive(m message, file *os.File) error {
	if file == nil {
		return fmt.Errorf("%w: a connection without descriptor", errProtocol)
	}
	var a arrival
	err := json.Unmarshal(m.Body, &a)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	conn, err := net.FileConn(file) // of its own descriptor
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("take a connection: %w", err)
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("%w: a %T as connection", errProtocol, conn), conn.Close())
	}
	c.mu.Lock()
	// The gate hands over so many of each pod and waits for the agent to take
	// one: this list is as long as the gate lets it be.
	c.arrivals = append(c.arrivals, &Conn{TCPConn: tcp, PodUID: a.PodUID, Sandbox: a.Sandbox, Origin: a.Origin, Facts: a.Facts, ContainerID: a.ContainerID})
	c.mu.Unlock()
	c.signal()
	return nil
}

func (c *Client) signal() {
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

// tell keeps an event unless there is no room.
func (c *Client) tell(e Event) {
	e.Lost += c.lost
	select {
	case c.events <- e:
		c.lost = 0
	default:
		c.lost++
	}
}

// end fails what waits.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = net.ErrClosed
	}
	c.err = err
	for _, conn := range c.arrivals {
		conn.Close()
	}
	c.arrivals = nil
	close(c.done)
	close(c.events)
	c.link.close()
}

// Accept waits for the next connection of a pod.
//
// Errors: net.ErrClosed when Run has ended.
func (c *Client) Accept() (*Conn, error) {
	for {
		c.mu.Lock()
		if len(c.arrivals) > 0 {
			conn := c.arrivals[0]
			c.arrivals = c.arrivals[1:]
			more := len(c.arrivals) > 0
			c.mu.Unlock()
			if more {
				c.signal()
			}
			if err := c.link.write(message{Op: opTook}, tookCall{PodUID: conn.PodUID}, -1); err != nil {
				conn.Close()
				continue // Run ends too
			}
			return conn, nil
		}
		c.mu.Unlock()
		select {
		case <-c.arrived:
		case <-c.done:
			return nil, net.ErrClosed
		}
	}
}

// Events are what happens on the node. The channel is closed when Run has ended.
func (c *Client) Events() <-chan Event { return c.events }

// Guard replaces what is guarded on the node, and ends the connections of
// guarded pods that are now guarded and were not before.
func (c *Client) Guard(ctx context.Context, g redirect.Guarded) error {
	guards, err := json.Marshal(g.Guards)
	if err != nil {
		return err
	}
	sockets, err := json.Marshal(g.Sockets)
	if err != nil {
		return err
	}
	return c.call(ctx, opGuard, guardCall{Guards: guards, Sockets: sockets}, nil)
}

// Pods tells the gate of all the node's pods, and of all the namespaces whose
// pods are guarded. It returns when what can be guarded is; the rest is guarded
// as soon as it can be. What is not enforced comes as [Event] and in [Status].
//
// Shape: the whole truth each time. A pod that is not listed and whose cgroup is
// gone is forgotten; a guarded pod stays guarded until then.
// Errors: a [*LeftOut] when all but these are taken.
func (c *Client) Pods(ctx context.Context, pods []Pod, guardedNamespaces []string) error {
	list, err := json.Marshal(pods)
	if err != nil {
		return err
	}
	namespaces, err := json.Marshal(guardedNamespaces)
	if err != nil {
		return err
	}
	var reply podsReply
	if err := c.call(ctx, opPods, podsCall{Pods: list, GuardedNamespaces: namespaces}, &reply); err != nil {
		return err
	}
	if len(reply.LeftOut) > 0 {
		return &LeftOut{What: reply.LeftOut}
	}
	return nil
}

// LeftOut is what the gate did not take of what it was told: pods that are refused
// Targets because nobody could say what they are.
type LeftOut struct {
	What []string
}

func (l *LeftOut) Error() string { return "left out: " + strings.Join(l.What, "; ") }

// Socket is a new unconnected TCP socket in a pod's network namespace, or in the
// node's when podUID is empty.
//
// Shape: network is "tcp4" or "tcp6". The socket does not block; the caller
// closes it.
func (c *Client) Socket(ctx context.Context, podUID, network string) (*os.File, error) {
	return c.callForFile(ctx, opSocket, socketCall{PodUID: podUID, Network: network})
}

// Token opens a file of a projected volume of a guarded pod of this node: a token for
// the audience postern, by what it says itself.
//
// Shape: volume is its name in the pod's specification, file a path in it. The
// file is a regular one, open for reading.
// Errors: [*TokenError].
func (c *Client) Token(ctx context.Context, podUID, volume, file string) (*os.File, error) {
	return c.callForFile(ctx, opToken, tokenCall{PodUID: podUID, Volume: volume, File: file})
}

// Status is what the gate has done.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, opStatus, nil, &s)
	return s, err
}

func (c *Client) callForFile(ctx context.Context, op string, body any) (*os.File, error) {
	a, err := c.exchange(ctx, op, body)
	if err != nil {
		return nil, err
	}
	if a.file == nil {
		return nil, fmt.Errorf("gate: %s: %w: no descriptor came", op, errProtocol)
	}
	return a.file, nil
}

func (c *Client) call(ctx context.Context, op string, body, reply any) error {
	a, err := c.exchange(ctx, op, body)
	if err != nil {
		return err
	}
	if err := closeFile(a.file); err != nil {
		return err
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(a.message.Body, reply)
}

// exchange makes a call and waits for its reply.
func (c *Client) exchange(ctx context.Context, op string, body any) (answer, error) {
	waiting := make(chan answer, 1)
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.waiting[id] = waiting
	c.mu.Unlock()
	defer c.forget(id, waiting)
	if err := c.link.write(message{ID: id, Op: op}, body, -1); err != nil {
		return answer{}, fmt.Errorf("gate: %s: %w", op, err)
	}
	select {
	case a := <-waiting:
		if refused := a.message.Token; refused != nil {
			return answer{}, errors.Join(fmt.Errorf("gate: %s: %w", op, refused), closeFile(a.file))
		}
		if a.message.Error != "" {
			return answer{}, errors.Join(fmt.Errorf("gate: %s: %s", op, a.message.Error), closeFile(a.file))
		}
		return a, nil
	case <-ctx.Done():
		return answer{}, fmt.Errorf("gate: %s: %w", op, context.Cause(ctx))
	case <-c.done:
		return answer{}, fmt.Errorf("gate: %s: %w", op, ErrClosed)
	}
}

// forget ends a call; a descriptor that came for nobody is closed.
func (c *Client) forget(id uint64, waiting chan answer) {
	c.mu.Lock()
	delete(c.waiting, id)
	c.mu.Unlock()
	select {
	case a := <-waiting:
		closeFile(a.file)
	default:
	}
}

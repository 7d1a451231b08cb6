package gate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// acceptPause is how long a listener rests that cannot accept: descriptors are
// short, mostly.
const acceptPause = 50 * time.Millisecond

// open opens a pod's listeners for the agent s, and tells whether they were not.
func (g *gate) open(p *pod, s *session) (bool, error) {
	if p.doors.serve(s) {
		return false, nil
	}
	listeners, err := g.kernel.Listen(p.uid)
	if err != nil {
		return false, err
	}
	slots, ok := p.doors.take(s, listeners)
	if !ok { // the agent has gone meanwhile
		var errs []error
		for _, l := range listeners {
			errs = append(errs, l.Close())
		}
		return false, errors.Join(errs...)
	}
	into := entry{pod: p, sandbox: p.sandbox, session: s, slots: slots}
	for _, l := range listeners {
		g.group.Go(func() error { g.accept(into, l); return nil })
	}
	return true, nil
}

// serve tells whether the doors are open for s.
func (d *doors) serve(s *session) bool {
	d.Lock()
	defer d.Unlock()
	return d.session == s && d.listeners != nil
}

// take makes the listeners the doors, unless the agent is gone.
func (d *doors) take(s *session, listeners []net.Listener) (chan struct{}, bool) {
	d.Lock()
	defer d.Unlock()
	if s.isOver() {
		return nil, false
	}
	d.session, d.listeners, d.slots = s, listeners, make(chan struct{}, MaxInFlight)
	return d.slots, true
}

// close closes the doors. What was accepted and not yet handed over is closed by
// the loop that accepted it.
func (d *doors) close() {
	d.Lock()
	defer d.Unlock()
	for _, l := range d.listeners {
		l.Close() // the error is that of a listener that is closed
	}
	d.session, d.listeners, d.slots = nil, nil, nil
}

// took notes that the agent took a connection.
func (d *doors) took(s *session) {
	d.Lock()
	defer d.Unlock()
	if d.session != s {
		return
	}
	select {
	case <-d.slots:
	default: // more than it was given
	}
}

// addresses are those of the listeners; waiting is how many connections the agent
// has not taken.
func (d *doors) addresses() (addrs []netip.AddrPort, waiting int) {
	d.Lock()
	defer d.Unlock()
	for _, l := range d.listeners {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			addrs = append(addrs, tcp.AddrPort())
		}
	}
	return addrs, len(d.slots)
}

// entry is where connections come in: a pod's listeners, as long as they are open.
type entry struct {
	pod     *pod
	sandbox *sandbox
	session *session      // whom they serve
	slots   chan struct{} // see doors
}

// accept hands a listener's connections over until it is closed.
func (g *gate) accept(into entry, l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			g.log.WithField("pod", into.pod.uid).WithError(err).Warn("A connection is not accepted")
			if into.session.wait(acceptPause) {
				continue
			}
			l.Close()
			return
		}
		select {
		case into.slots <- struct{}{}:
			g.handOver(into, c)
		case <-into.session.over:
		}
		c.Close() // the agent has a descriptor of its own
	}
}

// handOver gives a connection to the agent, with what the kernel says of it.
func (g *gate) handOver(into entry, c net.Conn) {
	err := g.pass(into, c)
	if err == nil {
		return
	}
	select {
	case <-into.slots:
	default: // the agent took more than it was given
	}
	if errors.Is(err, redirect.ErrGone) { // nothing was withheld from anybody
		into.sandbox.givenUp.Add(1)
		return
	}
	into.sandbox.lost.Add(1)
	if !into.session.isOver() {
		g.log.WithField("pod", into.pod.uid).WithError(err).Debug("A connection is closed and not handed over")
	}
}

func (g *gate) pass(into entry, c net.Conn) error {
	origin, err := g.kernel.Origin(into.pod.uid, c)
	if err != nil {
		return err
	}
	conn, ok := c.(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T has no descriptor", c)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	into.sandbox.accepted.Add(1)
	a := arrival{
		PodUID: into.pod.uid, Sandbox: into.sandbox.number,
		Origin: origin, Facts: factsOf(origin), ContainerID: g.containerOf(into.pod, origin.Cgroup),
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = into.session.link.write(message{Op: opArrival}, a, int(fd)) })
	return errors.Join(err, sent)
}

// factsOf completes what the kernel says of the process. Names of users are those
// of the pod's image, which is not looked at.
func factsOf(o redirect.Origin) workload.Facts {
	facts := workload.Describe(workload.Process{
		PID: o.PID, UID: o.UID, Comm: o.Comm, Started: o.Started,
		Cgroup: o.Cgroup, ExeDev: o.ExeDev, ExeInode: o.ExeInode,
	})
	facts.User = ""
	return facts
}

// containerOf tells which container a cgroup of the pod belongs to. Cgroups that
// are new are looked for, so many times a second.
func (g *gate) containerOf(p *pod, cgroup uint64) string {
	w, _ := g.wishOf(p)
	p.cgroups.Lock()
	defer p.cgroups.Unlock()
	if id, ok := p.cgroups.containers[cgroup]; ok {
		return id
	}
	if w.cgroup == "" || !p.walks.take() {
		return ""
	}
	containers, err := workload.Containers(w.cgroup)
	if err != nil {
		g.log.WithField("pod", p.uid).WithError(err).Warn("The pod's containers cannot be told apart")
		return ""
	}
	p.cgroups.containers = containers
	return containers[cgroup]
}

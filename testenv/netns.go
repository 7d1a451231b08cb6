package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// veth is the name of both ends of a pair, each in its namespace.
const veth = "veth0"

// Netns is a network namespace of a test, with its loopback interface up.
type Netns struct {
	handle netns.NsHandle
}

// NewNetns makes a network namespace; it goes when the test ends and the last
// socket and process in it are gone.
func NewNetns(t testing.TB) *Netns {
	t.Helper()
	Need(t, os.Geteuid() == 0, "root")
	n := &Netns{}
	err := onThread(func() (err error) {
		n.handle, err = netns.New()
		if err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { n.handle.Close() })
	return n
}

// onThread runs f on a thread of its own, which then ends: what f does to the
// thread stays with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

// Do runs f in the namespace. Sockets and processes that f makes belong there,
// goroutines that it starts do not.
func (n *Netns) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// Start starts a command in the namespace.
func (n *Netns) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Sysctl sets a value below /proc/sys/net.
func (n *Netns) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	err := n.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
}

// Connect joins two namespaces by a veth pair with the given addresses; once for
// each namespace. Both know each other's hardware address: the first packet of
// IPv6's neighbour discovery is lost while the pair comes up, which is a second.
func (n *Netns) Connect(t testing.TB, peer *Netns, own, peers []netip.Prefix) {
	t.Helper()
	err := n.Do(func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: veth}, PeerName: veth, PeerNamespace: netlink.NsFd(peer.handle)}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		return setAddresses(veth, own)
	})
	err = errors.Join(err,
		peer.Do(func() error { return setAddresses(veth, peers) }),
		peer.meet(n, own),
		n.meet(peer, peers))
	if err != nil {
		t.Fatalf("join network namespaces: %v", err)
	}
}

// meet tells n the hardware address behind its peer's addresses.
func (n *Netns) meet(peer *Netns, addresses []netip.Prefix) error {
	var hardware net.HardwareAddr
	err := peer.Do(func() error {
		l, err := netlink.LinkByName(veth)
		if err == nil {
			hardware = l.Attrs().HardwareAddr
		}
		return err
	})
	if err != nil {
		return err
	}
	return n.Do(func() error {
		l, err := netlink.LinkByName(veth)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
				IP: a.Addr().AsSlice(), HardwareAddr: hardware,
			})
			if err != nil {
				return fmt.Errorf("add neighbour %v: %w", a.Addr(), err)
			}
		}
		return nil
	})
}

func setAddresses(name string, prefixes []netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		addr := &netlink.Addr{
			IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD, // usable at once
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("add %v to %s: %w", p, name, err)
		}
	}
	return netlink.LinkSetUp(l)
}

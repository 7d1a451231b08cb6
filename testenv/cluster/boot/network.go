package boot

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/layout"
)

// configureNetwork sets up the node's end of the cable. The machine is the
// default gateway and does not forward: nothing leaves.
func configureNetwork() error {
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return err
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	link, err := netlink.LinkByName(layout.NodeLink)
	if err != nil {
		return err
	}
	if err := Configure(link, layout.Node4, layout.Node6); err != nil {
		return err
	}
	for _, gateway := range []netip.Prefix{layout.Host4, layout.Host6} {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.Addr().AsSlice()}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("add the default route by %s: %w", gateway.Addr(), err)
		}
	}
	return nil
}

// Configure gives a link its addresses and sets it up.
func Configure(link netlink.Link, addresses ...netip.Prefix) error {
	for _, prefix := range addresses {
		addr, err := netlink.ParseAddr(prefix.String())
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD // nobody else is on this cable
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add the address %s: %w", prefix, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/boot"
	"postern.dev/postern/testenv/cluster/layout"
)

// layCable connects the machine with the network namespace of the process pid,
// and routes the addresses of pods and Services over it. Everything goes with the link.
func layCable(dir layout.Dir, pid int) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = layout.HostLink
	veth := &netlink.Veth{LinkAttrs: attributes, PeerName: layout.NodeLink, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add the link %s: %w", layout.HostLink, err)
	}
	link, err := netlink.LinkByName(layout.HostLink)
	if err != nil {
		return err
	}
	// Whoever finds the link can tell whose it is.
	if err := netlink.LinkSetAlias(link, string(dir)); err != nil {
		return fmt.Errorf("name the link's owner: %w", err)
	}
	if err := boot.Configure(link, layout.Host4, layout.Host6); err != nil {
		return err
	}
	for _, way := range []struct{ to, gateway netip.Prefix }{
		{layout.Pods4, layout.Node4}, {layout.Services4, layout.Node4},
		{layout.Pods6, layout.Node6}, {layout.Services6, layout.Node6},
	} {
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Gw: way.gateway.Addr().AsSlice(),
			Dst: &net.IPNet{IP: way.to.Addr().AsSlice(), Mask: net.CIDRMask(way.to.Bits(), way.to.Addr().BitLen())},
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route %s to the node: %w", way.to, err)
		}
	}
	return nil
}

// cableOwner is the state folder of the cluster whose link is there; empty if
// none is.
func cableOwner() (string, error) {
	link, err := netlink.LinkByName(layout.HostLink)
	if isAbsent(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return link.Attrs().Alias, nil
}

// cutCable removes both ends, whether or not the node's namespace lives.
func cutCable() error {
	link, err := netlink.LinkByName(layout.HostLink)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	// Gone in between: with its namespace, which the kernel removes in its own time.
	if isAbsent(err) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func isAbsent(err error) bool {
	var absent netlink.LinkNotFoundError
	return errors.As(err, &absent)
}

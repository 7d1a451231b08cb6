package redirect

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A pod with CAP_NET_ADMIN makes as many links as it likes: one with more than
// these is not covered, and the answer says so. A node has one for each pod.
const (
	maxPodLinks = 256
	maxDevices  = 65536
)

// dumpTries is how often a list is asked for again that changed while it was read.
const dumpTries = 5

// device is what is read of a link.
type device struct {
	name     string
	kind     string
	index    int
	parent   int // index of the other end, or of the link below; 0: none
	netns    int // id of the namespace that the parent is in; -1: the link's own
	loopback bool
	express  bool // has an XDP program
	tunnel   uint16
}

// end is a link of a pod whose other end is on the node.
type end struct {
	name  string // in the pod
	index int    // in the pod
	peer  int    // on the node
}

// contained are the kinds of links whose packets come out at another link of the
// same namespace, or nowhere, if their parent is in it. For a tunnel, this is what
// carries it.
var contained = []string{
	"bond", "bridge", "dummy", "erspan", "geneve", "gre", "gretap", "ifb", "ip6erspan", "ip6gre", "ip6gretap",
	"ip6tnl", "ipip", "ipvlan", "ipvtap", "macvlan", "macvtap", "nlmon", "sit", "veth", "vlan", "vrf", "vti", "vti6", "vxlan", "xfrm",
}

// endsOf lists the links of a namespace: those with an end on the node, and those
// of which it cannot be seen where their packets go.
func endsOf(pod, host *os.File) (ends []end, uncovered []string, err error) {
	err = inNetns(pod, func() error {
		node, err := netlink.GetNetNsIdByFd(int(host.Fd()))
		if err != nil {
			return fmt.Errorf("find the node's namespace: %w", err)
		}
		links, err := listLinks(maxPodLinks)
		if err != nil {
			return err
		}
		for _, l := range links {
			switch why := l.escapes(node); {
			case l.endsAt(node):
				ends = append(ends, end{name: l.name, index: l.index, peer: l.parent})
			case why != "":
				uncovered = append(uncovered, l.name+": "+why)
			}
		}
		return nil
	})
	return ends, uncovered, err
}

// endsAt tells whether a link's other end is in the namespace with that id.
func (d device) endsAt(node int) bool { return d.kind == "veth" && d.netns >= 0 && d.netns == node }

// escapes says how a link's packets leave the pod other than by an end on the node;
// empty: they do not. Cilium's netkit is not known here: its programs come before
// those of the end on the node, and may send packets elsewhere.
func (d device) escapes(node int) string {
	switch {
	case d.loopback, d.endsAt(node), d.netns == -1 && slices.Contains(contained, d.kind):
		return ""
	case d.kind == "device":
		return "a device of the machine has no end on the node"
	case d.kind == "veth":
		return "its other end is not on the node"
	}
	return "a link of kind " + d.kind + " has no end on the node"
}

// mismatch says why the device at the node's end is not to be used; empty: it is.
// Indexes are used again, and a program for XDP sees packets first, and may send
// them elsewhere.
func (e end) mismatch(devices []device) string {
	i := slices.IndexFunc(devices, func(d device) bool { return d.index == e.peer })
	switch {
	case i < 0, devices[i].kind != "veth", devices[i].parent != e.index:
		return "its other end is not on the node"
	case devices[i].express:
		return "an XDP program is before us at its end on the node"
	}
	return ""
}

// listLinks lists the links of the thread's namespace.
func listLinks(limit int) ([]device, error) {
	for range dumpTries {
		links, err := dumpLinks(limit)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return links, err
		}
	}
	return nil, errors.New("the links change too fast to be listed")
}

func dumpLinks(limit int) ([]device, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	var links []device
	var failed error
	err := request.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, func(message []byte) bool {
		if len(links) == limit {
			failed = fmt.Errorf("there are more than %d links", limit)
			return false
		}
		link, err := netlink.LinkDeserialize(nil, message)
		if err != nil {
			failed = fmt.Errorf("read a link: %w", err)
			return false
		}
		links = append(links, deviceOf(link))
		return true
	})
	if failed != nil {
		return nil, failed
	}
	return links, err
}

func deviceOf(link netlink.Link) device {
	a := link.Attrs()
	d := device{
		name: printable(a.Name), kind: link.Type(), index: a.Index, parent: a.ParentIndex, netns: a.NetNsID,
		loopback: a.Flags&net.FlagLoopback != 0,
		express:  a.Xdp != nil && a.Xdp.Attached,
	}
	switch tunnel := link.(type) {
	case *netlink.Vxlan:
		d.tunnel = uint16(tunnel.Port)
	case *netlink.Geneve:
		d.tunnel = tunnel.Dport
	}
	return d
}

// printable is a name that a pod chose, for messages.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, name)
}

// writeTunnels tells the program at which ports the node opens datagrams.
func (c *cover) writeTunnels(devices []device) error {
	want := make(map[uint16]bool)
	for _, d := range devices {
		if d.tunnel != 0 {
			want[networkOrder(d.tunnel)] = true
		}
	}
	for port := range want {
		if err := c.objects.Tunnels.Put(port, uint8(1)); err != nil {
			return fmt.Errorf("write tunnels: %w", err)
		}
	}
	var port uint16
	var value uint8
	var gone []uint16
	held := c.objects.Tunnels.Iterate()
	for held.Next(&port, &value) {
		if !want[port] {
			gone = append(gone, port)
		}
	}
	for _, port := range gone {
		if err := c.objects.Tunnels.Delete(port); err != nil {
			return fmt.Errorf("write tunnels: %w", err)
		}
	}
	return held.Err()
}

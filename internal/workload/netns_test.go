package workload

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"postern.dev/postern/testenv"
)

func TestAddressIsFoundAmongMany(t *testing.T) {
	const many = 2000
	testenv.Need(t, os.Geteuid() == 0, "root")
	own := []*net.IPNet{{IP: net.ParseIP("2001:db8::1"), Mask: net.CIDRMask(128, 128)}}
	for i := range many {
		own = append(own, &net.IPNet{IP: net.IPv4(10, byte(100+i/256), byte(i), 1), Mask: net.CIDRMask(32, 32)})
	}
	ns := testenv.NewNetns(t)
	err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		for _, addr := range own {
			err = errors.Join(err, netlink.AddrAdd(lo, &netlink.Addr{IPNet: addr}))
		}
		host := func(last byte) *net.IPNet {
			return &net.IPNet{IP: net.IPv4(10, 99, 0, last), Mask: net.CIDRMask(32, 32)}
		}
		return errors.Join(err, netlink.AddrAdd(lo, &netlink.Addr{IPNet: host(1), Peer: host(2)}))
	})
	if err != nil {
		t.Fatal(err)
	}
	var netns *os.File
	err = ns.Do(func() (err error) { netns, err = os.Open("/proc/thread-self/ns/net"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	for addr, want := range map[string]bool{
		"10.100.0.1": true, fmt.Sprintf("10.%d.%d.1", 100+(many-1)/256, (many-1)%256): true, "2001:db8::1": true,
		"10.99.0.1": true, "10.99.0.2": false, // the other end's
		"10.100.0.2": false, "2001:db8::2": false,
	} {
		got, err := hasAddress(netns, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr(addr)})
		if err != nil || got != want {
			t.Errorf("got %v, %v for %s, want %v", got, err, addr, want)
		}
	}
}

func TestAddressesThatEveryNamespaceHasProveNothing(t *testing.T) {
	h := newHome(t)
	h.start(t, containerA, h.netns.Start, "sleep", "60")
	everywhere := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.IPv6Loopback(), {}}
	place, err := h.finder.Find(h.want(func(w *Wanted) { w.IPs = everywhere }))
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	if err := place.Prove(everywhere); err != nil || place.Proven {
		t.Errorf("got a place that is proven: %v, %v, want it open", place.Proven, err)
	}
	if err := place.Prove([]netip.Addr{homeAddr}); err != nil || !place.Proven {
		t.Errorf("got a place that is proven: %v, %v, want it proven by its own address", place.Proven, err)
	}
}

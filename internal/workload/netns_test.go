package workload

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"postern.dev/postern/testenv"
)

func TestAddressIsFoundAmongMany(t *testing.T) {
	const many = 2000
	testenv.Need(t, os.Geteuid() == 0, "root")
	var batch strings.Builder
	for i := range many {
		fmt.Fprintf(&batch, "addr add 10.%d.%d.1/32 dev lo\n", 100+i/256, i%256)
	}
	batch.WriteString("addr add 10.99.0.1 peer 10.99.0.2 dev lo\naddr add 2001:db8::1/128 dev lo\n")
	ns := testenv.NewNetns(t)
	add := exec.Command("ip", "-batch", "-")
	add.Stdin = strings.NewReader(batch.String())
	var said strings.Builder
	add.Stderr = &said
	if err := ns.Start(add); err != nil {
		t.Fatal(err)
	}
	if err := add.Wait(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	var netns *os.File
	err := ns.Do(func() (err error) { netns, err = os.Open("/proc/thread-self/ns/net"); return err })
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

package redirect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
	"postern.dev/postern/testenv"
)

// nodeTunnel is a port at which the node of these tests opens datagrams.
const nodeTunnel = 8472

// Destinations that are not guarded.
var (
	web4 = netip.AddrPortFrom(db4.Addr(), 443)
	web6 = netip.AddrPortFrom(db6.Addr(), 443)
)

// next and drop are what the program answers.
const (
	next = uint32(0xffffffff)
	drop = uint32(2)
)

// layer puts what is before a payload in front of it.
type layer func(payload []byte) []byte

// stack puts layers around a payload, the outermost first.
func stack(payload []byte, layers ...layer) []byte {
	for _, l := range slices.Backward(layers) {
		payload = l(payload)
	}
	return payload
}

func prefixed(header ...byte) layer {
	return func(payload []byte) []byte { return append(slices.Clone(header), payload...) }
}

func ether(kind uint16) layer {
	header := append(make([]byte, 12), byte(kind>>8), byte(kind))
	copy(header, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	return prefixed(header...)
}

// tagged is a VLAN's tag, before the type of what follows.
func tagged(vlan, next uint16) layer {
	return prefixed(byte(vlan>>8), byte(vlan), byte(next>>8), byte(next))
}

func ip4(to netip.AddrPort, protocol byte, fragment uint16, options ...byte) layer {
	return func(payload []byte) []byte {
		p := ipv4Header(to.Addr(), fragment, options, payload)
		p[9] = protocol
		return p
	}
}

func ip6(to netip.AddrPort, next byte) layer {
	return func(payload []byte) []byte { return ipv6Header(to.Addr(), next, payload) }
}

// options6 is an extension header of eight octets.
func options6(next byte) layer { return prefixed(next, 0, 1, 4, 0, 0, 0, 0) }

func fragment6(next byte, offset uint16) layer {
	return prefixed(next, 0, byte(offset>>8), byte(offset), 0, 0, 0, 1)
}

func routing6(next, left byte) layer {
	return prefixed(append([]byte{next, 2, 0, left, 0, 0, 0, 0}, make([]byte, 16)...)...)
}

func udp(to netip.AddrPort) []byte {
	d := make([]byte, 8+24)
	binary.BigEndian.PutUint16(d[2:], to.Port())
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
	return d
}

func syn4(to netip.AddrPort) []byte {
	return stack(tcpSYN(to.Port()), ip4(to, unix.IPPROTO_TCP, 0))
}

func syn6(to netip.AddrPort) []byte {
	return stack(tcpSYN(to.Port()), ip6(to, unix.IPPROTO_TCP))
}

// ethertypes by what they are for.
const (
	typeIPv4, typeIPv6, typeARP  = 0x0800, 0x86dd, 0x0806
	typeTag, typeServiceTag      = 0x8100, 0x88a8
	typeMPLS, typePPPoE          = 0x8847, 0x8864
	typeBridged, typeExperiments = 0x6558, 0x88b5
)

const moreFragments = 1 << 13

// frame is a frame and whether it passes.
type frame struct {
	name   string
	bytes  []byte
	passes bool
	// opens says that on a device a part of it may pass: it is IP only when it is
	// whole, or the kernel took off a tag first.
	opens bool
}

func plainFrames() []frame {
	return []frame{
		{name: "tcp4", bytes: stack(syn4(db4), ether(typeIPv4))},
		{name: "tcp4 elsewhere", bytes: stack(syn4(web4), ether(typeIPv4)), passes: true},
		{name: "tcp4 guarded port anywhere", bytes: stack(syn4(quiet4), ether(typeIPv4))},
		{name: "tcp4 port of the Target", bytes: stack(syn4(netip.AddrPortFrom(db4.Addr(), lonePort)), ether(typeIPv4))},
		{name: "tcp4 that port elsewhere", bytes: stack(syn4(netip.AddrPortFrom(quiet4.Addr(), lonePort)), ether(typeIPv4)), passes: true},
		{name: "tcp6", bytes: stack(syn6(db6), ether(typeIPv6))},
		{name: "tcp6 elsewhere", bytes: stack(syn6(web6), ether(typeIPv6)), passes: true},
		{name: "tcp6 mapped", bytes: stack(syn6(mapped(db4)), ether(typeIPv6))},
		{name: "udp4", bytes: stack(udp(db4), ether(typeIPv4), ip4(db4, unix.IPPROTO_UDP, 0))},
		{name: "udp4 elsewhere", bytes: stack(udp(web4), ether(typeIPv4), ip4(web4, unix.IPPROTO_UDP, 0)), passes: true},
		{name: "udp6", bytes: stack(udp(db6), ether(typeIPv6), ip6(db6, unix.IPPROTO_UDP))},
		{name: "udp6 elsewhere", bytes: stack(udp(web6), ether(typeIPv6), ip6(web6, unix.IPPROTO_UDP)), passes: true},
		{name: "icmp4", bytes: stack(make([]byte, 8), ether(typeIPv4), ip4(db4, unix.IPPROTO_ICMP, 0)), passes: true},
		{name: "icmp6", bytes: stack(make([]byte, 8), ether(typeIPv6), ip6(db6, unix.IPPROTO_ICMPV6)), passes: true},
		{name: "arp", bytes: stack([]byte{0, 1, 8, 0, 6, 4, 0, 1}, ether(typeARP)), passes: true},
		{name: "reset of a packet socket", bytes: stack(reset(db4), ether(typeIPv4), ip4(db4, unix.IPPROTO_TCP, 0))},
		{name: "version 5", bytes: stack(append([]byte{0x55}, syn4(db4)[1:]...), ether(typeIPv4))},
		{name: "version 6 in IPv4's type", bytes: stack(syn6(db6), ether(typeIPv4))},
		{name: "version 4 in IPv6's type", bytes: stack(syn4(db4), ether(typeIPv6))},
	}
}

func reset(to netip.AddrPort) []byte {
	h := tcpSYN(to.Port())
	h[13] = 1 << 2
	return h
}

func optionFrames() []frame {
	route := looseSourceRoute(db4.Addr())
	routerAlert := []byte{148, 4, 0, 0}
	frames := []frame{
		{name: "source route", bytes: stack(tcpSYN(lonePort), ether(typeIPv4), ip4(quiet4, unix.IPPROTO_TCP, 0, route...))},
		{name: "options", bytes: stack(tcpSYN(443), ether(typeIPv4), ip4(web4, unix.IPPROTO_TCP, 0, routerAlert...))},
		{name: "options before udp", bytes: stack(udp(db4), ether(typeIPv4), ip4(db4, unix.IPPROTO_UDP, 0, routerAlert...))},
		{name: "options before igmp", bytes: stack(make([]byte, 8), ether(typeIPv4), ip4(db4, unix.IPPROTO_IGMP, 0, routerAlert...)), passes: true},
		{name: "routing header", bytes: stack(tcpSYN(lonePort), ether(typeIPv6), ip6(quiet6, unix.IPPROTO_ROUTING), routing6(unix.IPPROTO_TCP, 1))},
		{name: "routing header at its end", bytes: stack(tcpSYN(db6.Port()), ether(typeIPv6), ip6(db6, unix.IPPROTO_ROUTING), routing6(unix.IPPROTO_TCP, 0))},
		{name: "routing header at its end elsewhere", bytes: stack(tcpSYN(443), ether(typeIPv6), ip6(web6, unix.IPPROTO_ROUTING), routing6(unix.IPPROTO_TCP, 0)), passes: true},
		{name: "authentication header", bytes: stack(tcpSYN(db6.Port()), ether(typeIPv6), ip6(db6, unix.IPPROTO_AH), prefixed(append([]byte{unix.IPPROTO_TCP, 4}, make([]byte, 22)...)...))},
	}
	for _, n := range []int{1, 6, 7, 8, 20} {
		frames = append(frames,
			frame{name: fmt.Sprintf("%d extension headers", n), bytes: extended(db6, n)},
			frame{name: fmt.Sprintf("%d extension headers elsewhere", n), bytes: extended(web6, n), passes: n < 8})
	}
	return frames
}

// extended is a SYN behind n extension headers, the first one hop by hop.
func extended(to netip.AddrPort, n int) []byte {
	layers := []layer{ether(typeIPv6), ip6(to, unix.IPPROTO_HOPOPTS)}
	for range n - 1 {
		layers = append(layers, options6(unix.IPPROTO_DSTOPTS))
	}
	return stack(tcpSYN(to.Port()), append(layers, options6(unix.IPPROTO_TCP))...)
}

func fragmentFrames() []frame {
	tail := make([]byte, 24)
	return []frame{
		{name: "tcp4 first", bytes: stack(append(tcpSYN(db4.Port()), tail...), ether(typeIPv4), ip4(db4, unix.IPPROTO_TCP, moreFragments))},
		{name: "tcp4 first elsewhere", bytes: stack(append(tcpSYN(443), tail...), ether(typeIPv4), ip4(web4, unix.IPPROTO_TCP, moreFragments))},
		{name: "tcp4 first of 8 octets", bytes: stack(tcpSYN(db4.Port())[:8], ether(typeIPv4), ip4(db4, unix.IPPROTO_TCP, moreFragments))},
		{name: "tcp4 later", bytes: stack(tail, ether(typeIPv4), ip4(web4, unix.IPPROTO_TCP, 1))},
		{name: "udp4 first", bytes: stack(udp(db4), ether(typeIPv4), ip4(db4, unix.IPPROTO_UDP, moreFragments))},
		{name: "udp4 first elsewhere", bytes: stack(udp(web4), ether(typeIPv4), ip4(web4, unix.IPPROTO_UDP, moreFragments)), passes: true},
		{name: "udp4 later", bytes: stack(tail, ether(typeIPv4), ip4(web4, unix.IPPROTO_UDP, 100)), passes: true},
		{name: "ipip later", bytes: stack(tail, ether(typeIPv4), ip4(web4, unix.IPPROTO_IPIP, 100))},
		{name: "tcp6 first", bytes: stack(tcpSYN(db6.Port()), ether(typeIPv6), ip6(db6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_TCP, 1))},
		{name: "tcp6 first elsewhere", bytes: stack(tcpSYN(443), ether(typeIPv6), ip6(web6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_TCP, 1))},
		{name: "tcp6 whole", bytes: stack(tcpSYN(db6.Port()), ether(typeIPv6), ip6(db6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_TCP, 0))},
		{name: "tcp6 first behind options", bytes: stack(tcpSYN(db6.Port()), ether(typeIPv6), ip6(db6, unix.IPPROTO_FRAGMENT),
			fragment6(unix.IPPROTO_DSTOPTS, 1), options6(unix.IPPROTO_TCP))},
		{name: "tcp6 later", bytes: stack(tail, ether(typeIPv6), ip6(web6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_TCP, 8))},
		{name: "options6 later", bytes: stack(tail, ether(typeIPv6), ip6(web6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_DSTOPTS, 8))},
		{name: "fragment in a fragment", bytes: stack(udp(web6), ether(typeIPv6), ip6(web6, unix.IPPROTO_FRAGMENT),
			fragment6(unix.IPPROTO_FRAGMENT, 1), fragment6(unix.IPPROTO_UDP, 1))},
		{name: "udp6 first", bytes: stack(udp(db6), ether(typeIPv6), ip6(db6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_UDP, 1))},
		{name: "udp6 first elsewhere", bytes: stack(udp(web6), ether(typeIPv6), ip6(web6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_UDP, 1)), passes: true},
		{name: "udp6 later", bytes: stack(tail, ether(typeIPv6), ip6(web6, unix.IPPROTO_FRAGMENT), fragment6(unix.IPPROTO_UDP, 800)), passes: true},
	}
}

func linkFrames() []frame {
	tags := func(n int, vlan uint16, last uint16) []layer {
		layers := []layer{ether(typeTag)}
		for range n - 1 {
			layers = append(layers, tagged(vlan, typeTag))
		}
		return append(layers, tagged(vlan, last))
	}
	return []frame{
		{name: "tag", bytes: stack(syn4(db4), tags(1, 7, typeIPv4)...)},
		{name: "tag elsewhere", bytes: stack(syn4(web4), tags(1, 7, typeIPv4)...), passes: true},
		{name: "tag 0", bytes: stack(syn6(db6), tags(1, 0, typeIPv6)...)},
		{name: "two tags 0", bytes: stack(syn4(db4), tags(2, 0, typeIPv4)...)},
		{name: "service tag", bytes: stack(syn4(db4), ether(typeServiceTag), tagged(0, typeTag), tagged(0, typeIPv4))},
		{name: "old tag", bytes: stack(syn4(db4), ether(0x9100), tagged(0, typeIPv4))},
		{name: "eight tags", bytes: stack(syn4(db4), tags(8, 0, typeIPv4)...)},
		{name: "eight tags elsewhere", bytes: stack(syn4(web4), tags(8, 0, typeIPv4)...), passes: true},
		{name: "nine tags elsewhere", bytes: stack(syn4(web4), tags(9, 0, typeIPv4)...), opens: true},
		{name: "tagged arp", bytes: stack(make([]byte, 28), tags(2, 0, typeARP)...), passes: true},
		{name: "experiments", bytes: stack(syn4(db4), ether(typeExperiments)), opens: true},
		{name: "experiments elsewhere", bytes: stack(syn4(web4), ether(typeExperiments)), passes: true},
		{name: "experiments of no packet", bytes: stack([]byte{0x45, 1, 2, 3}, ether(typeExperiments)), passes: true},
		{name: "snap", bytes: stack(syn4(db4), ether(50), prefixed(0xaa, 0xaa, 3, 0, 0, 0, 8, 0)), opens: true},
		{name: "ip over llc", bytes: stack(syn4(db4), ether(50), prefixed(6, 6, 3)), opens: true},
		{name: "spanning tree", bytes: stack(make([]byte, 35), ether(38), prefixed(0x42, 0x42, 3)), passes: true},
	}
}

func tunnelFrames() []frame {
	at := netip.AddrPortFrom(quiet4.Addr(), nodeTunnel)
	inner := stack(syn4(db4), ether(typeIPv4))
	return []frame{
		{name: "ipip", bytes: stack(syn4(db4), ether(typeIPv4), ip4(web4, unix.IPPROTO_IPIP, 0))},
		{name: "6in4", bytes: stack(syn6(db6), ether(typeIPv4), ip4(web4, unix.IPPROTO_IPV6, 0))},
		{name: "4in6", bytes: stack(syn4(db4), ether(typeIPv6), ip6(web6, unix.IPPROTO_IPIP))},
		{name: "6in6 behind options", bytes: stack(syn6(db6), ether(typeIPv6), ip6(web6, unix.IPPROTO_DSTOPTS), options6(unix.IPPROTO_IPV6))},
		{name: "gre", bytes: stack(syn4(db4), ether(typeIPv4), ip4(web4, unix.IPPROTO_GRE, 0), prefixed(0, 0, 8, 0))},
		{name: "vxlan to this node", bytes: stack(inner, ether(typeIPv4), ip4(at, unix.IPPROTO_UDP, 0),
			prefixed(udp(at)[:8]...), prefixed(8, 0, 0, 0, 0, 0, 1, 0))},
		{name: "tcp to that port", bytes: stack(syn4(at), ether(typeIPv4)), passes: true},
		{name: "mpls", bytes: stack(syn4(db4), ether(typeMPLS), prefixed(0, 1, 1, 64))},
		{name: "pppoe", bytes: stack(syn4(db4), ether(typePPPoE), prefixed(0x11, 0, 0, 1, 0, 42, 0, 0x21))},
		{name: "bridged", bytes: stack(inner, ether(typeBridged))},
		{name: "esp", bytes: stack(make([]byte, 40), ether(typeIPv4), ip4(web4, unix.IPPROTO_ESP, 0)), passes: true},
	}
}

func allFrames() []frame {
	return slices.Concat(plainFrames(), optionFrames(), fragmentFrames(), linkFrames(), tunnelFrames())
}

// judge is the program with maps of its own, run without a device.
type judge struct {
	*cover
	maps map[string]*ebpf.Map
}

// newCoverMaps makes the maps that the node's programs share.
func newCoverMaps(t testing.TB) map[string]*ebpf.Map {
	t.Helper()
	testenv.Need(t, os.Geteuid() == 0, "root")
	spec, err := bpf.LoadTcx()
	if err != nil {
		t.Fatal(err)
	}
	spec.Programs = nil
	delete(spec.Maps, bpf.TcxMapLinks)
	delete(spec.Maps, bpf.TcxMapTunnels)
	spec.Maps[bpf.TcxMapCounters].MaxEntries *= coverPods
	maps, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(maps.Close)
	return maps.Maps
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	j := &judge{maps: newCoverMaps(t)}
	var err error
	if j.cover, err = openCover(openNetns(t), j.maps); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.cover.Close() })
	feed(t, j.maps)
	if err := j.objects.Tunnels.Put(networkOrder(uint16(nodeTunnel)), uint8(1)); err != nil {
		t.Fatal(err)
	}
	return j
}

// feed writes what [postgresGuards] guard.
func feed(t testing.TB, maps map[string]*ebpf.Map) {
	t.Helper()
	guards, err := entries(postgresGuards().Guards, nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, flags := range guards {
		if err := maps[bpf.TcxMapGuards].Put(key, flags); err != nil {
			t.Fatal(err)
		}
	}
	setFed(t, maps, 1)
}

// try answers what the program says to a frame.
func (j *judge) try(t *testing.T, frame []byte) uint32 {
	t.Helper()
	verdict, err := j.objects.Cover.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return verdict
}

func TestFramesToWhatIsGuardedAreDropped(t *testing.T) {
	j := newJudge(t)
	for _, f := range allFrames() {
		want := drop
		if f.passes {
			want = next
		}
		if got := j.try(t, f.bytes); got != want {
			t.Errorf("%s: got %#x, want %#x", f.name, got, want)
		}
	}
}

// TestAgentsFramesPass: the kernel runs the program with a socket that this
// process made.
func TestAgentsFramesPass(t *testing.T) {
	j := newJudge(t)
	agents := j.maps[bpf.TcxMapAgents]
	own := ownCgroup(t)
	if err := agents.Put(own+1, uint8(1)); err != nil {
		t.Fatal(err)
	}
	target := stack(syn4(db4), ether(typeIPv4))
	if got := j.try(t, target); got != drop {
		t.Errorf("another's cgroup exempt: got %#x, want %#x", got, drop)
	}
	if err := agents.Put(own, uint8(1)); err != nil {
		t.Fatal(err)
	}
	for _, f := range allFrames() {
		if got := j.try(t, f.bytes); got != next {
			t.Errorf("%s: got %#x, want %#x", f.name, got, next)
		}
	}
	if err := agents.Delete(own); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	if got := j.try(t, target); got != drop {
		t.Errorf("exempt no more: got %#x, want %#x", got, drop)
	}
}

// TestUnfedProgramPassesNoPorts: before the guards are complete, everything might
// be guarded.
func TestUnfedProgramPassesNoPorts(t *testing.T) {
	j := newJudge(t)
	setFed(t, j.maps, 0)
	for _, f := range plainFrames() {
		want := drop
		if strings.HasPrefix(f.name, "icmp") || f.name == "arp" {
			want = next
		}
		if got := j.try(t, f.bytes); got != want {
			t.Errorf("%s: got %#x, want %#x", f.name, got, want)
		}
	}
}

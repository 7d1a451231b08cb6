package redirect

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strings"

	"github.com/cilium/ebpf"

	"postern.dev/postern/bpf"
)

// Guard is one set of destinations that the command does not reach directly.
// Where several hold a destination, one with its port counts before one with
// any, then the longest prefix; Target holds if one of them says so.
type Guard struct {
	Prefix netip.Prefix // ::/0 holds all of IPv4 too
	Port   uint16       // 0: any
	Refuse bool         // refused instead of redirected
	Target bool         // refused to other processes of the command's user too, and to unknown pods
	// Exclusive refuses it to a node's plain pods too; it is then a Target's.
	Exclusive bool
}

// Guarded is all that is guarded.
type Guarded struct {
	Guards []Guard
	// Sockets are paths of unix sockets of Targets, "@name" an abstract one. The
	// last element counts, in whatever directory. ".s.PGSQL.<port>" need not be
	// listed: it is guarded as that port of 127.0.0.1 is.
	Sockets []string
}

// Set replaces what is guarded: what is new first, what is not any more last,
// so that nothing that stays is open in between.
func (r *Run) Set(g Guarded) error {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	guards, err := entries(g.Guards, localPrefixes(own))
	if err != nil {
		return err
	}
	sockets, err := names(g.Sockets)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := replace(r.maps.Guards, &r.guards, guards); err != nil {
		return fmt.Errorf("write guards: %w", err)
	}
	if err := replace(r.maps.Sockets, &r.sockets, sockets); err != nil {
		return fmt.Errorf("write sockets: %w", err)
	}
	r.state.Pod.Class = bpf.RedirectPodClassPOD_GUARDED
	return r.writeState()
}

// replace makes a map hold want; have is what it holds, also after an error.
func replace[K comparable](m *ebpf.Map, have *map[K]bpf.RedirectGuardFlag, want map[K]bpf.RedirectGuardFlag) error {
	if *have == nil {
		*have = make(map[K]bpf.RedirectGuardFlag)
	}
	for key, flags := range want {
		if old, ok := (*have)[key]; ok && old == flags {
			continue
		}
		if err := m.Put(key, flags); err != nil {
			return err
		}
		(*have)[key] = flags
	}
	for key := range *have {
		if _, ok := want[key]; ok {
			continue
		}
		if err := m.Delete(key); err != nil {
			return err
		}
		delete(*have, key)
	}
	return nil
}

// entries turns guards into what the programs look up. local are the machine's
// own addresses: a server that listens on one of them mostly listens on all, so
// that a guard of one is a guard of every other.
func entries(guards []Guard, local []netip.Prefix) (map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag, error) {
	out := make(map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag, len(guards))
	implied := make(map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag)
	for _, g := range guards {
		if !g.Prefix.IsValid() {
			return nil, fmt.Errorf("guard: %v is no prefix", g.Prefix)
		}
		out[keyOf(g.Prefix, g.Port)] |= flagsOf(g)
		if !isLocal(g.Prefix, local) {
			continue
		}
		for _, p := range local {
			implied[keyOf(p, g.Port)] |= flagsOf(g)
		}
	}
	for key, flags := range implied {
		if _, explicit := out[key]; explicit {
			flags &= inherited
		}
		out[key] |= flags
	}
	for key := range out {
		out[key] |= above(out, key)
	}
	return out, nil
}

// inherited are the flags that hold for what is within a prefix, whatever a guard
// of a part of it says.
const inherited = bpf.RedirectGuardFlagGUARD_TARGET | bpf.RedirectGuardFlagGUARD_EXCLUSIVE

// above answers the inherited flags of the guards of this port that hold the whole
// prefix: the programs see only the longest.
func above(in map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag, key bpf.RedirectGuardKey) (flags bpf.RedirectGuardFlag) {
	addr := netip.AddrFrom16(addrOf(key.Addr.Word).As16())
	for bits := range int(key.Prefixlen) - portBits + 1 {
		shorter, err := addr.Prefix(bits)
		if err != nil {
			return flags
		}
		flags |= in[keyOf(shorter, networkOrder(key.Port))] & inherited
	}
	return flags
}

// portBits come before the address in a key: port and padding.
const portBits = 32

func keyOf(p netip.Prefix, port uint16) bpf.RedirectGuardKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	key := bpf.RedirectGuardKey{Prefixlen: uint32(portBits + bits), Port: networkOrder(port)}
	key.Addr.Word = words(p.Masked().Addr())
	return key
}

func flagsOf(g Guard) bpf.RedirectGuardFlag {
	flags := bpf.RedirectGuardFlagGUARD_SET
	if g.Refuse {
		flags |= bpf.RedirectGuardFlagGUARD_REFUSE
	}
	if g.Target {
		flags |= bpf.RedirectGuardFlagGUARD_TARGET
	}
	if g.Exclusive {
		flags |= inherited
	}
	return flags
}

// localPrefixes are the machine's own addresses. All of 127.0.0.0/8 is its own,
// though one address is configured.
func localPrefixes(own []net.Addr) []netip.Prefix {
	prefixes := []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
		netip.PrefixFrom(netip.IPv6Loopback(), 128),
	}
	for _, a := range own {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		addr = addr.Unmap()
		if ok && !addr.IsLoopback() {
			prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return prefixes
}

func isLocal(p netip.Prefix, local []netip.Prefix) bool {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	for _, l := range local {
		if l.Bits() <= p.Bits() && l.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// names turns paths of unix sockets into what the programs look up.
func names(paths []string) (map[bpf.RedirectSocketName]bpf.RedirectGuardFlag, error) {
	out := make(map[bpf.RedirectSocketName]bpf.RedirectGuardFlag, len(paths))
	for _, p := range paths {
		last := path.Base(strings.TrimPrefix(p, "@"))
		var name bpf.RedirectSocketName
		if last == "." || last == "/" || len(last) > len(name.Byte) {
			return nil, fmt.Errorf("guard: %q is no name of a unix socket", p)
		}
		copy(name.Byte[:], last)
		out[name] = bpf.RedirectGuardFlagGUARD_SET | bpf.RedirectGuardFlagGUARD_TARGET
	}
	return out, nil
}

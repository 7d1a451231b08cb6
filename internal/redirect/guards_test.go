package redirect

import (
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"

	"postern.dev/postern/bpf"
)

const (
	set    = bpf.RedirectGuardFlagGUARD_SET
	refuse = set | bpf.RedirectGuardFlagGUARD_REFUSE
	target = set | bpf.RedirectGuardFlagGUARD_TARGET
)

func key(prefix string, port uint16) bpf.RedirectGuardKey {
	return keyOf(netip.MustParsePrefix(prefix), port)
}

func TestEntries(t *testing.T) {
	own := []net.Addr{
		&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
		&net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)},
	}
	guard := func(prefix string, port uint16, more ...func(*Guard)) Guard {
		g := Guard{Prefix: netip.MustParsePrefix(prefix), Port: port}
		for _, f := range more {
			f(&g)
		}
		return g
	}
	isTarget := func(g *Guard) { g.Target = true }
	isRefused := func(g *Guard) { g.Refuse = true }
	for _, row := range []struct {
		name   string
		guards []Guard
		want   map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag
	}{
		{"one address", []Guard{guard("10.0.0.1/32", 5432)}, map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag{
			key("10.0.0.1/32", 5432): set,
		}},
		{"v4-mapped is v4, and bits beyond the prefix do not count", []Guard{guard("::ffff:10.0.0.9/120", 1)}, map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag{
			key("10.0.0.0/24", 1): set,
		}},
		{"said twice", []Guard{guard("10.0.0.1/32", 0, isTarget), guard("10.0.0.1/32", 0, isRefused)}, map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag{
			key("10.0.0.1/32", 0): target | refuse,
		}},
		{"within a Target", []Guard{guard("10.0.0.0/8", 1, isTarget), guard("10.0.0.1/32", 1), guard("10.0.0.1/32", 2), guard("11.0.0.1/32", 1)}, map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag{
			key("10.0.0.0/8", 1): target, key("10.0.0.1/32", 1): target, key("10.0.0.1/32", 2): set, key("11.0.0.1/32", 1): set,
		}},
		{"this machine", []Guard{guard("127.0.0.1/32", 1, isTarget), guard("::1/128", 1, isRefused)}, map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag{
			key("127.0.0.1/32", 1): target, key("127.0.0.0/8", 1): target | refuse,
			key("::1/128", 1): refuse | target, key("192.0.2.7/32", 1): target | refuse,
		}},
		{"everywhere is not this machine", []Guard{guard("0.0.0.0/0", 1, isTarget)}, map[bpf.RedirectGuardKey]bpf.RedirectGuardFlag{
			key("0.0.0.0/0", 1): target,
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := entries(row.guards, localPrefixes(own))
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, row.want) {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
	if _, err := entries([]Guard{{}}, nil); err == nil {
		t.Error("no prefix: got no error, want one")
	}
}

func TestNames(t *testing.T) {
	for path, want := range map[string]string{
		"/run/postgresql/.s.PGSQL.5432": ".s.PGSQL.5432",
		"relative":                      "relative",
		"@abstract":                     "abstract",
		"@dir/abstract":                 "abstract",
		"/":                             "",
		"":                              "",
		"/" + strings.Repeat("x", 109):  "",
	} {
		got, err := names([]string{path})
		if (err != nil) != (want == "") {
			t.Errorf("%q: got error %v, want a name of %q", path, err, want)
		}
		var name bpf.RedirectSocketName
		copy(name.Byte[:], want)
		if _, ok := got[name]; want != "" && !ok {
			t.Errorf("%q: got %v, want %q", path, got, want)
		}
	}
}

func TestCgroupMount(t *testing.T) {
	const (
		v1   = "24 1 0:20 / /sys/fs/cgroup/cpu rw shared:7 - cgroup cgroup rw,cpu\n"
		v2   = "30 1 0:26 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 master:2 - cgroup2 none rw\n"
		fake = "31 1 0:27 / /cgroup2 rw - ext4 cgroup2 rw\n"
	)
	for _, row := range []struct{ name, mounts, want string }{
		{"hybrid", v1 + v2, "/sys/fs/cgroup/uni fied"},
		{"v1", v1, ""},
		{"another type", fake, ""},
		{"a part comes first", strings.Replace(v2, " / ", " /part ", 1) + v2, "/sys/fs/cgroup/uni fied"},
		{"cut", "30 1 - cgroup2", ""},
	} {
		if got := cgroupMount([]byte(row.mounts)); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

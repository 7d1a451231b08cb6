package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/redirect"
)

// names answers for a name server.
type names struct {
	answers map[string]string // addresses, with spaces between them
	asked   int
}

func (n *names) resolve(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.asked++
	var addrs []netip.Addr
	for text := range strings.FieldsSeq(n.answers[host]) {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	if len(addrs) == 0 {
		return nil, errors.New("no such host")
	}
	return addrs, nil
}

const document = `---
apiVersion: postern.dev/v1alpha1
kind: Target
metadata: {name: %s}
spec:
  protocol: postgres
  hosts: [%s]
  ports: [5432, 5433]
  tls: {serverName: db.internal}
  credential: {client: true}
  %s
`

func TestNameThatChangesWithoutEndKeepsItsNewestAddresses(t *testing.T) {
	all := &targets{}
	for i := range 10 * maxEver {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if !all.remember("db", []netip.Addr{netip.MustParseAddr("10.255.0.1"), addr}) {
			t.Fatal("got no address, want one")
		}
	}
	got := all.ever["db"]
	last := 10*maxEver - 1
	if newest := netip.AddrFrom4([4]byte{10, byte(last >> 16), byte(last >> 8), byte(last)}); len(got) != maxEver ||
		!slices.Contains(got, newest) || !slices.Contains(got, netip.MustParseAddr("10.255.0.1")) {
		t.Errorf("got %d addresses, want %d with the newest and the one that stays", len(got), maxEver)
	}
}

func newTargets(t *testing.T, n *names, documents ...string) *targets {
	t.Helper()
	set, err := policy.Parse("policy.yaml", []byte(strings.Join(documents, "")))
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	all := &targets{resolve: n.resolve, log: log}
	all.replace(t.Context(), set.Targets())
	return all
}

func TestAddressLeadsToItsTargetAndHost(t *testing.T) {
	n := &names{answers: map[string]string{"orders.internal": "10.0.0.5 2001:db8::5 ::ffff:10.0.0.6", "twin.internal": "10.3.0.1 10.3.0.2"}}
	all := newTargets(t, n,
		fmt.Sprintf(document, "orders", "orders.internal, 10.1.0.1", ""),
		fmt.Sprintf(document, "range", "10.2.0.0/16, 10.3.0.1", ""),
		fmt.Sprintf(document, "twin", "twin.internal", ""))
	for _, row := range []struct{ dialled, target, host string }{
		{"10.0.0.5:5432", "orders", "orders.internal"},
		{"10.0.0.5:5433", "orders", "orders.internal"},
		{"10.0.0.6:5432", "orders", "orders.internal"},
		{"[2001:db8::5]:5432", "orders", "orders.internal"},
		{"10.1.0.1:5432", "orders", "10.1.0.1"},
		{"10.2.200.1:5432", "range", "10.2.200.1"},
		{"10.0.0.5:5434", "", ""}, // another port
		{"10.0.0.7:5432", "", ""}, // a stranger
		{"10.3.0.1:5432", "", ""}, // of two Targets
		{"10.3.0.2:5432", "twin", "twin.internal"},
	} {
		got, ok := all.Lookup(t.Context(), netip.MustParseAddrPort(row.dialled))
		if ok != (row.target != "") {
			t.Errorf("got %v for %s, want %v", ok, row.dialled, !ok)
			continue
		}
		if ok && (got.Target.Name() != row.target || got.Host != row.host || got.Address.String() != row.dialled) {
			t.Errorf("got %s, %s, %s for %s; want %s, %s, the same", got.Target.Name(), got.Host, got.Address, row.dialled, row.target, row.host)
		}
	}
}

func TestServerThatMovedIsFoundWithoutFloodingTheNameServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{answers: map[string]string{"orders.internal": "10.0.0.5"}}
		all := newTargets(t, n, fmt.Sprintf(document, "orders", "orders.internal", ""))
		n.answers["orders.internal"] = "10.0.0.9"
		moved := netip.MustParseAddrPort("10.0.0.9:5432")
		for range 100 {
			if _, ok := all.Lookup(t.Context(), moved); ok {
				t.Fatal("got the new address before a second has passed, want no question to the name server")
			}
		}
		if n.asked != 1 {
			t.Errorf("got %d questions, want 1", n.asked)
		}
		time.Sleep(resolveOnMiss)
		if _, ok := all.Lookup(t.Context(), moved); !ok {
			t.Error("got no Target for the new address after a second, want one")
		}
		n.answers = nil
		time.Sleep(resolveInterval)
		all.refresh(t.Context())
		if _, ok := all.Lookup(t.Context(), moved); !ok {
			t.Error("got no Target once the name server is away, want the address it gave last")
		}
	})
}

func TestGuardHoldsEveryAddressAClientMightUse(t *testing.T) {
	n := &names{answers: map[string]string{"orders.internal": "10.0.0.5 2001:db8::5"}}
	any4, any6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	own := func(text string, port uint16) redirect.Guard {
		return redirect.Guard{Prefix: netip.MustParsePrefix(text), Port: port, Target: true}
	}
	for name, row := range map[string]struct {
		more string
		want []redirect.Guard
	}{
		"port means the protocol": {"", []redirect.Guard{
			own("10.1.0.0/24", 5432), own("10.0.0.5/32", 5432), own("2001:db8::5/128", 5432), {Prefix: any4, Port: 5432}, {Prefix: any6, Port: 5432},
			own("10.1.0.0/24", 5433), own("10.0.0.5/32", 5433), own("2001:db8::5/128", 5433), {Prefix: any4, Port: 5433}, {Prefix: any6, Port: 5433},
		}},
		"strangers pass": {"unknownHosts: pass", []redirect.Guard{
			own("10.1.0.0/24", 5432), own("10.0.0.5/32", 5432), own("2001:db8::5/128", 5432),
			own("10.1.0.0/24", 5433), own("10.0.0.5/32", 5433), own("2001:db8::5/128", 5433),
		}},
		"other ports are refused": {"unknownHosts: pass\n  otherPorts: refuse", []redirect.Guard{
			own("10.1.0.0/24", 5432), own("10.0.0.5/32", 5432), own("2001:db8::5/128", 5432),
			own("10.1.0.0/24", 5433), own("10.0.0.5/32", 5433), own("2001:db8::5/128", 5433),
			{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Refuse: true}, {Prefix: netip.MustParsePrefix("10.0.0.5/32"), Refuse: true},
			{Prefix: netip.MustParsePrefix("2001:db8::5/128"), Refuse: true},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			all := newTargets(t, n, fmt.Sprintf(document, "orders", "orders.internal, 10.1.0.0/24", "sockets: [/run/postgresql]\n  "+row.more))
			got := all.guarded()
			if !slices.Equal(got.Guards, row.want) {
				t.Errorf("got %v, want %v", got.Guards, row.want)
			}
			if !slices.Equal(got.Sockets, []string{"/run/postgresql"}) {
				t.Errorf("got sockets %v, want the Target's", got.Sockets)
			}
		})
	}
}

func TestTargetWithoutAnAddressThatWouldBeOpenIsRefused(t *testing.T) {
	n := &names{answers: map[string]string{"known.internal": "10.0.0.5"}}
	pass := "unknownHosts: pass"
	for name, row := range map[string]struct {
		hosts, more string
		want        []string
	}{
		"strangers are refused":        {"a.internal", "", nil},
		"strangers pass, name known":   {"known.internal, 10.1.0.1", pass, nil},
		"strangers pass, no name":      {"10.1.0.0/24", pass, nil},
		"strangers pass, name unknown": {"a.internal, known.internal, b.internal", pass, []string{"host a.internal has no address", "host b.internal", "list its addresses in hosts"}},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := policy.Parse("policy.yaml", fmt.Appendf(nil, document, "orders", row.hosts, row.more))
			if err != nil {
				t.Fatal(err)
			}
			all := &targets{resolve: n.resolve}
			err = all.mustResolve(t.Context(), set.Targets())
			if (err != nil) != (row.want != nil) {
				t.Errorf("got %v, want refused=%v", err, row.want != nil)
			}
			for _, want := range row.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestShorterAnswerOpensNoAddress(t *testing.T) {
	n := &names{answers: map[string]string{"orders.internal": "10.0.0.5 10.0.0.6"}}
	all := newTargets(t, n, fmt.Sprintf(document, "orders", "orders.internal", "unknownHosts: pass"))
	n.answers["orders.internal"] = "10.0.0.7"
	all.refresh(t.Context())
	var got []string
	for _, guard := range all.guarded().Guards {
		if guard.Port == 5432 {
			got = append(got, guard.Prefix.String())
		}
	}
	if want := []string{"10.0.0.5/32", "10.0.0.6/32", "10.0.0.7/32"}; !slices.Equal(got, want) {
		t.Errorf("got %v guarded, want %v", got, want)
	}
	for address, want := range map[string]bool{"10.0.0.5:5432": false, "10.0.0.7:5432": true} {
		if _, ok := all.Lookup(t.Context(), netip.MustParseAddrPort(address)); ok != want {
			t.Errorf("got %v for a connection to %s, want %v", ok, address, want)
		}
	}
}

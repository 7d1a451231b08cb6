package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// targetOf makes a Target of the lines of its spec, and an error where it has mistakes.
func targetOf(spec string) (*Target, error) {
	lines := strings.ReplaceAll("credential: {client: true}\n"+spec, "\n", "\n  ")
	set, err := Parse("f", []byte("apiVersion: postern.dev/v1alpha1\nkind: Target\nmetadata: {name: db}\nspec:\n  protocol: postgres\n  "+lines+"\n"))
	if err != nil {
		return nil, err
	}
	return set.Targets()[0], nil
}

func TestHostsAreParsed(t *testing.T) {
	target, err := targetOf(`hosts: [Orders.DB.internal, 10.8.0.5, "::ffff:10.8.0.6", "fd00::1", 10.9.0.0/24, "fd01::/64"]
ports: [5432, 6432]
tls: {serverName: orders.db.internal}`)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(target.Name(), " ", target.HostNames(), target.Addrs(), target.Prefixes(), target.Ports())
	want := "db [orders.db.internal] [10.8.0.5 10.8.0.6 fd00::1] [10.9.0.0/24 fd01::/64] [5432 6432]"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTargetDefaultsAreTheClosedOnes(t *testing.T) {
	target, err := targetOf("hosts: [db.internal]")
	if err != nil {
		t.Fatal(err)
	}
	spec := target.Spec
	got := fmt.Sprint(spec.Ports, spec.UnknownHosts, spec.OtherPorts, spec.TLS.Mode, spec.Source, target.Sensitive().Any())
	if want := fmt.Sprint([]int{5432}, Refuse, Pass, VerifyFull, SourceNode, false); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestServerName(t *testing.T) {
	for _, row := range []struct{ name, spec, addr, want string }{
		{"written", "hosts: [10.8.0.0/28]\ntls: {serverName: db.internal}", "10.8.0.5", "db.internal"},
		{"the one name", "hosts: [db.internal]", "10.8.0.5", "db.internal"},
		{"an address as it is", "hosts: [db.internal, 10.8.0.5]", "10.8.0.5", "10.8.0.5"},
		{"a v4-mapped address", "hosts: [db.internal, 10.8.0.5]", "::ffff:10.8.0.5", "10.8.0.5"},
		{"an address beside it is the name's", "hosts: [db.internal, 10.8.0.5]", "10.8.0.6", "db.internal"},
		{"an address that nobody wrote", "hosts: [10.8.0.5]", "10.8.0.6", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			target, err := targetOf(row.spec)
			if err != nil {
				t.Fatal(err)
			}
			if got := target.ServerName(netip.MustParseAddr(row.addr)); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestServerNameOfServices(t *testing.T) {
	for _, row := range []struct{ name, spec, addr, want string }{
		{"the one Service", "services: [{namespace: data, name: pg}]", "10.8.0.5", "pg.data.svc"},
		{"written", "services: [{namespace: data, name: pg}], tls: {serverName: db}", "10.8.0.5", "db"},
		{"an address beside it", "services: [{namespace: data, name: pg}], hosts: [10.8.0.5]", "10.8.0.5", "10.8.0.5"},
		{"a Service beside an address", "services: [{namespace: data, name: pg}], hosts: [10.8.0.5]", "10.8.0.6", "pg.data.svc"},
		{"nothing proves two Services", "services: [{namespace: data, name: pg}, {namespace: data, name: replica}], tls: {mode: require}", "10.8.0.5", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			set, rejected := compiled(t, "Target db protocol: postgres, "+row.spec)
			if len(rejected) > 0 {
				t.Fatal(rejected)
			}
			if got := set.Targets()[0].ServerName(netip.MustParseAddr(row.addr)); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestServicesAreChecked(t *testing.T) {
	for _, row := range []struct{ spec, want string }{
		{"services: [{namespace: data, name: pg}, {namespace: data, name: replica}]", "spec.tls.serverName: is missing, and the server has several names"},
		{"services: [{namespace: data, name: pg}], hosts: [db]", "spec.tls.serverName: is missing, and the server has several names"},
		{"services: [{name: pg}]", `spec.services[0].namespace: "" is not a namespace`},
		{"services: [{namespace: data, name: a.b}]", `spec.services[0].name: "a.b" is not a Service's name`},
		{"services: [{namespace: data, name: pg}, {namespace: data, name: pg}], tls: {serverName: db}", "spec.services[1]: data/pg is there twice"},
		{"hosts: [db], credential: {secret: a/b}", `spec.credential.secret: "a/b" is not a Secret's name`},
		{"hosts: [db], credential: {secret: a, client: true}", "spec.credential: has client beside a login"},
		{"hosts: [db], credential: {secret: a, file: /a}", "spec.credential: has both file and secret"},
		{"hosts: [db], tls: {ca: {secret: A}}", `spec.tls.ca.secret: "A" is not a Secret's name`},
	} {
		_, rejected := compiled(t, "Target db protocol: postgres, "+row.spec)
		if got := rejected["Target/db"]; got == nil || !strings.HasPrefix(got.Error(), row.want) || strings.Contains(got.Error(), "\n") {
			t.Errorf("%s: got %v, want one mistake: %s", row.spec, got, row.want)
		}
	}
}

func TestHostsAndSocketsAreChecked(t *testing.T) {
	const ok = "" // no mistake
	for _, row := range []struct{ spec, want string }{
		{"hosts: [localhost]", ok},
		{"hosts: [my_db.internal]", ok},
		{`hosts: ["::1", 127.0.0.1, localhost]`, ok},
		{"hosts: [db.internal.]", "is neither a host name"},
		{"hosts: ['*.internal']", "is neither a host name"},
		{"hosts: [-db.internal]", "is neither a host name"},
		{"hosts: [010.8.0.1]", "is neither a host name"},
		{"hosts: ['postgres://db']", "is not a CIDR"},
		{"hosts: [0.0.0.0]", "is no server's address"},
		{"hosts: ['::']", "is no server's address"},
		{"hosts: [224.0.0.1]", "is no server's address"},
		{"hosts: ['fe80::1%eth0']", "has a zone; write the address without %eth0"},
		{"hosts: [a.internal, A.internal]", "is there twice"},
		{`hosts: [10.8.0.5, "::ffff:10.8.0.5"]`, "is there twice"},
		{"hosts: ['::ffff:10.0.0.0/104']\ntls: {serverName: db}", "is a v4-mapped CIDR"},
		{"hosts: ['fd00::/16']\ntls: {serverName: db}", "is too wide"},
		{"hosts: [10.0.0.0/7]\ntls: {serverName: db}", "is too wide"},
		{"hosts: [10.8.0.5/24]\ntls: {serverName: db}", "has bits beyond its length; write 10.8.0.0/24"},
		{"hosts: [10.8.0.0/24, 10.8.0.0/28]\ntls: {serverName: db}", "overlaps another CIDR"},
		{"hosts: [10.8.0.0/24]\ntls: {mode: require}", ok},
		{"hosts: [a, b]\ntls: {mode: disable}", ok},
		{"hosts: [db]\ntls: {serverName: 'a b'}", `spec.tls.serverName: "a b" is not a host name`},
		{"hosts: [db]\ntls: {serverName: 10.8.0.5}", ok},
		{"hosts: [db]\nsockets: [/run/postgresql/.s.PGSQL.5432]", ok},
		{"hosts: [db]\nsockets: [/run/../etc]", "is not a clean absolute path"},
		{"hosts: [db]\nsockets: [/a, /a]", "is there twice"},
		{"hosts: [db]\nsockets: [/" + strings.Repeat("a", 107) + "]", "is longer than the 107 bytes"},
	} {
		_, err := targetOf(row.spec)
		if row.want == ok {
			if err != nil {
				t.Errorf("%s: got %v, want no mistake", row.spec, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one mistake: %s", row.spec, err, row.want)
		}
	}
}

func TestTargetsThatCollide(t *testing.T) {
	for _, row := range []struct {
		name, first, second string
		want                string
	}{
		{"one name", "hosts: [db]", "hosts: [DB]", "db with a port of it belongs to Target/a"},
		{"one name, two ports", "hosts: [db], ports: [1]", "hosts: [db], ports: [2]", ""},
		{"one name, one port of two", "hosts: [db], ports: [1, 2]", "hosts: [db], ports: [2, 3]", "db with a port of it belongs to Target/a"},
		{"one address", `hosts: [10.8.0.5]`, `hosts: ["::ffff:10.8.0.5"]`, "10.8.0.5 with a port of it belongs to Target/a"},
		{"an address in a CIDR", "hosts: [10.8.0.0/28], tls: {serverName: db}", "hosts: [10.8.0.5]", "10.8.0.5 with a port of it belongs to Target/a"},
		{"a CIDR around an address", "hosts: [10.8.0.5]", "hosts: [10.8.0.0/28], tls: {serverName: db}", "10.8.0.0/28 with a port of it belongs to Target/a"},
		{"two CIDRs", "hosts: [10.8.0.0/28], tls: {serverName: db}", "hosts: [10.8.0.0/24], tls: {serverName: db}", "10.8.0.0/24 with a port of it belongs to Target/a"},
		{"different hosts", "hosts: [a]", "hosts: [b]", ""},
		{"unknown hosts on one port", "hosts: [a], unknownHosts: pass", "hosts: [b]", "spec.unknownHosts: is refuse, and pass at Target/a"},
		{"unknown hosts on two ports", "hosts: [a], ports: [1], unknownHosts: pass", "hosts: [b]", ""},
		{"one socket", "hosts: [a], sockets: [/s]", "hosts: [b], sockets: [/s]", `spec.sockets[0]: "/s" belongs to Target/a`},
		{"one socket, two ports", "hosts: [a], ports: [1], sockets: [/s]", "hosts: [b], sockets: [/s]", `spec.sockets[0]: "/s" belongs to Target/a`},
	} {
		t.Run(row.name, func(t *testing.T) {
			const format = "apiVersion: postern.dev/v1alpha1\nkind: Target\nmetadata: {name: %s}\nspec: {protocol: postgres, credential: {client: true}, %s}\n---\n"
			_, err := Parse("f", fmt.Appendf(nil, format+format, "a", row.first, "b", row.second))
			if row.want == "" && err != nil {
				t.Errorf("got %v, want no mistake", err)
			}
			if row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("got %v, want %s", err, row.want)
			}
		})
	}
}

func TestSensitiveColumns(t *testing.T) {
	target, err := targetOf(`hosts: [db]
sensitive:
  - {columns: ["public.users.email", '"Sales".orders."Card No"'], mask: redact}
  - {columns: ["*.ssn", "hr.*.salary"], mask: null}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		schema, table, column string
		want                  Mask
	}{
		{"public", "users", "email", Redact},
		{"public", "customers", "email", ""},
		{"private", "users", "email", ""},
		{"", "users", "email", Redact},
		{"", "", "email", Redact},
		{"public", "users", "Email", ""},
		{"Sales", "orders", "Card No", Redact},
		{"sales", "orders", "Card No", ""},
		{"any", "table", "ssn", Null},
		{"any", "table", "ssn2", ""},
		{"hr", "staff", "salary", Null},
		{"public", "staff", "salary", ""},
	} {
		got, ok := target.Sensitive().Match(row.schema, row.table, row.column)
		if got != row.want || ok != (row.want != "") {
			t.Errorf("got %q, %v for %s.%s.%s, want %q", got, ok, row.schema, row.table, row.column, row.want)
		}
	}
	if got, ok := new(Sensitive).Match("public", "users", "email"); ok || new(Sensitive).Any() {
		t.Errorf("got %q from no column, want none", got)
	}
}

func TestMasksThatDisagree(t *testing.T) {
	for _, row := range []struct {
		first, second string
		want          bool
	}{
		{"*.ssn", "public.users.ssn", true},
		{"public.users.ssn", "*.ssn", true},
		{"public.users.ssn", "public.users.ssn", true},
		{"public.*.ssn", "*.users.ssn", true},
		{"public.users.ssn", "public.orders.ssn", false},
		{"*.ssn", "*.email", false},
	} {
		_, err := targetOf(fmt.Sprintf("hosts: [db]\nsensitive: [{columns: [%q], mask: redact}, {columns: [%q], mask: \"null\"}]", row.first, row.second))
		if got := err != nil && strings.Contains(err.Error(), "give a column one mask"); got != row.want {
			t.Errorf("got mistake %v for %s and %s, want %v (%v)", got, row.first, row.second, row.want, err)
		}
		if _, err := targetOf(fmt.Sprintf("hosts: [db]\nsensitive: [{columns: [%q], mask: redact}, {columns: [%q], mask: redact}]", row.first, row.second)); err != nil {
			t.Errorf("got %v for %s and %s with one mask, want no mistake", err, row.first, row.second)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, row := range []struct {
		text, want string // the parts, or the mistake
	}{
		{"public.users", "{public false}.{users false}"},
		{"public.*", "{public false}.{ true}"},
		{"*.orders", "{ true}.{orders false}"},
		{"*.*", "{ true}.{ true}"},
		{`"My.Schema"."T ""x"""`, `{My.Schema false}.{T "x" false}`},
		{"straße.größe", "{straße false}.{größe false}"},
		{"users", "is not schema.name"},
		{"*", "{ true}.{ true}"},
		{`"*"`, "is not schema.name"},
		{"a.b.c", "is not schema.name"},
		{"a.", "has an empty part"},
		{".b", "has an empty part"},
		{`""."b"`, "has an empty part"},
		{"a..b", "has an empty part"},
		{"pub*.users", "has a * beside other letters"},
		{"Public.users", "has capitals"},
		{"public.my table", "has a space or quote"},
		{`public.a"b`, "has a space or quote"},
		{`"public`, "has a quote that is not closed"},
		{`"public"x.users`, "has text behind a quoted part"},
		{"public." + strings.Repeat("x", 64), "has a part longer than the 63 bytes"},
	} {
		p, err := parsePattern(row.text)
		got := fmt.Sprintf("%v.%v", p.schema, p.name)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, row.want) {
			t.Errorf("got %s for %s, want %s", got, row.text, row.want)
		}
	}
}

func TestNames(t *testing.T) {
	for text, want := range map[string]bool{
		"a": true, "orders-db": true, "0": true, strings.Repeat("x", 63): true,
		"": false, "-a": false, "a-": false, "A": false, "a_b": false, "a.b": false, "a:b": false, "é": false, strings.Repeat("x", 64): false,
	} {
		if got := isLabel(text); got != want {
			t.Errorf("got %v for %q, want %v", got, text, want)
		}
	}
}

func TestPatternsNameTheColumnsOfTheServer(t *testing.T) {
	target, err := targetOf("hosts: [db]\nsensitive: [{columns: [public.users.email, '*.ssn', '*.ssn'], mask: redact}, {columns: ['public.*.email'], mask: redact}]")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := target.Sensitive().Patterns(), []string{"*.ssn", "public.*.email", "public.users.email"}; !slices.Equal(got, want) {
		t.Errorf("got patterns %q, want %q", got, want)
	}
	for _, row := range []struct {
		schema, table, column string
		want                  []string
	}{
		{"public", "users", "email", []string{"public.users.email", "public.*.email"}},
		{"other", "users", "email", nil},
		{"other", "people", "ssn", []string{"*.ssn", "*.ssn"}},
		{"", "users", "email", nil}, // the server gives every column its schema
	} {
		if got := target.Sensitive().Naming(row.schema, row.table, row.column); !slices.Equal(got, row.want) {
			t.Errorf("got %q for %s.%s.%s, want %q", got, row.schema, row.table, row.column, row.want)
		}
	}
}

func TestMeshedPodsAreDialledForFromTheNodeUnlessSourceIsWritten(t *testing.T) {
	for source, want := range map[string][2]Source{ // without a mesh, with one
		"":                 {SourcePod, SourceNode},
		`"source":"pod",`:  {SourcePod, SourcePod},
		`"source":"node",`: {SourceNode, SourceNode},
	} {
		set, rejected, err := Compile([]Document{{Name: "Target/db", JSON: []byte(`{"apiVersion":"postern.dev/v1alpha1","kind":"Target",
			"metadata":{"name":"db"},"spec":{"protocol":"postgres",` + source + `"hosts":["db.internal"],"credential":{"secret":"login"}}}`)}})
		if err != nil || len(rejected) > 0 {
			t.Fatal(err, rejected)
		}
		target := set.Targets()[0]
		if got := [2]Source{target.DialsFrom(false), target.DialsFrom(true)}; got != want {
			t.Errorf("got %v with %q, want %v", got, source, want)
		}
	}
}

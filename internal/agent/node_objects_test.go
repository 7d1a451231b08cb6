package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"postern.dev/postern/internal/policy"
)

func target(name, host string) policy.Document {
	return policy.Document{Name: "Target/" + name, JSON: fmt.Appendf(nil,
		`{"apiVersion":"postern.dev/v1alpha1","kind":"Target","metadata":{"name":%q},"spec":{"protocol":"postgres","hosts":[%q],"credential":{"secret":"login"}}}`, name, host)}
}

func TestBadVersionOfAnObjectLeavesTheGoodOneInForce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "objects")
	o, err := openObjects(file)
	if err != nil {
		t.Fatal(err)
	}
	compile := func(o *objects, docs ...policy.Document) (*policy.Set, map[string]error) {
		t.Helper()
		set, rejected, err := o.compile(docs)
		if err != nil {
			t.Fatal(err)
		}
		return set, rejected
	}
	good, _ := compile(o, target("db", "10.0.0.1"), target("other", "10.0.0.2"))
	bad := target("db", "not a host")
	set, rejected := compile(o, bad, target("other", "10.0.0.3"))
	if rejected["Target/db"] == nil {
		t.Errorf("got %v rejected, want Target/db", rejected)
	}
	if got, ok := set.Target("db"); !ok || got.Spec.Hosts[0] != "10.0.0.1" {
		t.Errorf("got %v, %v, want the last good version", got, ok)
	}
	if got, _ := set.Target("other"); got.Spec.Hosts[0] != "10.0.0.3" {
		t.Errorf("got %v of the other object, want its newest version", got.Spec.Hosts)
	}
	later, err := openObjects(file) // the agent was restarted
	if err != nil {
		t.Fatal(err)
	}
	if set, _ := compile(later, bad, target("other", "10.0.0.2")); set.Hash() != good.Hash() {
		t.Errorf("got %s after a restart, want the last good version of %s", set.Hash(), good.Hash())
	}
	if set, _ := compile(later, target("other", "10.0.0.2")); len(set.Targets()) != 1 {
		t.Errorf("got %d Targets, want a deleted one gone", len(set.Targets()))
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v and %v, want the file readable by its owner alone", info, err)
	}
}

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/policy"
)

// safe is where logins lie in these tests.
type safe struct {
	login   credential.Login
	err     error
	refused []string
}

func (s *safe) Login(ctx context.Context, _ credential.Reference) (credential.Login, error) {
	if ctx.Err() != nil {
		return credential.Login{}, ctx.Err()
	}
	return s.login, s.err
}

func (s *safe) Certificates(context.Context, credential.Reference) ([]byte, error) { return nil, s.err }

func (s *safe) Refused(_ credential.Reference, version string) {
	s.refused = append(s.refused, version)
}

// ordersSet has two Targets, and a policy with a credential of its own.
func ordersSet(t *testing.T) *policy.Set {
	t.Helper()
	objects := `{"apiVersion":"postern.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"reports"},"spec":{"subjects":[{"namespaces":["agents"]}],
		"targets":["orders","stock"],"credential":{"secret":"reports"},"rules":[{"name":"all","allow":["ALL"]}]}}`
	set, rejected, err := policy.Compile([]policy.Document{
		target("orders", "10.0.0.1"), target("stock", "10.0.0.2"), {Name: "AccessPolicy/reports", JSON: []byte(objects)},
	})
	if err != nil || len(rejected) > 0 {
		t.Fatal(err, rejected)
	}
	return set
}

func TestCredentialsLeaveARecordWhenTheyAreNewOrOfNoUse(t *testing.T) {
	at := &safe{}
	var got []audit.Credential
	set := ordersSet(t)
	l := newLogins(at, func() *policy.Set { return set }, func(r *audit.Record) { got = append(got, *r.Credential) })
	from := credential.Reference{Secret: "login"}
	read := func(user, password, version string, err error) {
		at.login, at.err = credential.Login{User: user, Password: password, Version: version}, err
		for range 2 { // the second time is no news
			if _, failed := l.Login(t.Context(), from); !errors.Is(failed, err) {
				t.Errorf("got %v, want %v", failed, err)
			}
		}
	}
	read("app", "sesame", "1", nil)
	read("app", "sesame", "2", nil) // a label was changed
	read("app", "open", "3", nil)
	read("app", "sesame", "2", nil) // whoever asked before, and comes last
	read("", "", "", errors.New("no such Secret"))
	read("app", "open", "3", nil)
	for range 2 {
		l.Refused(from, "3")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Login(ended, from); err == nil {
		t.Error("got a login for a client that has left, want its error")
	}
	targets := []string{"orders", "stock"}
	want := []audit.Credential{
		{Source: "secret login", Targets: targets, Event: "fetched", User: "app", Version: "1"},
		{Source: "secret login", Targets: targets, Event: "fetched", User: "app", Version: "2"},
		{Source: "secret login", Targets: targets, Event: "rotated", User: "app", Version: "3"},
		{Source: "secret login", Targets: targets, Event: "failed", Reason: "no such Secret"},
		{Source: "secret login", Targets: targets, Event: "failed", User: "app", Version: "3", Reason: serverRefused},
	}
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != string(wanted) {
		t.Errorf("got  %s\nwant %s", text, wanted)
	}
	if strings.Contains(string(text), "sesame") || strings.Contains(string(text), "open") {
		t.Errorf("got a password in %s, want none", text)
	}
	if !slices.Equal(at.refused, []string{"3", "3"}) {
		t.Errorf("got %v refused where they lie, want each told", at.refused)
	}
}

func TestWhatTargetsNeedAndIsNotThereIsTold(t *testing.T) {
	store := &safe{err: errors.New("no such Secret")}
	set := ordersSet(t)
	l := newLogins(store, func() *policy.Set { return set }, func(*audit.Record) {})
	read := func(name string) {
		t.Helper()
		if _, err := l.Login(t.Context(), credential.Reference{Secret: name}); !errors.Is(err, store.err) {
			t.Errorf("got %v, want %v", err, store.err)
		}
	}
	read("reports")
	if _, err := l.Certificates(t.Context(), credential.Reference{Secret: "nobody's"}); err == nil {
		t.Error("got certificates, want none")
	}
	targets, policies := l.unreadable()
	if len(targets) != 0 || len(policies) != 1 || !slices.Equal(policies["reports"], []string{"no such Secret"}) {
		t.Errorf("got %v and %v, want the one Secret for the policy that names it", targets, policies)
	}
	read("login")
	targets, _ = l.unreadable()
	if len(targets) != 2 || !slices.Equal(targets["orders"], []string{"no such Secret"}) || len(targets["stock"]) != 1 {
		t.Errorf("got %v, want the other Secret for both Targets", targets)
	}
	store.err = nil
	read("login")
	read("reports")
	if targets, policies = l.unreadable(); len(targets)+len(policies) != 0 {
		t.Errorf("got %v and %v when the Secrets are there, want nothing", targets, policies)
	}
}

func TestWhatIsNamedIsLookedForBeforeItIsWanted(t *testing.T) {
	store := &safe{err: errors.New("no such Secret")}
	set := ordersSet(t)
	var records int
	l := newLogins(store, func() *policy.Set { return set }, func(*audit.Record) { records++ })
	from := credential.Reference{Secret: "login"}
	l.look(t.Context(), from, false)
	if targets, _ := l.unreadable(); len(targets["orders"]) != 1 || records != 0 {
		t.Errorf("got %v and %d records, want the Secret missing and none", targets, records)
	}
	if _, err := l.Login(t.Context(), from); err == nil || records != 1 {
		t.Errorf("got %v and %d records when it was wanted, want an error and one", err, records)
	}
	store.err = nil
	l.look(t.Context(), from, false)
	if _, err := l.Login(t.Context(), from); err != nil {
		t.Fatal(err)
	}
	if targets, _ := l.unreadable(); len(targets) != 0 {
		t.Errorf("got %v when it is there, want nothing", targets)
	}
	store.err = errors.New("it is not asked")
	l.look(t.Context(), from, false)
	if targets, _ := l.unreadable(); len(targets) != 0 {
		t.Errorf("got %v of what was read once, want it not looked for", targets)
	}
}

func TestNodeLooksForWhatItsPodsNeed(t *testing.T) {
	n, _, _ := newViewing(t)
	if got := n.needed(); len(got) != 0 {
		t.Errorf("got %v without a guarded pod, want nothing", got)
	}
	n.pods.replace([]cluster.Pod{
		{UID: "1", Namespace: "agents", Name: "a", Guarded: true}, {UID: "2", Namespace: "other", Name: "b", Guarded: true},
	})
	want := need{credential.Reference{Secret: "reports"}, false}
	if got := n.needed(); len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want what the policy of pod a names, and not what it stands in for", got)
	}
}

func TestLoginsThatPoliciesNoLongerNameAreForgotten(t *testing.T) {
	l := newLogins(&safe{}, func() *policy.Set { return new(policy.Set) }, func(*audit.Record) {})
	for i := range 3 * maxLogins {
		_, _ = l.Login(t.Context(), credential.Reference{Secret: string(rune('a' + i))})
	}
	if len(l.known) > maxLogins {
		t.Errorf("got %d known, want at most %d", len(l.known), maxLogins)
	}
}

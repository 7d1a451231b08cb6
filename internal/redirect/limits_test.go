package redirect

import (
	"net/netip"
	"testing"
)

// TestClosedUntilFed: a run without listeners or guards refuses everything.
func TestClosedUntilFed(t *testing.T) {
	w := newUnguardedWorld(t)
	w.guard(t, Options{})
	for _, row := range []struct{ workload, want string }{
		{"plain4", "refused"},
		{"plain6", "refused"},
		{"unguarded", "refused"},
		{"udp-sendto4", "refused"},
		{"udp-connect", "refused"},
	} {
		if got := w.play(t, w.workload(w.command, row.workload, none)); got != row.want {
			t.Errorf("%s: got %q, want %q", row.workload, got, row.want)
		}
	}
	if got := w.reached(t) + w.direct.Load(); got != 0 {
		t.Errorf("got %d packets and connections at the database, want 0", got)
	}
}

// TestGuardsAreReplaced: what a later Set does not name is open again, what it
// names is not.
func TestGuardsAreReplaced(t *testing.T) {
	w := newWorld(t, Options{})
	refuse := Guarded{Guards: []Guard{
		{Prefix: netip.PrefixFrom(db4.Addr(), 32), Refuse: true},
		{Prefix: netip.PrefixFrom(other4.Addr(), 32), Refuse: true},
		{Prefix: netip.MustParsePrefix("::/0"), Port: db6.Port()},
	}}
	for _, step := range []struct {
		name          string
		guarded       Guarded
		v4, v6, other string
	}{
		{"redirect the port", postgresGuards(), "proxied", "proxied", directReply},
		{"refuse addresses, redirect a port", refuse, "proxied", "proxied", "refused"},
		{"nothing", Guarded{}, directReply, directReply, directReply},
		{"redirect again", postgresGuards(), "proxied", "proxied", directReply},
	} {
		if err := w.run.Set(step.guarded); err != nil {
			t.Fatal(err)
		}
		for workload, want := range map[string]string{"plain4": step.v4, "plain6": step.v6, "unguarded": step.other} {
			if got := w.play(t, w.workload(w.command, workload, none)); got != want {
				t.Errorf("%s, %s: got %q, want %q", step.name, workload, got, want)
			}
		}
	}
}

// TestOneCommandCannotStarveAnother: a command with more connects under way than
// its share is refused; another one is not.
func TestOneCommandCannotStarveAnother(t *testing.T) {
	const share = 8
	w := newUnguardedWorld(t)
	w.here.Sysctl(t, "core/somaxconn", "1") // what is not accepted stays under way
	w.guard(t, Options{Connecting: share})
	if err := w.run.Set(postgresGuards()); err != nil {
		t.Fatal(err)
	}
	second := w.beside(t, Options{Connecting: share})
	second.serve(t)

	// The kernel holds two connections in a backlog of one.
	next, end := w.begin(t, w.workload(w.command, "flood", none))
	if got, want := next(), "pending 10 refused 54"; got != want {
		t.Errorf("flood: got %q, want %q", got, want)
	}
	if got := w.tuplesLeft(t); got != share {
		t.Errorf("got %d tuples, want %d", got, share)
	}
	if got := w.dial(t); got != "refused" {
		t.Errorf("the flooding command: got %q, want refused", got)
	}
	if got := second.dial(t); got != "proxied" {
		t.Errorf("the other command: got %q, want proxied", got)
	}
	if got := end(); got != "ended" {
		t.Errorf("flood: got %q, want ended", got)
	}
	if got := w.tuplesLeft(t); got != 0 {
		t.Errorf("after the flood: got %d tuples, want 0", got)
	}
	if got := w.reached(t) + w.direct.Load(); got != 0 {
		t.Errorf("got %d packets and connections at the database, want 0", got)
	}
}

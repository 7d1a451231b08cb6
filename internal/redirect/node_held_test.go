package redirect

import (
	"testing"

	"postern.dev/postern/testenv"
)

// maxHeld is what bpf/node.c says.
const maxHeld = 32768

func (w *nodeWorld) held(t *testing.T, p *nodePod) (n uint64) {
	t.Helper()
	if err := w.node.maps.Held.Lookup(w.node.pods[p.uid].pod.Index, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *nodeWorld) hold(t *testing.T, p *nodePod, n uint64) {
	t.Helper()
	if err := w.node.maps.Held.Put(w.node.pods[p.uid].pod.Index, n); err != nil {
		t.Fatal(err)
	}
}

// TestSocketsOfOnePodLeaveRoom: what the programs keep of a socket counts until it
// is closed or its connection is over, however that comes; a pod with its share of
// it is refused, and no other pod.
func TestSocketsOfOnePodLeaveRoom(t *testing.T) {
	w := newNodeWorld(t)
	for _, workload := range []string{"plain4", "plain6", "reuse-socket", "unspec-again", "mptcp4", "tfo-sendto4", "uring"} {
		w.from(t, w.guarded, workload)
		if got := w.held(t, w.guarded); got != 0 {
			t.Errorf("after %s: got %d records held, want 0", workload, got)
			w.hold(t, w.guarded, 0)
		}
	}
	next, end := w.begin(t, w.workload(w.guarded.container, "hoard", none))
	if got := next(); got != "hoarded" {
		t.Fatalf("got %q, want hoarded", got)
	}
	if got := w.held(t, w.guarded); got != hoarded {
		t.Errorf("got %d records held, want %d", got, hoarded)
	}
	end()
	if got := w.held(t, w.guarded); got != 0 {
		t.Errorf("after the process ended: got %d records held, want 0", got)
	}

	w.hold(t, w.guarded, maxHeld-1)
	if got := w.from(t, w.guarded, "plain4"); got != "proxied" {
		t.Errorf("the last one: got %q, want proxied", got)
	}
	w.hold(t, w.guarded, maxHeld)
	if got := w.from(t, w.guarded, "plain4"); got != "refused" {
		t.Errorf("one more: got %q, want refused", got)
	}
	c, err := w.node.Counters(w.guarded.uid)
	if err != nil {
		t.Fatal(err)
	}
	if c.Refused != 1 {
		t.Errorf("got %d refused, want 1", c.Refused)
	}
	other := w.newPod(t, "other")
	elsewhere := testenv.NewNetns(t)
	w.classify(t, other, ClassGuarded, elsewhere)
	w.listen(t, other)
	w.serve(t)
	if got := w.playIn(t, elsewhere, w.workload(other.container, "plain4", none)); got != "proxied" {
		t.Errorf("another pod: got %q, want proxied", got)
	}
}

package redirect

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// TestEarlierConnectionsAreEnded: the command's and, to Targets, those of its
// user's other processes; nobody else's.
func TestEarlierConnectionsAreEnded(t *testing.T) {
	for name, byNetlink := range map[string]bool{"as this kernel can": false, "by netlink": true} {
		t.Run(name, func(t *testing.T) {
			w := newUnguardedWorld(t)
			w.guard(t, Options{})
			w.run.canEnd = w.run.canEnd && !byNetlink
			if err := w.run.Set(Guarded{}); err != nil {
				t.Fatal(err)
			}
			elsewhere := testenv.NewCgroup(t)
			strange := w.workload(elsewhere, "hold", none)
			strange.SysProcAttr.Credential.Uid = user + 1
			inside, _ := w.begin(t, w.workload(w.command, "hold", none))
			outside, _ := w.begin(t, w.workload(elsewhere, "hold", none))
			stranger, _ := w.begin(t, strange)
			for _, next := range []func() string{inside, outside, stranger} {
				if got := next(); got != "held" {
					t.Fatalf("got %q, want held", got)
				}
			}
			w.destroys(t, 0)
			err := w.run.Set(Guarded{Guards: []Guard{
				{Prefix: netip.PrefixFrom(held4.Addr(), 32), Port: held4.Port(), Target: true},
			}})
			if err != nil {
				t.Fatal(err)
			}
			w.destroys(t, 2)
			for _, next := range []func() string{inside, outside} {
				if got := next(); got != "ECONNABORTED" {
					t.Errorf("got %q, want ECONNABORTED", got)
				}
				select {
				case got := <-w.ended:
					if !errors.Is(got, unix.ECONNRESET) {
						t.Errorf("the database's end: got %v, want %v", got, unix.ECONNRESET)
					}
				case <-time.After(30 * time.Second):
					t.Error("the database still waits, want its end reset")
				}
			}
			w.destroys(t, 0)
		})
	}
}

func (w *world) destroys(t *testing.T, want int) {
	t.Helper()
	err := w.here.Do(func() error {
		got, err := w.run.Destroy(t.Context())
		if got != want {
			t.Errorf("got %d connections ended, want %d", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

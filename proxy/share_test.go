package proxy

import (
	"testing"
	"testing/synctest"
	"time"

	"postern.dev/postern/internal/metrics"
)

// small are limits that a test reaches.
var small = Limits{
	Connections: 3, Turned: 1, Connects: Rate{10, 1}, LogIns: Rate{2, 1}, LookUps: Rate{2, 1}, Trail: Rate{1000, 100}, Memory: 1000,
}

// exceeds fails the test unless a share of that name is exceeded.
func exceeds(t *testing.T, got *Refused, want string) {
	t.Helper()
	if got == nil || got.Share != want || got.Reason != metrics.Busy {
		t.Errorf("got %+v beyond the share, want it refused for %q", got, want)
	}
}

func TestConnectionsBeyondTheShareAreToldAndThenClosed(t *testing.T) {
	shares := NewShares(small)
	greedy := shares.Of("greedy")
	var leave []func()
	for range 3 {
		out, turned := greedy.enter()
		if turned != nil {
			t.Fatalf("got %v within the share, want it let in", turned)
		}
		leave = append(leave, out)
	}
	told, turned := greedy.enter()
	exceeds(t, turned, "connections")
	if told == nil {
		t.Fatal("got the first connection beyond the share closed, want it told why")
	}
	closed, turned := greedy.enter()
	exceeds(t, turned, "connections")
	if closed != nil {
		t.Error("got the second connection beyond the share let in, want it closed")
	}
	if _, turned := shares.Of("modest").enter(); turned != nil {
		t.Errorf("got %v for another workload, want it let in", turned)
	}
	leave[0]()
	told()
	if _, turned := greedy.enter(); turned != nil {
		t.Errorf("got %v when one had ended, want the next let in", turned)
	}
}

func TestRatesFillUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(small).Of("pod")
		for name, ask := range map[string]func() *Refused{"log-ins": s.LogIn, "look-ups": s.LookUp} {
			for range 2 {
				if refused := ask(); refused != nil {
					t.Errorf("got %v within the share, want none", refused)
				}
			}
			exceeds(t, ask(), name)
		}
		time.Sleep(time.Second)
		for name, ask := range map[string]func() *Refused{"log-ins": s.LogIn, "look-ups": s.LookUp} {
			if refused := ask(); refused != nil {
				t.Errorf("got %v a second later, want one more", refused)
			}
			exceeds(t, ask(), name)
		}
		for range 10 {
			leave, _ := s.enter()
			leave()
		}
		_, turned := s.enter()
		exceeds(t, turned, "connects")
	})
}

func TestTrailHasADebtThatTimePays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(small).Of("pod")
		s.recorded(900)
		if refused := s.MayRecord(); refused != nil {
			t.Errorf("got %v with something left, want none", refused)
		}
		s.recorded(1100) // what has happened is recorded whatever is left
		exceeds(t, s.MayRecord(), "the trail")
		leave, turned := s.enter()
		exceeds(t, turned, "the trail")
		if leave == nil {
			t.Error("got the connection closed, want it told why")
		}
		time.Sleep(10*time.Second - 1)
		exceeds(t, s.MayRecord(), "the trail")
		time.Sleep(time.Second)
		if refused := s.MayRecord(); refused != nil {
			t.Errorf("got %v when the debt was paid, want none", refused)
		}
	})
}

func TestMemoryIsHeldAndGivenBack(t *testing.T) {
	s := NewShares(small).Of("pod")
	if refused := s.Hold(600); refused != nil {
		t.Fatal(refused)
	}
	exceeds(t, s.Hold(401), "memory")
	s.Keep("text", 300)
	s.Keep("text", 300) // by another session, the same
	if refused := s.Room(); refused != nil {
		t.Errorf("got %v with 900 of 1000 held, want room", refused)
	}
	s.Grow(101)
	exceeds(t, s.Room(), "memory")
	s.Grow(-101)
	s.Drop("text")
	exceeds(t, s.Hold(101), "memory")
	s.Drop("text")
	s.Release(600)
	if got := s.held.Load(); got != 0 || len(s.kept) != 0 {
		t.Errorf("got %d bytes and %d texts held at the end, want none", got, len(s.kept))
	}
}

func TestOneRecordAMinuteStandsForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shares := NewShares(small)
		s := shares.Of("pod")
		untold := func() (n int) {
			shares.Untold(func(uid, why string, refusals int) {
				if uid != "pod" || why != "its share" {
					t.Errorf("got refusals for %s of %s, want those of the pod for its share", why, uid)
				}
				n += refusals
			})
			return n
		}
		for i, id := range []string{"a", "b", "c"} {
			if got := s.standIn(metrics.Busy, "its share", id); got != "a" {
				t.Errorf("got record %q for refusal %d, want the first", got, i)
			}
			if got := s.standIn(metrics.Policy, "no policy", id); got != id {
				t.Errorf("got record %q for a refusal that exceeds no share, want its own", got)
			}
		}
		if got := untold(); got != 2 {
			t.Errorf("got %d refusals without a record, want 2", got)
		}
		if got := untold(); got != 0 {
			t.Errorf("got %d of them told again, want none", got)
		}
		time.Sleep(standInterval)
		if got := s.standIn(metrics.Busy, "its share", "d"); got != "d" {
			t.Errorf("got record %q a minute later, want its own", got)
		}
	})
}

func TestWorkloadWithoutAUIDHasNoBounds(t *testing.T) {
	for name, shares := range map[string]*Shares{"no shares": nil, "no UID": NewShares(small)} {
		s := shares.Of("")
		for range 100 {
			if _, turned := s.enter(); turned != nil {
				t.Fatalf("%s: got %v, want none", name, turned)
			}
		}
		s.recorded(1 << 40)
		for _, refused := range []*Refused{s.LogIn(), s.LookUp(), s.MayRecord(), s.Hold(1 << 40), s.Room()} {
			if refused != nil {
				t.Errorf("%s: got %v, want none", name, refused)
			}
		}
		if got := s.standIn(metrics.Busy, "its share", "id"); got != "id" {
			t.Errorf("%s: got record %q, want its own", name, got)
		}
		shares.Forget("")
		shares.Untold(func(string, string, int) { t.Errorf("%s: got something untold, want nothing", name) })
	}
}

func TestSharesWithoutAConnectionAreForgottenWhenThereAreTooMany(t *testing.T) {
	shares := NewShares(small)
	kept := shares.Of("kept")
	if _, turned := kept.enter(); turned != nil {
		t.Fatal(turned)
	}
	for i := range maxShares + 10 {
		shares.Of(time.Duration(i).String())
	}
	if got := len(shares.of); got > maxShares {
		t.Errorf("got %d shares, want at most %d", got, maxShares)
	}
	if shares.Of("kept") != kept {
		t.Error("got another share for a workload with a connection, want its own")
	}
}

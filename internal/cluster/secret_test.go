package cluster

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// vault answers with one Secret or with an error, and counts how often it was asked.
type vault struct {
	version string
	err     error
	asked   int
}

func (v *vault) get(context.Context, string) (*corev1.Secret, error) {
	v.asked++
	if v.err != nil {
		return nil, v.err
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: v.version}, Data: map[string][]byte{"password": []byte(v.version)}}, nil
}

func TestSecretIsReadAgainWhenItIsOldOrDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &vault{version: "1"}
		s := &secrets{get: v.get}
		read := func(want string, asked int) {
			t.Helper()
			data, version, err := s.read(t.Context(), "orders")
			if err != nil || version != want || string(data["password"]) != want || v.asked != asked {
				t.Errorf("got version %q, %v, asked %d times, want %q, asked %d", version, err, v.asked, want, asked)
			}
		}
		read("1", 1)
		v.version = "2"
		time.Sleep(secretFresh - time.Millisecond)
		read("1", 1)
		time.Sleep(time.Millisecond)
		read("2", 2)

		v.version = "3"
		s.failed("orders", "1") // an old version's failure says nothing of this one
		time.Sleep(secretRetry)
		read("2", 2)
		s.failed("orders", "2")
		read("3", 3)
		s.failed("orders", "3")
		read("3", 3) // a second has to pass
		time.Sleep(secretRetry)
		read("3", 4)
	})
}

func TestSecretOutlivesTheAPIServerButNotItsDeletion(t *testing.T) {
	away := errors.New("connection refused")
	resource := corev1.Resource("secrets")
	for _, row := range []struct {
		name string
		err  error
		want error // nil: the Secret as it was
	}{
		{"away", away, nil},
		{"overloaded", apierrors.NewTooManyRequests("wait", 1), nil},
		{"deleted", apierrors.NewNotFound(resource, "orders"), ErrNoSecret},
		{"just begun", apierrors.NewForbidden(resource, "orders", nil), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &vault{version: "1"}
				s := &secrets{get: v.get}
				if _, _, err := s.read(t.Context(), "orders"); err != nil {
					t.Fatal(err)
				}
				v.err = row.err
				time.Sleep(secretFresh)
				for range 100 {
					data, _, err := s.read(t.Context(), "orders")
					if (err == nil) != (row.want == nil) || (data != nil) != (row.want == nil) {
						t.Fatalf("got %v, %v, want %v", data, err, row.want)
					}
					if errors.Is(row.want, ErrNoSecret) != errors.Is(err, ErrNoSecret) {
						t.Fatalf("got %v, want %v", err, row.want)
					}
				}
				if v.asked != 2 {
					t.Errorf("got %d questions within a second, want 2", v.asked)
				}
				v.err, v.version = nil, "2"
				time.Sleep(secretRetry)
				if _, version, err := s.read(t.Context(), "orders"); err != nil || version != "2" {
					t.Errorf("got version %q, %v once it is back, want 2", version, err)
				}
			})
		})
	}
}

func TestSecretThatNeverWasIsAskedForOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &vault{err: errors.New("connection refused")}
		s := &secrets{get: v.get}
		for range 100 {
			if _, _, err := s.read(t.Context(), "orders"); !errors.Is(err, v.err) {
				t.Fatalf("got %v, want %v", err, v.err)
			}
			time.Sleep(secretRetry / 10)
		}
		if v.asked != 10 {
			t.Errorf("got %d questions in ten seconds, want 10", v.asked)
		}
	})
}

func TestContactIsLostFromTheFirstFailureToTheLastRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		c := &contact{log: log}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		refused := errors.New("connection refused")
		if got := c.since(); !got.IsZero() {
			t.Errorf("got lost since %v at first, want never", got)
		}
		began := time.Now()
		c.told(ctx, "pods", refused)
		time.Sleep(time.Minute)
		c.told(ctx, "pods", refused)
		c.told(ctx, "targets", refused)
		if got := c.since(); !got.Equal(began) {
			t.Errorf("got lost since %v, want %v", got, began)
		}
		c.told(ctx, "pods", nil)
		if got, want := c.since(), began.Add(time.Minute); !got.Equal(want) {
			t.Errorf("got lost since %v with one kind back, want %v", got, want)
		}
		c.told(ctx, "targets", apierrors.NewResourceExpired("too old"))
		if got := c.since(); !got.IsZero() {
			t.Errorf("got lost since %v with both back, want never", got)
		}
		cancel()
		c.told(ctx, "pods", refused)
		if got := c.since(); !got.IsZero() {
			t.Errorf("got lost since %v when it was us who ended, want never", got)
		}
	})
}

func TestAServerThatDoesNotAnswerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		c := &contact{log: log}
		ctx, cancel := context.WithCancel(t.Context())
		var hangs atomic.Bool
		done := make(chan error, 1)
		go func() {
			done <- c.look(ctx, func(ctx context.Context) error {
				if hangs.Load() {
					<-ctx.Done()
					return ctx.Err()
				}
				return apierrors.NewNotFound(corev1.Resource("namespaces"), "postern")
			})
		}()
		time.Sleep(time.Minute)
		if got := c.since(); !got.IsZero() {
			t.Errorf("got lost since %v while it answers, want never", got)
		}
		hangs.Store(true)
		time.Sleep(lookInterval + lookTimeout + time.Second)
		if c.since().IsZero() {
			t.Error("got never lost while it hangs, want lost")
		}
		hangs.Store(false)
		time.Sleep(lookInterval + time.Second)
		if got := c.since(); !got.IsZero() {
			t.Errorf("got lost since %v once it answers again, want never", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v, want none", err)
		}
	})
}

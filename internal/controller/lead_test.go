package controller

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/audit"
)

const (
	targetPath = "/apis/postern.dev/v1alpha1/targets/orders"
	secretPath = "/api/v1/namespaces/postern/secrets/" + operatorKeyName
	publicPath = "/api/v1/namespaces/postern/configmaps/" + operatorKeyName
)

// putTarget writes a Target whose status says as much as it has hosts.
func (a *api) putTarget(hosts ...any) {
	a.put(targetPath, object{
		"apiVersion": "postern.dev/v1alpha1", "kind": "Target", "metadata": object{"name": "orders", "uid": "1"},
		"spec": object{"protocol": "postgres", "hosts": hosts, "credential": object{"secret": "orders-login"}},
	})
}

// run has an instance take part; the answer of stop is its last.
func run(t *testing.T, c *controller) (stop func() error, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.elect(ctx) }()
	t.Cleanup(cancel)
	return func() error { cancel(); return <-done }, done
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 3000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("got nothing for 30 s, want %s", what)
}

func TestOneInstanceWritesAndTheNextTakesOver(t *testing.T) {
	a := newAPI(t)
	a.putTarget("10.0.0.1")
	first, second := a.instance(t, "first"), a.instance(t, "second")
	stop, _ := run(t, first)
	eventually(t, "a status by the first", func() bool { return a.writes("first") > 0 })
	stopSecond, _ := run(t, second)
	eventually(t, "a second that is ready to wait", second.ready.Load)
	a.putTarget("10.0.0.1", "10.0.0.2") // without status
	eventually(t, "a status of the new version", func() bool { return a.get(targetPath)["status"] != nil })
	if got := a.writes("second"); got != 0 {
		t.Errorf("got %d writes by the second, want it to wait", got)
	}
	if err := stop(); err != nil {
		t.Errorf("got %v by the first when it was told to end, want nothing", err)
	}
	a.putTarget("10.0.0.3")
	eventually(t, "a status by the second", func() bool { return a.writes("second") > 0 })
	if err := stopSecond(); err != nil {
		t.Errorf("got %v by the second when it was told to end, want nothing", err)
	}
	if got := a.holder(); got != "" {
		t.Errorf("got a Lease that %s has, want it let go", got)
	}
	for _, w := range a.written {
		if w.by != w.holder {
			t.Errorf("got a write by %s while %s had the Lease, want one that writes at a time", w.by, w.holder)
		}
	}
}

func TestInstanceWhoseLeaseIsTakenEnds(t *testing.T) {
	a := newAPI(t)
	_, ended := run(t, a.instance(t, "first"))
	eventually(t, "the Lease held", func() bool { return a.holder() == "first" })
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	a.put(leasePath, object{
		"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": object{"name": leaseName, "namespace": "postern"},
		"spec": object{"holderIdentity": "thief", "leaseDurationSeconds": 3600, "acquireTime": now, "renewTime": now},
	})
	if err := <-ended; !errors.Is(err, errLost) {
		t.Errorf("got %v, want %v: what it knows may be out of date", err, errLost)
	}
	if got := a.holder(); got != "thief" {
		t.Errorf("got a Lease that %q has, want it left alone", got)
	}
}

func TestStatusThatIsThereIsNotWrittenAgain(t *testing.T) {
	a := newAPI(t)
	a.putTarget("10.0.0.1")
	stop, _ := run(t, a.instance(t, "first"))
	eventually(t, "a status", func() bool { return a.writes("first") > 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	stop, _ = run(t, a.instance(t, "next"))
	a.put("/apis/postern.dev/v1alpha1/targets/stock", object{
		"apiVersion": "postern.dev/v1alpha1", "kind": "Target", "metadata": object{"name": "stock", "uid": "2"}, "spec": object{"protocol": "postgres"},
	})
	eventually(t, "a status of another", func() bool { return a.writes("next") > 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, w := range a.written {
		if w.by == "next" && w.path == targetPath {
			t.Error("got the status of orders written again, want it left as it was")
		}
	}
}

func TestOperatorKeyOfTheFirstCounts(t *testing.T) {
	a := newAPI(t)
	a.meeting = &meeting{call: "GET " + secretPath, missing: 2, all: make(chan struct{})} // both see that there is none
	errs := make(chan error)
	for _, name := range []string{"first", "second"} {
		go func() { errs <- a.instance(t, name).ensureOperatorKey(t.Context()) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Errorf("got %v, want a key", err)
		}
	}
	secret, _ := a.get(secretPath)["data"].(object)
	private, err := base64.StdEncoding.DecodeString(secret[operatorKeyPrivate].(string))
	if err != nil {
		t.Fatal(err)
	}
	want, err := audit.PublicOperatorKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := a.get(publicPath)["data"].(object)
	if got := strings.TrimSpace(public[operatorKeyPublic].(string)); got != want {
		t.Errorf("got public key %q, want %q, of the key that is there", got, want)
	}
}

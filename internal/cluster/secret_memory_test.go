package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// newMemory is a folder in memory.
func newMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "postern-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// begin is a process that starts, and finds no API server unless v is one.
func begin(t *testing.T, dir string, v *vault) *secrets {
	t.Helper()
	s := &secrets{get: v.get}
	if err := s.remember(dir, func(err error) { t.Errorf("got %v, want the Secret kept", err) }); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSecretOutlivesTheProcessInMemory(t *testing.T) {
	dir, away := newMemory(t), errors.New("connection refused")
	for _, version := range []string{"1", "2"} { // a newer one takes its place
		if _, _, err := begin(t, dir, &vault{version: version}).read(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		data, got, err := begin(t, dir, &vault{err: away}).read(t.Context(), "orders")
		if err != nil || got != version || string(data["password"]) != version {
			t.Errorf("got version %q, %v without API server, want %q", got, err, version)
		}
	}
	if _, _, err := begin(t, dir, &vault{err: away}).read(t.Context(), "another"); !errors.Is(err, away) {
		t.Errorf("got %v for a Secret that was never read, want %v", err, away)
	}
	info, err := os.Stat(filepath.Join(dir, secretsFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file that its owner alone can read", info, err)
	}

	gone := &vault{err: apierrors.NewNotFound(corev1.Resource("secrets"), "orders")}
	if _, _, err := begin(t, dir, gone).read(t.Context(), "orders"); !errors.Is(err, ErrNoSecret) {
		t.Errorf("got %v, want %v", err, ErrNoSecret)
	}
	if text, err := os.ReadFile(filepath.Join(dir, secretsFile)); err != nil || strings.Contains(string(text), "orders") {
		t.Errorf("got %q, %v after the Secret was deleted, want it forgotten", text, err)
	}
}

func TestSecretIsKeptInMemoryAlone(t *testing.T) {
	dir := "/proc/self" // not a file system of files in memory, at least
	s := &secrets{get: (&vault{version: "1"}).get}
	if err := s.remember(dir, func(err error) { t.Errorf("got %v, want nothing tried", err) }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.read(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, secretsFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no file there", err)
	}
}

func TestKeptSecretsThatCannotBeReadAreAsGoodAsNone(t *testing.T) {
	dir := newMemory(t)
	if err := os.WriteFile(filepath.Join(dir, secretsFile), []byte(`{"orders":`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &secrets{get: (&vault{version: "1"}).get}
	if err := s.remember(dir, func(err error) { t.Errorf("got %v, want the Secret kept", err) }); err == nil {
		t.Error("got no error for half a file, want one")
	}
	if _, version, err := s.read(t.Context(), "orders"); err != nil || version != "1" {
		t.Errorf("got version %q, %v, want it read from the API server", version, err)
	}
	if got := begin(t, dir, &vault{err: errors.New("connection refused")}); got.held["orders"] == nil {
		t.Error("got nothing kept, want the Secret")
	}
}

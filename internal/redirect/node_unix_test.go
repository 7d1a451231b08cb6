package redirect

import (
	"os"
	"path/filepath"
	"testing"

	"postern.dev/postern/testenv"
)

// TestUnixSocketsOfPods: a guarded pod is refused every one of a guarded server, an
// unknown one those of Targets, and nobody else any.
func TestUnixSocketsOfPods(t *testing.T) {
	w := newNodeWorld(t)
	guarded := postgresGuards()
	guarded.Sockets = []string{"/run/other/db.sock"}
	if err := w.node.Set(guarded); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".s.PGSQL.5432", "db.sock", "x.sock"} {
		w.serveUnix(t, filepath.Join(dir, name))
	}
	plain, unknown := w.newPod(t, "plain"), w.newPod(t, "unknown")
	elsewhere := testenv.NewNetns(t)
	w.classify(t, plain, ClassPlain, elsewhere)
	for _, row := range []struct {
		pod          *nodePod
		in           *testenv.Netns
		socket, want string
	}{
		{w.guarded, w.here, ".s.PGSQL.5432", "EPERM"},
		{w.guarded, w.here, "db.sock", "EPERM"},
		{w.guarded, w.here, "x.sock", directReply},
		{unknown, testenv.NewNetns(t), ".s.PGSQL.5432", directReply},
		{unknown, testenv.NewNetns(t), "db.sock", "EPERM"},
		{plain, elsewhere, ".s.PGSQL.5432", directReply},
		{plain, elsewhere, "db.sock", directReply},
	} {
		want := row.want
		if !w.node.has.unixConnect {
			want = directReply // [NodeState] says so
		}
		cmd := withArgument(w.workload(row.pod.container, "unix", none), filepath.Join(dir, row.socket))
		if got := w.playIn(t, row.in, cmd); got != want {
			t.Errorf("%s to %s: got %q, want %q", row.pod.uid, row.socket, got, want)
		}
	}
}

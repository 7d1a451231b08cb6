package redirect

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"postern.dev/postern/testenv"
)

// TestUnixSocketsOfGuardedServers: by the last element of the path, however the
// path is written, for the command and, where it is a Target's, for its user's
// other processes. A kernel without the hook refuses none.
func TestUnixSocketsOfGuardedServers(t *testing.T) {
	has, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	refused := func(with string) string {
		if has.unixConnect {
			return with
		}
		return directReply
	}
	w := newUnguardedWorld(t)
	w.guard(t, Options{})
	w.serveUnix(t, "@unfed")
	if got, want := w.play(t, withArgument(w.workload(w.command, "unix", none), "@unfed")), refused("refused"); got != want {
		t.Errorf("before anything is fed: got %q, want %q", got, want)
	}
	guarded := postgresGuards()
	guarded.Sockets = []string{"/run/other/db.sock", "@listed"}
	if err := w.run.Set(guarded); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".s.PGSQL.5432", ".s.PGSQL.5433", ".s.PGSQL.5432x", "db.sock", "x.sock"} {
		w.serveUnix(t, filepath.Join(dir, name))
	}
	for _, name := range []string{"@" + dir + "/.s.PGSQL.5432", "@listed", "@unlisted"} {
		w.serveUnix(t, name)
	}
	if err := os.Symlink(".s.PGSQL.5432", filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	outside := testenv.NewCgroup(t)
	for _, row := range []struct {
		name, path, want string
		from             *testenv.Cgroup
	}{
		{"postgres", dir + "/.s.PGSQL.5432", refused("EPERM"), w.command},
		{"dots", dir + "/../" + filepath.Base(dir) + "//./.s.PGSQL.5432", refused("EPERM"), w.command},
		{"abstract", "@" + dir + "/.s.PGSQL.5432", refused("EPERM"), w.command},
		{"another port", dir + "/.s.PGSQL.5433", directReply, w.command},
		{"another name", dir + "/.s.PGSQL.5432x", directReply, w.command},
		{"listed", dir + "/db.sock", refused("EPERM"), w.command},
		{"listed abstract", "@listed", refused("EPERM"), w.command},
		{"unlisted", dir + "/x.sock", directReply, w.command},
		{"unlisted abstract", "@unlisted", directReply, w.command},
		{"listed, outside", dir + "/db.sock", refused("EPERM"), outside},
		{"not a Target's, outside", dir + "/.s.PGSQL.5432", directReply, outside},
		{"symbolic link, known not to be covered", dir + "/alias", directReply, w.command},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := w.play(t, withArgument(w.workload(row.from, "unix", none), row.path))
			if got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
	t.Run("socket from outside", func(t *testing.T) {
		taker := withArgument(w.workload(w.command, "take-unix", none), dir+"/.s.PGSQL.5432")
		giver := w.workload(outside, "give-unix", none)
		handOver(t, giver, taker)
		if got := w.play(t, giver); got != "given" {
			t.Fatalf("giver: got %q, want given", got)
		}
		if got, want := w.play(t, taker), refused("EPERM"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// serveUnix listens in the workload's namespace, to which abstract names belong.
func (w *world) serveUnix(t *testing.T, path string) {
	t.Helper()
	var l net.Listener
	err := w.here.Do(func() (err error) { l, err = net.Listen("unix", path); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if path[0] != '@' {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	go accept(l, func(c net.Conn) { io.WriteString(c, directReply); c.Close() })
}

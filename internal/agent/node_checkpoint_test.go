package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern.dev/postern/internal/audit"
)

// signed is a checkpoint of a tree of that size.
func signed(size int) string {
	return fmt.Sprintf("postern.dev/audit/node/1\n%d\nroot\n\n— node %s\n", size, strings.Repeat("s", 120))
}

func TestNewestCheckpointIsReadEveryTenSeconds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoints")
	synctest.Test(t, func(t *testing.T) {
		c := &checkpoints{path: path}
		expect := func(when, want string) {
			t.Helper()
			if got, err := c.last(); err != nil || got != want {
				t.Errorf("got %q, %v %s, want %q", got, err, when, want)
			}
		}
		expect("before there is a file", "")
		text := ""
		write := func(more string) {
			t.Helper()
			text += more
			if err := os.WriteFile(path, []byte(text+strings.Repeat("\x00", 8192)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(signed(1) + signed(2))
		expect("a moment later", "")
		time.Sleep(checkpointInterval)
		expect("after the interval", signed(2))
		for size := range 1000 { // more than is read at once
			write(signed(3 + size))
		}
		half := signed(2000)
		write(half[:40])
		time.Sleep(checkpointInterval)
		expect("while the next is being written", signed(1002))
		write(half[40:])
		time.Sleep(checkpointInterval)
		expect("when it is written", half)
	})
}

func TestCheckpointOfTheTrailIsFound(t *testing.T) {
	folder := t.TempDir()
	a, stop := newRecording(t, folder)
	a.recorder.note(audit.KindAgentAttach, "test", nil)
	stop() // which signs the last
	c := &checkpoints{path: checkpointsOf(folder, a.trail.ID())}
	got, err := c.last()
	if err != nil || !strings.HasPrefix(got, "postern.dev/audit/"+a.trail.ID()+"\n") || strings.Count(got, "\n") != checkpointLines {
		t.Errorf("got %q, %v, want a checkpoint of %s", got, err, a.trail.ID())
	}
}

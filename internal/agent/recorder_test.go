package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/testenv"
)

// newRecording gives an agent that has nothing but a trail in folder; stop ends the trail.
func newRecording(t *testing.T, folder string) (a *agent, stop func()) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "operator")
	if _, err := audit.EnsureOperatorKey(key); err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	trail, err := audit.Open(audit.Options{Dir: folder, Node: "node", Agent: "test", OperatorKey: key, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- trail.Run(ctx) }()
	return &agent{o: Options{Log: log}, trail: trail, recorder: &recorder{trail: trail, metrics: metrics.New(), log: log}}, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func refusal(session string, reason metrics.Refusal) *audit.Record {
	return &audit.Record{Kind: audit.KindRefusal, Session: session, Refusal: &audit.Refusal{Reason: string(reason), Message: strings.Repeat("x", 500)}}
}

func TestConnectionCountsOnceItLeftARecord(t *testing.T) {
	a, stop := newRecording(t, t.TempDir())
	for _, row := range []struct {
		record *audit.Record
		want   uint64 // so far
	}{
		{&audit.Record{Kind: audit.KindAgentAttach}, 0},
		{&audit.Record{Kind: audit.KindSessionOpen, Session: "1"}, 1},
		{refusal("1", metrics.Protocol), 1},                      // of a session that is counted
		{&audit.Record{Kind: audit.KindCancel, Session: "1"}, 2}, // a connection of its own
		{&audit.Record{Kind: audit.KindCancel, Session: "1"}, 3}, // and another
		{&audit.Record{Kind: audit.KindSessionClose, Session: "1"}, 3},
		{refusal("2", metrics.Busy), 4},
		{refusal("3", metrics.NoOrigin), 4}, // perhaps none that the kernel led here
	} {
		if _, err := a.recorder.Append(row.record); err != nil {
			t.Fatal(err)
		}
		if got := a.recorder.sessions.Load(); got != row.want {
			t.Errorf("got %d connections after a record %s, want %d", got, row.record.Kind, row.want)
		}
	}
	if _, err := a.recorder.Append(&audit.Record{Kind: audit.KindSessionOpen, Session: "5"}); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := a.recorder.Append(&audit.Record{Kind: audit.KindSessionClose, Session: "5"}); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("got %v, want %v", err, audit.ErrClosed)
	}
	if got := a.recorder.of("").open.Load(); got != 0 {
		t.Errorf("got %d sessions open when the end of one was not written, want none", got)
	}
	if _, err := a.recorder.Append(refusal("4", metrics.Busy)); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("got %v, want %v", err, audit.ErrClosed)
	}
	if sessions, lost := a.recorder.sessions.Load(), a.recorder.lost.Load(); sessions != 5 || lost != 2 {
		t.Errorf("got %d connections and %d records lost, want 5 and 2", sessions, lost)
	}
}

func TestRecordSaysHowOldIsWhatDecides(t *testing.T) {
	a, stop := newRecording(t, t.TempDir())
	defer stop()
	for stale, want := range map[time.Duration]int64{0: 0, noticed: 0, 2 * time.Minute: 120e6, 3 * time.Hour: 10800e6} {
		a.recorder.stale = func() time.Duration { return stale }
		record := &audit.Record{Kind: audit.KindRequest, Session: "1", Request: &audit.Request{}, Decision: &audit.Decision{}}
		if _, err := a.recorder.Append(record); err != nil {
			t.Fatal(err)
		}
		if record.StaleUS != want {
			t.Errorf("got %d µs after %v without the API server, want %d", record.StaleUS, stale, want)
		}
	}
}

func TestLedgerMissesWhatAFullDiskDidNotTake(t *testing.T) {
	disk := t.TempDir()
	// Each file of the trail once, and nothing to grow by.
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk).CombinedOutput()
	testenv.Need(t, err == nil, "permission to mount tmpfs: "+string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	a, stop := newRecording(t, filepath.Join(disk, "log"))
	arrived := 0
	for ; a.recorder.lost.Load() < 3; arrived++ {
		if _, err := a.recorder.Append(refusal("session", metrics.Busy)); err != nil && !errors.Is(err, audit.ErrFull) {
			t.Fatal(err)
		}
	}
	a.balance(redirect.Counters{Redirected: uint64(arrived)})
	stop()
	leaves, err := filepath.Glob(filepath.Join(disk, "log", "*", "*", "leaves-*.jsonl"))
	if err != nil || len(leaves) != 1 {
		t.Fatalf("got %v and %v, want one file", leaves, err)
	}
	text, err := os.ReadFile(leaves[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"missing":3`, `"reason":"records-lost","detail":{"records":"3"}`} {
		if !bytes.Contains(text, []byte(want)) {
			lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
			t.Errorf("got no %s, want it in\n%s", want, bytes.Join(lines[max(0, len(lines)-4):], []byte("\n")))
		}
	}
}

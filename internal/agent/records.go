package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/redirect"
)

// verdicts are the kernel's counters as metrics.
func (a *agent) verdicts() (map[string]uint64, error) {
	c, err := a.kernel.Counters()
	if err != nil {
		return nil, err
	}
	return map[string]uint64{
		"redirected": c.Redirected, "refused": c.Refused, "dropped": c.Dropped, "refused-other-process": c.Others,
	}, nil
}

// ledger closes the books of the run.
func (a *agent) ledger() {
	c, err := a.kernel.Counters()
	if err != nil {
		a.o.Log.WithError(err).Error("Kernel's counters not read")
		a.recorder.note(audit.KindAgentDegraded, "ledger", nil)
		return
	}
	a.balance(c)
}

// balance compares the connections that the kernel led here with those that
// left a record, and says how many records of any kind were not written.
func (a *agent) balance(c redirect.Counters) {
	recorded := a.recorder.sessions.Load()
	missing := int64(c.Redirected) - int64(recorded)
	a.recorder.put(&audit.Record{Kind: audit.KindLedger, Ledger: &audit.Ledger{
		Seen: c.Seen, Redirected: c.Redirected, Refused: c.Refused, Dropped: c.Dropped, Sessions: recorded, Missing: missing,
	}})
	if missing != 0 {
		a.o.Log.WithField("connections", missing).Warn("Kernel led more or fewer connections here than were recorded")
	}
	if lost := a.recorder.lost.Load(); lost > 0 {
		a.recorder.note(audit.KindAgentDegraded, "records-lost", map[string]string{"records": strconv.FormatUint(lost, 10)})
		a.o.Log.WithField("records", lost).Error("Trail did not take every record")
	}
}

// summarize says in one line what the run left behind: its trail.
func (a *agent) summarize() {
	folder := filepath.Join(a.o.LogDir, a.trail.ID())
	size, root := lastCheckpoint(folder)
	fmt.Fprintf(a.o.Stderr, "postern: %s records, %d refused; log %s; checkpoint %s\n", size, a.recorder.refused.Load(), folder, root)
}

// lastCheckpoint is size and root of the last checkpoint in a log's folder.
//
// Source: C2SP tlog-checkpoint: origin, size, root, an empty line, signature.
func lastCheckpoint(folder string) (size, root string) {
	text, err := os.ReadFile(filepath.Join(folder, "checkpoints"))
	if err != nil {
		return "no", "none"
	}
	lines := strings.Split(string(bytes.TrimRight(text, "\x00\n")), "\n")
	const last = 4 // size, root, empty line, signature
	if len(lines) <= last {
		return "no", "none"
	}
	return lines[len(lines)-last], lines[len(lines)-last+1]
}

package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"postern.dev/postern/internal/audit"
)

// append writes a record of the agent's own life. One that cannot be written
// is logged and no more: the sessions, which depend on the trail, are refused.
func (a *agent) append(r *audit.Record) {
	if _, err := a.recorder.Append(r); err != nil {
		a.o.Log.WithError(err).WithField("kind", r.Kind).Error("Record not written")
	}
}

func (a *agent) note(kind audit.Kind, reason string, detail map[string]string) {
	a.append(&audit.Record{Kind: kind, Event: &audit.Event{Reason: reason, Detail: detail}})
}

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

// ledger compares what the kernel led here with what arrived, each of which
// left a record.
func (a *agent) ledger() {
	c, err := a.kernel.Counters()
	if err != nil {
		a.o.Log.WithError(err).Error("Kernel's counters not read")
		a.note(audit.KindAgentDegraded, "ledger", nil)
		return
	}
	arrived := a.origins.accepted.Load()
	missing := int64(c.Redirected) - int64(arrived)
	a.append(&audit.Record{Kind: audit.KindLedger, Ledger: &audit.Ledger{
		Seen: c.Seen, Redirected: c.Redirected, Refused: c.Refused, Dropped: c.Dropped, Sessions: arrived, Missing: missing,
	}})
	if missing != 0 {
		a.o.Log.WithField("connections", missing).Warn("Kernel led more connections here than arrived")
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

package audit

import "errors"

// How much a file grows at once, and what of it is kept for the time when the
// disk is full: some hundred outcomes, session.close and agent.stop.
const (
	segmentChunk     = 4 << 20
	segmentSpare     = 128 << 10
	hashesChunk      = 1 << 20
	hashesSpare      = 64 << 10
	checkpointsChunk = 64 << 10
	checkpointsSpare = 16 << 10
)

// maxPushBytes is the most that one leaf adds to the hashes.
const maxPushBytes = 64 * 32

// closes tells whether a record ends something that is in the log already: it
// may use the room that is kept for the time when the disk is full.
func (k Kind) closes() bool {
	switch k {
	case KindOutcome, KindSessionClose, KindAgentStop, KindAgentDetach, KindAgentDegraded, KindLoss, KindLedger:
		return true
	}
	return false
}

// reserve makes sure that line, lines and their hashes have room. The caller
// holds mu.
func (l *Log) reserve(k Kind) error {
	err := l.reserveIn(k)
	if err != nil && !errors.Is(err, ErrFull) {
		return l.fail(err)
	}
	return err
}

func (l *Log) reserveIn(k Kind) error {
	last := k.closes()
	line, lines := int64(len(l.line)), int64(len(l.lines))
	if !last && (l.leaves.end+line > l.o.SegmentBytes || l.values.end+lines > l.o.SegmentBytes) {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if err := l.leaves.reserve(line, last); err != nil {
		return err
	}
	if err := l.values.reserve(lines, last); err != nil {
		return err
	}
	if err := l.hashes.reserve(int64(len(l.pendingHashes))+maxPushBytes, last); err != nil {
		return err
	}
	if l.leaves.low() || l.values.low() || l.hashes.low() {
		notify(l.low)
	}
	return nil
}

// low tells whether it is time to grow.
func (g *growing) low() bool { return g.room.Load()-g.end-g.spare < g.chunk/2 }

// rotate begins the next segment. The files of the last are synced and closed
// by the next commit. The caller holds mu.
func (l *Log) rotate() error {
	leaves, values, err := createSegment(l.dir, l.segment+1)
	if err != nil {
		return err
	}
	l.retired = append(l.retired, l.leaves, l.values)
	l.segment, l.leaves, l.values = l.segment+1, leaves, values
	return nil
}

func createSegment(dir string, segment int) (leaves, values *growing, err error) {
	values, err = createGrowing(segmentPath(dir, valuesPrefix, segment), segmentChunk, segmentSpare)
	if err != nil {
		return nil, nil, err
	}
	leaves, err = createGrowing(segmentPath(dir, leavesPrefix, segment), segmentChunk, segmentSpare)
	if err != nil {
		return nil, nil, errors.Join(err, values.discard())
	}
	if err := syncDir(dir); err != nil {
		return nil, nil, errors.Join(err, values.discard(), leaves.discard())
	}
	return leaves, values, nil
}

package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// Run makes records durable and signs checkpoints until ctx is done. Then it
// writes agent.stop and the last checkpoint, and closes the log: whoever
// appends must have ended before.
//
// Errors: [ErrPoisoned] when the log failed meanwhile.
func (l *Log) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { l.commitLoop(ctx); return nil })
	g.Go(func() error { l.signLoop(ctx); return nil })
	g.Go(func() error { l.growLoop(ctx); return nil })
	return errors.Join(g.Wait(), l.shut())
}

// commitLoop commits as often as somebody waits: while one fdatasync is under
// way everybody who comes rides the next. What nobody waits for is committed
// after SyncEvery.
func (l *Log) commitLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wanted:
		case <-l.dirty:
			select {
			case <-ctx.Done():
				return
			case <-l.wanted:
			case <-time.After(l.o.SyncEvery):
			}
		}
		l.commit()
	}
}

// signLoop signs what became durable since the last checkpoint.
func (l *Log) signLoop(ctx context.Context) {
	tick := time.NewTicker(l.o.SignEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.sign()
		}
	}
}

// growLoop keeps room ahead of the writers, so that they need not make it.
func (l *Log) growLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.low:
			l.growAhead()
		}
	}
}

func (l *Log) growAhead() {
	l.mu.Lock()
	files := []*growing{l.leaves, l.values, l.hashes}
	var sizes []int64
	for _, f := range files {
		size := f.room.Load()
		if f.low() {
			size += f.chunk
		}
		sizes = append(sizes, size)
	}
	l.mu.Unlock()
	for i, f := range files {
		// A full disk is told to whoever needs the room.
		if err := f.grow(sizes[i]); err != nil && !errors.Is(err, ErrFull) {
			l.mu.Lock()
			l.fail(err)
			l.mu.Unlock()
		}
	}
}

// flight is what one commit takes along.
type flight struct {
	batch   *batch
	tree    edge
	files   []*growing // to sync; never none
	retired []*growing // to close
	hashes  []byte
	at      int64 // where hashes belong
}

// commit makes durable what was written so far.
func (l *Log) commit() {
	f, ok := l.depart()
	if !ok {
		return
	}
	err := f.sync()
	l.arrive(f, err)
	if err != nil {
		return
	}
	if err := f.settle(l.hashes); err != nil {
		l.mu.Lock()
		l.fail(err)
		l.mu.Unlock()
	}
}

// depart closes the batch that records were added to and begins the next.
func (l *Log) depart() (flight, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil && !errors.Is(l.err, ErrClosed) || l.tree.size == l.durable.size {
		return flight{}, false
	}
	f := flight{batch: l.pending, retired: l.retired, hashes: l.pendingHashes, at: l.hashes.end}
	l.tree.copyTo(&f.tree)
	for _, file := range append(l.retired, l.leaves, l.values) {
		if file.dirty {
			file.dirty = false
			f.files = append(f.files, file)
		}
	}
	l.hashes.end += int64(len(l.pendingHashes))
	l.retired, l.pendingHashes = nil, nil
	l.flying, l.flyingEnd, l.pending = f.batch, l.tree.size, newBatch()
	return f, true
}

// sync syncs the files side by side: the disk's flush is what takes the time.
func (f *flight) sync() error {
	var g errgroup.Group
	for _, file := range f.files[1:] {
		g.Go(file.sync)
	}
	return errors.Join(f.files[0].sync(), g.Wait())
}

// arrive tells those who waited.
func (l *Log) arrive(f flight, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		err = l.fail(err)
	} else {
		l.durable = f.tree
	}
	l.flying, l.flyingEnd = nil, 0
	f.batch.finish(err)
}

// settle does what nobody waits for.
func (f *flight) settle(hashes *growing) error {
	if _, err := hashes.file.WriteAt(f.hashes, f.at); err != nil {
		return fmt.Errorf("write audit hashes: %w", err)
	}
	for _, file := range f.retired {
		if err := file.close(); err != nil {
			return fmt.Errorf("close audit segment: %w", err)
		}
	}
	return nil
}

// sign signs a checkpoint of what is durable, unless the last one covers it.
func (l *Log) sign() {
	var e edge
	l.mu.Lock()
	l.durable.copyTo(&e)
	broken := l.err != nil && !errors.Is(l.err, ErrClosed)
	l.mu.Unlock()
	if broken || e.size == l.signed {
		return
	}
	if err := l.writeCheckpoint(&e); err != nil {
		if errors.Is(err, ErrFull) {
			l.o.Log.WithError(err).Error("Checkpoint not written, the disk is full")
			return
		}
		l.mu.Lock()
		l.fail(err)
		l.mu.Unlock()
		return
	}
	l.signed = e.size
}

func (l *Log) writeCheckpoint(e *edge) error {
	c, err := signCheckpoint(l.id, e, l.signer)
	if err != nil {
		return err
	}
	if err := l.checkpoints.reserve(int64(len(c.note)), true); err != nil {
		return err
	}
	if err := l.checkpoints.append(c.note); err != nil {
		return err
	}
	if err := l.checkpoints.sync(); err != nil {
		return err
	}
	l.anchor(c)
	return nil
}

// anchor puts the checkpoint where it is kept. That place may be away for a
// while, so that failing is not the end of the log.
func (l *Log) anchor(c checkpoint) {
	if l.o.CheckpointFile == "" {
		return
	}
	err := replaceFile(l.o.CheckpointFile, c.note, 0o644)
	if err != nil && !l.anchorFails {
		l.o.Log.WithError(err).Warn("Checkpoint not kept outside the log, the next is tried again")
	}
	l.anchorFails = err != nil
}

// shut writes the last record and checkpoint and closes the files.
func (l *Log) shut() error {
	stop := &Record{ID: NewID(), Kind: KindAgentStop}
	l.mu.Lock()
	if l.open != 0 {
		stop.Event = &Event{Reason: "requests-open", Detail: map[string]string{"requests": strconv.FormatInt(l.open, 10)}}
	}
	failed := l.append(stop, new(seal))
	if l.err == nil {
		l.err = ErrClosed
	}
	l.mu.Unlock()
	l.commit()
	l.sign()

	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.err, ErrPoisoned) {
		failed = l.err
	}
	l.pending.finish(l.err)
	return errors.Join(failed, l.closeFiles())
}

func (l *Log) closeFiles() error {
	var errs []error
	for _, f := range append(l.retired, l.leaves, l.values, l.hashes, l.checkpoints) {
		errs = append(errs, f.close())
	}
	return errors.Join(append(errs, l.folder.Close())...)
}

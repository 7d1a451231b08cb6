package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/audit"
)

// pollEvery is how often a trail that is followed is looked at.
const pollEvery = 200 * time.Millisecond

func tailCommand() *cobra.Command {
	var t tail
	c := &cobra.Command{
		Use:   "tail",
		Short: "Print the newest records, one a line",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t.out = c.OutOrStdout()
			return t.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&t.dir, "log-dir", defaultLogDir, "folder of the logs")
	f.IntVarP(&t.lines, "lines", "n", 20, "how many records")
	f.BoolVar(&t.all, "all", false, "all records")
	f.BoolVarP(&t.follow, "follow", "f", false, "wait for further records")
	f.StringVar(&t.session, "session", "", "only records of this session")
	f.BoolVar(&t.json, "json", false, "one JSON object a line")
	return c
}

// tail prints the end of a trail.
type tail struct {
	dir     string
	session string
	lines   int
	all     bool
	follow  bool
	json    bool
	out     io.Writer

	readers map[string]*audit.Reader
}

func (t *tail) run(ctx context.Context) error {
	t.readers = make(map[string]*audit.Reader)
	defer func() {
		for _, r := range t.readers {
			r.Close()
		}
	}()
	first, err := t.poll(ctx)
	if err != nil && !(t.follow && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if err := t.print(first); err != nil || !t.follow {
		return err
	}
	t.all = true
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		more, err := t.poll(ctx)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := t.print(more); err != nil {
			return err
		}
	}
}

// poll returns the records that came since the last call, those of all logs in
// the order of their times.
func (t *tail) poll(ctx context.Context) ([]*audit.Entry, error) {
	dirs, err := audit.Logs(t.dir)
	if err != nil {
		return nil, err
	}
	var found []*audit.Entry
	for _, dir := range dirs {
		r := t.readers[dir]
		if r == nil {
			r = audit.NewReader(dir)
			t.readers[dir] = r
		}
		entries, err := t.read(ctx, r)
		if err != nil {
			return nil, err
		}
		found = append(found, entries...)
	}
	slices.SortStableFunc(found, func(a, b *audit.Entry) int { return a.Time.Compare(b.Time) })
	return t.last(found), nil
}

// read returns the newest records of one log.
func (t *tail) read(ctx context.Context, r *audit.Reader) ([]*audit.Entry, error) {
	var found []*audit.Entry
	for ctx.Err() == nil {
		e, err := r.Next()
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return found, err
		}
		if t.session != "" && e.Session != t.session {
			continue
		}
		found = append(found, e)
		if len(found) > 2*max(t.lines, 1024) {
			found = slices.Clone(t.last(found))
		}
	}
	return found, ctx.Err()
}

func (t *tail) last(es []*audit.Entry) []*audit.Entry {
	if t.all {
		return es
	}
	return es[max(0, len(es)-max(t.lines, 0)):]
}

func (t *tail) print(es []*audit.Entry) error {
	for _, e := range es {
		line := summary(e)
		if t.json && !e.Damaged {
			b, err := toJSON(e)
			if err != nil {
				return err
			}
			line = b
		}
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	return nil
}

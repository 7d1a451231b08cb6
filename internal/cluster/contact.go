package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	lookInterval = 10 * time.Second
	lookTimeout  = 5 * time.Second
)

// contact knows which kinds of object the API server does not show us, and since when.
type contact struct {
	log logrus.FieldLogger

	mu   sync.Mutex
	lost map[string]time.Time
}

// told takes the outcome of a list or a watch that was begun, or of a look whether
// the server answers at all. A watch that ends is begun anew at once, so that a
// server that is gone is noticed here; one that accepts connections and does not
// answer is not, as client-go goes on trying without a word: that is what the look is for.
func (c *contact) told(ctx context.Context, kind string, err error) {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return
	}
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		err = nil // an answer: what we hold is too old to go on from, and is listed anew
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, wasLost := c.lost[kind]
	switch {
	case err == nil && wasLost:
		delete(c.lost, kind)
		c.log.WithField("kind", kind).Info("Objects are watched again")
	case err != nil && !wasLost:
		if c.lost == nil {
			c.lost = make(map[string]time.Time)
		}
		c.lost[kind] = time.Now()
		c.log.WithError(err).WithField("kind", kind).Warn("Objects cannot be watched, the last known ones count")
	}
}

// since is when the first of the kinds was lost; zero: none is.
func (c *contact) since() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first time.Time
	for _, at := range c.lost {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// look asks now and then whether the API server answers, until ctx is done.
func (c *contact) look(ctx context.Context, ask func(context.Context) error) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, lookTimeout)
		err := ask(asking)
		cancel()
		if apierrors.IsNotFound(err) {
			err = nil // an answer
		}
		c.told(ctx, "any", err)
	}
}

package gate

import (
	"sync"
	"time"
)

// bucket lets so many things happen at once, and so many a second in the long
// run.
type bucket struct {
	size, perSecond float64

	mu   sync.Mutex
	left float64
	at   time.Time
}

func newBucket(size, perSecond float64) *bucket {
	return &bucket{size: size, perSecond: perSecond, left: size, at: time.Now()}
}

// take tells whether one more may happen now.
func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.left = min(b.size, b.left+now.Sub(b.at).Seconds()*b.perSecond)
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

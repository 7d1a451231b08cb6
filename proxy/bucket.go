package proxy

import (
	"sync"
	"time"
)

// Rate lets so much happen at once, and so much a second in the long run.
type Rate struct{ Burst, PerSecond float64 }

// bucket is what is left of a rate. It begins full.
type bucket struct {
	mu    sync.Mutex
	rate  Rate
	spent float64 // what is gone of the burst; more than it is a debt
	at    time.Time
}

// take tells whether one more may happen, which is spent then.
func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	if b.spent+1 > b.rate.Burst {
		return false
	}
	b.spent++
	return true
}

// left tells whether anything is left.
func (b *bucket) left() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	return b.spent < b.rate.Burst
}

// spend takes what happened already.
func (b *bucket) spend(n float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	b.spent += n
}

// refill gives back what time has brought. The caller holds mu.
func (b *bucket) refill() {
	now := time.Now()
	b.spent = max(0, b.spent-now.Sub(b.at).Seconds()*b.rate.PerSecond)
	b.at = now
}

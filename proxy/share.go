package proxy

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/metrics"
)

// Limits are the share that each workload has of what all of them have together.
// Whoever exceeds his is refused; others go on.
//
//	share         bound                          where                          who exceeds it
//	connections   256 at once, half-open ones    Server, at accept              53300 in the protocol; beyond
//	              too, which have 10 s                                          16 more closed without an answer
//	connects      1,000 a second, 2,048 at once  Server, at accept              closed without an answer
//	log-ins       250 a second, 1,024 at once,   postgres, before it dials;     53300; a cancel is not passed on
//	              cancel requests too            4 under way, others wait
//	look-ups      50 a second, 500 at once: a    postgres, catalog.judge and    statement refused, 42501; result
//	              server is asked its catalog    catalog.plan                   withheld, 53400
//	              anew for one statement
//	trail         16 MiB a second, 256 MiB at    Session, before a request      53400, nothing is forwarded; its
//	              once                           is recorded                    connections 53300 until then
//	memory        160 MiB of long messages,      postgres, where they are       53400
//	              texts, parameters              read and remembered
//
// What is shared elsewhere, where it is:
//
//	tuples        as many as the gate says       bpf/node.c, pod_tuples         ECONNREFUSED, told as an Event
//	hand-overs    64 a pod in flight             internal/gate, MaxInFlight     waits in the pod's own listener
//	parser time   a turn each, all workers but   internal/sql, turns; texts     waits behind its own
//	              one                            over 16 KiB are lexed in it
//	parsed texts  64 MiB, the largest owner      internal/sql, cache            loses its own oldest
//	              makes room
//	catalogs      one for each pod that dials    postgres, catalogKey           has its own alone
//	              itself
//	name server   once a second in all, for all  internal/agent, resolveOnMiss  refused as before
//	              names, by whoever misses one
//	keys          once in 10 s for each issuer   internal/identity, keySet      token refused as before
//	Secrets       once a second for each that    internal/cluster, secrets      has the one of before
//	              was refused
//	Events        10, then one a minute          internal/cluster, events       counted
//
// The zero value of a field is its default.
type Limits struct {
	Connections int   // open at once
	Turned      int   // beyond them, that are told so in their protocol
	Connects    Rate  // connections
	LogIns      Rate  // connections to servers
	LookUps     Rate  // questions to a server for one statement's sake
	Trail       Rate  // bytes of records
	Memory      int64 // bytes
}

func (l Limits) withDefaults() Limits {
	rate := func(field *Rate, burst, perSecond float64) {
		if *field == (Rate{}) {
			*field = Rate{burst, perSecond}
		}
	}
	if l.Connections == 0 {
		l.Connections = 256 // a pool of one application has some tens
	}
	if l.Turned == 0 {
		l.Turned = 16
	}
	if l.Memory == 0 {
		l.Memory = 160 << 20 // one of the longest rows that are masked, twice, and some
	}
	rate(&l.Connects, 2048, 1000)
	rate(&l.LogIns, 1024, 250)
	rate(&l.LookUps, 500, 50)
	rate(&l.Trail, 256<<20, 16<<20) // five times what a busy agent has that asks 2,000 times a second
	return l
}

const (
	// standInterval is how long one record stands for all refusals of its kind.
	standInterval = time.Minute
	// maxShares is more than a node has pods. Beyond it those without a connection
	// are forgotten.
	maxShares = 4096
)

// Shares are the shares of all workloads, by the pod's UID.
type Shares struct {
	limits Limits

	mu sync.Mutex
	of map[string]*Share
}

// NewShares makes shares of that size.
func NewShares(limits Limits) *Shares {
	return &Shares{limits: limits.withDefaults(), of: make(map[string]*Share)}
}

// Of gives a workload's share. It is nil, which has no bounds, for a workload
// without a UID: it is the only one.
func (s *Shares) Of(uid string) *Share {
	if s == nil || uid == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.of[uid]
	if !ok {
		if len(s.of) >= maxShares {
			s.sweep()
		}
		one = newShare(s.limits)
		s.of[uid] = one
	}
	return one
}

// sweep forgets who has no connection. The caller holds mu.
func (s *Shares) sweep() {
	for uid, one := range s.of {
		if one.idle() {
			delete(s.of, uid)
		}
	}
}

// Forget lets go of a workload that is gone.
func (s *Shares) Forget(uid string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, uid)
}

// Untold tells, and forgets, how many refusals left no record of their own since
// it was last called, by workload and why.
func (s *Shares) Untold(each func(uid, why string, refusals int)) {
	if s == nil {
		return
	}
	s.mu.Lock()
	all := make(map[string]*Share, len(s.of))
	maps.Copy(all, s.of)
	s.mu.Unlock()
	for uid, one := range all {
		for why, n := range one.untold() {
			each(uid, why, n)
		}
	}
}

// Share is what one workload has.
//
// Shape: nil has no bounds. All methods may be called by many goroutines.
// Errors: a [*Refused] each, which names the share.
type Share struct {
	limits   Limits
	connects bucket
	logIns   bucket
	lookUps  bucket
	trail    bucket
	held     atomic.Int64

	mu           sync.Mutex
	open, turned int
	kept         map[any]kept
	stands       map[string]*stand
}

// kept is what several sessions of a workload remember together.
type kept struct{ bytes, sessions int }

// stand is a record that stands for other refusals of its kind.
type stand struct {
	id     string
	since  time.Time
	others int // not told of yet
}

func newShare(l Limits) *Share {
	return &Share{
		limits: l, connects: bucket{rate: l.Connects}, logIns: bucket{rate: l.LogIns}, lookUps: bucket{rate: l.LookUps},
		trail: bucket{rate: l.Trail}, kept: make(map[any]kept), stands: make(map[string]*stand),
	}
}

func exceeded(share, format string, args ...any) *Refused {
	return &Refused{Reason: metrics.Busy, Share: share, Message: "this pod has its share of " + share + ", " + fmt.Sprintf(format, args...)}
}

// enter begins a connection, which leave ends. One that is turned away is let in
// to be told why; one without leave is not let in.
func (s *Share) enter() (leave func(), turned *Refused) {
	if s == nil {
		return func() {}, nil
	}
	if !s.connects.take() {
		return nil, exceeded("connects", "%.0f a second", s.limits.Connects.PerSecond)
	}
	if err := s.MayRecord(); err != nil {
		turned = err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if turned == nil && s.open >= s.limits.Connections {
		turned = exceeded("connections", "%d at once", s.limits.Connections)
	}
	count := &s.open
	if turned != nil {
		if s.turned >= s.limits.Turned {
			return nil, turned
		}
		count = &s.turned
	}
	*count++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		*count--
	}, turned
}

func (s *Share) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open+s.turned == 0
}

// LogIn asks for a connection to a server.
func (s *Share) LogIn() *Refused {
	if s == nil || s.logIns.take() {
		return nil
	}
	return exceeded("log-ins", "%.0f a second: keep connections", s.limits.LogIns.PerSecond)
}

// LookUp asks for a question to a server that is put for one statement alone.
func (s *Share) LookUp() *Refused {
	if s == nil || s.lookUps.take() {
		return nil
	}
	return exceeded("look-ups", "%.0f a second, which statements cost that name what was not there before", s.limits.LookUps.PerSecond)
}

// MayRecord asks for a place in the trail for what is about to happen.
func (s *Share) MayRecord() *Refused {
	if s == nil || s.trail.left() {
		return nil
	}
	return exceeded("the trail", "%.0f MiB a second", s.limits.Trail.PerSecond/(1<<20))
}

// recorded takes what a record had. What has happened is recorded whatever is left.
func (s *Share) recorded(bytes int) {
	if s != nil {
		s.trail.spend(float64(bytes))
	}
}

// Hold asks for memory, which Release gives back.
func (s *Share) Hold(bytes int) *Refused {
	if s == nil {
		return nil
	}
	if s.held.Add(int64(bytes)) > s.limits.Memory {
		s.held.Add(-int64(bytes))
		return s.full()
	}
	return nil
}

// Release gives memory back.
func (s *Share) Release(bytes int) {
	if s != nil {
		s.held.Add(-int64(bytes))
	}
}

// Grow takes memory for what is held already; a negative number gives it back.
func (s *Share) Grow(bytes int) {
	if s != nil {
		s.held.Add(int64(bytes))
	}
}

// Room tells whether there is memory left.
func (s *Share) Room() *Refused {
	if s == nil || s.held.Load() <= s.limits.Memory {
		return nil
	}
	return s.full()
}

func (s *Share) full() *Refused { return exceeded("memory", "%d MiB", s.limits.Memory>>20) }

// Keep takes memory for what sessions have in common, once; each that keeps it
// calls Drop.
func (s *Share) Keep(what any, bytes int) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, known := s.kept[what]
	if !known {
		k.bytes = bytes
		s.held.Add(int64(bytes))
	}
	k.sessions++
	s.kept[what] = k
}

// Drop ends a Keep.
func (s *Share) Drop(what any) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[what]
	if k.sessions--; k.sessions > 0 {
		s.kept[what] = k
		return
	}
	s.held.Add(-int64(k.bytes))
	delete(s.kept, what)
}

// standIn tells which record stands for a refusal with this ID: its own, or an
// earlier one. Those that exceed a share would fill the trail with the same line.
func (s *Share) standIn(reason metrics.Refusal, message, id string) string {
	if s == nil || reason != metrics.Busy && s.trail.left() {
		return id
	}
	why := string(reason)
	if reason == metrics.Busy {
		why = message // one of a few: it names the share
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.stands[why]
	if one == nil {
		one = new(stand)
		s.stands[why] = one
	}
	if now := time.Now(); one.id == "" || now.Sub(one.since) >= standInterval {
		one.id, one.since = id, now
		return id
	}
	one.others++
	return one.id
}

func (s *Share) untold() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	untold := make(map[string]int)
	for why, one := range s.stands {
		if one.others > 0 {
			untold[why] = one.others
			one.others = 0
		}
	}
	return untold
}

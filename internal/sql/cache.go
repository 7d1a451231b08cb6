package sql

import (
	"container/list"
	"crypto/sha256"
	"sync"
)

// entryBytes is what an entry takes before its text and tree.
const entryBytes = 1 << 10

// key stands for a text. A collision would give one statement another's verdict, hence
// a hash for which nobody can make one.
type key [sha256.Size]byte

func keyOf(text string) key { return sha256.Sum256([]byte(text)) }

// cache keeps the scripts of the texts used last, and lets the same text of one
// owner be parsed once at a time.
//
// Shape: everybody finds what anybody had parsed. Where room is needed, the owner
// who takes most of it loses what was used longest ago: nobody can push
// everybody else's out. Nobody waits for another owner's text, who may have many
// before it.
type cache struct {
	limit int // bytes, estimated

	mu      sync.Mutex
	entries map[key]*entry
	parsing map[claim]*entry
	shares  map[string]*share
	bytes   int
}

// claim is a text that somebody is parsing.
type claim struct {
	owner string
	key   key
}

// share is what one owner had parsed.
type share struct {
	recent list.List // of *entry, the last used in front
	bytes  int
}

type entry struct {
	key     key
	owner   string
	script  *Script       // nil while it is being parsed
	done    chan struct{} // closed when script is set, or parsing was given up
	cost    int           // bytes
	element *list.Element
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: make(map[key]*entry), parsing: make(map[claim]*entry), shares: make(map[string]*share)}
}

// claim gives the script of k, or the entry of whoever of the same owner is
// parsing it, or makes the caller (mine) that one.
//
// Shape: who is told mine calls settle, whatever happens.
func (c *cache) claim(owner string, k key) (script *Script, e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, known := c.entries[k]; known {
		c.shares[e.owner].recent.MoveToFront(e.element)
		return e.script, e, false
	}
	if e, known := c.parsing[claim{owner, k}]; known {
		return nil, e, false
	}
	e = &entry{key: k, owner: owner, done: make(chan struct{})}
	c.parsing[claim{owner, k}] = e
	return nil, e, true
}

// settle ends the parsing of an entry, for whoever waits for it too. A nil script
// is not kept, nor is one that would take more than a quarter of the cache, nor
// one that another owner was faster with.
func (c *cache) settle(e *entry, script *Script, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(e.done)
	delete(c.parsing, claim{e.owner, e.key})
	e.script, e.cost = script, cost
	if _, known := c.entries[e.key]; known || script == nil || cost > c.limit/4 {
		return
	}
	own := c.shares[e.owner]
	if own == nil {
		own = new(share)
		c.shares[e.owner] = own
	}
	c.entries[e.key] = e
	e.element = own.recent.PushFront(e)
	own.bytes += cost
	for c.bytes += cost; c.bytes > c.limit; {
		c.evict()
	}
}

// evict makes room at the cost of whoever takes most. The caller holds mu.
func (c *cache) evict() {
	var name string
	var most *share
	for owner, s := range c.shares {
		if most == nil || s.bytes > most.bytes {
			name, most = owner, s
		}
	}
	oldest := most.recent.Remove(most.recent.Back()).(*entry)
	delete(c.entries, oldest.key)
	most.bytes -= oldest.cost
	c.bytes -= oldest.cost
	if most.recent.Len() == 0 {
		delete(c.shares, name)
	}
}

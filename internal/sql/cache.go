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

// cache keeps the scripts of the texts used last, and lets the same text be parsed once at a time.
type cache struct {
	limit int // bytes, estimated

	mu      sync.Mutex
	entries map[key]*entry
	recent  list.List // of *entry with a script, the last used in front
	bytes   int
}

type entry struct {
	key     key
	script  *Script       // nil while it is being parsed
	done    chan struct{} // closed when script is set, or parsing was given up
	cost    int           // bytes
	element *list.Element
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: make(map[key]*entry)}
}

// claim gives the script of k, or the entry of whoever is parsing it, or makes the caller (mine) that one.
//
// Shape: who is told mine calls settle, whatever happens.
func (c *cache) claim(k key) (script *Script, e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known := c.entries[k]
	if !known {
		e = &entry{key: k, done: make(chan struct{})}
		c.entries[k] = e
		return nil, e, true
	}
	if e.script != nil {
		c.recent.MoveToFront(e.element)
	}
	return e.script, e, false
}

// settle ends the parsing of k, for whoever waits for it too. A nil script is not kept, nor is one that would take more than a quarter of the cache.
func (c *cache) settle(k key, e *entry, script *Script, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(e.done)
	e.script, e.cost = script, cost
	if script == nil || cost > c.limit/4 {
		delete(c.entries, k)
		return
	}
	e.element = c.recent.PushFront(e)
	for c.bytes += cost; c.bytes > c.limit; {
		oldest := c.recent.Remove(c.recent.Back()).(*entry)
		delete(c.entries, oldest.key)
		c.bytes -= oldest.cost
	}
}

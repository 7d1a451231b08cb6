package postgres

import (
	"crypto/rand"
	"errors"
	"sync"
)

// markerPrefix begins the name of a protocol that nobody speaks.
const markerPrefix = "postern-loop-"

var errLoop = errors.New("led back to Postern")

// loops finds Postern's own connections to servers that are led back to it.
//
// A mesh redirects what the pod's namespace sends to a sidecar, whose own connect
// is the pod's again, and guarded: each log-in would make the next. The sidecar
// passes TLS on as it is, so what Postern offers in its ClientHello beside
// PostgreSQL's protocol comes back to it. Servers choose PostgreSQL's, or none.
//
// Source: RFC 7301 §3.2: protocols that a server does not know are ignored.
type loops struct {
	mu    sync.Mutex
	marks map[string]bool // whether it came back
}

// mark makes a marker for one log-in.
func (l *loops) mark() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.marks == nil {
		l.marks = make(map[string]bool)
	}
	marker := markerPrefix + rand.Text()
	l.marks[marker] = false
	return marker
}

func (l *loops) unmark(marker string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.marks, marker)
}

// meet tells whether a client offers one of the markers of log-ins under way.
func (l *loops) meet(offered []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, marker := range offered {
		if _, own := l.marks[marker]; own {
			l.marks[marker] = true
			return true
		}
	}
	return false
}

// met tells whether a marker came back.
func (l *loops) met(marker string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.marks[marker]
}

package postgres

import (
	"context"
	"sync"
)

// share lets so many of each workload in at once; others of its wait.
type share struct {
	each int

	mu    sync.Mutex
	rooms map[string]*room
}

type room struct {
	places chan struct{}
	users  int // inside or waiting
}

func newShare(each int) *share { return &share{each: each, rooms: make(map[string]*room)} }

// enter waits for a place; leave gives it back. A workload without a name is alone and needs none.
func (s *share) enter(ctx context.Context, name string) (leave func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	s.mu.Lock()
	r := s.rooms[name]
	if r == nil {
		r = &room{places: make(chan struct{}, s.each)}
		s.rooms[name] = r
	}
	r.users++
	s.mu.Unlock()
	select {
	case r.places <- struct{}{}:
		return func() {
			<-r.places
			s.quit(name, r)
		}, nil
	case <-ctx.Done():
		s.quit(name, r)
		return nil, ctx.Err()
	}
}

func (s *share) quit(name string, r *room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.users--; r.users == 0 {
		delete(s.rooms, name)
	}
}

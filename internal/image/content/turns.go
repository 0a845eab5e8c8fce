package content

import (
	"context"
	"sync"
)

// Turns lets one goroutine at a time work on a key. The zero value is ready.
type Turns struct {
	mu   sync.Mutex               // guards busy
	busy map[string]chan struct{} // key → closed at the end of the turn
}

// Take waits for the turn on key and returns what ends it. It fails only with
// the cause of ctx.
func (t *Turns) Take(ctx context.Context, key string) (done func(), err error) {
	for {
		done, wait := t.try(key)
		if done != nil {
			return done, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Try takes the turn on key if nobody has it.
func (t *Turns) Try(key string) (done func(), ok bool) {
	done, _ = t.try(key)
	return done, done != nil
}

func (t *Turns) try(key string) (done func(), wait <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if wait := t.busy[key]; wait != nil {
		return nil, wait
	}
	if t.busy == nil {
		t.busy = make(map[string]chan struct{})
	}
	turn := make(chan struct{})
	t.busy[key] = turn
	return func() {
		t.mu.Lock()
		delete(t.busy, key)
		t.mu.Unlock()
		close(turn)
	}, nil
}

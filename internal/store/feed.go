package store

import (
	"context"
	"iter"
	"sync"
)

// feedLength is how many changes a slow consumer may be behind before it is
// told to reload.
const feedLength = 1024

// Feed carries changes to those who watch in this process. Its zero value is
// ready to use. It keeps the last feedLength changes; each consumer has only a
// position among them, so one that stops reading costs nothing and blocks nobody.
type Feed struct {
	mu     sync.Mutex
	recent [feedLength]Change // guarded by mu, as all below; change n is at n % feedLength
	count  uint64             // changes so far
	more   chan struct{}      // closed and replaced by Publish; nil until someone waits
	closed bool
}

// Publish hands changes to every consumer. It never waits. The Feed owns what
// the changes point to from here on.
func (f *Feed) Publish(changes ...Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		f.recent[f.count%feedLength] = c
		f.count++
	}
	f.wake()
}

// Close ends every Watch.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wake()
}

// wake lets those who wait look again. Precondition: f.mu is held.
func (f *Feed) wake() {
	if f.more != nil {
		close(f.more)
		f.more = nil
	}
}

// Watch is Definitions.Watch.
func (f *Feed) Watch(ctx context.Context) iter.Seq[Change] {
	f.mu.Lock()
	next := f.count
	f.mu.Unlock()
	return func(yield func(Change) bool) {
		for ctx.Err() == nil {
			change, more, ok := f.take(&next)
			switch {
			case ok && !yield(change):
				return
			case ok:
			case more == nil:
				return
			default:
				select {
				case <-more:
				case <-ctx.Done():
				}
			}
		}
	}
}

// take returns the change at *next and steps on. Without one it returns a
// channel that closes when there may be one, or nil if there never will be.
func (f *Feed) take(next *uint64) (change Change, more <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return Change{}, nil, false
	case *next == f.count:
		if f.more == nil {
			f.more = make(chan struct{})
		}
		return Change{}, f.more, false
	case f.count-*next > feedLength:
		*next = f.count
		return Change{Reload: true}, nil, true
	}
	change = f.recent[*next%feedLength]
	*next++
	if change.App != nil {
		app := change.App.Clone()
		change.App = &app
	}
	if change.Function != nil {
		fn := change.Function.Clone()
		change.Function = &fn
	}
	if change.Trigger != nil {
		t := change.Trigger.Clone()
		change.Trigger = &t
	}
	return change, nil, true
}

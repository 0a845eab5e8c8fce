package pool

import (
	"time"

	"hob/faas"
)

// Asynchronous calls wait in a queue on the disk, and whoever brings them here
// should bring no more than can be used: what waits here cannot be overtaken by
// one of higher priority, and is in memory.
const (
	mostWelcome = 256                  // asynchronous calls of one function
	aheadTime   = 5 * time.Millisecond // so much work may wait, where calls are short
	mostAhead   = 64                   // calls that may wait for that reason
	mostQueued  = 64                   // asynchronous callers in line: with so many no function keeps a place without room

	noLimit = 1 << 30
)

// welcome is how many asynchronous calls of a function should be here now, running
// or waiting, and how many of its app; noLimit if the app has none. While nothing
// of it waits one more is: it keeps the function's place in the line for memory.
func (p *plan) welcome(app *faas.App, fn *faas.Function) (ofFunction, ofApp int) {
	of, l := p.counter(fn.ID), p.pools[keyOf(app, fn)]
	here := of.async + of.waiting
	more := noLimit
	if p.calls > 0 {
		more = p.calls - p.running
	}
	if fn.MaxConcurrency > 0 {
		more = min(more, fn.MaxConcurrency-of.active) + ahead(l, fn.MaxConcurrency)
	} else {
		more = min(more, p.fits(l, fn))
		if of.waiting == 0 && p.queued < mostQueued {
			more = max(more, 1)
		}
	}
	ofFunction = min(here+max(0, more-p.uncovered(fn.ID)), mostWelcome)
	if app.MaxConcurrency <= 0 {
		return ofFunction, noLimit
	}
	ofA := p.counter(app.ID)
	return ofFunction, ofA.async + ofA.waiting + max(0, app.MaxConcurrency-ofA.active-p.uncovered(app.ID))
}

// ahead is how many calls may wait at a limit, as they are so short.
func ahead(l *pool, limit int) int {
	if l == nil || l.run == 0 || l.run > aheadTime {
		return 0
	}
	return min(mostAhead, limit*int(aheadTime/l.run))
}

// fits is how many more calls of a function there is room for now: none that needs
// memory, while others wait for it.
func (p *plan) fits(l *pool, fn *faas.Function) (n int) {
	each := max(1, fn.Concurrency)
	if l != nil {
		for _, s := range l.free {
			n += each - s.uses
		}
		n += l.begun*each - l.covered()
	}
	for other := range p.lines {
		if i := other.covered(); i < len(other.waiting) && p.reasonOf(other, i).line() == waitMemory {
			return n
		}
	}
	free := p.capacity.Free()
	room := int(free.Memory / max(1, fn.Memory))
	if fn.CPU > 0 {
		room = min(room, int(free.CPU/fn.CPU))
	}
	return n + room*each
}

// uncovered counts the callers, of a function or an app, that nothing is started
// for. Those that wait at the limit of their own function are not the app's.
func (p *plan) uncovered(id string) (n int) {
	for l := range p.lines {
		switch {
		case l.fn.ID == id, l.fn.App == id && (l.fn.MaxConcurrency == 0 || l.ofFunction.active < l.fn.MaxConcurrency):
			n += len(l.waiting) - l.covered()
		}
	}
	return n
}

// Welcome tells how many asynchronous calls of fn should be in this Set now,
// running or waiting, and how many of its app, a large number if that has no limit.
// Freed says when to ask again.
func (s *Set) Welcome(app *faas.App, fn *faas.Function) (ofFunction, ofApp int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	s.asked = true
	return s.plan.welcome(app, fn)
}

// Freed says that what Welcome told may have changed since it was asked last. It
// is made for one reader.
func (s *Set) Freed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	return s.freed
}

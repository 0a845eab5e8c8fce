package sqlite

import (
	"slices"
	"sync"

	"hob/faas"
	"hob/internal/store"
)

// Numbers of the states in the database: their order in faas.CallStates.
const (
	queued = iota
	running
	succeeded
	failed
	timedOut
	canceled
	states
)

func stateNumber(s faas.CallState) int { return slices.Index(faas.CallStates(), s) }

// counts is what is counted of calls, so that nobody has to count rows.
type counts struct {
	line    [faas.MaxPriority + 1]int // queued, by priority
	states  [states]int
	payload int64 // bytes of the payloads of calls that are not over
	kept    int64 // weight of what is kept of calls that are over
}

func (c counts) empty() bool { return c.states == [states]int{} }

// A book counts the calls of one function, as it was named when they were made.
type book struct {
	n                   int64 // in the database
	function, app, name string

	next    counts // with what the open transaction changed; of whoever has the turn
	touched bool   // it changed something; of whoever has the turn
	counts  counts // as committed; guarded by books.mu
}

// books are all counts, in memory. Whoever has the turn changes next and says
// touch; commit and rollback make next and counts equal again.
type books struct {
	touched []*book // of whoever has the turn, as all above mu
	made    []*book
	dropped []*book
	total   counts // of all; payload and kept only

	mu         sync.RWMutex
	byNumber   map[int64]*book // guarded by mu, as all below
	byFunction map[string][]*book
}

func newBooks() books {
	return books{byNumber: make(map[int64]*book), byFunction: make(map[string][]*book)}
}

// add makes a book known. A book that its transaction does not commit is dropped.
func (bs *books) add(b *book) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.byNumber[b.n] = b
	bs.byFunction[b.function] = append(slices.Clip(bs.byFunction[b.function]), b)
}

func (bs *books) drop(b *book) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	delete(bs.byNumber, b.n)
	rest := slices.DeleteFunc(slices.Clone(bs.byFunction[b.function]), func(o *book) bool { return o == b })
	if bs.byFunction[b.function] = rest; len(rest) == 0 {
		delete(bs.byFunction, b.function)
	}
}

func (bs *books) book(n int64) *book {
	bs.mu.RLock()
	defer bs.mu.RUnlock()
	return bs.byNumber[n]
}

// of returns the books of functions; a function is named twice at no harm.
func (bs *books) of(functions ...string) []*book {
	bs.mu.RLock()
	defer bs.mu.RUnlock()
	if len(functions) == 1 {
		return bs.byFunction[functions[0]] // add and drop make a new one
	}
	var all []*book
	seen := make(map[string]bool, len(functions))
	for _, f := range functions {
		if !seen[f] {
			seen[f] = true
			all = append(all, bs.byFunction[f]...)
		}
	}
	return all
}

// all returns every book that is wanted.
func (bs *books) all(wanted func(*book) bool) []*book {
	bs.mu.RLock()
	defer bs.mu.RUnlock()
	var all []*book
	for _, b := range bs.byNumber {
		if wanted(b) {
			all = append(all, b)
		}
	}
	return all
}

// change returns what the open transaction may change.
func (bs *books) change(b *book) *counts {
	if !b.touched {
		b.touched = true
		bs.touched = append(bs.touched, b)
	}
	return &b.next
}

// move counts that a call of priority went from one state to another; -1 is
// no state.
func (bs *books) move(b *book, priority, from, to int) {
	c := bs.change(b)
	for _, step := range []struct{ state, by int }{{from, -1}, {to, 1}} {
		if step.state >= 0 {
			c.states[step.state] += step.by
		}
		if step.state == queued {
			c.line[priority] += step.by
		}
	}
}

func (bs *books) payload(b *book, by int64) {
	bs.change(b).payload += by
	bs.total.payload += by
}

func (bs *books) keep(b *book, by int64) {
	bs.change(b).kept += by
	bs.total.kept += by
}

// commit makes what was changed known.
func (bs *books) commit() {
	bs.mu.Lock()
	for _, b := range bs.touched {
		b.counts = b.next
	}
	bs.mu.Unlock()
	bs.begin()
}

// begin forgets which books were changed.
func (bs *books) begin() {
	for _, b := range bs.touched {
		b.touched = false
	}
	bs.touched, bs.made, bs.dropped = bs.touched[:0], bs.made[:0], bs.dropped[:0]
}

// rollback forgets what was changed.
func (bs *books) rollback() {
	bs.mu.RLock()
	for _, b := range bs.touched {
		bs.total.payload -= b.next.payload - b.counts.payload
		bs.total.kept -= b.next.kept - b.counts.kept
		b.next = b.counts
	}
	bs.mu.RUnlock()
	for _, b := range bs.made {
		bs.drop(b)
	}
	for _, b := range bs.dropped {
		bs.add(b)
	}
	bs.begin()
}

// committed returns the counts of b that others may know.
func (bs *books) committed(b *book) counts {
	bs.mu.RLock()
	defer bs.mu.RUnlock()
	return b.counts
}

func (c counts) addTo(t *store.Tally) {
	t.Queued += c.states[queued]
	t.Running += c.states[running]
	t.Succeeded += c.states[succeeded]
	t.Failed += c.states[failed] + c.states[timedOut] + c.states[canceled]
}

// load reads the counts from the database.
func (s *Store) load() error {
	newest, err := s.w.one("SELECT newest FROM clock")
	if err != nil {
		return err
	}
	s.clock = newClock(newest.num(0))
	last, err := s.w.one("SELECT (SELECT max(seq) FROM call), (SELECT max(n) FROM kept), (SELECT max(n) FROM called)")
	if err != nil {
		return err
	}
	s.lastCall, s.lastKept, s.lastBook = last.num(0), last.num(1), last.num(2)
	s.books = newBooks()
	if err := s.w.each("SELECT n, function, app, name FROM called", func(r row) error {
		s.books.add(&book{n: r.num(0), function: r.text(1), app: r.text(2), name: r.text(3)})
		return nil
	}); err != nil {
		return err
	}
	add := func(query string, do func(b *book, r row)) {
		if err == nil {
			err = s.w.each(query, func(r row) error {
				b := s.books.book(r.num(0))
				if b == nil {
					return damagedNumber("called", r.num(0))
				}
				do(b, r)
				return nil
			})
		}
	}
	add("SELECT called, state, count(*) FROM call GROUP BY called, state", func(b *book, r row) {
		if state := r.num(1); state >= 0 && state < states {
			s.books.change(b).states[state] += int(r.num(2))
		}
	})
	add("SELECT called, priority, count(*), sum(payload) FROM call WHERE state = 0 GROUP BY called, priority", func(b *book, r row) {
		if p := r.num(1); p >= 0 && p <= faas.MaxPriority {
			s.books.change(b).line[p] += int(r.num(2))
		}
		s.books.payload(b, r.num(3))
	})
	add("SELECT called, sum(payload) FROM call WHERE state = 1 GROUP BY called", func(b *book, r row) {
		s.books.payload(b, r.num(1))
	})
	add("SELECT called, sum(weight) FROM kept GROUP BY called", func(b *book, r row) {
		s.books.keep(b, r.num(1))
	})
	if err == nil {
		s.books.commit()
	}
	return err
}

// bookOf returns the book of the function of call, and makes one for its first.
// Precondition: a transaction is open.
func (s *Store) bookOf(call faas.Call) (*book, error) {
	for _, b := range s.books.of(call.FuncID) {
		if b.app == call.App && b.name == call.Function {
			return b, nil
		}
	}
	b := &book{n: s.lastBook + 1, function: call.FuncID, app: call.App, name: call.Function}
	if _, err := s.w.exec("INSERT INTO called (n, function, app, name) VALUES (?, ?, ?, ?)", b.n, b.function, b.app, b.name); err != nil {
		return nil, err
	}
	s.lastBook++
	s.books.add(b)
	s.books.made = append(s.books.made, b)
	return b, nil
}

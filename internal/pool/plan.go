package pool

import (
	"cmp"
	"slices"

	"hob/faas"
)

// plan decides, for the whole node, which sandboxes to start, who gets one, and
// which to stop. It decides and never does: each method takes one event and
// returns the actions that the Set must carry out, in order. It knows no clock,
// goroutine or sandbox, so all it can do is written down in testdata/plan.
//
// The rules: whoever came first is served first, over all functions. A function
// at its own limit is passed over and blocks nobody. A caller whose sandbox does
// not fit into the memory that is left is never passed over by a later one, or
// small functions would starve a large one.
type plan struct {
	memory Memory
	lines  map[key]*line
	active map[string]int // slots in use or starting, by function ID
	slots  map[int]*slot
	last   int   // last slot number given out
	came   int64 // callers that came so far: their order
	closed bool  // nothing starts any more
}

// key names what a slot can serve: one revision of one function.
type key struct {
	function string // ID
	revision int64
}

func keyOf(fn faas.Function) key { return key{fn.ID, fn.Revision} }

// line is the callers of one revision, oldest first. The first ones, as many as
// slots are starting, will be served when those are ready.
type line struct {
	fn       faas.Function // what they need: its limits count
	waiting  []caller
	starting int
}

type caller struct {
	id    string // of the call
	order int64
}

// A slot is one sandbox.
//
//	starting ----> idle ----> busy ----> leaving ----> gone
//	   |             |                      ^
//	   +--> gone     +----------------------+
//
// It is idle only within an event: nobody keeps sandboxes hot yet.
type slot struct {
	fn    faas.Function
	state slotState
}

type slotState uint8

const (
	slotStarting slotState = iota
	slotIdle
	slotBusy
	slotLeaving
)

// An action is carried out by the Set.
type action struct {
	Do     string // "start", "give", "fail", "refuse" or "stop"
	Slot   int
	Caller string // of give, fail and refuse
}

func newPlan(memory Memory) plan {
	return plan{memory: memory, lines: make(map[key]*line), active: make(map[string]int), slots: make(map[int]*slot)}
}

// want records a caller that needs a slot.
func (p *plan) want(id string, fn faas.Function) []action {
	l := p.lines[keyOf(fn)]
	if l == nil {
		l = &line{fn: fn}
		p.lines[keyOf(fn)] = l
	}
	p.came++
	l.waiting = append(l.waiting, caller{id, p.came})
	acts := p.match()
	if p.uncovered(fn.ID) > fn.Line && len(l.waiting) > l.starting { // it is one of those who wait too many
		p.remove(l, len(l.waiting)-1)
		acts = append(acts, action{Do: "refuse", Caller: id})
	}
	return acts
}

// gone forgets a caller that stopped waiting. The slot that was started for it
// serves the next one.
func (p *plan) gone(id string) []action {
	for _, l := range p.lines {
		if i := slices.IndexFunc(l.waiting, func(c caller) bool { return c.id == id }); i >= 0 {
			p.remove(l, i)
			break
		}
	}
	return p.match()
}

// close turns everybody who waits away. What is starting stops when it is ready.
func (p *plan) close() []action {
	p.closed = true
	var acts []action
	for _, w := range p.waits() {
		acts = append(acts, action{Do: "refuse", Caller: w.caller})
	}
	for k, l := range p.lines {
		l.waiting = nil
		p.tidy(k)
	}
	return acts
}

// ready records that a slot has started.
func (p *plan) ready(n int) []action {
	s := p.slots[n]
	s.state = slotIdle
	l := p.lines[keyOf(s.fn)]
	if l != nil {
		l.starting--
	}
	if l == nil || len(l.waiting) == 0 {
		p.tidy(keyOf(s.fn))
		return p.leave(n)
	}
	s.state = slotBusy
	id := l.waiting[0].id
	p.remove(l, 0)
	return append([]action{{Do: "give", Slot: n, Caller: id}}, p.match()...)
}

// failed records that a slot could not start and has left nothing behind. The
// caller who has waited longest gets the reason: trying again on its behalf
// would turn an image that cannot start into a loop that nobody sees.
func (p *plan) failed(n int) []action {
	s := p.slots[n]
	p.drop(n)
	var acts []action
	if l := p.lines[keyOf(s.fn)]; l != nil {
		l.starting--
		if len(l.waiting) > 0 {
			acts = append(acts, action{Do: "fail", Slot: n, Caller: l.waiting[0].id})
			p.remove(l, 0)
		}
		p.tidy(keyOf(s.fn))
	}
	return append(acts, p.match()...)
}

// done records that the call in a slot is over.
func (p *plan) done(n int) []action { return p.leave(n) }

// stopped records that nothing of a slot is left.
func (p *plan) stopped(n int) []action {
	p.drop(n)
	return p.match()
}

// leave stops a slot. Its function may start another at once; its memory is
// free only when nothing of it is left.
func (p *plan) leave(n int) []action {
	s := p.slots[n]
	p.release(s)
	s.state = slotLeaving
	return append([]action{{Do: "stop", Slot: n}}, p.match()...)
}

// drop forgets a slot that is gone.
func (p *plan) drop(n int) {
	s := p.slots[n]
	if s.state != slotLeaving {
		p.release(s)
	}
	p.memory.Release(s.fn.Memory)
	delete(p.slots, n)
}

// release counts a slot out of its function's limit.
func (p *plan) release(s *slot) {
	if p.active[s.fn.ID]--; p.active[s.fn.ID] == 0 {
		delete(p.active, s.fn.ID)
	}
}

// remove takes a caller out of a line.
func (p *plan) remove(l *line, i int) {
	l.waiting = slices.Delete(l.waiting, i, i+1)
	p.tidy(keyOf(l.fn))
}

// tidy forgets a line that nothing refers to.
func (p *plan) tidy(k key) {
	if l := p.lines[k]; l != nil && len(l.waiting) == 0 && l.starting == 0 {
		delete(p.lines, k)
	}
}

// match starts slots for the callers who have waited longest, as far as memory
// and the limits of their functions allow.
func (p *plan) match() []action {
	var acts []action
	for !p.closed {
		l := p.next()
		if l == nil || !p.memory.TryReserve(l.fn.Memory) {
			break
		}
		p.last++
		p.slots[p.last] = &slot{fn: l.fn, state: slotStarting}
		p.active[l.fn.ID]++
		l.starting++
		acts = append(acts, action{Do: "start", Slot: p.last})
	}
	return acts
}

// next returns the line of the caller who has waited longest for a slot that
// nobody has started, among the functions below their limit.
func (p *plan) next() *line {
	var first *line
	for _, l := range p.lines {
		if len(l.waiting) <= l.starting || p.full(l.fn) {
			continue
		}
		if first == nil || l.waiting[l.starting].order < first.waiting[first.starting].order {
			first = l
		}
	}
	return first
}

func (p *plan) full(fn faas.Function) bool {
	return fn.MaxConcurrency > 0 && p.active[fn.ID] >= fn.MaxConcurrency
}

// uncovered counts the callers of a function for whom no slot is starting.
func (p *plan) uncovered(function string) (n int) {
	for _, l := range p.lines {
		if l.fn.ID == function {
			n += max(0, len(l.waiting)-l.starting)
		}
	}
	return n
}

// A wait is why a caller waits and who is before it.
type wait struct {
	caller string
	place  int // 1 is next
	reason waitReason
	fn     faas.Function
}

type waitReason uint8

const (
	waitStart  waitReason = iota // its sandbox starts
	waitLimit                    // its function is at its own limit
	waitMemory                   // for memory
)

// waits lists everybody who waits, oldest first. The place counts those who wait
// for the same thing: a place in the function, or memory of the node.
func (p *plan) waits() []wait {
	type entry struct {
		caller
		line    *line
		covered bool
	}
	var all []entry
	for _, l := range p.lines {
		for i, c := range l.waiting {
			all = append(all, entry{c, l, i < l.starting})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.order, b.order) })
	var out []wait
	memory, limit := 0, map[string]int{}
	for _, e := range all {
		w := wait{caller: e.id, fn: e.line.fn}
		switch {
		case e.covered:
			w.reason = waitStart
		case p.full(e.line.fn):
			limit[e.line.fn.ID]++
			w.reason, w.place = waitLimit, limit[e.line.fn.ID]
		default:
			memory++
			w.reason, w.place = waitMemory, memory
		}
		out = append(out, w)
	}
	return out
}

package pool

import (
	"slices"
	"time"

	"hob/faas"
)

// plan decides, for the whole node, which sandboxes to start, who gets one, and
// which to freeze or stop. It decides and never does: each method takes one event
// and returns the actions that the Set must carry out, in order; they are valid
// until the next event. It knows no clock (the Set tells it the time), goroutine
// or sandbox, so all it can do is written down in testdata/plan.
//
// The rules: whoever came first is served first, over all functions. A function
// or app at its own limit is passed over and blocks nobody. A caller whose sandbox
// does not fit into what is left of memory and processors is never passed over by
// a later one, or small functions would starve a large one: idle sandboxes of
// others are stopped for it, the longest idle first, and none that becomes idle is
// given to a later caller while it is needed. A sandbox is started only when
// waiting is expected to take longer. While synchronous callers wait, asynchronous
// calls get no more than their share of the slots in use; and no less, as who has
// it is served in turn.
type plan struct {
	capacity    Capacity
	calls       int           // most calls at once on this node; 0: no limit
	waiters     int           // most callers in line on this node; 0: no limit
	freezeAfter time.Duration // of being idle; negative: never
	asyncShare  int           // percent of the slots in use that asynchronous calls may hold while others wait
	processors  int           // of this node: so many slots of a function are of use however short its calls are

	now     time.Duration // set by the Set before each event
	due     time.Duration // when tick has something to do, or earlier
	pools   map[key]*pool
	current map[string]*pool // by function ID: what new calls use
	lines   map[*pool]bool   // pools with callers in line
	warm    map[*pool]bool   // pools that keep slots without work
	slots   map[int]*slot
	active  map[string]*tally // by function ID and by app ID
	running int               // calls running or starting on the node
	async   int               // asynchronous ones of them that run
	queued  int               // asynchronous callers in line
	last    int               // last slot number given out
	came    int64             // callers that came so far: their order
	going   faas.Resources    // that stopping slots will free
	closed  bool              // nothing starts any more
	acts    []action
}

// never is later than everything that is due.
const never = time.Duration(1<<63 - 1)

// key names what a slot can serve: one revision of one function in its app.
type key struct {
	function      string // ID
	revision, app int64  // revisions: an app's configuration is part of a started process
}

func keyOf(app *faas.App, fn *faas.Function) key { return key{fn.ID, fn.Revision, app.Revision} }

// pool is the slots and the callers of one revision.
type pool struct {
	key
	fn      faas.Function
	app     faas.App
	waiting []caller      // oldest first; as many as starting slots will take are covered
	queued  time.Duration // since when there is somebody in waiting
	free    []*slot       // that can take a call, the latest used last
	started int           // slots that are neither starting nor leaving
	begun   int           // slots that are starting
	retired bool          // a newer revision is in use

	// Measured means, 0: not known yet. What a program does before its first answer
	// is a part of the start, though the start was over when it took the call.
	run, start, warmUp time.Duration
	failures           int           // of starts that nobody waited for, in a row
	retryAt            time.Duration // such a start is not tried before
	told               time.Duration // the longest wait for another such start that was told, since the function had all that it keeps; 0: none
	ended              time.Duration // when the last call ended
	pace               int           // how many were let start the last time that the line was slow
	extra              int           // of those, how many have not been started
	skipped            bool          // by this run of match

	ofFunction, ofApp *tally // in plan.active
}

// tally counts the calls of a function or an app, over all its revisions.
type tally struct {
	active  int // running or starting
	async   int // asynchronous ones that run
	waiting int // asynchronous callers in line
}

type caller struct {
	id    string // of the call
	async bool
	order int64
	since time.Duration
}

// A slot is one sandbox.
//
//	starting ----> idle <----> busy ----> leaving ----> gone
//	   |          ^    |                     ^
//	   +--> gone  |    v                     |
//	              +- frozen -----------------+ (and from idle)
//
// One that may serve several calls at once is busy from the first to the last.
type slot struct {
	n      int
	pool   *pool
	state  slotState
	uses   int            // calls in it now
	calls  int            // it was given so far
	charge faas.Resources // reserved for it
	since  time.Duration  // of its state

	freezing bool // the Set was told to freeze it
	restless bool // it cannot be frozen
	broken   bool // takes no more calls

	box // what the Set knows of it
}

type slotState uint8

const (
	slotStarting slotState = iota
	slotIdle
	slotFrozen
	slotBusy
	slotLeaving
)

// An action is carried out by the Set.
type action struct {
	Do     string // "start", "give", "thaw" (and give), "fail", "refuse", "tell", "freeze" or "stop"
	Slot   *slot
	Caller string // of give, thaw, fail and refuse
}

func newPlan(capacity Capacity) plan {
	return plan{
		capacity: capacity, due: never, freezeAfter: -1,
		pools: make(map[key]*pool), current: make(map[string]*pool), lines: make(map[*pool]bool), warm: make(map[*pool]bool),
		slots: make(map[int]*slot), active: make(map[string]*tally),
	}
}

func (p *plan) do(what string, s *slot, caller string) {
	p.acts = append(p.acts, action{what, s, caller})
}

// begin begins an event.
func (p *plan) begin() { p.acts = p.acts[:0] }

// take is want for a caller that can be served at once, without waiting and
// without an action: nil if it cannot.
func (p *plan) take(app *faas.App, fn *faas.Function, async bool) *slot {
	l := p.pools[keyOf(app, fn)]
	if l == nil || len(l.free) == 0 || len(l.waiting) > 0 || p.full(l) != 0 || p.closed {
		return nil
	}
	s := l.free[len(l.free)-1]
	if s.state == slotFrozen || s.freezing {
		return nil
	}
	p.use(s, async)
	return s
}

// want records a caller that needs a slot. An asynchronous call is never refused:
// who hands them in knows how many wait.
func (p *plan) want(id string, app *faas.App, fn *faas.Function, async bool) []action {
	p.begin()
	l := p.pool(app, fn)
	p.came++
	if len(l.waiting) == 0 {
		l.queued = p.now
		p.lines[l] = true
	}
	l.waiting = append(l.waiting, caller{id, async, p.came, p.now})
	if async {
		p.countWaiting(l, 1)
	}
	p.match()
	if n := len(l.waiting); !async && n > l.covered() && l.find(id) >= 0 && p.tooMany(l) {
		p.remove(l, l.find(id))
		p.do("refuse", nil, id)
	}
	return p.acts
}

// gone forgets a caller that stopped waiting. The slot that was started for it
// serves the next one.
func (p *plan) gone(id string, l *pool) []action {
	p.begin()
	if l != nil && l.find(id) >= 0 {
		p.remove(l, l.find(id))
	}
	p.match()
	return p.acts
}

// renew makes fn what new calls use: the slots of other revisions end when they are
// idle, and fn.Min slots are kept.
func (p *plan) renew(app *faas.App, fn *faas.Function) []action {
	p.begin()
	if p.current[fn.ID] != nil || fn.Min > 0 {
		p.pool(app, fn)
		p.match()
	}
	return p.acts
}

// forget ends the slots of a function that is no more.
func (p *plan) forget(function string) []action {
	p.begin()
	if l := p.current[function]; l != nil { // somebody has called it
		delete(p.current, function)
		delete(p.active, function) // its pools keep counting in it
		p.retire(l)
	}
	p.match()
	return p.acts
}

// close turns everybody who waits away and stops what is idle. What is starting
// stops when it is ready.
func (p *plan) close() []action {
	p.begin()
	p.closed = true
	for _, w := range p.waits() {
		p.do("refuse", nil, w.caller)
	}
	for l := range p.lines {
		l.waiting = nil
		l.ofFunction.waiting, l.ofApp.waiting, p.queued = 0, 0, 0
	}
	clear(p.lines)
	clear(p.warm)
	for _, s := range p.sorted() {
		if s.state == slotIdle || s.state == slotFrozen {
			p.leave(s)
		}
	}
	return p.acts
}

// ready records that a slot has started.
func (p *plan) ready(s *slot) []action {
	p.begin()
	l := s.pool
	measure(&l.start, p.now-s.since, 4)
	l.begun--
	l.started++
	l.failures = 0
	if l.started >= l.fn.Min {
		l.told = 0
	}
	p.count(l, -1)
	p.idle(s)
	if p.closed || len(l.waiting) == 0 && (l.retired || s.broken || !l.fn.Format.Hot()) {
		p.leave(s)
	}
	p.match()
	if s.broken { // who is served now learns of it, and nobody later
		l.takeOut(s)
		if s.state == slotIdle {
			p.leave(s)
			p.match()
		}
	}
	return p.acts
}

// failed records that a slot could not start and has left nothing behind. The
// caller who has waited longest gets the reason: trying again on its behalf
// would turn an image that cannot start into a loop that nobody sees. If nobody waits,
// that is told, but each wait for another try only once until the function has all
// that it keeps ready: of a thousand that fail together a few lines say enough.
func (p *plan) failed(s *slot) []action {
	p.begin()
	l := s.pool
	l.begun--
	p.count(l, -1)
	p.drop(s)
	if len(l.waiting) > 0 {
		p.do("fail", s, l.waiting[0].id)
		p.remove(l, 0)
	} else { // it was to be kept ready: try again, ever more seldom
		l.failures++
		again := min(time.Second<<min(l.failures-1, 6), time.Minute)
		l.retryAt = p.now + again
		p.wake(l.retryAt)
		if p.warm[l] && l.started+l.begun < l.fn.Min && again > l.told {
			l.told = again
			p.do("tell", s, "")
		}
	}
	p.match()
	return p.acts
}

// done records that a call in a slot is over. keep says that the sandbox can
// serve another.
func (p *plan) done(s *slot, async, keep bool) []action {
	p.begin()
	l := s.pool
	l.pace, l.extra, l.ended = 0, 0, p.now
	switch took := p.now - s.since; { // of several at once, since the last one began
	case s.calls > 1 || l.each() > 1:
		measure(&l.run, took, 8)
	case l.run > 0 && keep:
		measure(&l.warmUp, took-l.run, 4)
	}
	s.uses--
	p.count(l, -1)
	if async {
		p.countAsync(l, -1)
	}
	s.broken = s.broken || !keep || l.retired && len(l.waiting) == 0 || p.closed || l.fn.MaxCalls > 0 && s.calls >= l.fn.MaxCalls
	switch {
	case !s.broken:
		if s.uses == 0 {
			p.idle(s)
		} else if s.uses == l.each()-1 {
			l.free = append(l.free, s)
		}
	case s.uses == 0:
		p.leave(s)
	default:
		l.takeOut(s)
	}
	p.match()
	return p.acts
}

// died records that the process of a slot has ended by itself. A call that is in
// it finds out on its own.
func (p *plan) died(s *slot) []action {
	p.begin()
	s.broken = true
	switch s.state {
	case slotIdle, slotFrozen:
		p.leave(s)
	case slotBusy:
		s.pool.takeOut(s)
	}
	p.match()
	return p.acts
}

// frozen records that a slot that was to be frozen stands still and holds so much
// memory. That is what it is charged from now on.
func (p *plan) frozen(s *slot, holds faas.Bytes) []action {
	p.begin()
	if s.state == slotIdle && s.freezing { // nobody has taken it meanwhile
		s.freezing = false
		s.state = slotFrozen
		rest := faas.Resources{Memory: max(0, s.charge.Memory-holds), CPU: s.charge.CPU}
		s.charge = s.charge.Minus(rest)
		p.capacity.Release(rest)
		p.match()
	}
	return p.acts
}

// restless records that a slot could not be frozen: it stays as it is.
func (p *plan) restless(s *slot) []action {
	p.begin()
	s.freezing, s.restless = false, true
	return p.acts
}

// stopped records that nothing of a slot is left.
func (p *plan) stopped(s *slot) []action {
	p.begin()
	p.going = p.going.Minus(s.charge)
	p.drop(s)
	p.match()
	return p.acts
}

// tick does what is due by now, and finds out when it has to be called again.
func (p *plan) tick() []action {
	p.begin()
	p.due = never
	for _, s := range p.sorted() {
		if s.state != slotIdle && s.state != slotFrozen {
			continue
		}
		switch {
		case p.now >= s.since+s.pool.fn.Idle && !p.kept(s):
			p.leave(s)
			continue
		case p.freezes(s) && p.now >= s.since+p.freezeAfter:
			s.freezing = true
			p.do("freeze", s, "")
		}
		p.schedule(s)
	}
	for l := range p.lines {
		p.hurry(l)
	}
	p.match()
	return p.acts
}

// pool returns the pool of a revision, making it if it is new. It is part of an
// event: a newer revision retires the one before.
func (p *plan) pool(app *faas.App, fn *faas.Function) *pool {
	k := keyOf(app, fn)
	if l := p.pools[k]; l != nil {
		return l
	}
	l := &pool{key: k, fn: *fn, app: *app, ofFunction: p.counter(fn.ID), ofApp: p.counter(fn.App)}
	p.pools[k] = l
	old := p.current[fn.ID]
	switch {
	case old == nil || old.revision < k.revision || old.revision == k.revision && old.key.app < k.app:
		p.current[fn.ID] = l
		if fn.Min > 0 {
			p.warm[l] = true
		}
		if old != nil {
			p.retire(old)
		}
	default:
		l.retired = true // a caller that read the definition before it was changed
	}
	return l
}

// retire ends the slots of a pool when they are idle.
func (p *plan) retire(l *pool) {
	l.retired = true
	delete(p.warm, l)
	for _, s := range slices.Clone(l.free) {
		if s.uses == 0 && len(l.waiting) == 0 {
			p.leave(s)
		}
	}
	p.tidy(l)
}

// tidy forgets a retired pool that nothing refers to.
func (p *plan) tidy(l *pool) {
	if l.retired && len(l.waiting) == 0 && l.started+l.begun == 0 {
		delete(p.pools, l.key)
	}
}

// each is how many calls one slot takes at once.
func (l *pool) each() int { return max(1, l.fn.Concurrency) }

// covered is how many callers, from the first, get a slot that is starting.
func (l *pool) covered() int { return min(len(l.waiting), l.begun*l.each()) }

func (l *pool) find(id string) int {
	return slices.IndexFunc(l.waiting, func(c caller) bool { return c.id == id })
}

// takeOut takes s from the slots that can take a call.
func (l *pool) takeOut(s *slot) {
	if i := slices.Index(l.free, s); i >= 0 {
		l.free = slices.Delete(l.free, i, i+1)
	}
}

func needs(fn *faas.Function) faas.Resources { return faas.Resources{Memory: fn.Memory, CPU: fn.CPU} }

// count counts n calls of a pool's function in or out of the limits.
func (p *plan) count(l *pool, n int) {
	p.running += n
	l.ofFunction.active += n
	l.ofApp.active += n
}

// countAsync counts n asynchronous calls in or out of those that run.
func (p *plan) countAsync(l *pool, n int) {
	p.async += n
	l.ofFunction.async += n
	l.ofApp.async += n
}

// countWaiting counts n asynchronous callers in or out of the line.
func (p *plan) countWaiting(l *pool, n int) {
	p.queued += n
	l.ofFunction.waiting += n
	l.ofApp.waiting += n
}

// counter returns what counts the calls of a function or an app.
func (p *plan) counter(id string) *tally {
	if p.active[id] == nil {
		p.active[id] = new(tally)
	}
	return p.active[id]
}

// full says which limit keeps a pool from having one more call; 0: none.
func (p *plan) full(l *pool) waitReason {
	switch {
	case p.calls > 0 && p.running >= p.calls:
		return waitNode
	case l.app.MaxConcurrency > 0 && l.ofApp.active >= l.app.MaxConcurrency:
		return waitApp
	case l.fn.MaxConcurrency > 0 && l.ofFunction.active >= l.fn.MaxConcurrency:
		return waitLimit
	}
	return 0
}

// use puts one call into a free slot.
func (p *plan) use(s *slot, async bool) {
	l := s.pool
	if async {
		p.countAsync(l, 1)
	}
	s.state, s.since, s.freezing = slotBusy, p.now, false
	s.uses++
	s.calls++
	p.count(l, 1)
	if s.uses == l.each() || !l.fn.Format.Hot() || l.fn.MaxCalls > 0 && s.calls >= l.fn.MaxCalls {
		l.takeOut(s)
	}
}

// idle puts a slot without calls among the free ones.
func (p *plan) idle(s *slot) {
	s.state, s.since = slotIdle, p.now
	s.pool.takeOut(s)
	s.pool.free = append(s.pool.free, s)
	p.schedule(s)
}

// schedule says when an idle slot has to be looked at.
func (p *plan) schedule(s *slot) {
	if p.freezes(s) {
		p.wake(s.since + p.freezeAfter)
	}
	if !p.kept(s) {
		p.wake(s.since + s.pool.fn.Idle)
	}
}

func (p *plan) wake(at time.Duration) { p.due = min(p.due, at) }

// freezes reports whether an idle slot is to be frozen.
func (p *plan) freezes(s *slot) bool {
	return s.state == slotIdle && !s.freezing && !s.restless && p.freezeAfter >= 0 && s.pool.fn.Freeze != faas.FreezeNever && s.pool.fn.Format.Hot()
}

// kept reports whether s is one of those that a function keeps without work.
func (p *plan) kept(s *slot) bool {
	l := s.pool
	return p.warm[l] && l.started+l.begun <= l.fn.Min
}

// leave stops a slot. Its function may start another at once; its memory is
// free only when nothing of it is left.
func (p *plan) leave(s *slot) {
	s.pool.takeOut(s)
	s.pool.started--
	s.state, s.since, s.freezing = slotLeaving, p.now, false
	p.going = p.going.Plus(s.charge)
	p.do("stop", s, "")
}

// drop forgets a slot that is gone.
func (p *plan) drop(s *slot) {
	p.capacity.Release(s.charge)
	delete(p.slots, s.n)
	p.tidy(s.pool)
}

// remove takes a caller out of a line.
func (p *plan) remove(l *pool, i int) {
	if l.waiting[i].async {
		p.countWaiting(l, -1)
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	if len(l.waiting) == 0 {
		delete(p.lines, l)
		if l.retired {
			p.retire(l) // what was kept for those who waited
		}
	}
}

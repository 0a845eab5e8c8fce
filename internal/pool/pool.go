// Package pool decides who runs and who waits on this node. One plan for all
// functions gives each caller a slot: the right to use one sandbox for one call.
// A sandbox of a hot function serves many calls and is frozen in between. Who
// cannot be served at once waits in line, first in first out, and can be told its
// place and the reason.
//
// It owns slots, lines and limits, and the goroutines that start, freeze and stop
// sandboxes. It leaves to others how a sandbox starts (it gets a Start function),
// how much there is to give (it gets a Capacity), and what a call means.
package pool

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"hob/faas"
)

// Capacity is what sandboxes may use on this node.
type Capacity interface {
	TryReserve(faas.Resources) bool // reserve now, or report that there is no room
	Release(faas.Resources)
	Total() faas.Resources
	Free() faas.Resources
}

// Conn is a sandbox that can serve calls: one at a time, or as many at once as its
// function's Concurrency says.
type Conn interface {
	Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error)

	// Start tells what the sandbox was made from; empty if that is not known yet.
	Start() faas.Start

	// Freeze makes an idle sandbox stand still and returns the memory that it
	// holds on to; Thaw lets it go on. They are called in turns.
	Freeze() (holds faas.Bytes, err error)
	Thaw() error

	// Close returns when nothing of the sandbox is left.
	Close() error
}

// Need is what a call needs a slot of.
type Need struct {
	App      faas.App
	Function faas.Function
	Until    time.Time // when the caller has waited long enough, which is Function.Wait; zero: never
	Async    bool      // for an asynchronous call: it is never refused a place in the line
}

// Set is the pools of all functions of a node. Its exported fields are set
// before the first use and not changed after.
type Set struct {
	// Start makes a sandbox for one revision of a function. It is called outside
	// the lock, in a goroutine that Close waits for; ctx ends when the Set is
	// closed. died is called at most once, when the sandbox has ended by itself.
	// After an error nothing is left.
	Start func(ctx context.Context, need Need, died func()) (Conn, error)

	// Unready is told why a sandbox could not be started that a function keeps ready,
	// and in what time that is tried again: first after a second, then ever more seldom,
	// up to a minute. It hears of each of these times once, until the function has all
	// that it keeps. It is called outside the lock, in a goroutine that Close waits for.
	// nil: nobody is told.
	Unready func(fn *faas.Function, why error, again time.Duration)

	Capacity Capacity
	Log      *slog.Logger

	MaxCalls    int           // at once on this node; 0: no limit
	MaxWaiting  int           // callers in line on this node; 0: no limit
	FreezeAfter time.Duration // of being idle; negative: never
	AsyncShare  int           // percent of the slots in use that asynchronous calls may hold while synchronous callers wait; 0: none but the first

	ctx    context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup // every goroutine of this Set
	began  time.Time
	icing  chan struct{} // one who freezes holds a place in it
	turns  sync.Pool     // of chan grant, for callers who wait; each gets one
	timers sync.Pool     // of *time.Timer, for the same

	mu      sync.Mutex
	plan    plan                  // guarded by mu, as all below
	callers map[string]chan grant // by call ID
	timer   *time.Timer           // calls tick
	armed   time.Duration         // when timer fires
	empty   sync.Cond             // on mu: there are no slots
	freed   chan struct{}         // capacity 1: things have changed since Welcome was asked
	asked   bool                  // it was, and freed has not said so
}

// box is what the Set knows of a slot.
type box struct {
	conn Conn // set before the slot is ready

	ice chan struct{} // holds one of who freezes, thaws or ends it; taken before Set.mu
	icy bool          // it is frozen; guarded by ice
}

// grant ends a caller's wait, with a slot or with the reason for none.
type grant struct {
	slot *slot
	thaw bool
	err  error
}

// errClosed is what callers get from a Set that is closing.
var errClosed = faas.Errorf(faas.Busy, "this node is shutting down")

// Slot is the use of one sandbox for one call. The caller must end it with
// Done, exactly once.
type Slot struct {
	set   *Set
	slot  *slot
	async bool
	first bool // the sandbox has served no call yet
	wait  wait // what was waited for; zero: nothing
}

// Take is Acquire for a caller that can be served at once by a sandbox that runs;
// false if it cannot.
func (s *Set) Take(need *Need) (Slot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	s.plan.now = time.Since(s.began)
	slot := s.plan.take(&need.App, &need.Function, need.Async)
	if slot == nil {
		return Slot{}, false
	}
	return Slot{set: s, slot: slot, async: need.Async, first: slot.calls == 1}, true
}

// Acquire waits for a sandbox of need.Function until ctx ends or the time of
// need.Until has come. callID names the caller and must be unique among
// those who wait. The error is Busy when the line is full (faas.ErrLineFull) or the wait ended,
// Invalid when the function can never fit, or what Start returned.
func (s *Set) Acquire(ctx context.Context, need *Need, callID string) (Slot, error) {
	if slot, ok := s.Take(need); ok {
		return slot, nil
	}
	fn := &need.Function
	s.mu.Lock()
	s.plan.now = time.Since(s.began)
	if what, needs, all := lacks(fn, s.Capacity.Total()); what != "" {
		s.mu.Unlock()
		return Slot{}, faas.Errorf(faas.Invalid, "function %s needs %v of %s, and this node has %v for all sandboxes: %w", fn.Name, needs, what, all, faas.ErrNeverFits)
	}
	if s.plan.closed {
		s.mu.Unlock()
		return Slot{}, errClosed
	}
	turn := s.turns.Get().(chan grant)
	s.callers[callID] = turn
	s.do(s.plan.want(callID, &need.App, fn, need.Async), s.tooMany(fn))
	l := s.plan.pools[keyOf(&need.App, fn)] // it is there as long as somebody waits
	waits, _ := s.plan.waitOf(callID, l)
	s.mu.Unlock()

	timer, _ := s.timers.Get().(*time.Timer) // it stands still
	if timer == nil {
		timer = time.NewTimer(time.Hour)
	}
	if need.Until.IsZero() {
		timer.Stop()
	} else {
		timer.Reset(time.Until(need.Until))
	}
	defer func() {
		timer.Stop()
		s.timers.Put(timer)
	}()
	var ended error
	select {
	case g := <-turn:
		s.turns.Put(turn)
		return s.take(g, waits, need.Async)
	case <-ctx.Done():
		ended = context.Cause(ctx)
	case <-timer.C:
		ended = faas.Errorf(faas.Busy, "it waited %v", fn.Wait)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.callers, callID)
	why := "it was about to"
	if w, still := s.plan.waitOf(callID, l); still {
		why = s.reason(w)
	}
	s.event(func(p *plan) []action { return p.gone(callID, l) })
	select {
	case g := <-turn: // the grant crossed with the end of ctx
		s.turns.Put(turn)
		if g.err != nil {
			return Slot{}, g.err
		}
		// One that was frozen is not worth the thawing.
		s.event(func(p *plan) []action { return p.done(g.slot, need.Async, !g.thaw && fn.Format.Hot()) })
	default:
		s.turns.Put(turn)
	}
	kind := faas.KindOf(ended)
	if kind == faas.TimedOut {
		kind = faas.Busy // the wait is over, not the call
	}
	return Slot{}, faas.Errorf(kind, "no sandbox became free (%s): %w", why, ended)
}

// take takes what was granted.
func (s *Set) take(g grant, waits wait, async bool) (Slot, error) {
	if g.err != nil {
		return Slot{}, g.err
	}
	slot := Slot{set: s, slot: g.slot, async: async, wait: waits}
	if g.thaw {
		if err := g.slot.thaw(); err != nil {
			slot.Done(false)
			return Slot{}, fmt.Errorf("thaw a sandbox: %w", err)
		}
	}
	slot.first = g.slot.calls == 1
	return slot, nil
}

// thaw ends or prevents the freezing of a slot that was given to a caller.
func (b *box) thaw() error {
	b.ice <- struct{}{}
	defer func() { <-b.ice }()
	if !b.icy {
		return nil
	}
	b.icy = false
	return b.conn.Thaw()
}

// Exchange runs one call in the slot's sandbox.
func (s *Slot) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	return s.slot.conn.Exchange(ctx, req, w)
}

// Start tells what the call found: a hot sandbox, or what its own was made from;
// empty if that is known only after the Exchange.
func (s *Slot) Start() faas.Start {
	if s.first {
		return s.slot.conn.Start()
	}
	return faas.StartHot
}

// Waited tells what the caller stood in line for when it came, in words; empty if
// it did not have to.
func (s *Slot) Waited() string {
	if s.wait.caller == "" {
		return ""
	}
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	return s.set.reason(s.wait)
}

// Done gives the slot back; keep says that its sandbox can serve another call. It
// does not wait: a sandbox is stopped in the background, and its memory is free
// when nothing of it is left.
func (s *Slot) Done(keep bool) {
	set := s.set
	set.mu.Lock()
	defer set.mu.Unlock()
	set.plan.now = time.Since(set.began)
	set.do(set.plan.done(s.slot, s.async, keep), nil)
}

// Renew makes what need says what new calls will use, as after a change of the
// function: sandboxes of other revisions end when their calls do, and those that
// the function wants to have ready are started.
func (s *Set) Renew(need *Need) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	if total := s.Capacity.Total(); need.Function.Memory <= total.Memory && need.Function.CPU <= total.CPU && !s.plan.closed {
		s.event(func(p *plan) []action { return p.renew(&need.App, &need.Function) })
	}
}

// Forget ends the sandboxes of a function that is no more, when their calls do.
func (s *Set) Forget(function string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	s.event(func(p *plan) []action { return p.forget(function) })
}

// Waiting is one caller in line.
type Waiting struct {
	Call     string // ID
	Function string // ID
	Place    int    // 1 is next; 0: it is being served
	Reason   string // what it waits for, for a reader
}

// Waiting lists the callers in line, oldest first.
func (s *Set) Waiting() []Waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	var all []Waiting
	for _, w := range s.plan.waits() {
		all = append(all, Waiting{Call: w.caller, Function: w.pool.fn.ID, Place: w.place, Reason: s.reason(w)})
	}
	return all
}

// reason puts a wait into words. Precondition: s.mu is held.
func (s *Set) reason(w wait) string {
	fn, free, total := &w.pool.fn, s.Capacity.Free(), s.Capacity.Total()
	switch w.reason {
	case waitTurn:
		return fmt.Sprintf("place %d in the line of the function: one of its containers is expected to be free sooner than another could start", w.place)
	case waitLimit:
		return fmt.Sprintf("place %d in the line of the function: it may run %s at once", w.place, calls(fn.MaxConcurrency))
	case waitApp:
		return fmt.Sprintf("place %d in the line of the app %s: it may run %s at once", w.place, w.pool.app.Name, calls(w.pool.app.MaxConcurrency))
	case waitNode:
		return fmt.Sprintf("place %d in the line of the node: it may run %s at once", w.place, calls(s.MaxCalls))
	case waitMemory:
		return fmt.Sprintf("place %d in the line for %v of memory: %v of %v are in use", w.place, fn.Memory, total.Memory-free.Memory, total.Memory)
	case waitBehind:
		return fmt.Sprintf("place %d in the line of the node: those before it wait for memory or processors", w.place)
	case waitCPU:
		return fmt.Sprintf("place %d in the line for %v processors: %v of %v are in use", w.place, fn.CPU, total.CPU-free.CPU, total.CPU)
	}
	return "its sandbox is starting"
}

// tooMany is why a caller is not let into the line.
func (s *Set) tooMany(fn *faas.Function) func() error {
	return func() error {
		if n := s.waitersOf(fn.ID); n < fn.Line {
			return faas.Errorf(faas.Busy, "%s wait on this node already, and %w", calls(s.MaxWaiting), faas.ErrLineFull)
		}
		return faas.Errorf(faas.Busy, "%s of function %s wait already, and %w", calls(fn.Line), fn.Name, faas.ErrLineFull)
	}
}

// waitersOf counts the callers of a function that nothing is started for.
func (s *Set) waitersOf(function string) (n int) {
	for l := range s.plan.lines {
		if l.fn.ID == function {
			n += len(l.waiting) - l.covered()
		}
	}
	return n
}

func calls(n int) string {
	if n == 1 {
		return "1 call"
	}
	return strconv.Itoa(n) + " calls"
}

// Close turns waiting callers away and returns when every slot has been given
// back and nothing is left of its sandbox.
func (s *Set) Close() {
	s.mu.Lock()
	s.init()
	s.stop()
	s.do(s.plan.close(), closing)
	for len(s.plan.slots) > 0 {
		s.empty.Wait()
	}
	s.timer.Stop()
	s.mu.Unlock()
	s.work.Wait()
}

func closing() error { return errClosed }

// event tells the plan of something now. Precondition: s.mu is held.
func (s *Set) event(what func(*plan) []action) {
	s.plan.now = time.Since(s.began)
	s.do(what(&s.plan), nil)
}

// do carries out what the plan decided; err is the reason of a "fail", "refuse" or
// "tell". Nothing in it waits: starts, freezes and stops happen in goroutines
// and come back as events. Precondition: s.mu is held.
func (s *Set) do(acts []action, err func() error) {
	for _, a := range acts {
		slot := a.Slot
		switch a.Do {
		case "start":
			slot.ice = make(chan struct{}, 1)
			need := Need{App: slot.pool.app, Function: slot.pool.fn}
			s.work.Go(func() { s.start(slot, need) })
		case "give", "thaw":
			s.answer(a.Caller, grant{slot: slot, thaw: a.Do == "thaw"})
		case "fail", "refuse":
			s.answer(a.Caller, grant{err: err()})
		case "tell":
			if s.Unready != nil {
				again, why := slot.pool.retryAt-s.plan.now, err()
				s.work.Go(func() { s.Unready(&slot.pool.fn, why, again) })
			}
		case "freeze":
			s.work.Go(func() { s.freeze(slot) })
		case "stop":
			s.work.Go(func() { s.end(slot) })
		}
	}
	if len(s.plan.slots) == 0 {
		s.empty.Broadcast()
	}
	if s.asked {
		s.asked = false
		select {
		case s.freed <- struct{}{}:
		default:
		}
	}
	if s.plan.due < s.armed && !s.plan.closed {
		s.armed = s.plan.due
		s.timer.Reset(s.armed - s.plan.now)
	}
}

// tick lets the plan do what is due.
func (s *Set) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = never
	if !s.plan.closed {
		s.event((*plan).tick)
	}
}

// answer ends the wait of a caller. Precondition: s.mu is held.
func (s *Set) answer(callID string, g grant) {
	s.callers[callID] <- g // it holds one, and is used once
	delete(s.callers, callID)
}

// start is one start, in a goroutine of its own.
func (s *Set) start(slot *slot, need Need) {
	var conn Conn
	err := s.ctx.Err()
	if err == nil {
		conn, err = s.Start(s.ctx, need, func() { s.died(slot) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan.now = time.Since(s.began)
	if err != nil {
		if s.plan.closed {
			err = errClosed
		}
		s.do(s.plan.failed(slot), func() error { return err })
		return
	}
	slot.conn = conn
	s.do(s.plan.ready(slot), nil)
}

// died is told that the sandbox of a slot has ended by itself.
func (s *Set) died(slot *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.event(func(p *plan) []action { return p.died(slot) })
}

// freeze freezes one slot, unless it was taken meanwhile, in a goroutine of its
// own. Few do so at once: the kernel makes some wait, and each holds a thread then.
func (s *Set) freeze(slot *slot) {
	s.icing <- struct{}{}
	defer func() { <-s.icing }()
	slot.ice <- struct{}{}
	defer func() { <-slot.ice }()
	s.mu.Lock()
	wanted := slot.freezing
	s.mu.Unlock()
	if !wanted {
		return
	}
	holds, err := slot.conn.Freeze()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.Log.Debug("a sandbox was not frozen", "function", slot.pool.fn.Name, "err", err)
		s.event(func(p *plan) []action { return p.restless(slot) })
		return
	}
	slot.icy = true
	s.event(func(p *plan) []action { return p.frozen(slot, holds) })
}

// end is one stop, in a goroutine of its own.
func (s *Set) end(slot *slot) {
	slot.ice <- struct{}{} // a freeze that has begun ends first
	err := slot.conn.Close()
	<-slot.ice
	if err != nil {
		s.Log.Error("sandbox was not stopped cleanly", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.event(func(p *plan) []action { return p.stopped(slot) })
}

// freezers is how many sandboxes are being frozen at once.
const freezers = 2

// init makes the zero Set usable. Precondition: s.mu is held.
func (s *Set) init() {
	if s.ctx != nil {
		return
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.plan = newPlan(s.Capacity)
	s.plan.calls, s.plan.waiters, s.plan.freezeAfter = s.MaxCalls, s.MaxWaiting, s.FreezeAfter
	s.plan.asyncShare = s.AsyncShare
	s.plan.processors = runtime.GOMAXPROCS(0)
	s.callers = make(map[string]chan grant)
	s.icing = make(chan struct{}, freezers)
	s.freed = make(chan struct{}, 1)
	s.turns.New = func() any { return make(chan grant, 1) }
	s.began, s.armed = time.Now(), never
	s.timer = time.AfterFunc(time.Hour, s.tick)
	s.timer.Stop()
	s.empty.L = &s.mu
}

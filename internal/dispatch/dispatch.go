// Package dispatch is the queue of this node at work: it takes queued calls out of
// the store, in their order and only as many as can be used, has each run down the
// same line as a synchronous call, and settles what became of it: a result, another
// attempt later, or a failure that stays visible.
//
// At least once: an accepted call is run until an attempt of it is settled. When a
// daemon dies, the calls that it had taken are put back by the next one at the place
// where they were, with one attempt more, unless their function must not run twice.
//
// It owns the calls that it has taken, from Take to Settle, and the goroutine of
// each. In which order calls are taken is decided in package store, how many are
// welcome in package pool, how one runs in package invoke.
package dispatch

import (
	"container/list"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"hob/faas"
	"hob/internal/store"
)

// Runner runs one call to its end, as invoke.Invoker.Run says.
type Runner interface {
	Run(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error
}

// Room says how many asynchronous calls of a function, and of its app, should be
// running or waiting on this node. Freed says when to ask again.
type Room interface {
	Welcome(app *faas.App, fn *faas.Function) (ofFunction, ofApp int)
	Freed() <-chan struct{}
}

// Definitions finds functions and apps.
type Definitions interface {
	FunctionByID(id string) (faas.Function, error)
	AppByID(id string) (faas.App, error)
}

// Events tells the log of a function about the steps of its calls.
type Events interface {
	Event(funcID string, e faas.Event)
}

// Journal keeps the records of calls that are over. Record never waits.
type Journal interface {
	Record(call faas.Call)
}

// Dispatcher is the queue of one node. Its exported fields are set before the first
// use and not changed after.
type Dispatcher struct {
	Calls       store.Calls
	Runner      Runner
	Room        Room
	Definitions Definitions
	Events      Events
	Journal     Journal
	Owner       string        // names this run of the daemon, and no other
	MaxResult   faas.Bytes    // of one answer; 0: no limit
	Marks       string        // file of the calls that have begun; "": all that were taken are thought to have
	Delivering  func()        // told when a result is to be delivered; nil: nobody is
	Holds       bool          // nothing is taken out of the queue: this node runs no calls
	Lease       time.Duration // how long a call is an outside runner's that took it; 0: Lease
	Log         *slog.Logger

	wake    chan struct{} // capacity 1: there may be something to take
	removed chan struct{} // capacity 1: forgotten is not empty
	lapsing chan struct{} // capacity 1: a reservation may be over sooner than was thought
	ready   chan struct{} // closed when it is known what an earlier run has left
	ended   atomic.Int64  // calls that are over, of those that were in the queue
	work    sync.WaitGroup
	marks   *marks // nil without Marks, and before Run

	mu        sync.Mutex
	lines     map[string]*line        // by function ID; guarded by mu, as all below
	apps      map[string]int          // calls that were taken and not settled, by app ID
	taken     map[string]*held        // by call ID
	takes     int64                   // calls taken so far
	outside   map[string]*reservation // by call ID
	leases    list.List               // of them, the first to be over first
	forgotten []string                // functions that are no more
	draining  bool
}

// line is what is known of the queued calls of one function.
type line struct {
	more  bool          // some may be due
	later bool          // some may become due
	added int           // how often some were added, or may have been
	here  int           // calls that were taken and not settled
	begun int           // of them, those that have a sandbox
	mean  time.Duration // of what a call took lately; 0: not known
}

// held is a call that was taken and not settled.
type held struct {
	call  faas.Call // as it was taken
	order int64     // among all that were
	app   string    // ID
	begun bool      // it has a sandbox
	end   func(cause error)
	ended chan struct{} // closed when its place was given back
}

// New returns a Dispatcher whose fields are to be set.
func New() *Dispatcher {
	return &Dispatcher{
		wake: make(chan struct{}, 1), removed: make(chan struct{}, 1), lapsing: make(chan struct{}, 1), ready: make(chan struct{}),
		lines: make(map[string]*line), apps: make(map[string]int), taken: make(map[string]*held), outside: make(map[string]*reservation),
	}
}

const (
	sweepEvery = time.Minute // old calls and results are looked for
	retryEvery = time.Second // after the store has failed
	pause      = time.Millisecond
	mostAtOnce = 512                   // calls of one Take
	mostInVain = 64                    // lines looked at in turn that have no room
	lookAgain  = 50 * time.Millisecond // at the others, if nothing happens before
)

// Run brings queued calls to their functions until ctx ends, and returns when all
// that it has taken are settled: who ends ctx sees to it that calls end.
func (d *Dispatcher) Run(ctx context.Context) error {
	defer d.close()
	if err := d.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(d.ready)
	var g errgroup.Group
	g.Go(func() error { d.dispatch(ctx); return nil })
	g.Go(func() error { d.lapses(ctx); return nil })
	g.Go(func() error { d.cancelRemoved(ctx); return nil })
	g.Go(func() error { d.sweep(ctx); return nil })
	return g.Wait()
}

// close waits for the calls that were taken.
func (d *Dispatcher) close() {
	d.work.Wait()
	if d.marks != nil {
		_ = d.marks.close() // nothing in it is of use any more
	}
}

// Event implements invoke.Events: it notes which calls begin, on the way to the log.
func (d *Dispatcher) Event(funcID string, e faas.Event) {
	if e.Name == faas.EventRunning {
		d.begins(e.Call)
	}
	if d.Events != nil {
		d.Events.Event(funcID, e)
	}
}

// begins notes that a call has got its sandbox.
func (d *Dispatcher) begins(id string) {
	d.mu.Lock()
	if h := d.taken[id]; h != nil && !h.begun {
		h.begun = true
		d.line(h.call.FuncID).begun++
	}
	d.mu.Unlock()
	if d.marks == nil {
		return
	}
	if err := d.marks.begin(id); err != nil {
		d.Log.Warn("that a call has begun cannot be noted", "call", id, "err", err)
	}
}

// begin finds out what an earlier run of the daemon has left.
func (d *Dispatcher) begin(ctx context.Context) error {
	outside, err := d.Calls.Held(ctx, Outside)
	if err != nil {
		return err
	}
	slices.SortStableFunc(outside, func(a, b faas.Call) int { return a.Started.Compare(b.Started) })
	for _, call := range outside {
		d.reserved(call)
	}
	if err := d.rescue(ctx); err != nil {
		return err
	}
	tallies, err := d.Calls.Tallies(ctx)
	if err != nil {
		return err
	}
	for id, t := range tallies {
		if t.Queued > 0 {
			d.add(id)
			if _, err := d.Definitions.FunctionByID(id); err != nil {
				d.Forget(id)
			}
		}
	}
	return nil
}

// Accept implements invoke.Queue.
func (d *Dispatcher) Accept(ctx context.Context, a store.Acceptance) (faas.Call, bool, error) {
	if a.Call.State == faas.CallRunning {
		a.Owner = d.Owner
	}
	call, known, err := d.Calls.Accept(ctx, a)
	if err == nil && call.State == faas.CallQueued {
		if !known {
			d.add(call.FuncID)
		}
		d.explainNew(ctx, &call)
	}
	return call, known, err
}

// add says that calls of a function may be due.
func (d *Dispatcher) add(function string) {
	d.mu.Lock()
	l := d.line(function)
	l.more = true
	l.added++
	d.mu.Unlock()
	signal(d.wake)
}

// line returns what is known of a function. Precondition: d.mu is held.
func (d *Dispatcher) line(function string) *line {
	l := d.lines[function]
	if l == nil {
		l = new(line)
		d.lines[function] = l
	}
	return l
}

// Drain lets no more calls be taken.
func (d *Dispatcher) Drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
}

func (d *Dispatcher) isDraining() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining
}

// Stop implements invoke.Queue.
func (d *Dispatcher) Stop(id string, cause error) bool {
	if d.lapseNow(id, cause) {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.taken[id]
	if h != nil {
		h.end(cause) // while it is known: giveBack looks whether it was
	}
	return h != nil
}

// dispatch takes calls whenever some are due and welcome.
func (d *Dispatcher) dispatch(ctx context.Context) {
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	var due time.Time // when alarm rings; zero: nothing is to become due
	for ctx.Err() == nil {
		lanes, added, left := d.lanes()
		if len(lanes) > 0 {
			taken, next, err := d.Calls.Take(ctx, d.Owner, lanes)
			if err != nil {
				d.failed(ctx, err)
				continue
			}
			d.note(lanes, added, taken, next > 0)
			for _, call := range taken {
				d.start(ctx, call)
			}
			if at := time.Now().Add(next); next > 0 && (due.IsZero() || at.Before(due)) {
				due = at
				alarm.Reset(next)
			}
			continue // note has shortened what is asked for next
		}
		var again <-chan time.Time
		if left {
			again = time.After(lookAgain)
		}
		select {
		case <-d.wake:
		case <-again:
		case <-d.Room.Freed():
			rest(ctx, pause) // many sandboxes may become free at once
		case <-alarm.C:
			due = time.Time{}
			d.becomeDue()
		case <-ctx.Done():
		}
	}
}

// failed tells that the store has failed, and waits until it is worth another try.
func (d *Dispatcher) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		d.Log.Error("the queue cannot be read or written, trying again", "err", err, "in", retryEvery)
	}
	rest(ctx, retryEvery)
}

// rest waits, or until ctx ends.
func rest(ctx context.Context, long time.Duration) {
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// asked is a line as it was when calls of it were asked for.
type asked struct {
	id          string // of its function
	added, here int
}

// lanes is what can be taken now, and for each function of it how often calls were
// added to its line before. The functions of an app with a limit are one lane. left
// says that not all lines were looked at.
func (d *Dispatcher) lanes() (lanes []store.Lane, added map[string]int, left bool) {
	lines := d.some()
	added = make(map[string]int, len(lines))
	ofApps := make(map[string]int) // index of lanes
	rooms := make(map[string]int)  // of apps with a limit, each looked at once: else a call settled meanwhile would make room for some functions of an app only, and they would overtake the others
	total, inVain := 0, 0
	for _, l := range lines {
		if total >= mostAtOnce || inVain >= mostInVain {
			return lanes, added, true
		}
		fn, app, err := d.definition(l.id)
		if err != nil { // it was removed, maybe while a call of it was accepted or ran
			d.giveUp(l.id)
			continue
		}
		if d.Holds || app.External() {
			continue
		}
		ofFunction, ofApp := d.Room.Welcome(&app, &fn)
		room := min(ofFunction-l.here, mostAtOnce-total)
		if app.MaxConcurrency > 0 {
			if _, looked := rooms[app.ID]; !looked {
				rooms[app.ID] = ofApp - d.ofApp(app.ID)
			}
			room = min(room, rooms[app.ID])
		}
		if room <= 0 {
			inVain++
			continue
		}
		inVain = 0
		added[l.id] = l.added
		if i, there := ofApps[app.ID]; there {
			lanes[i].Functions = append(lanes[i].Functions, l.id)
			lanes[i].Limit = min(lanes[i].Limit, room)
			continue
		}
		if app.MaxConcurrency > 0 {
			ofApps[app.ID] = len(lanes)
		}
		lanes = append(lanes, store.Lane{Functions: []string{l.id}, Limit: room})
		total += room
	}
	return lanes, added, false
}

// some returns the lines of which calls may be due, in any order: of those that
// cannot all be served now, none is always the last.
func (d *Dispatcher) some() (lines []asked) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		return nil
	}
	for id, l := range d.lines {
		if l.more {
			lines = append(lines, asked{id, l.added, l.here})
		}
	}
	return lines
}

// definition returns a function with its app.
func (d *Dispatcher) definition(id string) (fn faas.Function, app faas.App, err error) {
	if fn, err = d.Definitions.FunctionByID(id); err == nil {
		app, err = d.Definitions.AppByID(fn.App)
	}
	return fn, app, err
}

// ofApp is how many calls of an app were taken and are not settled.
func (d *Dispatcher) ofApp(id string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.apps[id]
}

// note notes what a Take has shown of its lanes, and what it took. later says that
// some of them have calls that become due.
func (d *Dispatcher) note(lanes []store.Lane, added map[string]int, taken []faas.Call, later bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	got := make(map[string]int)
	for _, c := range taken {
		got[c.FuncID]++
	}
	for _, lane := range lanes {
		n := 0
		for _, id := range lane.Functions {
			n += got[id]
		}
		if n >= lane.Limit {
			continue // there may be more
		}
		for _, id := range lane.Functions {
			l := d.line(id)
			if l.added == added[id] {
				l.more = false
			}
			l.later = l.later || later
		}
	}
}

// becomeDue says that calls that were not due may be so now.
func (d *Dispatcher) becomeDue() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		if l.later {
			l.more, l.later = true, false
			l.added++
		}
	}
}

// sweep lets the store remove what is too old or too much.
func (d *Dispatcher) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := d.Calls.Sweep(ctx); err != nil && ctx.Err() == nil {
			d.Log.Warn("old calls cannot be removed", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// signal leaves a word in a channel of capacity 1, unless there is one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

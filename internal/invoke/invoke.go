// Package invoke is the life of one call: it is admitted, waits for a slot within
// one deadline, runs within another, and ends with a record.
//
// It owns the deadlines, the states and the outcome of every call that waits for a
// slot or runs on this node; and it is where an asynchronous call is accepted,
// found, canceled and repeated. Who may call is decided at the edge, who gets a
// slot in package pool, how a call is spoken to a function in package protocol,
// when a queued call is brought here, and what follows from its end, in package
// dispatch.
package invoke

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
	"hob/internal/pool"
	"hob/internal/store"
)

// Images makes sure that a function's image is on the node, however long that
// takes: the time counts to no limit of a call. A function that was made without
// its image is pinned to it then, and returned as it is now.
type Images interface {
	Ready(ctx context.Context, fn faas.Function) (faas.Function, error)
}

// Definitions finds the app of a function, for its part of the configuration, and
// the function of a call that is repeated.
type Definitions interface {
	AppByID(id string) (faas.App, error)
	FunctionByID(id string) (faas.Function, error)
}

// Journal keeps the records of finished calls. Record never waits.
type Journal interface {
	Record(call faas.Call)
}

// Invoker runs calls. Its exported fields are set before the first Call and not
// changed after.
type Invoker struct {
	Pool    *pool.Set
	Images  Images
	Apps    Definitions
	Journal Journal
	Log     *slog.Logger

	Calls  store.Calls  // asynchronous calls, and those with a key
	Queue  Queue        // where they go
	Events Events       // nil: nobody is told
	Room   func() error // why nothing more may be kept on the disk; nil: never

	MaxResult faas.Bytes // of an answer that is kept for a key; 0: no limit

	ended atomic.Int64 // synchronous calls that are over and no longer live, and those that were canceled in the queue

	gathered atomic.Int64 // bytes of bodies that wait in memory
	bodies   sync.Pool    // of *gathered

	mu       sync.Mutex
	live     map[string]*live // by call ID; guarded by mu, as all below
	draining bool
	empty    chan struct{} // closed when draining and no call is live; nil before Drain
}

// live is a call that has not ended.
type live struct {
	call *faas.Call // guarded by Invoker.mu
	end  func(cause error)
}

// NewCall returns the record of a call that begins now.
func NewCall(app faas.App, fn faas.Function, kind faas.CallKind) *faas.Call {
	return &faas.Call{
		ID: faas.NewID(), App: app.Name, Function: fn.Name, FuncID: fn.ID, Revision: fn.Revision,
		Kind: kind, State: faas.CallQueued, Attempt: 1, Queued: time.Now(),
	}
}

// Events tells the log of a function about the steps of its asynchronous calls.
// Event never waits for long.
type Events interface {
	Event(funcID string, e faas.Event)
}

// errDraining is what callers get from a node that is shutting down.
var errDraining = faas.Errorf(faas.Busy, "this node is shutting down")

// Call runs one call of fn to its end, as Run does; one with a key only if no
// call had the key before (idempotent).
func (i *Invoker) Call(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	if req.Key != "" && call.Kind == faas.CallSync {
		return i.idempotent(ctx, fn, call, req, w)
	}
	return i.Run(ctx, fn, call, req, w)
}

// Run runs one call of fn to its end: req goes in, the answer is written to w.
// The error is what the caller may read, and its Kind is decided; a part of the
// answer may have been written before. When Run returns, call is over, a synchronous
// one has been recorded, and nobody reads req or writes w any more.
//
// ctx ends when the caller leaves. A call that has not begun is then over. One
// that has goes on to its end if only so its sandbox can serve another.
func (i *Invoker) Run(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	wait, end := context.WithCancelCause(ctx)
	run, stop := wait, end
	if detached(fn.Format) {
		run, stop = context.WithCancelCause(context.WithoutCancel(ctx))
	}
	both := func(cause error) {
		end(cause)
		stop(cause)
	}
	defer both(nil)
	if err := i.enter(call, both); err != nil {
		return err
	}
	outcome, err := i.run(wait, run, fn, call, req, w)
	i.leave(call, outcome, err)
	return err
}

// detached reports whether an exchange has to be finished when its caller has
// left: a sandbox that is spoken to over one stream is of no more use else.
func detached(f faas.Format) bool { return f.Hot() && f != faas.FormatPort }

// run is the straight line: image, environment, body, slot, exchange. wait bounds all
// before the exchange, ctx the exchange: both end when the call is to end, wait
// also when the caller leaves.
func (i *Invoker) run(wait, ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	var none faas.Outcome
	begin := time.Now()
	fn, err := i.Images.Ready(wait, fn)
	if err != nil {
		return none, err
	}
	pulled := time.Now()
	app, err := i.Apps.AppByID(fn.App)
	if err != nil {
		return none, err
	}
	req.Call = call.ID
	if call.Kind == faas.CallAsync {
		req.Attempt = call.Attempt
	}
	if variables(fn, req) {
		if _, err := environment(app, fn, req, deadline(fn, call, pulled)); err != nil {
			return none, err // it will not be smaller after a wait
		}
	}
	g, err := i.gather(wait, &fn, call, req, w)
	if err != nil {
		return none, fmt.Errorf("call %s: %w", fn.Name, err)
	}
	defer g.free()
	come := g.came(pulled)
	need := pool.Need{App: app, Function: fn, Until: come.Add(fn.Wait)}
	if call.Kind == faas.CallAsync {
		need.Async, need.Until = true, time.Time{}
	}
	edge := req.Env // what it is before the environment of a try is added
	for try := 1; ; try++ {
		req.Env = edge
		slot, hot := i.Pool.Take(&need)
		if !hot {
			slot, err = i.Pool.Acquire(wait, &need, call.ID)
		}
		got := time.Now()
		i.change(call, func(c *faas.Call) {
			c.Image, c.Queue = pulled.Sub(begin), got.Sub(come)
			if c.Kind == faas.CallAsync { // it has waited before it came here
				c.Queue += max(0, begin.Sub(c.Due))
			}
		})
		if err != nil {
			return none, fmt.Errorf("call %s: %w", fn.Name, err)
		}
		outcome, err := i.exchange(ctx, &need, &slot, got, call, req, w)
		slot.Done(outcome.Keep)
		if outcome.Start == "" {
			outcome.Start = slot.Start()
		}
		if err != nil && outcome.Again && try < tries && wait.Err() == nil {
			continue // its sandbox ended before it had any of the request: the next one serves it
		}
		if err != nil {
			err = fmt.Errorf("call %s: %w", fn.Name, err)
		}
		return outcome, err
	}
}

// overtime is why a call that ran too long was ended. Few timeouts are in use, so
// the words are made once for each.
func overtime(timeout time.Duration) error {
	if err, known := overtimes.Load(timeout); known {
		return err.(error)
	}
	err, _ := overtimes.LoadOrStore(timeout, faas.Errorf(faas.TimedOut, "the function ran longer than its timeout of %v", timeout))
	return err.(error)
}

var overtimes sync.Map // of error by timeout

// tries is how many sandboxes a call is given to that end before they have any of
// its request: the function may end each at once.
const tries = 3

// exchange runs the call in its slot, within the timeout of its function.
func (i *Invoker) exchange(ctx context.Context, need *pool.Need, slot *pool.Slot, now time.Time, call *faas.Call, req *faas.Request, w http.ResponseWriter) (_ faas.Outcome, err error) {
	fn := &need.Function
	untouched := faas.Outcome{Keep: fn.Format.Hot()} // the sandbox had nothing of it
	if err := i.advance(call, now, slot); err != nil {
		return untouched, err
	}
	explain(w.Header(), call, slot.Start())
	if req.Deadline = deadline(*fn, call, now); !req.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, req.Deadline, overtime(fn.TimeoutOf(call.Kind)))
		defer cancel()
	}
	if variables(*fn, req) { // again: the deadline is known now
		if req.Env, err = environment(need.App, *fn, req, req.Deadline); err != nil {
			return untouched, err
		}
	}
	return slot.Exchange(ctx, req, w)
}

// deadline is when a call that begins now has run long enough; zero: never.
func deadline(fn faas.Function, call *faas.Call, now time.Time) time.Time {
	timeout := fn.TimeoutOf(call.Kind)
	if timeout <= 0 {
		return time.Time{}
	}
	return now.Add(timeout)
}

// Headers that tell what a call found and waited for. The default format sets
// HeaderStart itself: it knows only when its process has been made.
const (
	HeaderStart      = "Hob-Start"
	HeaderWait       = "Hob-Wait"
	HeaderWaitReason = "Hob-Wait-Reason"
)

// told is the least wait that the caller is told of, and the record.
const told = time.Millisecond

func explain(h http.Header, call *faas.Call, start faas.Start) {
	if start != "" {
		h[HeaderStart] = startValues[start]
	}
	if call.Waiting != "" {
		h[HeaderWait] = []string{call.Queue.Round(100 * time.Microsecond).String()}
		h[HeaderWaitReason] = []string{call.Waiting}
	}
}

var startValues = map[faas.Start][]string{
	faas.StartHot: {string(faas.StartHot)}, faas.StartPrepared: {string(faas.StartPrepared)},
	faas.StartBare: {string(faas.StartBare)}, faas.StartOnDemand: {string(faas.StartOnDemand)},
}

// enter counts call among the live ones.
func (i *Invoker) enter(call *faas.Call, end func(cause error)) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.draining {
		return errDraining
	}
	if i.live == nil {
		i.live = make(map[string]*live)
	}
	i.live[call.ID] = &live{call, end}
	return nil
}

// leave ends call and records it, a synchronous one before it is no longer live:
// whoever looks at the live ones first finds it in one of the two places.
func (i *Invoker) leave(call *faas.Call, outcome faas.Outcome, err error) {
	done := *call
	done.Outcome = outcome
	done.Sandbox, done.Run = outcome.Sandbox, outcome.Run
	if err != nil {
		done.Error, done.ErrKind = err.Error(), faas.KindOf(err)
	}
	if err := done.Advance(faas.StateAfter(err), time.Now()); err != nil {
		i.Log.Error("a call ended in an impossible way", "call", call.ID, "err", err)
	}
	if done.Kind != faas.CallAsync { // else it may be tried again: who brought it here records its end
		said := done.Error
		if done.ErrKind == faas.Internal {
			done.Error = "internal error" // the journal is for users; the operator reads the daemon's log
		}
		i.Journal.Record(done)
		done.Error = said
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	*call = done
	delete(i.live, call.ID)
	if done.Kind != faas.CallAsync {
		i.ended.Add(1)
	}
	if i.draining && len(i.live) == 0 {
		close(i.empty)
	}
}

// advance begins a call that has got its slot.
func (i *Invoker) advance(call *faas.Call, now time.Time, slot *pool.Slot) error {
	waiting := ""
	if call.Queue >= told {
		waiting = slot.Waited()
	}
	again := call.State == faas.CallRunning // in a sandbox that ended at once
	if call.Kind == faas.CallAsync && !again {
		i.event(call, faas.Event{Name: faas.EventRunning})
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if waiting != "" {
		call.Waiting = waiting
	}
	if again {
		return nil
	}
	return call.Advance(faas.CallRunning, now)
}

// event puts a step of an asynchronous call into the log of its function.
func (i *Invoker) event(call *faas.Call, e faas.Event) {
	if i.Events != nil {
		e.Call, e.Attempt = call.ID, call.Attempt
		i.Events.Event(call.FuncID, e)
	}
}

func (i *Invoker) change(call *faas.Call, f func(*faas.Call)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f(call)
}

// Live returns the calls that are queued or running, oldest first. What a queued
// one waits for is in its Waiting.
func (i *Invoker) Live() []faas.Call {
	waiting := make(map[string]string)
	for _, w := range i.Pool.Waiting() {
		waiting[w.Call] = w.Reason
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	calls := make([]faas.Call, 0, len(i.live))
	for _, l := range i.live {
		c := *l.call
		if c.State == faas.CallQueued {
			c.Waiting = waiting[c.ID]
		}
		calls = append(calls, c)
	}
	slices.SortFunc(calls, func(a, b faas.Call) int { return strings.Compare(a.ID, b.ID) })
	return calls
}

// Drain refuses new calls and returns when none is live. When ctx ends first it
// ends those that are left, as Busy, waits for them, and says how many they were.
func (i *Invoker) Drain(ctx context.Context) error {
	i.mu.Lock()
	if !i.draining {
		i.draining, i.empty = true, make(chan struct{})
		if len(i.live) == 0 {
			close(i.empty)
		}
	}
	empty := i.empty
	i.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	i.mu.Lock()
	left := slices.Collect(maps.Values(i.live))
	i.mu.Unlock()
	for _, l := range left {
		l.end(errDraining)
	}
	<-empty
	return fmt.Errorf("%d calls had not ended in time: %w", len(left), context.Cause(ctx))
}

// Package invoke is the life of one call: it is admitted, waits for a slot within
// one deadline, runs within another, and ends with a record.
//
// It owns the deadlines, the states and the outcome of every call that is queued
// or running. Who may call is decided at the edge, who gets a slot in package
// pool, how a call is spoken to a function in package protocol.
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
	"time"

	"hob/faas"
	"hob/internal/pool"
)

// Images makes sure that a function's image is on the node, however long that
// takes: the time counts to no limit of a call.
type Images interface {
	Ready(ctx context.Context, fn faas.Function) error
}

// Apps finds the app of a function, for its part of the configuration.
type Apps interface {
	AppByID(id string) (faas.App, error)
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
	Apps    Apps
	Journal Journal
	Log     *slog.Logger

	mu       sync.Mutex
	live     map[string]*live // by call ID; guarded by mu, as all below
	draining bool
	empty    chan struct{} // closed when draining and no call is live; nil before Drain
}

// live is a call that has not ended.
type live struct {
	call *faas.Call // guarded by Invoker.mu
	end  context.CancelCauseFunc
}

// NewCall returns the record of a call that begins now.
func NewCall(app faas.App, fn faas.Function, kind faas.CallKind) *faas.Call {
	return &faas.Call{
		ID: faas.NewID(), App: app.Name, Function: fn.Name, FuncID: fn.ID, Revision: fn.Revision,
		Kind: kind, State: faas.CallQueued, Attempt: 1, Queued: time.Now(),
	}
}

// errDraining is what callers get from a node that is shutting down.
var errDraining = faas.Errorf(faas.Busy, "this node is shutting down")

// Call runs one call of fn to its end: req goes in, the answer is written to w.
// The error is what the caller may read, and its Kind is decided; a part of the
// answer may have been written before. When Call returns, call is over and has
// been recorded, and nobody reads req or writes w any more.
func (i *Invoker) Call(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if err := i.enter(call, end); err != nil {
		return err
	}
	outcome, err := i.run(ctx, fn, call, req, w)
	i.leave(call, outcome, err)
	return err
}

// run is the straight line: image, environment, slot, exchange.
func (i *Invoker) run(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	var none faas.Outcome
	begin := time.Now()
	if err := i.Images.Ready(ctx, fn); err != nil {
		return none, err
	}
	pulled := time.Now()
	app, err := i.Apps.AppByID(fn.App)
	if err != nil {
		return none, err
	}
	req.Call = call.ID
	if _, err := environment(app, fn, req, pulled); err != nil {
		return none, err // it will not be smaller after a wait
	}

	slot, err := i.acquire(ctx, fn, call.ID)
	got := time.Now()
	i.change(call, func(c *faas.Call) { c.Image, c.Queue = pulled.Sub(begin), got.Sub(pulled) })
	if err != nil {
		return none, err
	}
	defer slot.Done()
	if err := i.advance(call, faas.CallRunning, got); err != nil {
		return none, err
	}
	if req.Env, err = environment(app, fn, req, got); err != nil { // again: the deadline is known now
		return none, err
	}
	if fn.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, fn.Timeout, faas.Errorf(faas.TimedOut, "the function ran longer than its timeout of %v", fn.Timeout))
		defer cancel()
	}
	outcome, err := slot.Exchange(ctx, req, w)
	if err != nil {
		err = fmt.Errorf("call %s: %w", fn.Name, err)
	}
	return outcome, err
}

// acquire waits for a slot within the wait deadline of fn.
func (i *Invoker) acquire(ctx context.Context, fn faas.Function, callID string) (*pool.Slot, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fn.Wait, faas.Errorf(faas.TimedOut, "it waited %v", fn.Wait))
	defer cancel()
	slot, err := i.Pool.Acquire(ctx, fn, callID)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", fn.Name, err)
	}
	return slot, nil
}

// enter counts call among the live ones.
func (i *Invoker) enter(call *faas.Call, end context.CancelCauseFunc) error {
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

// leave ends call and records it.
func (i *Invoker) leave(call *faas.Call, outcome faas.Outcome, err error) {
	i.mu.Lock()
	call.Outcome = outcome
	call.Sandbox, call.Run = outcome.Sandbox, outcome.Run
	if err != nil {
		call.Error, call.ErrKind = err.Error(), faas.KindOf(err)
	}
	stateErr := call.Advance(faas.StateAfter(err), time.Now())
	delete(i.live, call.ID)
	if i.draining && len(i.live) == 0 {
		close(i.empty)
	}
	done := *call
	i.mu.Unlock()
	if stateErr != nil {
		i.Log.Error("a call ended in an impossible way", "call", call.ID, "err", stateErr)
	}
	if done.ErrKind == faas.Internal {
		done.Error = "internal error" // the journal is for users; the operator reads the daemon's log
	}
	i.Journal.Record(done)
}

func (i *Invoker) advance(call *faas.Call, to faas.CallState, now time.Time) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return call.Advance(to, now)
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

package dispatch

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"hob/faas"
	"hob/internal/store"
)

// start runs a call that was taken, in a goroutine of its own.
func (d *Dispatcher) start(ctx context.Context, call faas.Call) {
	ctx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	fn, err := d.Definitions.FunctionByID(call.FuncID)
	d.mu.Lock()
	d.takes++
	h := &held{call: call, order: d.takes, app: fn.App, end: end, ended: make(chan struct{})}
	before := d.taken[call.ID] // its last attempt, which was settled just now
	d.taken[call.ID] = h
	d.line(call.FuncID).here++
	d.apps[fn.App]++
	d.mu.Unlock()
	d.work.Go(func() {
		if before != nil {
			<-before.ended
		}
		took := time.Duration(0)
		switch {
		case err != nil:
			d.conclude(ctx, fn, call, nil, faas.Errorf(faas.Canceled, removedText))
		case d.forOutside(fn): // since it was taken
			call.Started = time.Time{}
			d.conclude(ctx, fn, call, nil, errOutside)
		default:
			took = d.attempt(ctx, fn, call)
		}
		if d.marks != nil {
			_ = d.marks.end(call.ID) // one too many does no harm
		}
		d.giveBack(h, took, err != nil)
		d.cancelAgain(ctx, call.ID, context.Cause(ctx))
		end(nil)
	})
}

// cancelAgain cancels a call that was canceled while its attempt was settled: it may be
// in the queue again, or even have left it.
func (d *Dispatcher) cancelAgain(ctx context.Context, id string, cause error) {
	if faas.KindOf(cause) != faas.Canceled {
		return
	}
	ctx = context.WithoutCancel(ctx)
	for try := range cancelTries {
		call, err := d.Calls.Cancel(ctx, id, cause.Error())
		if err == nil {
			s := store.Settlement{Call: call}
			d.tell(s, endOf(faas.Function{}, s, nil))
		}
		if faas.KindOf(err) != faas.Conflict || call.State.Final() || d.Stop(id, cause) {
			return
		}
		rest(ctx, time.Millisecond<<try) // it is between the queue and its sandbox
	}
}

// cancelTries is how often cancelAgain looks for a call, in half a second.
const cancelTries = 9

// giveBack gives back the place of a call that is settled. removed says that its
// function is no more.
func (d *Dispatcher) giveBack(h *held, took time.Duration, removed bool) {
	defer close(h.ended)
	d.mu.Lock()
	l := d.line(h.call.FuncID)
	if h.begun {
		l.begun--
	}
	if d.taken[h.call.ID] == h {
		delete(d.taken, h.call.ID)
	}
	if l.here--; l.here == 0 && removed && !l.more {
		delete(d.lines, h.call.FuncID)
	}
	if l.mean == 0 {
		l.mean = took
	}
	l.mean += (took - l.mean) / 8
	if d.apps[h.app]--; d.apps[h.app] == 0 {
		delete(d.apps, h.app)
	}
	d.mu.Unlock()
	signal(d.wake)
}

// attempt runs a call once and settles it. It returns how long it ran.
func (d *Dispatcher) attempt(ctx context.Context, fn faas.Function, call faas.Call) (took time.Duration) {
	rec := store.NewRecorder(d.Calls.NewBody(), cmp.Or(fn.MaxResult, d.MaxResult))
	call.State, call.Started = faas.CallQueued, time.Time{}
	err := d.run(ctx, fn, &call, rec)
	if !call.Started.IsZero() {
		took = call.Finished.Sub(call.Started)
		d.setTimes(&call, fn)
	}
	d.conclude(ctx, fn, call, rec, err)
	return took
}

// told is the least wait that a record tells of.
const told = time.Millisecond

// setTimes puts the times of an attempt, which are those of the machine's clock, in
// terms of the store's, and tells what the call waited for.
func (d *Dispatcher) setTimes(call *faas.Call, fn faas.Function) {
	shift := time.Until(d.Calls.Now())
	call.Started, call.Finished = call.Started.Add(shift), call.Finished.Add(shift)
	waited := call.Started.Sub(call.Due)
	call.Queue = max(0, waited-call.Image)
	if app, err := d.Definitions.AppByID(fn.App); err == nil && call.Waiting == "" && waited >= told && call.Attempt == 1 {
		call.Waiting = lineOf(fn, app)
	}
}

// run runs a call as any other, and finds out whether it succeeded.
func (d *Dispatcher) run(ctx context.Context, fn faas.Function, call *faas.Call, rec *store.Recorder) error {
	req, err := d.Calls.Request(ctx, call.ID)
	if err != nil {
		return fmt.Errorf("payload of call %s: %w", call.ID, err)
	}
	defer req.Body.(io.Closer).Close()
	err = d.Runner.Run(ctx, fn, call, req, rec)
	if kept := rec.Error(nil); kept != nil {
		return fmt.Errorf("call %s: %w", fn.Name, kept)
	}
	if err != nil {
		return err
	}
	if status := rec.Status(); status >= http.StatusInternalServerError {
		return faas.Errorf(faas.FuncFailed, "call %s: the function answered %d %s", fn.Name, status, http.StatusText(status))
	}
	return nil
}

// conclude settles an attempt that ended with err, and tells of it.
func (d *Dispatcher) conclude(ctx context.Context, fn faas.Function, call faas.Call, rec *store.Recorder, err error) {
	v := decide(fn, call, err, d.isDraining())
	if faas.KindOf(v.err) == faas.Internal {
		d.Log.Error("an asynchronous call failed", "call", call.ID, "function", call.Function, "err", v.err)
		v.err = faas.Errorf(faas.Internal, "internal error")
	}
	s := settlement(fn, call, v, d.Calls.Now())
	d.tellAgain(s, againText(s))
	end := endOf(fn, s, rec)
	if v.state == faas.CallSucceeded {
		s.Result = rec.Result()
	} else if rec != nil {
		rec.Discard()
	}
	s, err = d.settle(context.WithoutCancel(ctx), s)
	if err != nil {
		d.Log.Warn("what became of a call is not kept", "call", call.ID, "function", call.Function, "attempt", call.Attempt, "err", err)
		return
	}
	if s.Call.State != v.state { // its result was lost on the way
		end = endOf(fn, s, nil)
	}
	d.tell(s, end)
	if s.Call.State == faas.CallQueued {
		d.add(call.FuncID)
	}
}

// settlement is a verdict on a call, made now by the store's clock, in the words of
// the store.
func settlement(fn faas.Function, call faas.Call, v verdict, now time.Time) store.Settlement {
	call.State = v.state
	if v.fails {
		call.Failures++
	}
	call.Error, call.ErrKind = "", faas.OK
	if v.err != nil {
		call.Error, call.ErrKind = v.err.Error(), faas.KindOf(v.err)
	}
	s := store.Settlement{Call: call, Delay: v.delay, Stay: v.stay}
	if !v.state.Final() {
		s.Call.Started, s.Call.Finished = time.Time{}, time.Time{}
		return s
	}
	if s.Call.Finished.IsZero() {
		s.Call.Finished = now
	}
	s.KeepPayload = v.state != faas.CallSucceeded && fn.ID != ""
	s.ForgetKey = call.ErrKind == faas.Busy || call.ErrKind == faas.Canceled
	target := ""
	switch v.state {
	case faas.CallSucceeded:
		target = fn.OnSuccess
	case faas.CallFailed, faas.CallTimedOut:
		target = fn.OnFailure
	}
	if target != "" {
		s.Call.Delivery = "on its way to " + target
		s.Deliveries = []store.Delivery{{ID: faas.NewID(), Call: call.ID, Target: target}}
	}
	return s
}

// tellAgain tells of a call that a settlement puts back into the queue. That comes
// before the settlement: once the call is there, others can take or cancel it, and
// what they tell comes after this.
func (d *Dispatcher) tellAgain(s store.Settlement, why string) {
	if !s.Call.State.Final() && s.Call.Kind == faas.CallAsync {
		d.Event(s.Call.FuncID, faas.Event{Name: faas.EventPending, Call: s.Call.ID, Attempt: s.Call.Attempt, Message: why})
	}
}

// againText says when and why a call is in the queue again.
func againText(s store.Settlement) string {
	if s.Stay {
		return "again: " + s.Call.Error
	}
	return fmt.Sprintf("again in %v: %s", s.Delay, s.Call.Error)
}

// endOf is what the log says of a settlement that ends its call.
func endOf(fn faas.Function, s store.Settlement, rec *store.Recorder) faas.Event {
	e := faas.Event{Name: faas.EventFailed, Call: s.Call.ID, Attempt: s.Call.Attempt, Message: s.Call.Error}
	if s.Call.State == faas.CallSucceeded {
		e.Name = faas.EventFinished
	}
	if fn.LogPayload && rec != nil {
		e.Stdout, e.Stderr = rec.Begin(), s.Call.Outcome.Stderr
	}
	return e
}

// tell tells of what was settled. end is what the log says of it, if it is the end of
// its call.
func (d *Dispatcher) tell(s store.Settlement, end faas.Event) {
	if s.Call.State.Final() {
		d.ended.Add(1)
	}
	if s.Call.State.Final() && s.Call.Kind == faas.CallAsync {
		if s.Call.Error != removedText {
			d.Event(s.Call.FuncID, end)
		}
		if s.Result != nil {
			s.Call.Result = faas.ResultKept
		}
		d.Journal.Record(s.Call)
	}
	if len(s.Deliveries) > 0 && d.Delivering != nil {
		d.Delivering()
	}
}

// Settle implements invoke.Queue.
func (d *Dispatcher) Settle(ctx context.Context, s store.Settlement) error {
	_, err := d.settle(ctx, s)
	return err
}

// settle brings a settlement into the store, and returns it as it is kept. While the
// store cannot keep it, it tries again, until the node drains: what a function has
// done is not thrown away. A result that is lost on the way, to a disk that fails,
// is no success: the call runs again, if it may.
func (d *Dispatcher) settle(ctx context.Context, s store.Settlement) (store.Settlement, error) {
	for told := false; ; told = true {
		err := d.Calls.Settle(ctx, s)
		kind := faas.KindOf(err)
		if err == nil || kind == faas.Conflict || kind == faas.Invalid || ctx.Err() != nil {
			return s, err
		}
		if !told {
			d.Log.Error("what became of a call cannot be kept yet, trying again", "call", s.Call.ID, "err", err, "in", retryEvery)
		}
		if kind != faas.Busy && s.Result != nil { // its body is gone
			s = withoutResult(s)
			d.tellAgain(s, againText(s))
		}
		if d.isDraining() {
			if s.Result != nil {
				s.Result.Body.Discard()
			}
			return s, err // it runs again after the next start
		}
		rest(ctx, retryEvery)
	}
}

// Limits of calls whose results are lost.
const (
	mostUnkept  = 5 // failures
	unkeptDelay = time.Minute
)

// withoutResult is what follows when the result of a call is lost.
func withoutResult(s store.Settlement) store.Settlement {
	err := faas.Errorf(faas.Internal, "its result could not be kept")
	s.Result, s.Deliveries, s.Call.Delivery = nil, nil, ""
	s.Call.Error, s.Call.ErrKind = err.Error(), faas.Internal
	s.Call.Failures++
	if s.Call.Once || s.Call.Kind == faas.CallSync || s.Call.Failures >= mostUnkept {
		s.Call.State, s.KeepPayload = faas.CallFailed, true
		return s
	}
	s.Call.State, s.Delay = faas.CallQueued, unkeptDelay
	s.Call.Started, s.Call.Finished = time.Time{}, time.Time{}
	return s
}

// rescueText tells the log why a call is in the queue again.
func rescueText(delay time.Duration, begun bool) string {
	switch {
	case !begun:
		return "again: the node died before it ran"
	case delay > 0:
		return fmt.Sprintf("again in %v: the node died while it ran", delay)
	}
	return "again: the node died while it ran"
}

// rescuers is how many calls are put back at once, so that they share transactions.
const rescuers = 64

// rescue decides about the calls that earlier runs of the daemon had taken.
func (d *Dispatcher) rescue(ctx context.Context) error {
	lost, err := d.Calls.Lost(ctx, d.Owner)
	if err != nil {
		return err
	}
	lost = slices.DeleteFunc(lost, func(c faas.Call) bool { return d.outside[c.ID] != nil })
	var begun map[string]bool
	known := false
	if d.Marks != "" {
		if d.marks, begun, known, err = openMarks(d.Marks); err != nil {
			return err
		}
	}
	var g errgroup.Group
	g.SetLimit(rescuers)
	for _, call := range lost {
		g.Go(func() error {
			fn, _ := d.Definitions.FunctionByID(call.FuncID) // without one: its calls are canceled below
			begun := call.Kind == faas.CallSync || !known || begun[call.ID]
			v := decideLost(call, begun)
			if begun {
				call.Losses++
			}
			s := settlement(fn, call, v, d.Calls.Now())
			d.tellAgain(s, rescueText(v.delay, begun))
			if err := d.Settle(ctx, s); err != nil {
				return fmt.Errorf("rescue call %s: %w", call.ID, err)
			}
			d.tell(s, endOf(fn, s, nil))
			if call.Kind == faas.CallSync {
				d.Journal.Record(s.Call) // nobody else can
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if d.marks != nil {
		if err := d.marks.reset(); err != nil { // then it says nothing, and that is safe
			d.Log.Warn("which calls begin cannot be noted", "err", err)
		}
	}
	if len(lost) > 0 {
		d.Log.Info("calls of a daemon that died were rescued", "calls", len(lost))
	}
	return nil
}

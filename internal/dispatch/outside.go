package dispatch

import (
	"cmp"
	"container/list"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Outside is the owner of calls that an outside runner has: no run of a daemon. They
// are calls of apps that are faas.App.External.
//
//	queued ----Reserve----> running ----End----> as any attempt ends
//	   ^                       |
//	   +---the time is over----+   at its old place, with one attempt more
//
// The store knows whose a call is and since when, so that a reservation goes on when
// the daemon ends, however it does. Which one it is, the number of the attempt says.
const Outside = "outside"

// Lease is how long a call is reserved, unless Dispatcher.Lease says otherwise.
const Lease = time.Minute

// reservation is a call that an outside runner has.
type reservation struct {
	call     faas.Call  // as it was taken
	settling sync.Mutex // held by who ends it; before Dispatcher.mu
	told     bool       // that it goes back, though the store could not keep it; guarded by settling

	until time.Time     // by the store's clock; guarded by Dispatcher.mu, as all below
	cause error         // why it ends then; nil: its time is over
	at    *list.Element // of Dispatcher.leases
}

// Reserve takes the first call that is due, over all functions whose calls outside
// runners take, for one of them; false if there is none. Unless it is ended (End)
// within the time of a reservation, it goes back to its place.
func (d *Dispatcher) Reserve(ctx context.Context) (call faas.Call, ok bool, err error) {
	if d.isDraining() {
		return faas.Call{}, false, nil
	}
	if err := d.loaded(ctx); err != nil {
		return faas.Call{}, false, err
	}
	functions := d.outsideLine()
	if len(functions) == 0 {
		return faas.Call{}, false, nil
	}
	taken, _, err := d.Calls.Take(ctx, Outside, []store.Lane{{Functions: functions, Limit: 1}})
	if err != nil || len(taken) == 0 {
		return faas.Call{}, false, err
	}
	if d.Events != nil { // before it can end
		d.Events.Event(taken[0].FuncID, faas.Event{Name: faas.EventRunning, Call: taken[0].ID, Attempt: taken[0].Attempt})
	}
	d.reserved(taken[0])
	return taken[0], true, nil
}

// loaded waits until what earlier runs of the daemon have left is known.
func (d *Dispatcher) loaded(ctx context.Context) error {
	select {
	case <-d.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// outsideLine returns the functions whose calls are in the one line of those that
// outside runners take.
func (d *Dispatcher) outsideLine() (functions []string) {
	d.mu.Lock()
	for id, l := range d.lines {
		if l.more || l.later { // else none of its calls is queued
			functions = append(functions, id)
		}
	}
	d.mu.Unlock()
	return slices.DeleteFunc(functions, func(id string) bool {
		_, app, err := d.definition(id)
		return err != nil || !app.External()
	})
}

// reserved notes a call that an outside runner has.
func (d *Dispatcher) reserved(call faas.Call) {
	d.mu.Lock()
	r := &reservation{call: call, until: call.Started.Add(d.lease())}
	d.outside[call.ID] = r
	r.at = d.leases.PushBack(r) // all are equally long
	first := d.leases.Front() == r.at
	d.mu.Unlock()
	if first {
		signal(d.lapsing)
	}
}

// reservation returns that of a call which may be ended as the given attempt, 0 being
// the present one; else why it may not.
func (d *Dispatcher) reservation(ctx context.Context, id string, attempt int) (*reservation, error) {
	if err := d.loaded(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	r := d.outside[id]
	d.mu.Unlock()
	if r != nil && (attempt == 0 || attempt == r.call.Attempt) {
		return r, nil
	}
	call, err := d.Calls.Call(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case call.State.Final():
		return nil, faas.Errorf(faas.Conflict, "call %s is over: it is %s", id, call.State)
	case r != nil && attempt < r.call.Attempt:
		return nil, faas.Errorf(faas.Conflict, "reservation %d of call %s ran out after %v, and another runner has the call: it is at reservation %d", attempt, id, d.lease(), r.call.Attempt)
	case attempt > call.Attempt:
		return nil, faas.Errorf(faas.Conflict, "call %s has no reservation %d: it is at %d", id, attempt, call.Attempt)
	case call.State == faas.CallQueued && call.Attempt > 0:
		return nil, faas.Errorf(faas.Conflict, "call %s is not reserved any more: its reservation ran out after %v, and it is in line again", id, d.lease())
	}
	return nil, faas.Errorf(faas.Conflict, "call %s is not reserved: it is %s", id, call.State)
}

// End ends a reservation as its runner says: with nil the call has succeeded, else it
// ends as one whose function ended with err, and may be tried again. The attempt is
// that of the reservation; 0: of the present one, whoever has it.
//
// NotFound if there is no such call, Conflict if it is not reserved (any more), or
// another runner has it.
func (d *Dispatcher) End(ctx context.Context, id string, attempt int, err error) error {
	r, wrong := d.reservation(ctx, id, attempt)
	if wrong != nil {
		return wrong
	}
	fn, _ := d.Definitions.FunctionByID(r.call.FuncID) // without one: it is over as it is
	return d.settleOutside(ctx, fn, r, decide(fn, r.call, err, false))
}

// Release puts a call back that was reserved and could not be handed over.
func (d *Dispatcher) Release(id string) {
	d.lapseNow(id, faas.Errorf(faas.Busy, "it could not be handed to the outside runner that asked for it"))
}

// lapseNow ends a reservation in the background; false if there is none.
func (d *Dispatcher) lapseNow(id string, cause error) bool {
	d.mu.Lock()
	r := d.outside[id]
	if r != nil {
		r.until, r.cause = time.Time{}, cause
		d.leases.MoveToFront(r.at)
	}
	d.mu.Unlock()
	signal(d.lapsing)
	return r != nil
}

// settleOutside ends a reservation. Conflict if it has ended.
func (d *Dispatcher) settleOutside(ctx context.Context, fn faas.Function, r *reservation, v verdict) error {
	r.settling.Lock()
	defer r.settling.Unlock()
	if !d.isReserved(r) {
		return faas.Errorf(faas.Conflict, "call %s is not reserved any more", r.call.ID)
	}
	call, now := r.call, d.Calls.Now()
	call.Queue, call.Run = max(0, call.Started.Sub(call.Due)), max(0, now.Sub(call.Started))
	call.Outcome.Start = faas.StartOutside
	s := settlement(fn, call, v, now)
	if v.state == faas.CallSucceeded {
		s.Result = &store.NewResult{Status: http.StatusOK} // a runner answers nothing
	}
	if !r.told {
		d.tellAgain(s, againText(s))
		r.told = true
	}
	err := d.Calls.Settle(ctx, s)
	var cause error // that came meanwhile
	if err == nil || faas.KindOf(err) == faas.Conflict {
		d.mu.Lock()
		cause = r.cause
		if d.outside[call.ID] == r { // else another runner has it by now
			delete(d.outside, call.ID)
		}
		d.leases.Remove(r.at)
		d.mu.Unlock()
	}
	if err != nil {
		return err
	}
	d.tell(s, endOf(fn, s, nil))
	if v.state == faas.CallQueued {
		d.add(call.FuncID)
		d.cancelAgain(ctx, call.ID, cause)
	}
	return nil
}

// isReserved reports whether r has not ended.
func (d *Dispatcher) isReserved(r *reservation) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.outside[r.call.ID] == r
}

// lapses ends the reservations whose time is over, or that are to end, until ctx
// ends.
func (d *Dispatcher) lapses(ctx context.Context) {
	for ctx.Err() == nil {
		over, next := d.lapsed()
		for _, r := range over {
			fn, err := d.Definitions.FunctionByID(r.call.FuncID)
			v := decideLapsed(r.call, r.cause, d.lease())
			if err != nil {
				v = verdict{state: faas.CallCanceled, err: faas.Errorf(faas.Canceled, removedText)}
			}
			if err := d.settleOutside(ctx, fn, r.reservation, v); err != nil && faas.KindOf(err) != faas.Conflict {
				d.failed(ctx, err)
			}
		}
		if len(over) > 0 {
			continue
		}
		var alarm <-chan time.Time
		if next > 0 {
			alarm = time.After(next)
		}
		select {
		case <-alarm:
		case <-d.lapsing:
		case <-ctx.Done():
		}
	}
}

// lapse is a reservation that is over, with the reason as it was then.
type lapse struct {
	*reservation
	cause error
}

// lapsed returns the reservations that are over, and the time until the next one
// is; 0 if there is none.
func (d *Dispatcher) lapsed() (over []lapse, next time.Duration) {
	now := d.Calls.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := d.leases.Front(); at != nil; at = at.Next() {
		r := at.Value.(*reservation)
		if left := r.until.Sub(now); left > 0 {
			return over, left
		}
		over = append(over, lapse{r, r.cause})
	}
	return over, 0
}

// errOutside is why a call goes back that was taken out of the queue and has no
// sandbox yet when its app is given to outside runners.
var errOutside = faas.Errorf(faas.Busy, "outside runners take the calls of its app now")

// AppChanged says that an app is, or may be, another than before: whether outside
// runners take its calls counts from now on.
func (d *Dispatcher) AppChanged(app faas.App) {
	d.mu.Lock()
	if app.External() {
		for _, h := range d.taken {
			if h.app == app.ID && !h.begun && !h.call.Once { // it may begin in this moment, and then it runs twice
				h.end(errOutside)
			}
		}
	}
	d.mu.Unlock()
	signal(d.wake)
}

// forOutside reports whether outside runners take the calls of fn.
func (d *Dispatcher) forOutside(fn faas.Function) bool {
	app, err := d.Definitions.AppByID(fn.App)
	return err == nil && app.External()
}

// lease is how long a call is reserved.
func (d *Dispatcher) lease() time.Duration { return cmp.Or(d.Lease, Lease) }

// Counts returns how many calls outside runners have, and how many calls that were in
// the queue have ended since the daemon began.
func (d *Dispatcher) Counts() (outside int, ended int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.outside), d.ended.Load()
}

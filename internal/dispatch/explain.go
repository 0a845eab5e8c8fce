package dispatch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"hob/faas"
)

// Explain fills in a queued call's Place, what it waits for, and for how long that
// may be: by what calls of its function took lately. What cannot be found out is
// left empty. Of a call that runs it tells if an outside runner has it.
func (d *Dispatcher) Explain(ctx context.Context, call *faas.Call) {
	if call.State == faas.CallRunning {
		*call = d.running(*call)
	}
	if call.State != faas.CallQueued {
		return
	}
	fn, app, functions := d.lane(call.FuncID)
	if fn.ID == "" {
		return
	}
	handed := d.waiting(functions)
	if i := slices.IndexFunc(handed, func(c faas.Call) bool { return c.ID == call.ID }); i >= 0 {
		d.explain(call, fn, app, i+1, false)
		return
	}
	place, about, err := d.Calls.Place(ctx, call.ID, functions)
	if err != nil || place == 0 {
		return
	}
	d.explain(call, fn, app, len(handed)+place, about)
}

// waiting returns the calls of functions that were taken and have no sandbox yet, in
// their order: for their callers they are the first in line.
func (d *Dispatcher) waiting(functions []string) []faas.Call {
	d.mu.Lock()
	defer d.mu.Unlock()
	var some []*held
	for _, h := range d.taken {
		if !h.begun && slices.Contains(functions, h.call.FuncID) {
			some = append(some, h)
		}
	}
	slices.SortFunc(some, func(a, b *held) int { return cmp.Compare(a.order, b.order) })
	calls := make([]faas.Call, 0, len(some))
	for _, h := range some {
		calls = append(calls, asQueued(h.call))
	}
	return calls
}

// asQueued is a call that was taken as its users see it while it has no sandbox.
func asQueued(c faas.Call) faas.Call {
	c.State, c.Started = faas.CallQueued, time.Time{}
	return c
}

// explainNew is Explain for a call that was accepted just now. Where it is the last
// of its line, which is nearly always, that costs no look into the database, and no
// wait for others who write to it.
func (d *Dispatcher) explainNew(ctx context.Context, call *faas.Call) {
	fn, app, functions := d.lane(call.FuncID)
	if fn.ID == "" {
		return
	}
	place, last := 0, call.Priority == 0 && !call.Due.After(call.Queued) && !app.External()
	for _, id := range functions {
		place += d.tally(id, d.Calls.Known(id)).Queued
		d.mu.Lock()
		last = last && !d.line(id).later
		d.mu.Unlock()
	}
	switch {
	case !last:
		d.Explain(ctx, call)
	case place > 0: // else it has begun
		d.explain(call, fn, app, place, false)
	}
}

// lane is a function, its app, and the functions whose calls are in one line with
// its own.
func (d *Dispatcher) lane(function string) (fn faas.Function, app faas.App, functions []string) {
	fn, err := d.Definitions.FunctionByID(function)
	if err != nil {
		return faas.Function{}, faas.App{}, nil
	}
	app, err = d.Definitions.AppByID(fn.App)
	switch {
	case err == nil && app.External():
		return fn, app, d.outsideLine()
	case err != nil || app.MaxConcurrency <= 0:
		return fn, app, []string{function}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.lines {
		if other, err := d.Definitions.FunctionByID(id); err == nil && other.App == fn.App {
			functions = append(functions, id)
		}
	}
	return fn, app, functions
}

func (d *Dispatcher) explain(call *faas.Call, fn faas.Function, app faas.App, place int, about bool) {
	d.mu.Lock()
	l := d.line(fn.ID)
	mean, here := l.mean, l.here
	if app.MaxConcurrency > 0 {
		here = d.apps[app.ID]
	}
	d.mu.Unlock()

	at := "place " + strconv.Itoa(place)
	if about {
		at = "about " + at
	}
	call.Place = place
	before := place - 1 // that have to end, or at least begin, until it starts
	limit := cmp.Or(app.MaxConcurrency, fn.MaxConcurrency)
	left := call.Due.Sub(d.Calls.Now())
	if left > 0 {
		call.Waiting = fmt.Sprintf("it is due in %v", left.Round(time.Second))
		if call.Error != "" {
			call.Waiting += fmt.Sprintf(", after attempt %d: %s", call.Attempt, call.Error)
		}
		call.Place, call.Estimate = 0, left
		return
	}
	if app.External() {
		call.Waiting = at + " in line, for an outside runner to take it (GET /tasks)"
		return
	}
	if d.Holds {
		call.Waiting = "this node runs no calls: its node-type is api"
		return
	}
	call.Waiting = at + " in " + lineOf(fn, app)
	if limit > 0 {
		before = place - max(0, limit-here)
	}
	call.Estimate = (time.Duration(max(0, before)) * mean / time.Duration(max(1, limit, here))).Round(time.Millisecond)
}

// lineOf is what the calls of a function wait in, in words.
func lineOf(fn faas.Function, app faas.App) string {
	switch {
	case app.MaxConcurrency > 0:
		return fmt.Sprintf("the line of the app %s: it may run %s at once", app.Name, calls(app.MaxConcurrency))
	case fn.MaxConcurrency > 0:
		return fmt.Sprintf("the line of the function: it may run %s at once", calls(fn.MaxConcurrency))
	}
	return "the line of the function: it runs as many as there is memory for"
}

func calls(n int) string {
	if n == 1 {
		return "1 call"
	}
	return strconv.Itoa(n) + " calls"
}

// Line implements invoke.Queue: each call has its place among those of its own line.
func (d *Dispatcher) Line(ctx context.Context, functions []faas.Function, limit int) ([]faas.Call, error) {
	ids := make([]string, 0, len(functions))
	for _, fn := range functions {
		ids = append(ids, fn.ID)
	}
	queued, err := d.Calls.Line(ctx, ids, limit)
	if err != nil {
		return nil, err
	}
	handed := d.waiting(ids)
	queued = append(handed, queued...)
	queued = queued[:min(len(queued), limit)]
	places := make(map[string]int) // by function, or by app where that is the line; Outside
	for i := range queued {
		fn, app, _ := d.lane(queued[i].FuncID)
		if fn.ID == "" {
			continue
		}
		key := fn.ID
		switch {
		case app.External():
			key = Outside
		case app.MaxConcurrency > 0:
			key = app.ID
		}
		if places[key] == 0 { // others of the line may be before it that were not asked for
			first := queued[i]
			d.Explain(ctx, &first)
			places[key] = max(1, first.Place) - 1
		}
		places[key]++
		d.explain(&queued[i], fn, app, places[key], false)
	}
	return queued, nil
}

package dispatch

import (
	"context"
	"slices"

	"hob/faas"
	"hob/internal/store"
)

// View is the store of calls as their users see it: a call that was taken out of the
// queue and has no sandbox yet still waits.
func (d *Dispatcher) View() store.Calls { return view{d.Calls, d} }

type view struct {
	store.Calls
	d *Dispatcher
}

// Tally implements store.Calls.
func (v view) Tally(ctx context.Context, function string) (store.Tally, error) {
	t, err := v.Calls.Tally(ctx, function)
	return v.d.tally(function, t), err
}

// tally is one of the store as users see it.
func (d *Dispatcher) tally(function string, t store.Tally) store.Tally {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lines[function]; l != nil {
		waiting := min(l.here-l.begun, t.Running) // one is taken, or settled, in this moment
		t.Running -= waiting
		t.Queued += waiting
	}
	return t
}

// Call implements store.Calls.
func (v view) Call(ctx context.Context, id string) (faas.Call, error) {
	call, err := v.Calls.Call(ctx, id)
	return v.seen(call), err
}

// List implements store.Calls.
func (v view) List(ctx context.Context, f store.CallFilter) (calls []faas.Call, next string, err error) {
	calls, next, err = v.Calls.List(ctx, f)
	for i := range calls {
		calls[i] = v.seen(calls[i])
	}
	return slices.DeleteFunc(calls, func(c faas.Call) bool {
		return len(f.States) > 0 && !slices.Contains(f.States, c.State)
	}), next, err
}

func (v view) seen(c faas.Call) faas.Call {
	if c.State != faas.CallRunning {
		return c
	}
	return v.d.running(c)
}

// running is a call that runs as its users see it.
func (d *Dispatcher) running(c faas.Call) faas.Call {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.taken[c.ID]; h != nil && !h.begun {
		return asQueued(c)
	}
	if d.outside[c.ID] != nil {
		c.Outcome.Start = faas.StartOutside
	}
	return c
}

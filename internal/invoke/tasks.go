package invoke

import (
	"context"
	"fmt"
	"io"
	"time"

	"hob/faas"
)

// MaxTaskPayload is the largest payload of a call that an outside runner takes.
const MaxTaskPayload = 8 * faas.MB

// A Task is a call that an outside runner has taken, with what it needs to run it.
type Task struct {
	Call     faas.Call // its Attempt names the reservation
	Function faas.Function
	Route    string // path inside the app that was called; "": none
	Payload  []byte
	Env      []string // "NAME=value", as the function would find it; a later value of a name wins
}

// Reserve gives an outside runner the first call that is due of the apps that are
// faas.App.External; nil if there is none. It is the runner's for the time of a
// reservation, and then in line again.
func (i *Invoker) Reserve(ctx context.Context) (*Task, error) {
	for {
		call, ok, err := i.Queue.Reserve(ctx)
		if err != nil || !ok {
			return nil, err
		}
		task, err := i.task(ctx, call)
		switch kind := faas.KindOf(err); {
		case err == nil:
			return task, nil
		case ctx.Err() != nil || kind == faas.Busy:
			i.Queue.Release(call.ID)
			return nil, err
		case kind == faas.Internal: // in its place it would stop the line
			i.Log.Error("a call cannot be given to an outside runner", "call", call.ID, "function", call.Function, "err", err)
			err = faas.Errorf(faas.Internal, "internal error")
		}
		if err := i.Queue.End(ctx, call.ID, call.Attempt, err); err != nil { // it can be handed to nobody
			return nil, err
		}
	}
}

// task is a reserved call with what is to be known of it.
func (i *Invoker) task(ctx context.Context, call faas.Call) (*Task, error) {
	fn, err := i.Apps.FunctionByID(call.FuncID)
	if err != nil {
		return nil, faas.Errorf(faas.Canceled, "call %s: %w", call.ID, err) // it was removed meanwhile
	}
	app, err := i.Apps.AppByID(fn.App)
	if err != nil {
		return nil, faas.Errorf(faas.Canceled, "call %s: %w", call.ID, err)
	}
	req, err := i.Calls.Request(ctx, call.ID)
	if err != nil {
		return nil, fmt.Errorf("payload of call %s: %w", call.ID, err)
	}
	defer req.Body.(io.Closer).Close()
	if req.Size > int64(MaxTaskPayload) { // it was accepted before its app had outside runners
		return nil, faas.Errorf(faas.TooLarge, "the payload of %v is over the limit of %v for calls that outside runners take", faas.Bytes(req.Size), MaxTaskPayload)
	}
	payload := make([]byte, req.Size)
	if _, err := io.ReadFull(req.Body, payload); err != nil {
		return nil, fmt.Errorf("payload of call %s: %w", call.ID, err)
	}
	req.Call, req.Attempt = call.ID, call.Attempt
	env, err := environment(app, fn, req, deadline(fn, &call, time.Now()))
	if err != nil {
		return nil, err
	}
	return &Task{Call: call, Function: fn, Route: req.Route, Payload: payload, Env: env}, nil
}

// EndTask ends a reserved call as its runner says: with nil it has succeeded. The
// attempt is that of the reservation; 0: of the present one, whoever has it. NotFound
// if there is no such call, Conflict if it is not reserved, or another has it.
func (i *Invoker) EndTask(ctx context.Context, id string, attempt int, err error) error {
	return i.Queue.End(ctx, id, attempt, err)
}

// Counts are how many calls there are.
type Counts struct {
	Waiting int   // in the queue, or for a sandbox
	Running int   // here, or at outside runners
	Ended   int64 // since the daemon began
}

// Counts counts the calls of this node: first what is over, then what runs, then what
// waits, so that no call is counted twice that moves on meanwhile.
func (i *Invoker) Counts(ctx context.Context) (Counts, error) {
	outside, ended := i.Queue.Counts()
	n := i.liveCounts()
	n.Running += outside
	n.Ended += ended
	tallies, err := i.Calls.Tallies(ctx)
	if err != nil {
		return Counts{}, err
	}
	for _, t := range tallies {
		n.Waiting += t.Queued
	}
	return n, nil
}

// liveCounts counts the calls that are live, and those that were and are not recorded
// by the queue.
func (i *Invoker) liveCounts() (n Counts) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n.Ended = i.ended.Load()
	for _, l := range i.live {
		switch l.call.State {
		case faas.CallRunning:
			n.Running++
		case faas.CallQueued:
			n.Waiting++
		}
	}
	return n
}

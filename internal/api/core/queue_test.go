package core_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// queue stands for what runs asynchronous calls, over a real store. What a
// function is called decides what becomes of its calls: those of "waits" stay
// in line, those of "runs" go on, the others are over when they are accepted.
type queue struct{ calls store.Calls }

const here = "this daemon"

func (q *queue) Enqueue(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error) {
	if fn.Name == "full" {
		return faas.Call{}, faas.Errorf(faas.Busy, "write database: no space left on device")
	}
	body := q.calls.NewBody()
	if _, err := io.Copy(body, req.Body); err != nil {
		body.Discard()
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			err = faas.Errorf(faas.TooLarge, "the payload is over the limit of %v", faas.Bytes(tooLarge.Limit))
		}
		return faas.Call{}, err
	}
	payload, _ := body.Bytes()
	a := store.Acceptance{Call: *call, Delay: max(delay, 0), Request: req, Body: body}
	if req.Key != "" {
		a.Key = &store.Key{Function: fn.ID, Caller: req.Caller, Key: req.Key, Hash: string(payload)}
	}
	accepted, known, err := q.calls.Accept(ctx, a)
	if err != nil || known || fn.Name == "waits" {
		return q.placed(ctx, accepted), err
	}
	return accepted, q.run(ctx, fn, accepted, payload)
}

func (q *queue) run(ctx context.Context, fn faas.Function, call faas.Call, payload []byte) error {
	taken, _, err := q.calls.Take(ctx, here, []store.Lane{{Functions: []string{fn.ID}, Limit: 1}})
	if err != nil || fn.Name == "runs" || len(taken) == 0 {
		return err
	}
	if fn.Name == "broken" {
		return q.end(ctx, taken[0], nil, faas.Errorf(faas.FuncFailed, "exit code 3: no such picture"))
	}
	return q.end(ctx, taken[0], bytes.ToUpper(payload), nil)
}

// end ends a call that runs.
func (q *queue) end(ctx context.Context, call faas.Call, answer []byte, failure error) error {
	s := store.Settlement{Call: call}
	if failure != nil {
		s.Call.Error, s.Call.ErrKind, s.KeepPayload = failure.Error(), faas.KindOf(failure), true
	} else {
		s.Call.Outcome.Status = http.StatusCreated
		s.Result = &store.NewResult{Status: http.StatusCreated, Header: http.Header{
			"Content-Type": {"text/plain"}, "X-Own": {"a", "b"}, "Hob-Call": {"of my own"}, "Hob-State": {"queued"}, "Content-Length": {"7"}, "Connection": {"close"},
		}, Body: q.calls.NewBody()}
		s.Result.Body.Write(answer)
	}
	if err := s.Call.Advance(faas.StateAfter(failure), time.Now()); err != nil {
		return err
	}
	return q.calls.Settle(ctx, s)
}

func (q *queue) placed(ctx context.Context, c faas.Call) faas.Call {
	if c.State == faas.CallQueued {
		c.Place, _, _ = q.calls.Place(ctx, c.ID, []string{c.FuncID})
		c.Waiting, c.Estimate = fmt.Sprintf("number %d in the queue of its function", c.Place), 2*time.Second
	}
	return c
}

func (q *queue) Find(ctx context.Context, id string) (faas.Call, error) {
	live := (&functions{}).Live()
	if i := slices.IndexFunc(live, func(c faas.Call) bool { return c.ID == id }); i >= 0 {
		return live[i], nil
	}
	c, err := q.calls.Call(ctx, id)
	return q.placed(ctx, c), err
}

func (q *queue) Queued(ctx context.Context, functions []faas.Function, limit int) ([]faas.Call, error) {
	var ids []string
	for _, fn := range functions {
		ids = append(ids, fn.ID)
	}
	line, err := q.calls.Line(ctx, ids, limit)
	for i, c := range line {
		line[i] = q.placed(ctx, c)
	}
	return line, err
}

func (q *queue) Cancel(ctx context.Context, id, reason string) (faas.Call, error) {
	c, err := q.calls.Cancel(ctx, id, reason)
	if c.State == faas.CallRunning {
		return c, nil // it is told to end
	}
	return c, err
}

func (q *queue) Retry(ctx context.Context, id string) (faas.Call, error) {
	old, err := q.calls.Call(ctx, id)
	if err != nil {
		return faas.Call{}, err
	}
	if !old.State.Final() || old.State == faas.CallSucceeded {
		return faas.Call{}, faas.Errorf(faas.Conflict, "call %s is %s: only one that did not succeed can be run again", id, old.State)
	}
	req, err := q.calls.Request(ctx, id)
	if err != nil {
		return faas.Call{}, err
	}
	again := faas.Call{ID: faas.NewID(), App: old.App, Function: old.Function, FuncID: old.FuncID, Revision: old.Revision,
		Kind: faas.CallAsync, State: faas.CallQueued, Priority: old.Priority, RetryOf: id}
	body := q.calls.NewBody()
	io.Copy(body, req.Body)
	again, _, err = q.calls.Accept(ctx, store.Acceptance{Call: again, Request: req, Body: body})
	return q.placed(ctx, again), err
}

package invoke

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Queue is what invoke needs of package dispatch.
type Queue interface {
	// Accept is store.Calls.Accept; who starts queued calls learns of this one. A
	// call that waits is explained, its place being how many wait with it. A call
	// that runs at once belongs to this node.
	Accept(ctx context.Context, a store.Acceptance) (call faas.Call, known bool, err error)
	// Settle is store.Calls.Settle, and does not give up while the disk is full.
	Settle(ctx context.Context, s store.Settlement) error
	// Stop ends a call that was taken out of the queue, wherever it is on its way;
	// false if there is none.
	Stop(id string, cause error) bool
	// Explain fills in what a queued call waits for, and for how long, and who runs
	// one that does not run here.
	Explain(ctx context.Context, call *faas.Call)
	// Line returns the calls of these functions that are in the queue, in the order
	// in which they are to start, explained.
	Line(ctx context.Context, functions []faas.Function, limit int) ([]faas.Call, error)

	// Reserve, End and Release are for outside runners: they take a call, end it as
	// they say, and give it back unused. Counts returns how many calls they have, and
	// how many that were in the queue have ended.
	Reserve(ctx context.Context) (call faas.Call, ok bool, err error)
	End(ctx context.Context, id string, attempt int, err error) error
	Release(id string)
	Counts() (outside int, ended int64)
}

// Enqueue accepts an asynchronous call: when it returns nil, call and payload are
// durable, and it will be run. call is one of NewCall, with its Priority; delay is
// the least time before it starts, negative: the function's. The answer is the
// call as it is kept, or the earlier one of the same key, which may be over.
//
// The error is Busy if the node is shutting down, or has no room on its disk, and
// Conflict that wraps faas.ErrKeyReused if the key stands for another request;
// what reading the payload failed with comes back as it is.
func (i *Invoker) Enqueue(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error) {
	a, err := i.acceptance(fn, call, req)
	if err != nil {
		return faas.Call{}, err
	}
	if a.Delay = delay; delay < 0 {
		a.Delay = fn.Delay
	}
	a.Call.Once = fn.OnNodeLoss == faas.NodeLossFail
	received := faas.Event{Name: faas.EventCall}
	if fn.LogPayload {
		received.Stdin = a.Body.Begin()
	}
	i.event(call, received) // before it can start
	i.event(call, faas.Event{Name: faas.EventPending})
	kept, known, err := i.Queue.Accept(ctx, a)
	switch {
	case err != nil:
		i.event(call, faas.Event{Name: faas.EventFailed, Message: "it was not accepted"})
	case known:
		i.event(call, faas.Event{Name: faas.EventFailed, Message: "it repeats call " + kept.ID + ", which has its key"})
	}
	if err != nil {
		return faas.Call{}, fmt.Errorf("call %s: %w", fn.Name, err)
	}
	return kept, nil
}

// acceptance is a call with the whole of its payload.
func (i *Invoker) acceptance(fn faas.Function, call *faas.Call, req *faas.Request) (store.Acceptance, error) {
	var none store.Acceptance
	i.mu.Lock()
	draining := i.draining
	i.mu.Unlock()
	if draining {
		return none, errDraining
	}
	if req.Header.Get("Upgrade") != "" {
		return none, faas.Errorf(faas.Invalid, "an asynchronous call, and one with a key, cannot be upgraded to another protocol: leave out the header Upgrade")
	}
	if i.Room != nil {
		if err := i.Room(); err != nil {
			return none, faas.Errorf(faas.Busy, "call %s: it cannot be kept: %w", fn.Name, err)
		}
	}
	app, err := i.Apps.AppByID(fn.App)
	if err != nil {
		return none, err
	}
	req.Call = call.ID
	if variables(fn, req) {
		if _, err := environment(app, fn, req, time.Time{}); err != nil {
			return none, err
		}
	}
	body := i.Calls.NewBody()
	to := io.Writer(body)
	var hash hash.Hash // of the request, if it has a key
	if req.Key != "" {
		hash = sha256.New()
		fmt.Fprintf(hash, "%s %s %s\n", req.Method, req.Target, host(req))
		to = io.MultiWriter(body, hash)
	}
	from := req.Body
	if call.Kind == faas.CallAsync && app.External() {
		from = http.MaxBytesReader(nil, io.NopCloser(from), int64(MaxTaskPayload))
	}
	if _, err := io.Copy(to, from); err != nil {
		body.Discard()
		return none, payloadError(err)
	}
	a := store.Acceptance{Call: *call, Request: req, Body: body}
	if req.Key != "" {
		a.Key = &store.Key{Function: fn.ID, Caller: callerOf(req), Key: req.Key, Hash: hex.EncodeToString(hash.Sum(nil))}
	}
	return a, nil
}

// callerOf is whose the key of a request is: who asks from the same address with
// other credentials, as behind a proxy, is another caller, who gets no answer that
// was meant for the first. Credentials are kept as a hash only.
func callerOf(req *faas.Request) string {
	hash, has := sha256.New(), false
	for _, name := range []string{"Authorization", "Cookie"} {
		for _, name := range []string{name, "Fn-Http-H-" + name} { // as a trigger of Fn hands it on
			if values := req.Header[name]; len(values) > 0 {
				fmt.Fprintf(hash, "%s %q\n", name, values)
				has = true
			}
		}
	}
	if !has {
		return req.Caller
	}
	return req.Caller + " " + hex.EncodeToString(hash.Sum(nil))
}

// host is the host that a request names, without port; "" if it is not known.
func host(req *faas.Request) string {
	u, err := url.Parse(req.URL)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// payloadError is why a payload could not be read.
func payloadError(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return faas.Errorf(faas.TooLarge, "the payload is over the limit of %v", faas.Bytes(tooLarge.Limit))
	}
	_, decided := errors.AsType[*faas.Error](err)
	if _, disk := errors.AsType[*fs.PathError](err); decided || disk {
		return err
	}
	return faas.Errorf(faas.Canceled, "the caller left in the middle of the payload: %w", err)
}

// idempotent runs a synchronous call whose key no other call has; else it waits for
// that one and answers as it did. The answer is kept before the caller gets it,
// and so it is not streamed.
func (i *Invoker) idempotent(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	a, err := i.acceptance(fn, call, req)
	if err != nil {
		return err
	}
	a.Call.State, a.Call.Once = faas.CallRunning, true
	kept, known, err := i.Queue.Accept(ctx, a)
	switch {
	case err != nil:
		return fmt.Errorf("call %s: %w", fn.Name, err)
	case known:
		*call = kept // what the caller is told of
		w.Header().Set(HeaderReplayed, "true")
		return i.replay(ctx, kept.ID, w)
	}
	ctx = context.WithoutCancel(ctx) // a caller that leaves may ask again: the call goes on
	rec := store.NewRecorder(i.Calls.NewBody(), cmp.Or(fn.MaxResult, i.MaxResult))
	err = i.runKept(ctx, fn, call, req, rec)
	s := store.Settlement{Call: *call, Result: rec.Result()}
	s.Call.State, s.Call.Attempt = faas.StateAfter(err), kept.Attempt
	if err != nil {
		rec.Discard()
		s.Result, s.Call.Error, s.Call.ErrKind = nil, err.Error(), faas.KindOf(err)
		if rec.Error(nil) != nil && s.Call.ErrKind == faas.Busy { // it has run
			s.Call.ErrKind = faas.FuncFailed
		}
		if s.Call.ErrKind == faas.Internal {
			s.Call.Error = "internal error" // the operator reads the daemon's log
		}
		s.ForgetKey = s.Call.ErrKind == faas.Busy || s.Call.ErrKind == faas.Canceled || call.Started.IsZero()
	}
	if settled := i.Queue.Settle(ctx, s); err == nil && settled != nil {
		return fmt.Errorf("keep the answer of call %s: %w", fn.Name, settled)
	}
	if err != nil {
		return err
	}
	return i.replay(ctx, call.ID, w)
}

// runKept runs a call with the payload that was kept of it.
func (i *Invoker) runKept(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, rec *store.Recorder) error {
	kept, err := i.Calls.Request(ctx, call.ID)
	if err != nil {
		return fmt.Errorf("payload of call %s: %w", call.ID, err)
	}
	defer kept.Body.(io.Closer).Close()
	req.Body, req.Size = kept.Body, kept.Size
	return rec.Error(i.Run(ctx, fn, call, req, rec))
}

// HeaderReplayed is of an answer that an earlier call with the same key has had.
const HeaderReplayed = "Idempotency-Replayed"

// replay answers as call id has, once it is over.
func (i *Invoker) replay(ctx context.Context, id string, w http.ResponseWriter) error {
	call, err := i.Calls.Wait(ctx, id)
	if err != nil {
		return err
	}
	if call.ErrKind != faas.OK {
		return faas.Errorf(call.ErrKind, "%s", call.Error)
	}
	result, body, err := i.Calls.Result(ctx, id)
	if err != nil {
		return err
	}
	defer body.Close()
	for name, values := range result.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(max(result.Status, http.StatusOK))
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("answer of call %s: %w", id, err)
	}
	return nil
}

// Find returns a call that is queued or runs, or that was asynchronous, or had a
// key, and is over. NotFound if it is none of these.
func (i *Invoker) Find(ctx context.Context, id string) (faas.Call, error) {
	for _, c := range i.Live() {
		if c.ID == id {
			if c.Kind == faas.CallAsync && c.State == faas.CallQueued {
				why := c.Waiting
				i.Queue.Explain(ctx, &c)
				c.Waiting = cmp.Or(why, c.Waiting) // the pool knows more of it
			}
			return c, nil
		}
	}
	call, err := i.Calls.Call(ctx, id)
	if err == nil {
		i.Queue.Explain(ctx, &call)
	}
	return call, err
}

// Queued returns the calls of these functions that are in the queue, in the order
// in which they are to start.
func (i *Invoker) Queued(ctx context.Context, functions []faas.Function, limit int) ([]faas.Call, error) {
	return i.Queue.Line(ctx, functions, limit)
}

// Cancel ends a call. One that is queued is over when Cancel returns; one that has
// been begun is told to end, and returned as it was. Conflict if it is over,
// NotFound if there is none.
func (i *Invoker) Cancel(ctx context.Context, id, reason string) (call faas.Call, err error) {
	for try := range cancelTries {
		if try > 0 {
			time.Sleep(time.Millisecond << try) // it is between the queue and its sandbox
		}
		call, err = i.cancel(ctx, id, reason)
		if faas.KindOf(err) != faas.Conflict || call.State.Final() {
			break
		}
	}
	return call, err
}

// cancelTries is how often a call is looked for that changes its place meanwhile: for
// half a second in all, as on a busy machine nobody may get on with it for a while.
const cancelTries = 9

func (i *Invoker) cancel(ctx context.Context, id, reason string) (faas.Call, error) {
	call, err := i.Calls.Cancel(ctx, id, reason)
	if err == nil {
		i.event(&call, faas.Event{Name: faas.EventFailed, Message: reason})
		i.Journal.Record(call)
		i.ended.Add(1)
		return call, nil
	}
	if call.State.Final() {
		return call, err
	}
	cause := faas.Errorf(faas.Canceled, "%s", reason)
	running, here := i.end(id, cause)
	switch {
	case here:
		return running, nil
	case i.Queue.Stop(id, cause):
		i.end(id, cause) // it began meanwhile
		return call, nil
	}
	return faas.Call{}, err
}

// end tells a live call to end.
func (i *Invoker) end(id string, cause error) (faas.Call, bool) {
	i.mu.Lock()
	l := i.live[id]
	var call faas.Call
	if l != nil {
		call = *l.call
	}
	i.mu.Unlock()
	if l != nil {
		l.end(cause)
	}
	return call, l != nil
}

// Retry accepts a new call that repeats one that did not succeed; it names it.
// Conflict if that one is not over or has succeeded, NotFound if there is none, or
// if its payload is no longer kept.
func (i *Invoker) Retry(ctx context.Context, id string) (faas.Call, error) {
	old, err := i.Calls.Call(ctx, id)
	if err != nil {
		return faas.Call{}, err
	}
	switch {
	case !old.State.Final():
		return faas.Call{}, faas.Errorf(faas.Conflict, "call %s is %s: only one that did not succeed can be repeated", id, old.State)
	case old.State == faas.CallSucceeded:
		return faas.Call{}, faas.Errorf(faas.Conflict, "call %s has succeeded, and its payload is not kept: call the function again", id)
	}
	fn, err := i.Apps.FunctionByID(old.FuncID)
	if err != nil {
		return faas.Call{}, fmt.Errorf("call %s: %w", id, err)
	}
	app, err := i.Apps.AppByID(fn.App)
	if err != nil {
		return faas.Call{}, fmt.Errorf("call %s: %w", id, err)
	}
	req, err := i.Calls.Request(ctx, id)
	if err != nil {
		return faas.Call{}, err
	}
	defer req.Body.(io.Closer).Close()
	call := NewCall(app, fn, faas.CallAsync)
	call.Priority, call.RetryOf = old.Priority, old.ID
	return i.Enqueue(ctx, fn, call, req, 0)
}

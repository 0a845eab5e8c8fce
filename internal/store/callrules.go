package store

import (
	"strings"
	"time"
	"unicode/utf8"

	"hob/faas"
)

// The rules of Calls that are the same in every engine: what becomes of a call,
// what counts against Limits, and the errors in words.

// NewCall decides an Accept: it returns the call as it is to be kept, or why it is not.
func NewCall(a Acceptance, now time.Time) (faas.Call, error) {
	now = storedTime(now)
	c := faas.Call{
		ID: a.Call.ID, App: a.Call.App, Function: a.Call.Function, FuncID: a.Call.FuncID, Revision: a.Call.Revision,
		Kind: a.Call.Kind, State: a.Call.State, Priority: a.Call.Priority, RetryOf: a.Call.RetryOf, Once: a.Call.Once, Hops: a.Call.Hops,
		Queued: now, Due: now.Add(max(0, a.Delay)),
	}
	switch {
	case c.ID == "":
		return faas.Call{}, faas.Errorf(faas.Invalid, "a call of function %q has no ID", c.Function)
	case c.FuncID == "":
		return faas.Call{}, faas.Errorf(faas.Invalid, "call %s names no function", c.ID)
	case c.Priority < 0 || c.Priority > faas.MaxPriority:
		return faas.Call{}, faas.Errorf(faas.Invalid, "call %s has the priority %d: it goes from 0 to %d", c.ID, c.Priority, faas.MaxPriority)
	case a.Request == nil:
		return faas.Call{}, faas.Errorf(faas.Invalid, "call %s has no request", c.ID)
	case c.State == faas.CallRunning:
		c.Due, c.Started, c.Attempt = now, now, 1
	case c.State != faas.CallQueued:
		return faas.Call{}, faas.Errorf(faas.Invalid, "call %s cannot be accepted as %q", c.ID, c.State)
	}
	return c, nil
}

// TakenCall is a queued call that starts now.
func TakenCall(c faas.Call, now time.Time) faas.Call {
	c.State, c.Attempt, c.Started = faas.CallRunning, c.Attempt+1, storedTime(now)
	return c
}

// SettledCall decides a Settle: it returns the call as it is to be kept, or why
// nothing changes. old is the call with that ID, nil if there is none. What its
// acceptance said stays, the rest is as s says.
func SettledCall(old *faas.Call, s Settlement, now time.Time) (faas.Call, error) {
	c := s.Call
	switch {
	case old == nil:
		return faas.Call{}, faas.Errorf(faas.Conflict, "attempt %d of call %q does not count: there is no such call", c.Attempt, c.ID)
	case old.State != faas.CallRunning:
		return faas.Call{}, faas.Errorf(faas.Conflict, "attempt %d of call %s does not count: the call is %s", c.Attempt, c.ID, old.State)
	case old.Attempt != c.Attempt:
		return faas.Call{}, faas.Errorf(faas.Conflict, "attempt %d of call %s does not count: it is at attempt %d", c.Attempt, c.ID, old.Attempt)
	case c.State != faas.CallQueued && !c.State.Final():
		return faas.Call{}, faas.Errorf(faas.Invalid, "an attempt of call %s cannot end as %q", c.ID, c.State)
	case c.State == faas.CallQueued && (s.Result != nil || len(s.Deliveries) > 0):
		return faas.Call{}, faas.Errorf(faas.Invalid, "call %s goes back in line and has no result", c.ID)
	}
	c.App, c.Function, c.FuncID, c.Revision, c.Kind = old.App, old.Function, old.FuncID, old.Revision, old.Kind
	c.Priority, c.RetryOf, c.Once, c.Hops = old.Priority, old.RetryOf, old.Once, old.Hops
	c.Queued, c.Due = old.Queued, old.Due
	c.Place, c.Estimate, c.Result = 0, 0, faas.ResultNone
	c.Waiting, c.Error, c.Delivery = Text(c.Waiting), Text(c.Error), Text(c.Delivery)
	c.Outcome.Stderr = Text(c.Outcome.Stderr)
	if exit := c.Outcome.Exit; exit != nil {
		exit := *exit
		c.Outcome.Exit = &exit
	}
	now = storedTime(now)
	if c.State == faas.CallQueued {
		c.Started, c.Finished = time.Time{}, time.Time{}
		if !s.Stay {
			c.Due = now.Add(max(0, s.Delay))
		}
		return c, nil
	}
	c.Started, c.Finished = storedTime(c.Started), storedTime(c.Finished)
	if c.Finished.IsZero() {
		c.Finished = now
	}
	if s.Result != nil {
		c.Result = faas.ResultKept
	}
	return c, nil
}

// CanceledCall decides a Cancel: it returns the call as it is to be kept, or why
// nothing changes.
func CanceledCall(c faas.Call, reason string, now time.Time) (faas.Call, error) {
	switch {
	case c.State.Final():
		return c, faas.Errorf(faas.Conflict, "call %s is over: it is %s", c.ID, c.State)
	case c.State != faas.CallQueued:
		return c, faas.Errorf(faas.Conflict, "call %s is %s, not in line", c.ID, c.State)
	}
	c.State, c.Finished = faas.CallCanceled, storedTime(now)
	c.Error, c.ErrKind = Text(reason), faas.Canceled
	return c, nil
}

// KeptRequest is what is kept of the request of a call, but for its body.
func KeptRequest(r *faas.Request) faas.Request {
	return faas.Request{
		Method: r.Method, URL: r.URL, Target: r.Target, Route: r.Route, Caller: r.Caller,
		Header: r.Header, Params: r.Params, Convention: r.Convention, Env: r.Env,
	}
}

// maxText is how much is kept of a text, in bytes.
const maxText = 16 << 10

// Text is s as an engine keeps it: UTF-8, and not too long.
func Text(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// storedTime is t as an engine keeps it: in UTC, to the microsecond.
func storedTime(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

// ResultWeight is what is kept of a call that is over counts for against Limits, in
// bytes: the body and the header of its result, its payload if it is kept, and a
// flat sum for the rest, so that a great many small ones have an end too.
func ResultWeight(header map[string][]string, body, payload int64) int64 {
	n := 1024 + body + payload
	for name, values := range header {
		for _, v := range values {
			n += int64(len(name) + len(v))
		}
	}
	return n
}

// CheckQueue says why a payload of size bytes is not accepted: ofFunction and
// total are the bytes of payloads of calls that are not over.
func (l Limits) CheckQueue(c faas.Call, size, ofFunction, total int64) error {
	switch {
	case l.QueuePerFunction > 0 && ofFunction+size > int64(l.QueuePerFunction):
		return faas.Errorf(faas.Busy, "the queue of function %q is full: its calls may hold %v of payloads in all; try again when some are done, or raise queue-per-function", c.Function, l.QueuePerFunction)
	case l.QueueTotal > 0 && total+size > int64(l.QueueTotal):
		return faas.Errorf(faas.Busy, "the queue of this node is full: its calls may hold %v of payloads in all; try again when some are done, or raise queue-total", l.QueueTotal)
	}
	return nil
}

// The errors of Calls.

// NoCall says that there is no call with this ID.
func NoCall(id string) error { return faas.Errorf(faas.NotFound, "no call %q", id) }

// AcceptedBefore says that there is a call with this ID.
func AcceptedBefore(id string) error {
	return faas.Errorf(faas.Conflict, "call %s was accepted before", id)
}

// KeyReused says that a key stands for another request.
func KeyReused(key string) error {
	return faas.Errorf(faas.Conflict, "the idempotency key %q was used for another request: %w", key, faas.ErrKeyReused)
}

// NoPayload says that the payload of a call is no longer kept.
func NoPayload(id string) error {
	return faas.Errorf(faas.NotFound, "the payload of call %s: %w", id, faas.ErrGone)
}

// NoResult says why there is no result of c to read. Precondition: it is not kept.
func NoResult(c faas.Call) error {
	switch {
	case c.Result == faas.ResultFetched:
		return faas.Errorf(faas.NotFound, "the result of call %s was fetched: %w", c.ID, faas.ErrGone)
	case c.Result == faas.ResultRotated:
		return faas.Errorf(faas.NotFound, "the result of call %s made room for newer ones: %w", c.ID, faas.ErrGone)
	case !c.State.Final():
		return faas.Errorf(faas.NotFound, "call %s has no result yet: it is %s", c.ID, c.State)
	}
	return faas.Errorf(faas.NotFound, "call %s ended without a result: it is %s", c.ID, c.State)
}

// NoDelivery says that there is no delivery with this ID.
func NoDelivery(id string) error { return faas.Errorf(faas.NotFound, "no delivery %q", id) }

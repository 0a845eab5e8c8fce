// Package buffered is what the APIs do alike whose systems hold answers: the body of a
// request with its limit, the answer that is kept until its call is over, so that a
// failure in the middle of it is told as one, or until it streams, headers that are
// about one connection, and the trigger that a path leads to.
//
// The words of an answer, its status and its headers are the API's.
package buffered

import (
	"context"
	"net/http"
	"time"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/invoke"
)

// Caller runs calls; invoke.Invoker is one.
type Caller interface {
	Call(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error
	Enqueue(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error)
}

// Exchange makes a call and holds its answer. If it is that of an earlier call with
// the same key, call is that one then, and a header says so. The error is the
// caller's of Call.
func (a *Answer) Exchange(caller Caller, fn faas.Function, call *faas.Call, req *faas.Request, body *Body) error {
	a.call, a.made = call, call.ID
	if req.Key != "" { // the body is kept before the function has any of it
		body.steady(a.w)
	}
	err := caller.Call(a.r.Context(), fn, call, req, a)
	if !call.Started.IsZero() && !body.Over && body.left() {
		limitSender(a.w, a.r)
	} else if err != nil && body.asked && !a.sent {
		HearOut(a.w, a.r)
	}
	if !a.sent {
		a.nameReplayed()
	}
	return err
}

// Accept puts a call into the queue and returns it as it is kept; if it is an earlier
// one with the same key, a header says so. The error is that of Enqueue.
func Accept(w http.ResponseWriter, r *http.Request, caller Caller, fn faas.Function, call *faas.Call, req *faas.Request, body *Body, delay time.Duration) (faas.Call, error) {
	body.steady(w)
	kept, err := caller.Enqueue(r.Context(), fn, call, req, delay)
	if err != nil && body.asked {
		HearOut(w, r)
	}
	if err == nil && kept.ID != call.ID {
		w.Header().Set(invoke.HeaderReplayed, "true")
	}
	return kept, err
}

// Request is what a call is made of that r asks for; its header is the function's from
// then on. Invalid if it has an idempotency key that can be none.
func Request(r *http.Request, body *Body, maxHeader faas.Bytes) (*faas.Request, error) {
	key := ""
	if given := r.Header[headerKey]; given != nil {
		if key = given[0]; len(given) > 1 || !api.IsKey(key) {
			return nil, faas.Errorf(faas.Invalid, "Invalid header %s: one of 1 to %d visible ASCII characters is wanted", headerKey, api.MaxKey)
		}
	}
	DropHops(r.Header)
	return &faas.Request{
		Method: r.Method, URL: api.URL(r), Caller: api.Caller(r), Header: r.Header, Body: body, Size: body.size, MaxHeader: maxHeader, Key: key,
	}, nil
}

const headerKey = "Idempotency-Key"

// steady bounds how long the sender of a body may rest that is read to its end before
// anything else bounds the time.
func (b *Body) steady(w http.ResponseWriter) { b.ReadCloser = api.Steady(w, b.ReadCloser) }

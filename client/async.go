package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hob/faas"
)

// headerState is on every answer that is about an asynchronous call: its state.
const headerState = "Hob-State"

// ErrPending is wrapped by the Busy error of Result for a call that is not over.
var ErrPending = errors.New("ask again later")

// Enqueue makes a call that runs whether or not anybody waits, and returns it as
// it was accepted: queued, or, under a Key that an earlier call has, that call as
// it is now. When Enqueue returns nil the call survives a power cut of the
// server. The same limits hold as for Call.
func (c *Client) Enqueue(ctx context.Context, r CallRequest) (Call, error) {
	more := map[string]string{"Prefer": "respond-async"}
	if r.Priority != 0 {
		more["Hob-Priority"] = strconv.Itoa(r.Priority)
	}
	if r.Delay != nil {
		more["Hob-Delay"] = r.Delay.String()
	}
	resp, err := c.call(ctx, r, more)
	if err != nil {
		return Call{}, err
	}
	defer resp.Body.Close()
	if resp.Header.Get(headerState) == "" {
		return Call{}, faas.Errorf(faas.Unsupported, "the server at %s has made a synchronous call of it: it takes no others", c.address)
	}
	var call Call
	err = c.decode(resp.Body, &call)
	return call, err
}

// Result returns what an asynchronous call answered. If it is not over yet, it
// waits so long (at most an hour) for its end; then the error is Busy and wraps
// ErrPending. The error of a call that did not succeed is its own. A result that
// was removed is NotFound and wraps faas.ErrGone.
func (c *Client) Result(ctx context.Context, id string, wait time.Duration) (*Answer, error) {
	var query url.Values
	if wait > 0 {
		query = url.Values{"wait": {wait.String()}}
	}
	resp, err := c.roundTrip(ctx, http.MethodGet, path("calls", id, "result"), query, nil, nil)
	if err != nil {
		return nil, err
	}
	state := faas.CallState(resp.Header.Get(headerState))
	switch {
	case resp.Header.Get(headerFault) != "" || state == "":
		defer resp.Body.Close()
		return nil, c.failureOf(resp)
	case !state.Final():
		resp.Body.Close()
		return nil, faas.Errorf(faas.Busy, "call %s is %s: %w", id, state, ErrPending)
	}
	return c.answer(ctx, resp, faas.Internal), nil
}

// CancelCall ends a call that is queued, or tells one that runs to end, and
// returns it as it is then. One that is over is a Conflict.
func (c *Client) CancelCall(ctx context.Context, id string) (Call, error) {
	var out Call
	err := c.do(ctx, http.MethodPost, path("calls", id, "cancel"), nil, nil, &out)
	return out, err
}

// RetryCall makes a new call that repeats one that did not succeed, and returns
// the new one.
func (c *Client) RetryCall(ctx context.Context, id string) (Call, error) {
	var out Call
	err := c.do(ctx, http.MethodPost, path("calls", id, "retry"), nil, nil, &out)
	return out, err
}

// QueuedCalls returns asynchronous calls that wait, in the order in which they
// are to start, with their places: those of one function, of an app if function
// is empty, of all if app is too. At most limit of them; 0: as the server likes.
func (c *Client) QueuedCalls(ctx context.Context, app, function string, limit int) ([]Call, error) {
	query := url.Values{"queued": {"true"}}
	if app != "" {
		query.Set("app", app)
	}
	if function != "" {
		query.Set("function", function)
	}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	var out struct {
		Calls []Call `json:"calls"`
	}
	err := c.do(ctx, http.MethodGet, path("calls"), query, nil, &out)
	return out.Calls, err
}

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
)

// trailerOutcome is announced by an answer that is streamed and says "ok" behind
// its end. An answer that failed after it had begun has no end; a proxy that
// makes one up leaves the trailer out.
const trailerOutcome = "Hob-Outcome"

// CallRequest is one call of a function.
type CallRequest struct {
	App, Function string
	Method        string // "": POST
	Path          string // what the function is asked for, escaped and with its query: "/users/1?all=1"; "": "/"
	Header        http.Header
	Body          io.Reader // nil: none. It is read while the answer is already coming
	Key           string    // with the same key the call is made once, however often it is asked for; "": each time

	// Of Enqueue only.
	Priority int            // 0 to faas.MaxPriority: higher ones start first
	Delay    *time.Duration // least time until it starts; nil: the function's
}

// Answer is what a function answers. Reading Body ends with io.EOF only if the
// call succeeded: when the answer was broken off, or its outcome is a failure,
// the error is a *Failure of the kind that the daemon named, FuncFailed if it
// could name none. The caller closes Body.
type Answer struct {
	Call   string // id
	Status int
	Header http.Header
	Body   io.ReadCloser
}

// askFirst is the size of a payload from which on the server is asked before it
// is sent: one that it refuses need not be sent, and its answer cannot be lost
// in a connection that it closes while we still write.
const askFirst = 64 << 10

// Call calls a function. It returns once the answer has begun, or with the
// error that the call ended with before. A function of a hot format has its own
// statuses: one that it chose is an Answer, whichever it is.
func (c *Client) Call(ctx context.Context, r CallRequest) (*Answer, error) {
	resp, err := c.call(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	return c.answer(ctx, resp, faas.FuncFailed), nil
}

// call sends r with more headers. An answer that tells of a failure is returned
// as that error.
func (c *Client) call(ctx context.Context, r CallRequest, more map[string]string) (*http.Response, error) {
	method := r.Method
	if method == "" {
		method = http.MethodPost
	}
	header := r.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if r.Key != "" {
		header.Set("Idempotency-Key", r.Key)
	}
	for name, value := range more {
		header.Set(name, value)
	}
	if b, ok := r.Body.(sized); r.Body != nil && (!ok || b.n > askFirst) {
		header.Set("Expect", "100-continue")
	}
	at := path("apps", r.App, "functions", r.Function, "call")
	if r.Path != "" {
		at += "/" + strings.TrimPrefix(r.Path, "/")
	}
	resp, err := c.roundTrip(ctx, method, at, nil, header, r.Body)
	if err != nil {
		return nil, err
	}
	if resp.Header.Get(headerFault) != "" || resp.StatusCode >= 300 && resp.Header.Get(headerCall) == "" {
		defer resp.Body.Close()
		return nil, c.failureOf(resp)
	}
	return resp, nil
}

// answer is what has come of a call. broken is the kind of an answer that does
// not come to its end.
func (c *Client) answer(ctx context.Context, resp *http.Response, broken faas.Kind) *Answer {
	id := resp.Header.Get(headerCall)
	return &Answer{Call: id, Status: resp.StatusCode, Header: resp.Header,
		Body: &answerBody{ctx: ctx, client: c, call: id, resp: resp, broken: broken}}
}

// answerBody is a body whose end is believed only with the outcome behind it.
type answerBody struct {
	ctx    context.Context // of the call: the body lives no longer
	client *Client
	call   string
	resp   *http.Response
	broken faas.Kind // of an error in the middle of it
	n      int64
	err    error // what every Read after the last one returns
}

func (b *answerBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.resp.Body.Read(p)
	b.n += int64(n)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		b.err = b.outcome()
	case b.ctx.Err() != nil:
		b.err = fmt.Errorf("read the answer of call %s: %w", b.call, ended(b.ctx))
	default:
		b.err = b.brokenOff(err)
	}
	return n, b.err
}

func (b *answerBody) Close() error { return b.resp.Body.Close() }

// outcome is io.EOF if the answer ended as the server meant it to.
func (b *answerBody) outcome() error {
	if said, announced := b.resp.Trailer[trailerOutcome]; announced && !slices.Contains(said, "ok") {
		return b.brokenOff(io.ErrUnexpectedEOF)
	}
	return io.EOF
}

// brokenOff is the error of an answer that did not end as it should: the
// function failed after it had begun to answer, or the server is gone.
func (b *answerBody) brokenOff(err error) error {
	if call, asked := b.client.CallRecord(b.ctx, b.call); asked == nil && call.Error != nil {
		return b.failed(strings.TrimPrefix(call.Error.Message, "call "+call.Function+": "))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return b.failed("the connection was closed in the middle of it")
	}
	return b.failed(err.Error())
}

func (b *answerBody) failed(why string) error {
	return &Failure{Call: b.call, Request: b.resp.Header.Get("Request-Id"),
		err: faas.Errorf(b.broken, "the answer was broken off after %d bytes: %s", b.n, why)}
}

// CallFilter chooses calls. What is empty does not restrict.
type CallFilter struct {
	App      string
	Function string // name; with App
	State    faas.CallState
	After    string // cursor: what Calls returned as next
	Limit    int    // most records to return; 0: as the server likes
}

// Calls returns the records of calls, queued and running ones too, the newest
// first, and the cursor of the next page, empty if there is none.
func (c *Client) Calls(ctx context.Context, f CallFilter) (calls []Call, next string, err error) {
	query := url.Values{}
	for name, value := range map[string]string{"app": f.App, "function": f.Function, "state": string(f.State), "after": f.After} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if f.Limit > 0 {
		query.Set("limit", strconv.Itoa(f.Limit))
	}
	var out struct {
		Calls []Call `json:"calls"`
		Next  string `json:"next"`
	}
	err = c.do(ctx, http.MethodGet, path("calls"), query, nil, &out)
	return out.Calls, out.Next, err
}

// CallRecord returns the record of one call.
func (c *Client) CallRecord(ctx context.Context, id string) (Call, error) {
	var out Call
	err := c.do(ctx, http.MethodGet, path("calls", id), nil, nil, &out)
	return out, err
}

// Sized is r with a length that the server is told before it begins: n bytes.
func Sized(r io.Reader, n int64) io.Reader { return sized{r, n} }

type sized struct {
	io.Reader
	n int64
}

package storetest

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/store"
)

func requestComesBack(c *callTest) {
	a := acceptance("f", body(c.body([]byte("the payload"))))
	a.Request = &faas.Request{
		Call: "not kept", Method: "PATCH", URL: "https://node:8080/r/a/b?x=%20&y=\xe9", Target: "/b?x", Route: "/r/:x", Caller: "192.0.2.1",
		Header: http.Header{
			"Content-Type": {"text/plain; charset=utf-8"}, "X-Twice": {"1", "2", ""}, "x-Odd-case": {"<&>\u2028"},
			"X-Latin": {"caf\xe9"}, "X-None": {},
		},
		Params: map[string]string{"x": "Grüße", "": ""},
		Body:   strings.NewReader("not this one"), Size: 999,
		Key: "not kept", Deadline: time.Now(), Convention: faas.ConventionIron, Env: []string{"A=kept", "B="},
	}
	want := *a.Request
	want.Call, want.Key, want.Deadline, want.Body, want.Size = "", "", time.Time{}, nil, 11
	want.Header, want.Params = want.Header.Clone(), maps.Clone(want.Params)
	if _, _, err := c.Accept(c.Context(), a); err != nil {
		c.Fatal(err)
	}
	for range 2 { // each reads it anew
		got, err := c.Request(c.Context(), a.Call.ID)
		if err != nil {
			c.Fatal(err)
		}
		wantEqual(c.T, "payload", string(c.content(got.Body.(io.ReadCloser))), "the payload")
		got.Body = nil
		wantEqual(c.T, "request", *got, want)
	}
	_, err := c.Request(c.Context(), faas.NewID())
	wantAbsent(c.T, "Request of an unknown call", err)

	empty := acceptance("f")
	empty.Request = &faas.Request{}
	if _, _, err := c.Accept(c.Context(), empty); err != nil {
		c.Fatal(err)
	}
	got, err := c.Request(c.Context(), empty.Call.ID)
	if err != nil {
		c.Fatal(err)
	}
	if b := c.content(got.Body.(io.ReadCloser)); len(b) > 0 || got.Size != 0 || len(got.Header) > 0 || len(got.Params) > 0 {
		c.Errorf("an empty request came back as %+v with the body %q", got, b)
	}
}

func payloadKept(c *callTest) {
	keep := func(state faas.CallState, kept bool) string {
		call := c.run("f", body(c.body([]byte("payload"))))
		wantEqual(c.T, "payload of a call that runs", string(c.payload(call.ID)), "payload")
		s := settlement(call, state)
		s.KeepPayload = kept
		c.settle(s)
		return call.ID
	}
	wantEqual(c.T, "payload that is kept", string(c.payload(keep(faas.CallFailed, true))), "payload")
	_, err := c.Request(c.Context(), keep(faas.CallFailed, false))
	wantGone(c.T, "Request of a call that is over", err)
	id := keep(faas.CallQueued, false)
	wantEqual(c.T, "payload of a call that is put back", string(c.payload(id)), "payload")
	if _, err := c.Cancel(c.Context(), id, "enough"); err != nil {
		c.Fatal(err)
	}
	_, err = c.Request(c.Context(), id)
	wantGone(c.T, "Request of a call that was canceled", err)
}

func largeBodies(c *callTest) {
	for i, size := range []int{0, 1, store.InMemory - 1, store.InMemory, store.InMemory + 1, 3*store.InMemory + 7} {
		in, out := noise(uint64(i), size), noise(uint64(i)+100, size)
		call := c.run("f", body(c.body(in)))
		for range 2 {
			if got := c.payload(call.ID); !bytes.Equal(got, in) {
				c.Errorf("a payload of %d bytes came back as other %d bytes", size, len(got))
			}
		}
		s := settlement(call, faas.CallFailed)
		s.KeepPayload = true
		s.Result = &store.NewResult{Status: 500, Body: c.body(out)}
		c.settle(s)
		result, r, err := c.Result(c.Context(), call.ID)
		if err != nil {
			c.Fatal(err)
		}
		if r.Size() != int64(size) || result.Size != int64(size) {
			c.Errorf("a result of %d bytes has the sizes %d and %d", size, r.Size(), result.Size)
		}
		if got := c.content(r); !bytes.Equal(got, out) {
			c.Errorf("a result of %d bytes came back as other %d bytes", size, len(got))
		}
		if got := c.payload(call.ID); !bytes.Equal(got, in) {
			c.Errorf("a kept payload of %d bytes came back as other %d bytes", size, len(got))
		}
		// A reader that is open reads to the end, whatever becomes of the result.
		_, r, err = c.Result(c.Context(), call.ID)
		if err != nil {
			c.Fatal(err)
		}
		if err := c.Fetched(c.Context(), call.ID); err != nil {
			c.Fatal(err)
		}
		if got := c.content(r); !bytes.Equal(got, out) {
			c.Errorf("a result of %d bytes that was fetched while it was read came as other %d bytes", size, len(got))
		}
	}
}

func bodiesUsed(c *callTest) {
	large := func() *store.Body { return c.body(noise(1, store.InMemory+1)) }
	unused := func(what string, b *store.Body) {
		c.Helper()
		if _, inMemory := b.Bytes(); !inMemory {
			c.Errorf("%s: the body still has its file", what)
		}
	}
	first := c.accept("f", body(large()), key("", "k", "h"))
	ended, cancel := context.WithCancel(c.Context())
	cancel()
	for _, bad := range []struct {
		what string
		ctx  context.Context
		by   option
		want faas.Kind
	}{
		{"a known call", c.Context(), key("", "k", "h"), faas.OK},
		{"a key that was used", c.Context(), key("", "k", "other"), faas.Conflict},
		{"an ID that was used", c.Context(), func(a *store.Acceptance) { a.Call.ID = first.ID }, faas.Conflict},
		{"no ID", c.Context(), func(a *store.Acceptance) { a.Call.ID = "" }, faas.Invalid},
		{"a full queue", c.Context(), func(a *store.Acceptance) { a.Body.Write(noise(2, 2*store.InMemory)) }, faas.Busy},
		{"an ended context", ended, func(*store.Acceptance) {}, faas.Canceled},
	} {
		b := large()
		_, _, err := c.Accept(bad.ctx, acceptance("f", body(b), bad.by))
		wantKind(c.T, bad.what, err, bad.want)
		unused("Accept of "+bad.what, b)
	}
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Queued: 1})

	call := c.take(1, "f")[0]
	settle := func(what string, ctx context.Context, call faas.Call, state faas.CallState, want faas.Kind) {
		b := large()
		s := settlement(call, state)
		s.Result = &store.NewResult{Status: 200, Body: b}
		wantKind(c.T, what, c.Settle(ctx, s), want)
		unused("Settle of "+what, b)
	}
	stale := call
	stale.Attempt++
	settle("another attempt", c.Context(), stale, faas.CallSucceeded, faas.Conflict)
	settle("a retry", c.Context(), call, faas.CallQueued, faas.Invalid)
	settle("an ended context", ended, call, faas.CallSucceeded, faas.Canceled)
	wantEqual(c.T, "payload", c.payload(call.ID), noise(1, store.InMemory+1))
	settle("its end", c.Context(), call, faas.CallSucceeded, faas.OK)
	settle("its end once more", c.Context(), call, faas.CallSucceeded, faas.Conflict)
}

func resultComesBack(c *callTest) {
	header := http.Header{"Content-Type": {"image/png"}, "X-Twice": {"1", "2"}, "X-Latin": {"caf\xe9"}, "X-Text": {"Grüße"}}
	for _, want := range []struct {
		header http.Header
		body   []byte
	}{{header, []byte("the answer \x00\xff")}, {nil, nil}, {http.Header{}, []byte{}}} {
		s := settlement(c.run("f"), faas.CallSucceeded)
		s.Result = &store.NewResult{Status: 203, Header: want.header}
		if want.body != nil {
			s.Result.Body = c.body(want.body)
		}
		c.settle(s)
		if got := c.get(s.Call.ID); got.Result != faas.ResultKept || got.State != faas.CallSucceeded {
			c.Errorf("the call is %s and its result %q, want it kept", got.State, got.Result)
		}
		for range 2 { // through our own API it stays
			result, r, err := c.Result(c.Context(), s.Call.ID)
			if err != nil {
				c.Fatal(err)
			}
			if got := c.content(r); !bytes.Equal(got, want.body) {
				c.Errorf("body = %q, want %q", got, want.body)
			}
			if len(result.Header) == 0 {
				result.Header = nil
			}
			if len(want.header) == 0 {
				want.header = nil
			}
			wantEqual(c.T, "result", result, faas.Result{Status: 203, Header: want.header, Size: int64(len(want.body))})
		}
	}
}

func noResult(c *callTest) {
	check := func(what, id string) {
		c.Helper()
		_, r, err := c.Result(c.Context(), id)
		wantAbsent(c.T, "Result of "+what, err)
		if r != nil {
			c.Errorf("Result of %s has a reader", what)
		}
		if err := c.Fetched(c.Context(), id); err != nil {
			c.Errorf("Fetched of %s = %v, want nothing to happen", what, err)
		}
	}
	check("an unknown call", faas.NewID())
	call := c.accept("f")
	check("a call in line", call.ID)
	call = c.take(1, "f")[0]
	check("a call that runs", call.ID)
	c.settle(settlement(call, faas.CallFailed))
	_, _, err := c.Result(c.Context(), call.ID)
	wantAbsent(c.T, "Result of a call that ended without one", err)
	wantEqual(c.T, "the state of its result", c.get(call.ID).Result, faas.ResultNone)
	if err := c.Fetched(c.Context(), call.ID); err != nil {
		c.Fatal(err)
	}
	_, _, err = c.Result(c.Context(), call.ID)
	wantGone(c.T, "Result of a call that ended without one, and was fetched", err)
	_, err = c.Call(c.Context(), faas.NewID())
	wantAbsent(c.T, "Call of an unknown ID", err)
}

func fetched(c *callTest) {
	call := c.finish(c.run("f"), 10)
	for range 2 {
		if err := c.Fetched(c.Context(), call.ID); err != nil {
			c.Fatal(err)
		}
		c.wantResult(call, faas.ResultFetched)
	}
	call.Result = faas.ResultFetched
	wantEqual(c.T, "the call", c.get(call.ID), call)
}

func rotateFunction(c *callTest) {
	other := c.finish(c.run("g"), 90<<10)
	early, late := c.run("f"), c.run("f")
	first := c.finish(late, 30<<10) // the oldest result is not that of the oldest call
	second, third := c.finish(early, 30<<10), c.finish(c.run("f"), 30<<10)
	for _, call := range []faas.Call{first, second, third} {
		c.wantResult(call, faas.ResultKept)
	}
	fourth := c.finish(c.run("f"), 30<<10)
	c.wantResult(first, faas.ResultRotated)
	first.Result = faas.ResultRotated
	wantEqual(c.T, "the call whose result was rotated", c.get(first.ID), first)
	for _, call := range []faas.Call{other, second, third, fourth} {
		c.wantResult(call, faas.ResultKept)
	}
	fifth := c.finish(c.run("f"), 60<<10) // two at once
	c.wantResult(second, faas.ResultRotated)
	c.wantResult(third, faas.ResultRotated)
	c.wantResult(fourth, faas.ResultKept)
	c.wantResult(fifth, faas.ResultKept)
	c.wantResult(other, faas.ResultKept)
	if err := c.Fetched(c.Context(), first.ID); err != nil {
		c.Fatal(err)
	}
	c.wantResult(first, faas.ResultRotated) // there was none to fetch
	// What was fetched makes room.
	if err := c.Fetched(c.Context(), fifth.ID); err != nil {
		c.Fatal(err)
	}
	c.finish(c.run("f"), 60<<10)
	c.wantResult(fourth, faas.ResultKept)
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Succeeded: 6})
}

func rotateNode(c *callTest) {
	first, second := c.finish(c.run("a"), 30<<10), c.finish(c.run("b"), 30<<10)
	third, fourth := c.finish(c.run("a"), 30<<10), c.finish(c.run("c"), 30<<10)
	c.wantResult(first, faas.ResultRotated)
	for _, call := range []faas.Call{second, third, fourth} {
		c.wantResult(call, faas.ResultKept)
	}
	c.sweep()
	for _, call := range []faas.Call{second, third, fourth} {
		c.wantResult(call, faas.ResultKept)
	}
}

func rotateNeverItself(c *callTest) {
	first := c.finish(c.run("f"), 10<<10)
	large := c.finish(c.run("f"), 90<<10)
	c.wantResult(first, faas.ResultRotated)
	c.wantResult(large, faas.ResultKept)
	small := c.finish(c.run("f"), 1<<10)
	c.wantResult(large, faas.ResultRotated)
	c.wantResult(small, faas.ResultKept)
}

func rotateKeyedLast(c *callTest) {
	keyed := c.finish(c.run("f", key("", "k", "h")), 30<<10)
	forgotten := c.run("f", key("", "forgotten", "h"))
	s := settlement(forgotten, faas.CallSucceeded)
	s.ForgetKey = true
	s.Result = &store.NewResult{Status: 200, Body: c.body(make([]byte, 30<<10))}
	c.settle(s)
	plain := c.finish(c.run("f"), 30<<10)
	c.finish(c.run("f"), 30<<10)
	c.wantResult(forgotten, faas.ResultRotated) // it is as one that had no key
	c.wantResult(keyed, faas.ResultKept)
	c.wantResult(plain, faas.ResultKept)
	c.finish(c.run("f"), 30<<10)
	c.wantResult(plain, faas.ResultRotated)
	c.wantResult(keyed, faas.ResultKept)
	c.finish(c.run("f"), 90<<10)
	c.wantResult(keyed, faas.ResultRotated)
}

func rotatePayload(c *callTest) {
	call := c.run("f", body(c.body(make([]byte, 40<<10))))
	s := settlement(call, faas.CallFailed)
	s.KeepPayload = true
	s.Result = &store.NewResult{Status: 500, Body: c.body(make([]byte, 40<<10))}
	c.settle(s)
	c.finish(c.run("f"), 40<<10)
	c.wantResult(call, faas.ResultRotated)
	_, err := c.Request(c.Context(), call.ID)
	wantGone(c.T, "Request of a call that was rotated", err)

	failed := c.run("g", body(c.body(make([]byte, 60<<10)))) // there is no result beside its payload
	s = settlement(failed, faas.CallFailed)
	s.KeepPayload = true
	c.settle(s)
	c.finish(c.run("g"), 30<<10)
	wantEqual(c.T, "payload that fits", len(c.payload(failed.ID)), 60<<10)
	c.finish(c.run("g"), 30<<10)
	_, err = c.Request(c.Context(), failed.ID)
	wantGone(c.T, "Request of a call that was rotated", err)
	wantEqual(c.T, "its result", c.get(failed.ID).Result, faas.ResultNone)
	_, _, err = c.Result(c.Context(), failed.ID)
	wantAbsent(c.T, "Result of a call that had none", err)

	first := c.finish(c.run("h"), 60<<10) // what only keeps a payload makes others go, too
	s = settlement(c.run("h", body(c.body(make([]byte, 60<<10)))), faas.CallFailed)
	s.KeepPayload = true
	c.settle(s)
	c.wantResult(first, faas.ResultRotated)
	wantEqual(c.T, "payload of the latest", len(c.payload(s.Call.ID)), 60<<10)
}

// wantBusy wants a Busy that names a limit.
func wantBusy(c *callTest, err error, limit string) {
	c.Helper()
	wantKind(c.T, "Accept into a full queue", err, faas.Busy)
	if err != nil && !strings.Contains(err.Error(), limit) {
		c.Errorf("%q does not say the limit %s", err, limit)
	}
}

func queueOfFunction(c *callTest) {
	fill := func(fn string) error {
		_, _, err := c.Accept(c.Context(), acceptance(fn, body(c.body(make([]byte, 30<<10)))))
		return err
	}
	for range 3 {
		if err := fill("f"); err != nil {
			c.Fatal(err)
		}
	}
	wantBusy(c, fill("f"), "100 KB")
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Queued: 3})
	if err := fill("g"); err != nil {
		c.Errorf("Accept for another function = %v", err)
	}
	call := c.take(1, "f")[0]
	wantBusy(c, fill("f"), "100 KB") // its payload is still needed
	s := settlement(call, faas.CallFailed)
	s.KeepPayload = true // no longer of the queue
	c.settle(s)
	if err := fill("f"); err != nil {
		c.Errorf("Accept after one has ended = %v", err)
	}
	wantBusy(c, fill("f"), "100 KB")
	if n, err := c.CancelQueued(c.Context(), "f", "enough"); n != 3 || err != nil {
		c.Fatalf("CancelQueued = %d, %v; want 3", n, err)
	}
	for range 3 {
		if err := fill("f"); err != nil {
			c.Errorf("Accept after all were canceled = %v", err)
		}
	}
}

func queueOfNode(c *callTest) {
	fill := func(fn string) error {
		_, _, err := c.Accept(c.Context(), acceptance(fn, body(c.body(make([]byte, 30<<10)))))
		return err
	}
	for _, fn := range []string{"a", "b", "a"} {
		if err := fill(fn); err != nil {
			c.Fatal(err)
		}
	}
	wantBusy(c, fill("c"), "100 KB")
	c.accept("c") // a small one fits
	c.finish(c.take(1, "b")[0], 0)
	if err := fill("c"); err != nil {
		c.Errorf("Accept after one has ended = %v", err)
	}
}

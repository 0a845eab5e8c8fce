package storetest

import (
	"errors"

	"hob/faas"
	"hob/internal/store"
)

func keyKnown(c *callTest) {
	a := acceptance("f", key("caller", "k", "h"))
	again := func() (faas.Call, bool) {
		c.Helper()
		b := acceptance("f", key("caller", "k", "h"), body(c.body([]byte("again"))))
		call, known, err := c.Accept(c.Context(), b)
		if err != nil {
			c.Fatal(err)
		}
		if known {
			_, err := c.Call(c.Context(), b.Call.ID)
			wantAbsent(c.T, "the call that was not accepted", err)
		}
		return call, known
	}
	call, known, err := c.Accept(c.Context(), a)
	if err != nil || known {
		c.Fatalf("first Accept = known %t, %v; want a new call", known, err)
	}
	check := func(want faas.CallState) {
		c.Helper()
		got, known := again()
		if !known || got.State != want {
			c.Errorf("Accept again = %s, known %t; want the call that is %s", got.State, known, want)
		}
		wantEqual(c.T, "the known call", got, c.get(call.ID))
	}
	check(faas.CallQueued)
	taken := c.take(9, "f")
	c.wantIDs("taken", taken, call)
	check(faas.CallRunning)
	s := settlement(taken[0], faas.CallQueued)
	s.Stay = true
	c.settle(s)
	check(faas.CallQueued)
	c.finish(c.take(9, "f")[0], 3)
	check(faas.CallSucceeded)
	c.sweep()
	check(faas.CallSucceeded)
	if err := c.Fetched(c.Context(), call.ID); err != nil {
		c.Fatal(err)
	}
	check(faas.CallSucceeded)
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Succeeded: 1})
	sync := c.accept("f", runningFor("me"), key("caller", "sync", "h"))
	got, known, err := c.Accept(c.Context(), acceptance("f", runningFor("me"), key("caller", "sync", "h")))
	if !known || got.ID != sync.ID || err != nil {
		c.Errorf("Accept of a key that runs = %s, known %t, %v; want %s", got.ID, known, err, sync.ID)
	}
}

func keyScope(c *callTest) {
	c.accept("f", key("caller", "k", "h"))
	c.accept("g", key("caller", "k", "other"))
	c.accept("f", key("another", "k", "other"))
	c.accept("f", key("caller", "K", "other"))
	c.accept("f", key("callerk", "", "other"))
	c.accept("f", key("", "callerk", "other"))
	c.accept("f")
	c.accept("f")
}

func keyReused(c *callTest) {
	first := c.accept("f", key("caller", "k", "h"))
	for _, state := range []faas.CallState{faas.CallQueued, faas.CallRunning, faas.CallSucceeded} {
		if got := c.get(first.ID); got.State != state {
			c.Fatalf("the call is %s, want it %s", got.State, state)
		}
		a := acceptance("f", key("caller", "k", "other"))
		call, known, err := c.Accept(c.Context(), a)
		wantKind(c.T, "Accept of another request", err, faas.Conflict)
		if !errors.Is(err, faas.ErrKeyReused) || known {
			c.Errorf("Accept = %+v, known %t, %v; want ErrKeyReused", call, known, err)
		}
		if taken := c.take(9, "f"); len(taken) == 0 && state == faas.CallRunning {
			c.finish(c.get(first.ID), 1)
		}
	}
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Succeeded: 1})
}

func keyForgotten(c *callTest) {
	call := c.run("f", key("", "k", "h"))
	s := settlement(call, faas.CallFailed)
	s.ForgetKey = true
	c.settle(s)
	second := c.accept("f", key("", "k", "other"))
	if _, err := c.Cancel(c.Context(), second.ID, "enough"); err != nil {
		c.Fatal(err)
	}
	c.accept("f", key("", "k", "h")) // nothing was run: the key is free
	if _, err := c.CancelQueued(c.Context(), "f", "enough"); err != nil {
		c.Fatal(err)
	}
	last := c.accept("f", key("", "k", "third"))
	got, known, err := c.Accept(c.Context(), acceptance("f", key("", "k", "third")))
	if !known || got.ID != last.ID || err != nil {
		c.Errorf("Accept again = %s, known %t, %v; want %s", got.ID, known, err, last.ID)
	}
	kept := c.run("g", key("", "k", "h"))
	c.settle(settlement(kept, faas.CallFailed)) // a failure is an answer
	if got, known, err := c.Accept(c.Context(), acceptance("g", key("", "k", "h"))); !known || got.ID != kept.ID || err != nil {
		c.Errorf("Accept again = %s, known %t, %v; want %s", got.ID, known, err, kept.ID)
	}
}

func keyExpired(c *callTest) {
	old := c.finish(c.run("f", key("", "k", "h")), 1)
	pass()
	c.sweep()
	c.accept("f", key("", "k", "other"))
	c.wantResult(old, faas.ResultKept) // only its key went
}

func keyClaims(c *callTest) {
	const claims = 20
	var calls [claims]faas.Call
	var known [claims]bool
	atOnce(claims, func(i int) {
		var err error
		calls[i], known[i], err = c.Accept(c.Context(), acceptance("f", key("", "k", "h"), body(c.body([]byte("x")))))
		if err != nil {
			c.Error(err)
		}
	})
	accepted := 0
	for i := range claims {
		if !known[i] {
			accepted++
		}
		if calls[i].ID != calls[0].ID {
			c.Errorf("claim %d got the call %s, another %s", i, calls[i].ID, calls[0].ID)
		}
	}
	if accepted != 1 {
		c.Errorf("%d calls were accepted, want 1", accepted)
	}
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Queued: 1})
}

func keyNotBusy(c *callTest) {
	call := c.accept("f", key("", "k", "h"), body(c.body(make([]byte, 40<<10))))
	got, known, err := c.Accept(c.Context(), acceptance("f", key("", "k", "h"), body(c.body(make([]byte, 40<<10)))))
	if !known || got.ID != call.ID || err != nil {
		c.Errorf("Accept again = %s, known %t, %v; want %s", got.ID, known, err, call.ID)
	}
	_, _, err = c.Accept(c.Context(), acceptance("f", key("", "new", "h"), body(c.body(make([]byte, 40<<10)))))
	wantBusy(c, err, "50 KB")
	c.finish(c.take(1, "f")[0], 1)
	c.accept("f", key("", "new", "h"), body(c.body(make([]byte, 40<<10)))) // the refusal did not claim the key
}

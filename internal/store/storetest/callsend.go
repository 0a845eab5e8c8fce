package storetest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/store"
)

func (c *callTest) deliveries(limit int) ([]store.Delivery, time.Duration) {
	c.Helper()
	due, next, err := c.Deliveries(c.Context(), limit)
	if err != nil {
		c.Fatal(err)
	}
	return due, next
}

// deliver ends call with deliveries to these targets.
func (c *callTest) deliver(call faas.Call, state faas.CallState, targets ...string) (made []store.Delivery) {
	c.Helper()
	s := settlement(call, state)
	for _, target := range targets {
		made = append(made, store.Delivery{ID: faas.NewID(), Call: call.ID, Target: target, Since: s.Call.Finished})
	}
	s.Deliveries = slices.Clone(made)
	for i := range s.Deliveries {
		s.Deliveries[i].Tries = 7 // it is the engine's
	}
	c.settle(s)
	return made
}

func deliveries(c *callTest) {
	if due, next := c.deliveries(9); len(due) > 0 || next != 0 {
		c.Errorf("Deliveries = %v, %v; want none", due, next)
	}
	first := c.run("f")
	pass()
	made := c.deliver(first, faas.CallSucceeded, "https://there/", "app/g")
	made = append(made, c.deliver(c.run("f"), faas.CallFailed, "app/h")...)
	for range 2 { // until it is Delivered
		due, next := c.deliveries(9)
		wantEqual(c.T, "due", due, made)
		if next != 0 {
			c.Errorf("next = %v, want 0: no other waits", next)
		}
	}
	due, _ := c.deliveries(2)
	wantEqual(c.T, "the first two", due, made[:2])
	s := settlement(c.run("f"), faas.CallQueued)
	s.Deliveries = []store.Delivery{{ID: faas.NewID(), Target: "app/g"}}
	wantKind(c.T, "a delivery of a call that is put back", c.Settle(c.Context(), s), faas.Invalid)
}

func delivered(c *callTest) {
	made := c.deliver(c.run("f"), faas.CallSucceeded, "a/1", "a/2")
	ctx, call := c.Context(), made[0].Call
	if err := c.Delivered(ctx, made[0].ID, false, time.Hour, "refused: 503"); err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "outcome", c.get(call).Delivery, "refused: 503")
	due, next := c.deliveries(9)
	wantEqual(c.T, "due", due, made[1:])
	if next <= 0 || next > time.Hour {
		c.Errorf("next = %v, want at most 1h", next)
	}
	if err := c.Delivered(ctx, made[1].ID, true, 0, "delivered to a/2"); err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "outcome", c.get(call).Delivery, "delivered to a/2")
	if due, next = c.deliveries(9); len(due) > 0 || next <= 0 {
		c.Errorf("Deliveries = %v, next %v; want one that is not due", due, next)
	}
	wantAbsent(c.T, "Delivered once more", c.Delivered(ctx, made[1].ID, true, 0, "x"))
	wantAbsent(c.T, "Delivered of an unknown one", c.Delivered(ctx, faas.NewID(), false, 0, "x"))
	wantEqual(c.T, "outcome", c.get(call).Delivery, "delivered to a/2")

	again := c.deliver(c.run("f"), faas.CallFailed, "a/3")[0]
	for range 2 {
		if err := c.Delivered(ctx, again.ID, false, tick, "no answer"); err != nil {
			c.Fatal(err)
		}
	}
	pass()
	again.Tries = 2
	due, next = c.deliveries(9)
	wantEqual(c.T, "due again", due, []store.Delivery{again})
	if next <= 0 {
		c.Errorf("next = %v, want the other one to wait", next)
	}
}

func sweepMany(c *callTest) {
	waits := c.accept("f")
	var over []faas.Call
	for range 5 {
		over = append(over, c.finish(c.run("f"), 10))
	}
	other := c.finish(c.run("g"), 10)
	c.sweep()
	for _, call := range over[:2] {
		_, err := c.Call(c.Context(), call.ID)
		wantAbsent(c.T, "Call of one too many", err)
	}
	for _, call := range append(over[2:], other) {
		wantEqual(c.T, "a call that is kept", c.get(call.ID), call)
	}
	wantEqual(c.T, "the call in line", c.get(waits.ID), waits)
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Queued: 1, Succeeded: 3})
}

func sweep(c *callTest) {
	queued, running := c.accept("f"), c.accept("f", runningFor("me"), body(c.body([]byte("kept"))))
	call := c.run("f", body(c.body(noise(1, store.InMemory+1))), key("", "k", "h"))
	s := settlement(call, faas.CallFailed)
	s.KeepPayload = true
	s.Result = &store.NewResult{Status: 500, Body: c.body(noise(2, store.InMemory+1))}
	s.Deliveries = []store.Delivery{{ID: faas.NewID(), Call: call.ID, Target: "a/b"}}
	c.settle(s)
	const many = 250 // more than a portion, perhaps
	atOnce(many, func(int) {
		c.finish(c.accept("g", runningFor("me")), 10)
	})
	pass()
	c.sweep()
	_, err := c.Call(c.Context(), call.ID)
	wantAbsent(c.T, "Call of one that is too old", err)
	_, err = c.Request(c.Context(), call.ID)
	wantKind(c.T, "Request", err, faas.NotFound)
	_, _, err = c.Result(c.Context(), call.ID)
	wantKind(c.T, "Result", err, faas.NotFound)
	_, err = c.Wait(c.Context(), call.ID)
	wantKind(c.T, "Wait", err, faas.NotFound)
	if due, next := c.deliveries(9); len(due) > 0 || next != 0 {
		c.Errorf("Deliveries = %v, %v; want none", due, next)
	}
	wantEqual(c.T, "the call in line", c.get(queued.ID), queued)
	wantEqual(c.T, "the call that runs", c.get(running.ID), running)
	wantEqual(c.T, "its payload", string(c.payload(running.ID)), "kept")
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Queued: 1, Running: 1})
	wantEqual(c.T, "tally of many", c.tally("g"), store.Tally{})
	c.accept("f", key("", "k", "other")) // the key went with its call
}

func sweepKeeps(c *callTest) {
	call := c.finish(c.run("f", key("", "k", "h")), 10)
	c.sweep()
	c.wantResult(call, faas.ResultKept)
	got, known, err := c.Accept(c.Context(), acceptance("f", key("", "k", "h")))
	if !known || got.ID != call.ID || err != nil {
		c.Errorf("Accept again = %s, known %t, %v; want %s", got.ID, known, err, call.ID)
	}
}

func ownCalls(c *callTest) {
	a := acceptance("f")
	a.Request.Header, a.Request.Params = http.Header{"A": {"1"}}, map[string]string{"a": "1"}
	if _, _, err := c.Accept(c.Context(), a); err != nil {
		c.Fatal(err)
	}
	a.Request.Header["A"][0], a.Request.Params["a"], a.Request.Method = "2", "2", "GET"
	for range 2 {
		r, err := c.Request(c.Context(), a.Call.ID)
		if err != nil {
			c.Fatal(err)
		}
		c.content(r.Body.(io.ReadCloser))
		if r.Header.Get("A") != "1" || r.Params["a"] != "1" || r.Method != "POST" {
			c.Errorf("request = %+v, want it as it was accepted", r)
		}
		r.Header["A"][0], r.Params["a"] = "3", "3"
	}
	s := settlement(c.take(1, "f")[0], faas.CallFailed)
	s.Call.Outcome.Exit = &faas.Exit{Code: 1}
	s.Result = &store.NewResult{Status: 200, Header: http.Header{"A": {"1"}}, Body: c.body([]byte("1"))}
	c.settle(s)
	s.Call.Outcome.Exit.Code, s.Result.Header["A"][0] = 2, "2"
	for range 2 {
		listed, _ := c.list(store.CallFilter{})
		waited, err := c.Wait(c.Context(), a.Call.ID)
		if err != nil {
			c.Fatal(err)
		}
		for _, call := range []faas.Call{c.get(a.Call.ID), listed[0], waited} {
			if call.Outcome.Exit.Code != 1 {
				c.Errorf("exit code = %d, want 1", call.Outcome.Exit.Code)
			}
			call.Outcome.Exit.Code = 3
		}
		result, r, err := c.Result(c.Context(), a.Call.ID)
		if err != nil {
			c.Fatal(err)
		}
		if got := result.Header.Get("A"); got != "1" {
			c.Errorf("header of the result = %q, want 1", got)
		}
		result.Header["A"][0] = "3"
		b := c.content(r)
		wantEqual(c.T, "body", string(b), "1")
		b[0] = '3'
	}
	all, err := c.Tallies(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	all["f"] = store.Tally{Queued: 9}
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Failed: 1})
}

func endedContextOfCalls(c *callTest) {
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(c.Context())
	cancel(gone)
	queued, other := c.accept("f", delay(time.Hour)), c.accept("h")
	running := c.run("f", key("", "k", "h"))
	over := c.deliver(c.run("g"), faas.CallSucceeded, "a/b")[0]
	kept := c.finish(c.run("g"), 3)
	for name, do := range map[string]func() error{
		"Accept":       func() error { _, _, err := c.Accept(ctx, acceptance("f")); return err },
		"Accept again": func() error { _, _, err := c.Accept(ctx, acceptance("f", key("", "k", "h"))); return err },
		"Take":         func() error { _, _, err := c.Take(ctx, "me", []store.Lane{lane(9, "f", "h")}); return err },
		"Request":      func() error { _, err := c.Request(ctx, running.ID); return err },
		"Settle":       func() error { return c.Settle(ctx, settlement(running, faas.CallFailed)) },
		"Cancel":       func() error { _, err := c.Cancel(ctx, queued.ID, "no"); return err },
		"CancelQueued": func() error { _, err := c.CancelQueued(ctx, "h", "no"); return err },
		"Lost":         func() error { _, err := c.Lost(ctx, "x"); return err },
		"Held":         func() error { _, err := c.Held(ctx, "me"); return err },
		"Call":         func() error { _, err := c.Call(ctx, queued.ID); return err },
		"Has":          func() error { _, err := c.Has(ctx, []string{queued.ID}); return err },
		"List":         func() error { _, _, err := c.List(ctx, store.CallFilter{}); return err },
		"Line":         func() error { _, err := c.Line(ctx, []string{"f"}, 9); return err },
		"Place":        func() error { _, _, err := c.Place(ctx, queued.ID, []string{"f"}); return err },
		"Tally":        func() error { _, err := c.Tally(ctx, "f"); return err },
		"Tallies":      func() error { _, err := c.Tallies(ctx); return err },
		"Wait":         func() error { _, err := c.Wait(ctx, queued.ID); return err },
		"Result":       func() error { _, _, err := c.Result(ctx, kept.ID); return err },
		"Fetched":      func() error { return c.Fetched(ctx, kept.ID) },
		"Deliveries":   func() error { _, _, err := c.Deliveries(ctx, 9); return err },
		"Delivered":    func() error { return c.Delivered(ctx, over.ID, true, 0, "no") },
		"Sweep":        func() error { return c.Sweep(ctx) },
	} {
		if err := do(); !errors.Is(err, gone) {
			c.Errorf("%s = %v, want the cause of the end", name, err)
		}
	}
	for _, want := range []faas.Call{queued, other, running, kept} {
		wantEqual(c.T, "the call", c.get(want.ID), want)
	}
	c.wantResult(kept, faas.ResultKept)
	due, _ := c.deliveries(9)
	wantEqual(c.T, "deliveries", due, []store.Delivery{over})
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Queued: 1, Running: 1})
}

// seenIsCounted looks on while calls go back in line and end: who sees that finds it
// counted.
func seenIsCounted(c *callTest) {
	becomes := func(call faas.Call, state faas.CallState) (ended *sync.WaitGroup) {
		ended = new(sync.WaitGroup)
		ended.Go(func() { c.settle(settlement(call, state)) })
		for c.get(call.ID).State != state {
		}
		return ended
	}
	for over := range 50 {
		call := c.run("f")
		ended := becomes(call, faas.CallQueued)
		line, err := c.Line(c.Context(), []string{"f"}, 9)
		if err != nil {
			c.Fatal(err)
		}
		c.wantIDs("line", line, call)
		ended.Wait()
		ended = becomes(c.take(1, "f")[0], faas.CallSucceeded)
		wantEqual(c.T, "tally", c.tally("f"), store.Tally{Succeeded: over + 1})
		ended.Wait()
	}
}

func manyAtOnce(c *callTest) {
	const producers, each, takers = 8, 40, 4
	const total = producers * each
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var accepted []string
	runs := make(map[string][]int) // the attempts of each call, as its takers saw them
	done := 0
	lanes := []store.Lane{lane(3, "f", "g"), lane(2, "h")}
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				payload := noise(uint64(p), 100)
				call, known, err := c.Accept(c.Context(), acceptance([]string{"f", "g", "h"}[i%3], priority(i%10), body(c.body(payload))))
				if err != nil || known {
					c.Errorf("Accept = known %t, %v", known, err)
					cancel()
					return
				}
				mu.Lock()
				accepted = append(accepted, call.ID)
				mu.Unlock()
			}
		})
	}
	for range takers {
		wg.Go(func() {
			for ctx.Err() == nil {
				taken, _, err := c.Take(c.Context(), "me", lanes)
				if err != nil {
					c.Errorf("Take = %v", err)
					cancel()
					return
				}
				for _, call := range taken {
					mu.Lock()
					runs[call.ID] = append(runs[call.ID], call.Attempt)
					mu.Unlock()
					s := settlement(call, faas.CallQueued)
					over := call.Attempt == 2 || call.Priority%2 == 0
					if over { // every other one is tried twice
						s = settlement(call, faas.CallSucceeded)
						s.Result = &store.NewResult{Status: 200, Body: c.body([]byte(call.ID))}
					}
					if err := c.Settle(c.Context(), s); err != nil {
						c.Errorf("Settle = %v", err)
						cancel()
						return
					}
					if over {
						mu.Lock()
						if done++; done == total {
							cancel()
						}
						mu.Unlock()
					}
				}
				if len(taken) == 0 {
					<-time.After(time.Millisecond)
				}
			}
		})
	}
	wg.Go(func() { // somebody looks on all the while
		for ctx.Err() == nil {
			all, err := c.Tallies(c.Context())
			if err != nil {
				c.Error(err)
				return
			}
			for fn, t := range all {
				if t.Failed != 0 || t.Queued < 0 || t.Running < 0 || t.Succeeded < 0 {
					c.Errorf("tally of %s = %+v", fn, t)
				}
			}
			<-time.After(time.Millisecond)
		}
	})
	wg.Wait()
	if len(accepted) != total || len(runs) != total {
		c.Fatalf("%d calls were accepted and %d ran, want %d", len(accepted), len(runs), total)
	}
	for _, id := range accepted {
		call := c.get(id)
		want := []int{1, 2}[:1+call.Priority%2]
		if call.State != faas.CallSucceeded || !slices.Equal(runs[id], want) {
			c.Fatalf("call %s is %s and ran as attempts %v, want it succeeded after %v", id, call.State, runs[id], want)
		}
		_, r, err := c.Result(c.Context(), id)
		if err != nil {
			c.Fatal(err)
		}
		if got := string(c.content(r)); got != id {
			c.Fatalf("the result of call %s is %q", id, got)
		}
	}
	c.wantTallies()
}

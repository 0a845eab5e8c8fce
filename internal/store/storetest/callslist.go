package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/store"
)

func cancel(c *callTest) {
	call := c.accept("f", delay(time.Hour))
	got, err := c.Cancel(c.Context(), call.ID, "the \"caller\" left")
	if err != nil {
		c.Fatal(err)
	}
	want := call
	want.State, want.Error, want.ErrKind, want.Finished = faas.CallCanceled, "the \"caller\" left", faas.Canceled, got.Finished
	wantEqual(c.T, "canceled", got, want)
	wantEqual(c.T, "read", c.get(call.ID), want)
	if got.Finished.Before(got.Queued) {
		c.Errorf("Finished = %v, want it after %v", got.Finished, got.Queued)
	}
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Failed: 1})
	for range 2 {
		got, err := c.Cancel(c.Context(), call.ID, "again")
		wantKind(c.T, "Cancel of a call that is canceled", err, faas.Conflict)
		wantEqual(c.T, "returned", got, want)
	}
	running := c.run("f")
	got, err = c.Cancel(c.Context(), running.ID, "too late")
	wantKind(c.T, "Cancel of a call that runs", err, faas.Conflict)
	wantEqual(c.T, "returned", got, running)
	for _, state := range []faas.CallState{faas.CallSucceeded, faas.CallFailed, faas.CallTimedOut} {
		over := c.run("f")
		c.settle(settlement(over, state))
		got, err = c.Cancel(c.Context(), over.ID, "too late")
		wantKind(c.T, "Cancel of a call that is over", err, faas.Conflict)
		wantEqual(c.T, "returned", got, c.get(over.ID))
		wantEqual(c.T, "state", got.State, state)
	}
	_, err = c.Cancel(c.Context(), faas.NewID(), "unknown")
	wantAbsent(c.T, "Cancel of an unknown call", err)

	again := c.run("f") // put back, and then canceled
	c.settle(settlement(again, faas.CallQueued))
	got, err = c.Cancel(c.Context(), again.ID, "enough")
	if err != nil || got.State != faas.CallCanceled || got.Attempt != 1 {
		c.Errorf("Cancel of a retry = %s at attempt %d, %v; want it canceled at 1", got.State, got.Attempt, err)
	}
	if taken := c.take(9, "f"); len(taken) > 0 {
		c.Errorf("took %v, want none of the canceled", ids(taken))
	}
}

func cancelQueued(c *callTest) {
	running, other := c.run("f"), c.accept("g")
	const n = 300
	var queued [n]string
	atOnce(n, func(i int) {
		call, _, err := c.Accept(c.Context(), acceptance("f", delay(time.Duration(i%2)*time.Hour), priority(i%10)))
		if err != nil {
			c.Error(err)
		}
		queued[i] = call.ID
	})
	got, err := c.CancelQueued(c.Context(), "f", "the function was removed")
	if got != n || err != nil {
		c.Errorf("CancelQueued = %d, %v; want %d", got, err, n)
	}
	for _, id := range queued {
		call := c.get(id)
		if call.State != faas.CallCanceled || call.Error != "the function was removed" || call.ErrKind != faas.Canceled || call.Finished.IsZero() {
			c.Fatalf("call = %+v, want it canceled with the reason", call)
		}
	}
	wantEqual(c.T, "the running call", c.get(running.ID), running)
	wantEqual(c.T, "the other function's", c.get(other.ID), other)
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Running: 1, Failed: n})
	if got, err := c.CancelQueued(c.Context(), "f", "again"); got != 0 || err != nil {
		c.Errorf("CancelQueued again = %d, %v; want 0", got, err)
	}
}

func lost(c *callTest) {
	for range 4 {
		c.accept("f")
	}
	by := func(owner string) faas.Call {
		taken, _, err := c.Take(c.Context(), owner, []store.Lane{lane(1, "f")})
		if err != nil || len(taken) != 1 {
			c.Fatalf("Take = %v, %v", ids(taken), err)
		}
		return taken[0]
	}
	first, mine, second, over := by("old"), by("new"), by("older"), by("old")
	third := c.accept("a", runningFor("old"))
	c.finish(over, 1)
	c.accept("f")
	got, err := c.Lost(c.Context(), "new")
	if err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "lost", got, []faas.Call{first, second, third})
	got, err = c.Lost(c.Context(), "old")
	if err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "lost for the old one", got, []faas.Call{mine, second})
	got, err = c.Held(c.Context(), "old")
	if err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "held by the old one", got, []faas.Call{first, third})
	s := settlement(first, faas.CallQueued)
	s.Stay = true
	c.settle(s)
	taken, _, err := c.Take(c.Context(), "new", []store.Lane{lane(1, "f")})
	if err != nil || len(taken) != 1 || taken[0].ID != first.ID {
		c.Fatalf("Take = %v, %v; want the rescued call", ids(taken), err)
	}
	got, err = c.Lost(c.Context(), "new")
	if err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "lost after the rescue", got, []faas.Call{second, third})
	got, err = c.Held(c.Context(), "nobody")
	if len(got) != 0 || err != nil {
		c.Errorf("held by nobody: %v, %v", ids(got), err)
	}
}

func list(c *callTest) {
	a := c.accept("f", func(a *store.Acceptance) { a.Call.App, a.Call.Function = "one", "x" })
	b := c.accept("f", func(a *store.Acceptance) { a.Call.App, a.Call.Function = "two", "x" })
	d := c.accept("g", func(a *store.Acceptance) { a.Call.App, a.Call.Function = "two", "y" }, delay(time.Hour), priority(9))
	e := c.run("g")
	f := c.finish(c.run("g"), 1)
	g := c.run("h")
	c.settle(settlement(g, faas.CallTimedOut))
	if has, err := c.Has(c.Context(), []string{"unknown", a.ID, g.ID}); err != nil || len(has) != 2 || !has[a.ID] || !has[g.ID] {
		c.Errorf("Has = %v, %v; want the two that are kept", has, err)
	}
	if has, err := c.Has(c.Context(), nil); err != nil || len(has) != 0 {
		c.Errorf("Has of none = %v, %v", has, err)
	}
	for _, x := range []struct {
		f    store.CallFilter
		want []faas.Call
	}{
		{store.CallFilter{}, []faas.Call{g, f, e, d, b, a}},
		{store.CallFilter{App: "two"}, []faas.Call{d, b}},
		{store.CallFilter{Function: "x"}, []faas.Call{b, a}},
		{store.CallFilter{App: "two", Function: "x"}, []faas.Call{b}},
		{store.CallFilter{App: "one", Function: "y"}, nil},
		{store.CallFilter{FuncID: "g"}, []faas.Call{f, e, d}},
		{store.CallFilter{FuncID: "g", App: "two"}, []faas.Call{d}},
		{store.CallFilter{FuncID: "unknown"}, nil},
		{store.CallFilter{App: "unknown"}, nil},
		{store.CallFilter{States: []faas.CallState{faas.CallQueued}}, []faas.Call{d, b, a}},
		{store.CallFilter{States: []faas.CallState{faas.CallRunning, faas.CallTimedOut, faas.CallSucceeded}}, []faas.Call{g, f, e}},
		{store.CallFilter{States: []faas.CallState{faas.CallRunning, faas.CallQueued}, FuncID: "g"}, []faas.Call{e, d}},
		{store.CallFilter{States: []faas.CallState{faas.CallCanceled}}, nil},
		{store.CallFilter{States: []faas.CallState{"asleep"}}, nil},
		{store.CallFilter{After: d.ID}, []faas.Call{b, a}},
		{store.CallFilter{After: d.ID, App: "one"}, []faas.Call{a}},
		{store.CallFilter{After: a.ID}, nil},
	} {
		got, next := c.list(x.f)
		c.wantIDs(fmt.Sprintf("%+v", x.f), got, x.want...)
		if next != "" {
			c.Errorf("%+v goes on after %q, want the end", x.f, next)
		}
	}
	got, _ := c.list(store.CallFilter{FuncID: "g"})
	wantEqual(c.T, "listed", got, []faas.Call{f, e, d})
}

// listMoving has a call that goes from state to state while it is listed.
func listMoving(c *callTest) {
	const rounds = 100
	call := c.accept("f")
	var moving sync.WaitGroup
	over := make(chan struct{})
	moving.Go(func() {
		defer close(over)
		for range rounds {
			taken := c.take(1, "f")
			if len(taken) != 1 {
				c.Errorf("took %v, want the call", ids(taken))
				return
			}
			c.settle(settlement(taken[0], faas.CallQueued))
		}
		c.settle(settlement(c.take(1, "f")[0], faas.CallSucceeded))
	})
	for ended := false; !ended; {
		select {
		case <-over:
			ended = true
		default:
		}
		got, _ := c.list(store.CallFilter{FuncID: "f"})
		c.wantIDs("while it moves", got, call)
	}
	moving.Wait()
}

func listPages(c *callTest) {
	var all []faas.Call
	for i := range 105 {
		call := c.accept([]string{"f", "g", "f"}[i%3])
		all = append(all, call)
	}
	slices.Reverse(all)
	got, next := c.list(store.CallFilter{})
	c.wantIDs("no limit is a hundred", got, all[:100]...)
	if next != all[99].ID {
		c.Errorf("next = %q, want the last one %q", next, all[99].ID)
	}
	for _, limit := range []int{1, 7, 35, 70, 105, 1000} {
		var ofF, pages []faas.Call
		for _, call := range all {
			if call.FuncID == "f" {
				ofF = append(ofF, call)
			}
		}
		f := store.CallFilter{FuncID: "f", Limit: limit}
		for {
			page, next := c.list(f)
			if len(page) > limit || next != "" && len(page) < limit || len(page) == 0 {
				c.Fatalf("limit %d: a page of %d calls, next %q", limit, len(page), next)
			}
			pages = append(pages, page...)
			if f.After = next; next == "" {
				break
			}
		}
		c.wantIDs(fmt.Sprintf("pages of %d", limit), pages, ofF...)
	}
	_, _, err := c.List(c.Context(), store.CallFilter{After: "garbage"})
	wantAbsent(c.T, "List after an unknown ID", err)
}

func lineOrder(c *callTest) {
	far := c.accept("f", delay(2*time.Hour), priority(9))
	near := c.accept("g", delay(time.Hour))
	a, b := c.accept("f"), c.accept("g")
	d := c.accept("f", priority(4))
	c.accept("other", priority(9))
	c.run("f")
	c.finish(c.run("g"), 1)
	line := func(limit int, functions ...string) []faas.Call {
		c.Helper()
		calls, err := c.Line(c.Context(), functions, limit)
		if err != nil {
			c.Fatal(err)
		}
		return calls
	}
	c.wantIDs("both functions", line(100, "f", "g", "unknown"), d, a, b, near, far)
	c.wantIDs("the first three", line(3, "f", "g"), d, a, b)
	c.wantIDs("one function", line(100, "f"), d, a, far)
	c.wantIDs("none", line(100))
	wantEqual(c.T, "line", line(1, "g"), []faas.Call{b})
	c.wantIDs("taken in the same order", c.take(9, "f", "g"), d, a, b)
	pass()
	s := settlement(c.get(d.ID), faas.CallQueued)
	s.Delay = time.Minute
	c.settle(s)
	c.wantIDs("a retry waits for its time", line(100, "f", "g"), d, near, far)
}

func (c *callTest) place(id string, functions ...string) (int, bool) {
	c.Helper()
	place, about, err := c.Place(c.Context(), id, functions)
	if err != nil {
		c.Fatal(err)
	}
	return place, about
}

func place(c *callTest) {
	far := c.accept("f", delay(2*time.Hour), priority(9))
	near := c.accept("g", delay(time.Hour))
	a, b := c.accept("f"), c.accept("g")
	d := c.accept("f", priority(4))
	c.accept("other", priority(9))
	running := c.run("f")
	over := c.finish(c.run("g"), 1)
	for i, call := range []faas.Call{d, a, b, near, far} {
		if place, about := c.place(call.ID, "f", "g"); place != i+1 || about {
			c.Errorf("place = %d, about %t; want %d exactly", place, about, i+1)
		}
	}
	if place, _ := c.place(b.ID, "g"); place != 1 {
		c.Errorf("place in its function = %d, want 1", place)
	}
	if place, _ := c.place(far.ID, "f"); place != 3 {
		c.Errorf("place in its function = %d, want 3", place)
	}
	for _, id := range []string{running.ID, over.ID, faas.NewID()} {
		if place, about := c.place(id, "f", "g"); place != 0 || about {
			c.Errorf("place = %d, about %t; want 0 of a call that is not queued", place, about)
		}
	}
	c.take(1, "f", "g")
	if place, _ := c.place(a.ID, "f", "g"); place != 1 {
		c.Errorf("place = %d, want 1 after the first was taken", place)
	}
}

func placeFar(c *callTest) {
	const n = 1300
	atOnce(n, func(i int) {
		if _, _, err := c.Accept(c.Context(), acceptance([]string{"f", "g"}[i%2])); err != nil {
			c.Error(err)
		}
	})
	line, err := c.Line(c.Context(), []string{"f", "g"}, 2*n)
	if err != nil || len(line) != n {
		c.Fatalf("a line of %d calls, %v; want %d", len(line), err, n)
	}
	for _, i := range []int{0, 1, 100, 500, 899} {
		if place, about := c.place(line[i].ID, "f", "g"); place != i+1 || about {
			c.Errorf("place = %d, about %t; want %d exactly", place, about, i+1)
		}
	}
	place, about := c.place(line[n-1].ID, "f", "g")
	if about && place < 900 || !about && place != n {
		c.Errorf("the last place = %d, about %t; want %d, or about that", place, about, n)
	}
}

// counted tallies what List says.
func (c *callTest) counted() map[string]store.Tally {
	c.Helper()
	all := make(map[string]store.Tally)
	f := store.CallFilter{}
	for {
		calls, next := c.list(f)
		for _, call := range calls {
			t := all[call.FuncID]
			switch call.State {
			case faas.CallQueued:
				t.Queued++
			case faas.CallRunning:
				t.Running++
			case faas.CallSucceeded:
				t.Succeeded++
			default:
				t.Failed++
			}
			all[call.FuncID] = t
		}
		if f.After = next; next == "" {
			return all
		}
	}
}

func (c *callTest) wantTallies() {
	c.Helper()
	want := c.counted()
	got, err := c.Tallies(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "tallies", got, want)
	for fn, tally := range want {
		wantEqual(c.T, "tally of "+fn, c.tally(fn), tally)
		wantEqual(c.T, "tally that is known of "+fn, c.Known(fn), tally)
	}
}

func tallies(c *callTest) {
	wantEqual(c.T, "tally of an unknown function", c.tally("unknown"), store.Tally{})
	c.wantTallies()
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 120 {
		fn := []string{"a", "b", "c"}[random.IntN(3)]
		switch random.IntN(6) {
		case 0, 1:
			c.accept(fn, priority(random.IntN(10)))
		case 2:
			c.take(2, fn)
		case 3:
			running, _ := c.list(store.CallFilter{States: []faas.CallState{faas.CallRunning}, Limit: 1})
			for _, call := range running {
				states := []faas.CallState{faas.CallQueued, faas.CallSucceeded, faas.CallFailed, faas.CallTimedOut, faas.CallCanceled}
				c.settle(settlement(call, states[random.IntN(len(states))]))
			}
		case 4:
			queued, _ := c.list(store.CallFilter{States: []faas.CallState{faas.CallQueued}, Limit: 1})
			for _, call := range queued {
				if _, err := c.Cancel(c.Context(), call.ID, "no"); err != nil {
					c.Fatal(err)
				}
			}
		case 5:
			if _, _, err := c.Accept(c.Context(), acceptance(fn, func(a *store.Acceptance) { a.Call.State = "" })); err == nil {
				c.Fatal("a call in no state was accepted")
			}
		}
		if step%20 == 0 {
			c.wantTallies()
		}
	}
	c.wantTallies()
	if _, err := c.CancelQueued(c.Context(), "a", "no"); err != nil {
		c.Fatal(err)
	}
	c.wantTallies()
	pass()
	c.sweep()
	c.wantTallies()
	c.finish(c.run("swept"), 1)
	pass()
	c.sweep()
	wantEqual(c.T, "tally of a function whose calls were swept", c.tally("swept"), store.Tally{})
	c.wantTallies()
}

func wait(c *callTest) {
	_, err := c.Wait(c.Context(), faas.NewID())
	wantAbsent(c.T, "Wait for an unknown call", err)
	over := c.finish(c.run("f"), 1)
	got, err := c.Wait(c.Context(), over.ID)
	if err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "a call that is over", got, over)

	ends := []struct {
		call  faas.Call
		state faas.CallState
		end   func(faas.Call)
	}{
		{c.run("f"), faas.CallSucceeded, func(call faas.Call) { c.finish(call, 3) }},
		{c.run("f"), faas.CallTimedOut, func(call faas.Call) { c.settle(settlement(call, faas.CallTimedOut)) }},
		{c.run("f"), faas.CallFailed, func(call faas.Call) {
			c.settle(settlement(call, faas.CallQueued)) // nobody is woken by a retry
			c.settle(settlement(c.take(1, "f")[0], faas.CallFailed))
		}},
		{c.accept("g"), faas.CallCanceled, func(call faas.Call) {
			if _, err := c.Cancel(c.Context(), call.ID, "no"); err != nil {
				c.Error(err)
			}
		}},
		{c.accept("h"), faas.CallCanceled, func(faas.Call) {
			if _, err := c.CancelQueued(c.Context(), "h", "no"); err != nil {
				c.Error(err)
			}
		}},
	}
	var wg sync.WaitGroup
	for _, e := range ends {
		for range 30 {
			wg.Go(func() {
				got, err := c.Wait(c.Context(), e.call.ID)
				if err != nil || got.State != e.state {
					c.Errorf("Wait = %s, %v; want %s", got.State, err, e.state)
					return
				}
				wantEqual(c.T, "the call", got, c.get(e.call.ID))
				if e.state == faas.CallSucceeded { // its result is there, too
					c.wantResult(got, faas.ResultKept)
				}
			})
		}
	}
	pass() // most of them wait by now
	for _, e := range ends {
		e.end(e.call)
	}
	wg.Wait()
}

func waitEnds(c *callTest) {
	call := c.accept("f")
	left := errors.New("the caller left")
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancelCause(c.Context())
	for range 10 {
		wg.Go(func() {
			if _, err := c.Wait(ctx, call.ID); !errors.Is(err, left) {
				c.Errorf("Wait = %v, want the cause of the end", err)
			}
		})
	}
	cancel(left)
	wg.Wait()
	short, cancel2 := context.WithTimeout(c.Context(), tick)
	defer cancel2()
	_, err := c.Wait(short, call.ID)
	wantKind(c.T, "Wait with a deadline", err, faas.TimedOut)
	wantEqual(c.T, "the call", c.get(call.ID), call)
}

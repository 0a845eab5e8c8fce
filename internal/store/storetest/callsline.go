package storetest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/store"
)

func acceptKeeps(c *callTest) {
	a := acceptance("f", delay(time.Hour), priority(7))
	a.Call.RetryOf, a.Call.Once, a.Call.Hops = "earlier", true, 2
	want := a.Call
	// What an acceptance has no say in.
	a.Call.Attempt, a.Call.Failures, a.Call.Losses, a.Call.Place, a.Call.Estimate, a.Call.Waiting = 5, 5, 5, 5, 5, "x"
	a.Call.Queued, a.Call.Due, a.Call.Started, a.Call.Finished = time.Unix(1, 0), time.Unix(1, 0), time.Unix(1, 0), time.Unix(1, 0)
	a.Call.Queue, a.Call.Image, a.Call.Sandbox, a.Call.Run = 5, 5, 5, 5
	a.Call.Outcome.Status, a.Call.Error, a.Call.ErrKind, a.Call.Result, a.Call.Delivery = 5, "x", faas.Busy, faas.ResultKept, "x"
	got, known, err := c.Accept(c.Context(), a)
	if err != nil || known {
		c.Fatalf("Accept = known %t, %v; want a new call", known, err)
	}
	if got.Queued.IsZero() || got.Queued.Location() != time.UTC || got.Queued.Nanosecond()%1000 != 0 {
		c.Errorf("Queued = %v, want a time in UTC to the microsecond", got.Queued)
	}
	if d := got.Due.Sub(got.Queued); d != time.Hour {
		c.Errorf("the call is due %v after its acceptance, want 1h", d)
	}
	want.Queued, want.Due = got.Queued, got.Due
	wantEqual(c.T, "accepted", got, want)
	wantEqual(c.T, "read", c.get(want.ID), want)
	if now := c.accept("f"); !now.Due.Equal(now.Queued) {
		c.Errorf("a call with no delay is due at %v, want %v", now.Due, now.Queued)
	}
	if got := c.accept("f", delay(-time.Hour)); !got.Due.Equal(got.Queued) {
		c.Errorf("a call with a delay below zero is due at %v, want %v", got.Due, got.Queued)
	}
}

func acceptTwice(c *callTest) {
	first := c.accept("f")
	a := acceptance("g", body(c.body([]byte("other"))))
	a.Call.ID = first.ID
	_, _, err := c.Accept(c.Context(), a)
	wantKind(c.T, "Accept of an ID that is queued", err, faas.Conflict)
	wantEqual(c.T, "the call that was there", c.get(first.ID), first)
	c.finish(c.take(1, "f")[0], 1)
	a.Body = nil
	_, _, err = c.Accept(c.Context(), a)
	wantKind(c.T, "Accept of an ID that is over", err, faas.Conflict)
	wantEqual(c.T, "tally of the other function", c.tally("g"), store.Tally{})
}

func badAcceptance(c *callTest) {
	for name, spoil := range map[string]option{
		"no ID":         func(a *store.Acceptance) { a.Call.ID = "" },
		"no function":   func(a *store.Acceptance) { a.Call.FuncID = "" },
		"over already":  func(a *store.Acceptance) { a.Call.State = faas.CallSucceeded },
		"no state":      func(a *store.Acceptance) { a.Call.State = "" },
		"no request":    func(a *store.Acceptance) { a.Request = nil },
		"priority 10":   priority(faas.MaxPriority + 1),
		"priority -1":   priority(-1),
		"unknown state": func(a *store.Acceptance) { a.Call.State = "asleep" },
	} {
		_, _, err := c.Accept(c.Context(), acceptance("f", spoil))
		wantKind(c.T, name, err, faas.Invalid)
	}
	if calls, _ := c.list(store.CallFilter{}); len(calls) > 0 {
		c.Errorf("%d calls are kept, want none", len(calls))
	}
}

func acceptRunning(c *callTest) {
	call := c.accept("f", runningFor("me"), body(c.body([]byte("payload"))))
	if call.State != faas.CallRunning || call.Attempt != 1 || call.Started.IsZero() || call.Started.Before(call.Queued) {
		c.Errorf("accepted = %+v, want it running at attempt 1 with its start", call)
	}
	wantEqual(c.T, "read", c.get(call.ID), call)
	if taken := c.take(9, "f"); len(taken) > 0 {
		c.Errorf("took %v, want nothing: it runs", ids(taken))
	}
	mine, err := c.Lost(c.Context(), "me")
	theirs, err2 := c.Lost(c.Context(), "another")
	if len(mine) != 0 || len(theirs) != 1 || errors.Join(err, err2) != nil {
		c.Errorf("Lost = %v for its owner and %v for another, %v; want it lost for another only", ids(mine), ids(theirs), errors.Join(err, err2))
	}
	wantEqual(c.T, "payload", string(c.payload(call.ID)), "payload")
	c.finish(call, 1)
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Succeeded: 1})
}

func takeStarts(c *callTest) {
	want := c.accept("f")
	taken := c.take(1, "f")
	if len(taken) != 1 {
		c.Fatalf("took %d calls, want 1", len(taken))
	}
	got := taken[0]
	if got.Started.Before(want.Queued) || got.Started.Location() != time.UTC {
		c.Errorf("Started = %v, want a time in UTC that is not before %v", got.Started, want.Queued)
	}
	want.State, want.Attempt, want.Started = faas.CallRunning, 1, got.Started
	wantEqual(c.T, "taken", got, want)
	wantEqual(c.T, "read", c.get(got.ID), want)
	if again := c.take(9, "f"); len(again) > 0 {
		c.Errorf("took %v once more", ids(again))
	}
	taken, due, err := c.Take(c.Context(), "me", nil)
	if len(taken) > 0 || due != 0 || err != nil {
		c.Errorf("Take of no lane = %v, %v, %v; want nothing", ids(taken), due, err)
	}
}

func takeOrder(c *callTest) {
	slow := c.accept("f", delay(tick)) // due behind the next two
	first, second := c.accept("f"), c.accept("f")
	high, low := c.accept("f", priority(9)), c.accept("f", priority(1))
	middle := c.accept("f", priority(5))
	c.accept("g", priority(9))
	pass()
	last := c.accept("f")
	c.wantIDs("first two", c.take(2, "f"), high, middle)
	byDue := []faas.Call{first, second, slow, last} // as they came, on a machine that is not slow
	slices.SortStableFunc(byDue, func(a, b faas.Call) int { return a.Due.Compare(b.Due) })
	c.wantIDs("the others", c.take(9, "f"), append([]faas.Call{low}, byDue...)...)
}

func laneOrder(c *callTest) {
	a1 := c.accept("a")
	b1 := c.accept("b")
	b2 := c.accept("b", priority(2))
	a2 := c.accept("a")
	b3 := c.accept("b")
	a3 := c.accept("a", priority(3))
	c.wantIDs("all of one lane", c.take(9, "a", "b", "unknown"), a3, b2, a1, b1, a2, b3)
}

func lanes(c *callTest) {
	a := []faas.Call{c.accept("a"), c.accept("a"), c.accept("a")}
	b := []faas.Call{c.accept("b", priority(9)), c.accept("b", priority(9))}
	full := c.accept("full", priority(9))
	other := c.accept("other", priority(9))
	taken, _, err := c.Take(c.Context(), "me", []store.Lane{lane(2, "a"), lane(0, "full"), lane(5), lane(5, "b")})
	if err != nil {
		c.Fatal(err)
	}
	c.wantIDs("lane by lane", taken, a[0], a[1], b[0], b[1])
	for _, call := range []faas.Call{a[2], full, other} {
		if got := c.get(call.ID); got.State != faas.CallQueued {
			c.Errorf("call of %s is %s, want it queued", got.FuncID, got.State)
		}
	}
}

func delayed(c *callTest) {
	later := c.accept("f", delay(time.Hour), priority(9))
	soon := c.accept("f", delay(tick), priority(8))
	now := c.accept("f")
	pass()
	taken, due, err := c.Take(c.Context(), "me", []store.Lane{lane(9, "f")})
	if err != nil {
		c.Fatal(err)
	}
	c.wantIDs("taken", taken, soon, now)
	if due <= 0 || due > time.Hour {
		c.Errorf("the next one is due in %v, want at most 1h", due)
	}
	if got := c.get(later.ID); got.State != faas.CallQueued || got.Attempt != 0 {
		c.Errorf("the delayed call is %s at attempt %d, want it queued", got.State, got.Attempt)
	}
}

func dueOfLanes(c *callTest) {
	due := func(lanes ...store.Lane) time.Duration {
		_, due, err := c.Take(c.Context(), "me", lanes)
		if err != nil {
			c.Fatal(err)
		}
		return due
	}
	if got := due(store.Lane{Functions: []string{"a"}, Limit: 1}); got != 0 {
		c.Errorf("due in an empty lane = %v, want 0", got)
	}
	c.accept("a", delay(2*time.Hour))
	c.accept("a", delay(3*time.Hour), priority(9))
	c.accept("b", delay(time.Hour))
	if got := due(lane(1, "a")); got <= time.Hour || got > 2*time.Hour {
		c.Errorf("due = %v, want about 2h: the first of its lane", got)
	}
	if got := due(lane(1, "a"), lane(1, "b")); got <= 0 || got > time.Hour {
		c.Errorf("due = %v, want about 1h: the first of both lanes", got)
	}
	if got := due(lane(1, "a"), lane(0, "b")); got <= time.Hour {
		c.Errorf("due = %v, want about 2h: the other lane has no room", got)
	}
	if got := due(lane(1, "c")); got != 0 {
		c.Errorf("due = %v, want 0: no call of the lane waits", got)
	}
	c.accept("b")
	if got := due(lane(1, "b")); got != 0 {
		c.Errorf("due = %v, want 0: the lane is at its limit", got)
	}
}

func retried(c *callTest) {
	call := c.run("f", body(c.body([]byte("payload"))))
	s := settlement(call, faas.CallQueued)
	s.Delay = time.Hour
	s.Call.Error, s.Call.ErrKind, s.Call.Losses = "it failed", faas.FuncFailed, 2
	c.settle(s)
	got := c.get(call.ID)
	if wait := got.Due.Sub(got.Queued); wait < time.Hour {
		c.Errorf("the retry is due %v after the acceptance, want at least 1h", wait)
	}
	want := call
	want.State, want.Started, want.Due = faas.CallQueued, time.Time{}, got.Due
	want.Error, want.ErrKind, want.Losses = "it failed", faas.FuncFailed, 2
	wantEqual(c.T, "put back", got, want)
	other := c.accept("f")
	c.wantIDs("taken while the retry waits", c.take(9, "f"), other)

	first := c.run("g")
	before := c.accept("g", priority(faas.MaxPriority))
	pass()
	s = settlement(first, faas.CallQueued)
	c.settle(s)
	pass()
	behind := c.accept("g", priority(faas.MaxPriority))
	low := c.accept("g")
	taken := c.take(9, "g")
	c.wantIDs("a retry is due from now", taken, before, first, behind, low)
	if taken[1].Attempt != 2 {
		c.Errorf("the retry is attempt %d, want 2", taken[1].Attempt)
	}
	c.finish(taken[1], 1)
}

func rescued(c *callTest) {
	first, second, third := c.accept("f"), c.accept("f"), c.accept("f", priority(1))
	taken := c.take(2, "f")
	c.wantIDs("taken", taken, third, first)
	pass()
	fourth := c.accept("f", priority(1))
	for _, call := range taken {
		s := settlement(call, faas.CallQueued)
		s.Stay, s.Delay = true, time.Hour
		s.Call.Losses++
		c.settle(s)
	}
	got := c.get(first.ID)
	if !got.Due.Equal(first.Due) || !got.Started.IsZero() || got.Losses != 1 {
		c.Errorf("rescued = %+v, want it due at %v as before, not started, with one loss", got, first.Due)
	}
	if lost, err := c.Lost(c.Context(), "another"); len(lost) != 0 || err != nil {
		c.Errorf("Lost = %v, %v; want none: it does not run", ids(lost), err)
	}
	again := c.take(9, "f")
	c.wantIDs("taken again", again, third, fourth, first, second)
	if again[0].Attempt != 2 || again[1].Attempt != 1 {
		c.Errorf("attempts are %d and %d, want 2 of the rescued one and 1", again[0].Attempt, again[1].Attempt)
	}
}

func staleAttempt(c *callTest) {
	late := c.run("f")
	s := settlement(late, faas.CallQueued)
	s.Stay = true
	c.settle(s)
	end := func(call faas.Call) store.Settlement {
		s := settlement(call, faas.CallSucceeded)
		s.Result = &store.NewResult{Status: 200, Body: c.body([]byte("stale"))}
		s.Deliveries = []store.Delivery{{ID: faas.NewID(), Call: call.ID, Target: "a/b"}}
		return s
	}
	before := c.get(late.ID)
	wantKind(c.T, "Settle of a call that is back in line", c.Settle(c.Context(), end(late)), faas.Conflict)
	wantEqual(c.T, "the call", c.get(late.ID), before)
	second := c.take(1, "f")[0]
	wantKind(c.T, "Settle of attempt 1 while 2 runs", c.Settle(c.Context(), end(late)), faas.Conflict)
	wantEqual(c.T, "the call", c.get(late.ID), second)
	done := c.finish(second, 5)
	wantKind(c.T, "Settle of attempt 1 after the end", c.Settle(c.Context(), end(late)), faas.Conflict)
	wantKind(c.T, "Settle of attempt 2 once more", c.Settle(c.Context(), end(second)), faas.Conflict)
	again := settlement(second, faas.CallQueued)
	wantKind(c.T, "a call that is over put back", c.Settle(c.Context(), again), faas.Conflict)
	wantEqual(c.T, "the call", c.get(late.ID), done)
	unknown := second
	unknown.ID = faas.NewID()
	wantKind(c.T, "Settle of an unknown call", c.Settle(c.Context(), end(unknown)), faas.Conflict)
	if due, _, err := c.Deliveries(c.Context(), 9); len(due) > 0 || err != nil {
		c.Errorf("Deliveries = %v, %v; want none of an attempt that does not count", due, err)
	}
	_, r, err := c.Result(c.Context(), late.ID)
	if err != nil {
		c.Fatal(err)
	}
	wantEqual(c.T, "result", c.content(r), make([]byte, 5))
}

func badSettlement(c *callTest) {
	call := c.run("f")
	wantKind(c.T, "Settle as running", c.Settle(c.Context(), settlement(call, faas.CallRunning)), faas.Invalid)
	wantKind(c.T, "Settle in an unknown state", c.Settle(c.Context(), settlement(call, "asleep")), faas.Invalid)
	s := settlement(call, faas.CallQueued)
	s.Result = &store.NewResult{Status: 200}
	wantKind(c.T, "a result of a call that is put back", c.Settle(c.Context(), s), faas.Invalid)
	wantEqual(c.T, "the call", c.get(call.ID), call)
}

func settleKeeps(c *callTest) {
	for _, state := range faas.CallStates() {
		if !state.Final() {
			continue
		}
		s := settlement(c.run("f"), state)
		s.Call.Failures, s.Call.Losses, s.Call.Waiting = 3, 2, "place 3: its function is at its limit"
		s.Call.Queue, s.Call.Image, s.Call.Sandbox, s.Call.Run = 11, 12, 13, 14*time.Second+1
		s.Call.Outcome = faas.Outcome{
			Status: 207, In: 1 << 40, Out: 22, Start: faas.StartBare, Keep: true, Again: true,
			Exit:       &faas.Exit{Code: 3, Signal: "SIGKILL", OOM: true},
			PeakMemory: 5 * faas.GB, CPUTime: 23, Stderr: "Grüße\n\x00end", Image: 24, Sandbox: 25, Run: 26,
		}
		s.Call.Error, s.Call.ErrKind, s.Call.Delivery = "exit status 3: \"Grüße\"", faas.FuncFailed, "1 destination"
		c.settle(s)
		wantEqual(c.T, string(state), c.get(s.Call.ID), s.Call)
	}
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Succeeded: 1, Failed: 3})

	s := settlement(c.run("f"), faas.CallFailed)
	s.Call.Finished = time.Time{}
	s.Call.Error, s.Call.Outcome.Stderr = "cut in the middle: Gr\xc3", "\xff"
	c.settle(s)
	got := c.get(s.Call.ID)
	if got.Finished.Before(got.Started) {
		c.Errorf("Finished = %v, want the time of Settle", got.Finished)
	}
	wantEqual(c.T, "text that is not UTF-8", got.Error+got.Outcome.Stderr, "cut in the middle: Gr\uFFFD\uFFFD")
	s = settlement(c.run("f"), faas.CallFailed)
	s.Call.Error = "x" + strings.Repeat("ü", 1<<20)
	c.settle(s)
	if got := c.get(s.Call.ID).Error; got != s.Call.Error[:16<<10-1] {
		c.Errorf("of a long error %d bytes are kept, want the first %d: whole characters up to 16 KB", len(got), 16<<10-1)
	}
	s = settlement(c.run("f"), faas.CallFailed)
	s.Call.Started = time.Unix(5, 123456789).In(time.FixedZone("east", 3600))
	c.settle(s)
	wantEqual(c.T, "Started", c.get(s.Call.ID).Started, time.Unix(5, 123456000).UTC())
}

func identityStays(c *callTest) {
	call := c.run("f")
	s := settlement(call, faas.CallFailed)
	s.Call.App, s.Call.Function, s.Call.FuncID, s.Call.Revision, s.Call.Kind = "x", "x", "x", 9, faas.CallSync
	s.Call.Priority, s.Call.RetryOf, s.Call.Once, s.Call.Hops = 1, "x", true, 9
	s.Call.Queued, s.Call.Due = time.Unix(1, 0), time.Unix(1, 0)
	s.Call.Place, s.Call.Estimate, s.Call.Result = 3, 3, faas.ResultKept // there is none
	c.settle(s)
	want := call
	want.State, want.Finished = faas.CallFailed, s.Call.Finished
	wantEqual(c.T, "settled", c.get(call.ID), want)
	wantEqual(c.T, "tally", c.tally("f"), store.Tally{Failed: 1})
	wantEqual(c.T, "tally of the other function", c.tally("x"), store.Tally{})
}

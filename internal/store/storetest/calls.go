package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Engine is what an engine of the store is.
type Engine interface {
	store.Store
	store.Calls
}

// RunCalls runs the contract of store.Calls: at least one case for each sentence of
// its comments. open returns a new engine that closes itself with t.Cleanup.
//
// Engines have clocks of their own, so the cases wait for a short delay where one
// has to pass, and take an hour where it must not.
func RunCalls(t *testing.T, open func(t *testing.T, limits store.Limits) Engine) {
	for _, c := range []struct {
		name   string
		limits store.Limits
		test   func(*callTest)
	}{
		{"AcceptKeepsWhatCounts", store.Limits{}, acceptKeeps},
		{"AcceptTwiceIsAConflict", store.Limits{}, acceptTwice},
		{"BadAcceptanceIsInvalid", store.Limits{}, badAcceptance},
		{"AcceptedAsRunningCountsAsTaken", store.Limits{}, acceptRunning},
		{"TakeStartsAttempts", store.Limits{}, takeStarts},
		{"TakeGoesByPriorityThenDueThenAcceptance", store.Limits{}, takeOrder},
		{"OneOrderOverTheFunctionsOfALane", store.Limits{}, laneOrder},
		{"LanesAreTakenEachToItsLimit", store.Limits{}, lanes},
		{"DelayedCallStandsInNobodysWay", store.Limits{}, delayed},
		{"DueIsOfCallsThatWaitForTheirTimeAlone", store.Limits{}, dueOfLanes},
		{"RetriedCallIsDueAgainLater", store.Limits{}, retried},
		{"RescuedCallKeepsItsPlace", store.Limits{}, rescued},
		{"StaleAttemptDoesNotCount", store.Limits{}, staleAttempt},
		{"BadSettlementIsInvalid", store.Limits{}, badSettlement},
		{"SettleKeepsWhatItSays", store.Limits{}, settleKeeps},
		{"IdentityOfACallDoesNotChange", store.Limits{}, identityStays},
		{"RequestComesBack", store.Limits{}, requestComesBack},
		{"PayloadIsKeptAsLongAsItIsNeeded", store.Limits{}, payloadKept},
		{"LargeBodiesComeBackByteForByte", store.Limits{}, largeBodies},
		{"BodyIsUsedUpAlsoAfterAnError", store.Limits{QueuePerFunction: 3 * faas.MB}, bodiesUsed},
		{"ResultComesBack", store.Limits{}, resultComesBack},
		{"NoResultIsNotFound", store.Limits{}, noResult},
		{"FetchedResultIsGone", store.Limits{}, fetched},
		{"OldestResultOfTheFunctionIsRotated", store.Limits{ResultsPerFunction: 100 * faas.KB}, rotateFunction},
		{"OldestResultOfTheNodeIsRotated", store.Limits{ResultsTotal: 100 * faas.KB}, rotateNode},
		{"ResultOverTheCapIsKeptItself", store.Limits{ResultsPerFunction: 50 * faas.KB, ResultsTotal: 50 * faas.KB}, rotateNeverItself},
		{"ResultWithAKeyIsRotatedLast", store.Limits{ResultsPerFunction: 100 * faas.KB, KeyAge: time.Hour}, rotateKeyedLast},
		{"KeptPayloadIsRotatedWithItsCall", store.Limits{ResultsPerFunction: 100 * faas.KB}, rotatePayload},
		{"FullQueueOfAFunctionIsBusy", store.Limits{QueuePerFunction: 100 * faas.KB}, queueOfFunction},
		{"FullQueueOfTheNodeIsBusy", store.Limits{QueueTotal: 100 * faas.KB}, queueOfNode},
		{"KeyFindsTheEarlierCall", store.Limits{KeyAge: time.Hour}, keyKnown},
		{"KeyBelongsToFunctionAndCaller", store.Limits{}, keyScope},
		{"KeyOfAnotherRequestIsRefused", store.Limits{}, keyReused},
		{"ForgottenKeyIsFree", store.Limits{}, keyForgotten},
		{"OldKeyIsFree", store.Limits{KeyAge: tick}, keyExpired},
		{"OneOfManyClaimsOfAKeyIsAccepted", store.Limits{}, keyClaims},
		{"KnownCallIsNeverBusy", store.Limits{QueueTotal: 50 * faas.KB}, keyNotBusy},
		{"CancelEndsAQueuedCallOnly", store.Limits{}, cancel},
		{"CancelQueuedEndsThoseOfItsFunction", store.Limits{}, cancelQueued},
		{"LostCallsAreThoseOfOtherOwners", store.Limits{}, lost},
		{"ListIsNewestFirstAndFiltered", store.Limits{}, list},
		{"ListGoesOnAfterAnID", store.Limits{}, listPages},
		{"LineIsInTheOrderOfStart", store.Limits{}, lineOrder},
		{"PlaceCountsThoseBefore", store.Limits{}, place},
		{"PlaceInALongLineIsAnEstimate", store.Limits{}, placeFar},
		{"TallyIsWhatListCounts", store.Limits{Age: tick}, tallies},
		{"WaitReturnsTheCallThatIsOver", store.Limits{}, wait},
		{"WaitEndsWithItsContext", store.Limits{}, waitEnds},
		{"DeliveriesAreMadeWithTheEnd", store.Limits{}, deliveries},
		{"DeliveryIsDueUntilItIsDelivered", store.Limits{}, delivered},
		{"SweepRemovesWhatIsOld", store.Limits{Age: tick}, sweep},
		{"SweepRemovesTheFirstOfTooMany", store.Limits{CallsPerFunction: 3}, sweepMany},
		{"SweepKeepsWhatIsYoung", store.Limits{Age: time.Hour, KeyAge: time.Hour}, sweepKeeps},
		{"CallsAreTheCallersOwn", store.Limits{}, ownCalls},
		{"EndedContextTouchesNoCall", store.Limits{}, endedContextOfCalls},
		{"ManyProducersAndTakersLoseNothing", store.Limits{}, manyAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(&callTest{t, open(t, c.limits)}) })
	}
}

// tick is a delay that is waited for.
const tick = 20 * time.Millisecond

// pass returns when a delay of tick is over.
func pass() { <-time.After(2 * tick) }

// callTest is an engine under test, with the steps of the cases.
type callTest struct {
	*testing.T
	Engine
}

// An option of an acceptance.
type option func(*store.Acceptance)

func priority(p int) option        { return func(a *store.Acceptance) { a.Call.Priority = p } }
func delay(d time.Duration) option { return func(a *store.Acceptance) { a.Delay = d } }
func runningFor(owner string) option {
	return func(a *store.Acceptance) { a.Call.State, a.Owner = faas.CallRunning, owner }
}
func body(b *store.Body) option { return func(a *store.Acceptance) { a.Body = b } }
func key(caller, key, hash string) option {
	return func(a *store.Acceptance) {
		a.Key = &store.Key{Function: a.Call.FuncID, Caller: caller, Key: key, Hash: hash}
	}
}

// acceptance is a call of the function with the ID fn, named after it.
func acceptance(fn string, options ...option) store.Acceptance {
	a := store.Acceptance{
		Call:    faas.Call{ID: faas.NewID(), App: "app", Function: "name-of-" + fn, FuncID: fn, Revision: 3, Kind: faas.CallAsync, State: faas.CallQueued},
		Request: &faas.Request{Method: "POST", URL: "http://node/x", Body: http.NoBody},
	}
	for _, o := range options {
		o(&a)
	}
	return a
}

// accept accepts a new call, which must do.
func (c *callTest) accept(fn string, options ...option) faas.Call {
	c.Helper()
	call, known, err := c.Accept(c.Context(), acceptance(fn, options...))
	if err != nil || known {
		c.Fatalf("Accept = %+v, known %t, %v; want a new call", call, known, err)
	}
	return call
}

// take takes calls of one lane.
func (c *callTest) take(limit int, functions ...string) []faas.Call {
	c.Helper()
	taken, _, err := c.Take(c.Context(), "me", []store.Lane{{Functions: functions, Limit: limit}})
	if err != nil {
		c.Fatal(err)
	}
	return taken
}

func lane(limit int, functions ...string) store.Lane {
	return store.Lane{Functions: functions, Limit: limit}
}

// run accepts a call of fn and takes it.
func (c *callTest) run(fn string, options ...option) faas.Call {
	c.Helper()
	id := c.accept(fn, append(options, priority(faas.MaxPriority))...).ID
	taken := c.take(1, fn)
	if len(taken) != 1 || taken[0].ID != id {
		c.Fatalf("took %v, want the call %s that has the highest priority", ids(taken), id)
	}
	return taken[0]
}

// settlement ends call in state.
func settlement(call faas.Call, state faas.CallState) store.Settlement {
	call.State = state
	if state.Final() {
		call.Finished = call.Started.Add(time.Millisecond)
	}
	return store.Settlement{Call: call}
}

func (c *callTest) settle(s store.Settlement) {
	c.Helper()
	if err := c.Settle(c.Context(), s); err != nil {
		c.Fatal(err)
	}
}

// finish ends call with a result of this many bytes.
func (c *callTest) finish(call faas.Call, size int) faas.Call {
	c.Helper()
	s := settlement(call, faas.CallSucceeded)
	s.Result = &store.NewResult{Status: 200, Body: c.body(make([]byte, size))}
	c.settle(s)
	return c.get(call.ID)
}

func (c *callTest) body(content []byte) *store.Body {
	c.Helper()
	b := c.NewBody()
	for len(content) > 0 { // in pieces, as it comes
		n, err := b.Write(content[:min(len(content), 300_000)])
		if err != nil {
			c.Fatal(err)
		}
		content = content[n:]
	}
	return b
}

func (c *callTest) get(id string) faas.Call {
	c.Helper()
	call, err := c.Call(c.Context(), id)
	if err != nil {
		c.Fatal(err)
	}
	return call
}

func (c *callTest) list(f store.CallFilter) (calls []faas.Call, next string) {
	c.Helper()
	calls, next, err := c.List(c.Context(), f)
	if err != nil {
		c.Fatal(err)
	}
	return calls, next
}

func (c *callTest) tally(fn string) store.Tally {
	c.Helper()
	tally, err := c.Tally(c.Context(), fn)
	if err != nil {
		c.Fatal(err)
	}
	return tally
}

func (c *callTest) sweep() {
	c.Helper()
	if err := c.Sweep(c.Context()); err != nil {
		c.Fatal(err)
	}
}

func (c *callTest) wantIDs(what string, got []faas.Call, want ...faas.Call) {
	c.Helper()
	if !slices.Equal(ids(got), ids(want)) {
		c.Errorf("%s: got %s, want %s", what, ids(got), ids(want))
	}
}

// wantGone wants a NotFound that wraps ErrGone.
func wantGone(t *testing.T, what string, err error) {
	t.Helper()
	if faas.KindOf(err) != faas.NotFound || !errors.Is(err, faas.ErrGone) {
		t.Errorf("%s = %v, want a NotFound that wraps ErrGone", what, err)
	}
}

// wantAbsent wants a NotFound that does not.
func wantAbsent(t *testing.T, what string, err error) {
	t.Helper()
	if faas.KindOf(err) != faas.NotFound || errors.Is(err, faas.ErrGone) {
		t.Errorf("%s = %v, want a NotFound that does not wrap ErrGone", what, err)
	}
}

// wantResult wants the result of a call to be readable, or else gone.
func (c *callTest) wantResult(call faas.Call, want faas.ResultState) {
	c.Helper()
	if got := c.get(call.ID).Result; got != want {
		c.Errorf("the result of call %s is %q, want %q", call.ID, got, want)
	}
	_, r, err := c.Result(c.Context(), call.ID)
	if want != faas.ResultKept {
		wantGone(c.T, "Result", err)
		return
	}
	if err != nil {
		c.Errorf("Result = %v, want it kept", err)
		return
	}
	r.Close()
}

// content reads a body to its end and closes it.
func (c *callTest) content(r io.ReadCloser) []byte {
	c.Helper()
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		c.Fatal(err)
	}
	return b
}

// payload reads the payload of a call.
func (c *callTest) payload(id string) []byte {
	c.Helper()
	request, err := c.Request(c.Context(), id)
	if err != nil {
		c.Fatal(err)
	}
	r, ok := request.Body.(io.ReadCloser)
	if !ok {
		c.Fatalf("the body of a request is a %T, want an io.ReadCloser", request.Body)
	}
	return c.content(r)
}

func ids(calls []faas.Call) []string {
	all := make([]string, len(calls))
	for i, call := range calls {
		all[i] = call.ID
	}
	return all
}

// noise is size bytes, the same for the same seed.
func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// atOnce runs do n times at once, each with its number.
func atOnce(n int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}

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
}

func list(c *callTest) {
	a := c.accept("f", func(a *store.Acceptance) { a.Call.App, a.Call.Function = "one", "x" })
	b := c.accept("f", func(a *store.Acceptance) { a.Call.App, a.Call.Function = "two", "x" })
	d := c.accept("g", func(a *store.Acceptance) { a.Call.App, a.Call.Function = "two", "y" }, delay(time.Hour), priority(9))
	e := c.run("g")
	f := c.finish(c.run("g"), 1)
	g := c.run("h")
	c.settle(settlement(g, faas.CallTimedOut))
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
		"Call":         func() error { _, err := c.Call(ctx, queued.ID); return err },
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

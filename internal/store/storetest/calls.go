package storetest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
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
		{"RunningCallsAreHeldByTheirOwnerAndLostForOthers", store.Limits{}, lost},
		{"ListIsNewestFirstAndFiltered", store.Limits{}, list},
		{"ListGoesOnAfterAnID", store.Limits{}, listPages},
		{"ListMissesNoCallThatIsAtWork", store.Limits{}, listMoving},
		{"LineIsInTheOrderOfStart", store.Limits{}, lineOrder},
		{"PlaceCountsThoseBefore", store.Limits{}, place},
		{"PlaceInALongLineIsAnEstimate", store.Limits{}, placeFar},
		{"TallyIsWhatListCounts", store.Limits{Age: tick}, tallies},
		{"WhatIsSeenIsCounted", store.Limits{}, seenIsCounted},
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

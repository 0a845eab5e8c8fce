package faas

import (
	"net/http"
	"slices"
	"time"
)

// A Call is one invocation of a function: its record, from the moment it is
// accepted. Its ID is handed to the caller before the function starts and
// never changes. A Call holds no body, query string, header or credential, so
// it may be kept and shown.
type Call struct {
	ID       string
	App      string // name of the app, as it was at the time of the call
	Function string // name of the function
	FuncID   string // ID of the function
	Revision int64  // of the function
	Kind     CallKind
	State    CallState
	Attempt  int // 1 for the first; 0 before it

	Priority int       // of an asynchronous call, 0 to MaxPriority: higher ones start first
	Due      time.Time // it is not started before; zero: at once
	RetryOf  string    // ID of the call that this one repeats; "": none
	Failures int       // attempts that failed, or ran out of time
	Losses   int       // attempts that ended with their node
	Once     bool      // it is not tried again when its node dies
	Hops     int       // results that were delivered, one upon the other, until this call was made; 0: a caller made it

	Waiting  string        // its place in line and what it waits for, in words; kept afterwards if it waited
	Place    int           // in line, while it waits in the queue: 1 is next; 0: not known
	Estimate time.Duration // until it starts; 0: not known

	Queued   time.Time // when it was accepted
	Started  time.Time // zero until it has a slot
	Finished time.Time // zero until State.Final

	// How the time went. Queue is the wait for a slot, Image the pull or the
	// look-up of the image, Sandbox the start of the sandbox, Run the exchange
	// with the function.
	Queue, Image, Sandbox, Run time.Duration

	Outcome Outcome
	Error   string // why it did not succeed, as the caller read it; empty after success
	ErrKind Kind   // of Error

	Result   ResultState // of an asynchronous call
	Delivery string      // where its result was sent, and how that went, in words; "": nowhere
}

// ResultState says whether the result of a call can be read.
type ResultState string

// States of results. A call that is not over has none, and so has one that ended
// without an answer: its Error says why.
const (
	ResultNone    ResultState = ""
	ResultKept    ResultState = "kept"
	ResultFetched ResultState = "fetched" // read by an API that gives a result once
	ResultRotated ResultState = "rotated" // removed for newer ones, or for its age
)

// A Result is what an asynchronous call answered.
type Result struct {
	Status int
	Header http.Header
	Size   int64 // of the body
}

// CallKind says whether the caller waits.
type CallKind string

const (
	CallSync  CallKind = "sync"
	CallAsync CallKind = "async"
)

// CallState is a step in the life of a call.
//
//	  +-- rescued: its node died; or retried --+
//	  v                                        |
//	Queued ----> Running ----> Succeeded, Failed or TimedOut
//	  |             |
//	  +-------------+--------> Canceled, or Failed before it ran
//
// A synchronous call starts in Queued too, in memory only: it is never rescued.
// A queued call fails when no sandbox could be started for it in time.
type CallState string

const (
	CallQueued    CallState = "queued"
	CallRunning   CallState = "running"
	CallSucceeded CallState = "succeeded"
	CallFailed    CallState = "failed"
	CallTimedOut  CallState = "timed_out"
	CallCanceled  CallState = "canceled"
)

// callNext is the picture above as data: every state with those it leads to.
var callNext = map[CallState][]CallState{
	CallQueued:    {CallRunning, CallFailed, CallTimedOut, CallCanceled},
	CallRunning:   {CallSucceeded, CallFailed, CallTimedOut, CallCanceled, CallQueued},
	CallSucceeded: nil,
	CallFailed:    nil,
	CallTimedOut:  nil,
	CallCanceled:  nil,
}

// CallStates lists every state, in the order of a call's life.
func CallStates() []CallState {
	return []CallState{CallQueued, CallRunning, CallSucceeded, CallFailed, CallTimedOut, CallCanceled}
}

// Final reports whether a call in state s is over.
func (s CallState) Final() bool {
	next, known := callNext[s]
	return known && len(next) == 0
}

// Advance moves c to state next at time now. A step that the picture does not
// have is a Conflict: somebody else moved the call first.
func (c *Call) Advance(next CallState, now time.Time) error {
	if !slices.Contains(callNext[c.State], next) {
		return Errorf(Conflict, "call %s is %s and cannot become %s", c.ID, c.State, next)
	}
	c.State = next
	switch {
	case next == CallQueued:
		c.Started, c.Finished = time.Time{}, time.Time{}
	case next == CallRunning:
		c.Started = now
	case next.Final():
		c.Finished = now
	}
	return nil
}

// StateAfter is the final state of a call that ended with err.
func StateAfter(err error) CallState {
	switch KindOf(err) {
	case OK:
		return CallSucceeded
	case TimedOut:
		return CallTimedOut
	case Canceled:
		return CallCanceled
	}
	return CallFailed
}

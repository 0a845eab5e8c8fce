package store

import (
	"context"
	"time"

	"hob/faas"
)

// Calls keeps asynchronous calls from their acceptance until they are no longer
// of interest: the queue, what became of each call, its payload and its result,
// the idempotency keys under which calls were made, and the results on their way
// to a destination. What a method returns nil for survives a power cut. Values
// handed in and out are the caller's own, but for a Body (see there).
//
//	Accept ----> queued ----Take----> running ----Settle----> succeeded, failed,
//	               ^  |                  |                    timed out, canceled
//	               |  +--Cancel--> canceled
//	               +-------Settle--------+   a retry, or a rescue
//
// The order in which queued calls are taken is: higher Priority first, then the
// earlier time at which they became due (acceptance plus Delay), then acceptance.
// A call that is not due is not taken and stands in nobody's way.
//
// Time is the engine's own clock, which never goes back: when the machine's clock
// is set back, also between two runs, delays stay what they were.
//
// A full disk, and a cap of Limits, is Busy, and the error says which; the store
// serves on and takes calls again when there is room.
type Calls interface {
	// Accept makes a call and its payload durable. State must be CallQueued (it
	// waits in line) or CallRunning (whoever accepts it runs it at once: it counts
	// as taken by Owner). The engine sets Queued, Due and Attempt (0, or 1 for one
	// that runs), and returns the call as it is kept. a.Body is the engine's from
	// here on, also after an error. An ID that was accepted before is a Conflict.
	//
	// With a Key that an earlier call has, nothing is accepted: known is true and
	// the answer is that call as it is now. If its key has another Hash, the error
	// is a Conflict that wraps faas.ErrKeyReused.
	Accept(ctx context.Context, a Acceptance) (call faas.Call, known bool, err error)

	// Take takes the first calls of each lane that are due, in order, at most Limit
	// of a lane, for owner (a run of a daemon), as one change: each gets
	// CallRunning, one Attempt more and Started. They are returned lane by lane, in
	// the order in which they are to start. due is the time until the next call of
	// one of these lanes becomes due that was not taken for that reason alone; 0
	// if there is none. A function is in at most one lane.
	Take(ctx context.Context, owner string, lanes []Lane) (taken []faas.Call, due time.Duration, err error)

	// Request returns what a call was made with. The caller closes its Body, which
	// is an io.ReadCloser. NotFound if there is no such call; ErrGone, as NotFound,
	// if its payload is no longer kept.
	Request(ctx context.Context, id string) (*faas.Request, error)

	// Settle ends an attempt; everything it says becomes true as one change.
	// Conflict, and nothing changes, if the call is not running or is at another
	// attempt: then the result of this one does not count. s.Result.Body is the
	// engine's from here on, unless the error is Busy: then it may be tried again.
	// A result that with those before it is over a cap of Limits removes the oldest
	// of its function, or of the node, never itself, and the payloads kept with
	// them; the calls stay, with ResultRotated.
	Settle(ctx context.Context, s Settlement) error

	// Cancel ends a call that is queued, with the state CallCanceled, the reason as
	// its Error and the kind Canceled, and returns it. Its payload is not kept, and
	// its key is free. A call that is running, or over, is a Conflict and returned
	// as it is.
	Cancel(ctx context.Context, id, reason string) (faas.Call, error)
	// CancelQueued does the same with all queued calls of a function and returns how
	// many they were. It may take several changes.
	CancelQueued(ctx context.Context, function, reason string) (int, error)

	// Lost returns the calls that run for other owners than this one, the oldest
	// first: where one database has one daemon at a time, those daemons are dead.
	Lost(ctx context.Context, owner string) ([]faas.Call, error)
	// Held returns the calls that run for this owner, the oldest first.
	Held(ctx context.Context, owner string) ([]faas.Call, error)

	// Call returns a call; NotFound if there is none, or none any more.
	Call(ctx context.Context, id string) (faas.Call, error)
	// Has returns those of these IDs that are of calls which are kept.
	Has(ctx context.Context, ids []string) (map[string]bool, error)
	// List returns calls, the newest first, and the ID to continue after, empty if
	// there is no more. NotFound if f.After is no call.
	List(ctx context.Context, f CallFilter) (calls []faas.Call, next string, err error)
	// Line returns queued calls of these functions in the order in which they are
	// to be taken, calls that are not yet due behind all others, by their due time.
	Line(ctx context.Context, functions []string, limit int) ([]faas.Call, error)
	// Place counts the queued calls of these functions that are to be taken before
	// the given one, and it: 1 is next. It counts up to about a thousand; beyond
	// that about is true and the number is an estimate. 0 if the call is not queued.
	Place(ctx context.Context, id string, functions []string) (place int, about bool, err error)
	// Tally counts the calls of a function that are kept, all of them zero for one
	// that has none. It costs no more for many calls.
	Tally(ctx context.Context, function string) (Tally, error)
	// Known is Tally as it is known at once: of a change that others are making in
	// this moment it may know nothing, though its outcome can be read.
	Known(function string) Tally
	// Tallies returns the tallies of all functions that have calls, by ID.
	Tallies(ctx context.Context) (map[string]Tally, error)

	// Wait returns the call as soon as it is over, without asking the database
	// again and again; NotFound as Call.
	Wait(ctx context.Context, id string) (faas.Call, error)
	// Result returns the result of a call and its body, which the caller closes.
	// NotFound if there is no such call, or it has no result (yet); NotFound that
	// wraps ErrGone if there was one: rotated, or fetched.
	Result(ctx context.Context, id string) (faas.Result, Reader, error)
	// Fetched says that the outcome of a call was read for good: its result is
	// removed, and the call gets ResultFetched, also if it had none. Nothing happens
	// if the call is not over, or its result was rotated, or there is no such call.
	Fetched(ctx context.Context, id string) error

	// Deliveries returns deliveries that are due, the oldest first, and the time until
	// the next one is; 0 if there is none. One is returned again and again until it
	// is Delivered: whoever asks knows which it has under way.
	Deliveries(ctx context.Context, limit int) (due []Delivery, next time.Duration, err error)
	// Delivered ends a try: with done the delivery is over, else it is due again
	// after retry, and counts one try more. outcome, in words, is the call's
	// Delivery from now on. NotFound if there is no such delivery.
	Delivered(ctx context.Context, id string, done bool, retry time.Duration, outcome string) error

	// Now is the time by the engine's clock, in UTC: what Queued and Due are to be
	// compared with.
	Now() time.Time

	// NewBody returns an empty Body for Accept or Settle.
	NewBody() *Body

	// Sweep removes what is older than Limits say, in portions, calls over the cap of
	// their function, and results over the cap of the node. It is called now and then.
	Sweep(ctx context.Context) error
}

// Acceptance is a call on its way into the queue.
type Acceptance struct {
	Call    faas.Call     // ID, names, FuncID, Revision, Kind, State, Priority, RetryOf, Once and Hops count
	Delay   time.Duration // before it may start
	Owner   string        // of a call that runs at once
	Request *faas.Request // kept but for Body, Call, Attempt, Key and Deadline; never nil
	Body    *Body         // payload; nil: empty
	Key     *Key          // nil: none
}

// A Key is what a caller knows a call by.
type Key struct {
	Function string // ID
	Caller   string
	Key      string // as the caller gave it
	Hash     string // of the request: the same key with another one is an error
}

// Lane is functions whose calls start in one order.
type Lane struct {
	Functions []string // IDs
	Limit     int      // most calls to take
}

// A Settlement is how an attempt ended.
type Settlement struct {
	Call   faas.Call  // as it is now; what counted in its Acceptance stays. CallQueued puts it back in line; else its state is final
	Result *NewResult // nil: none. Never with CallQueued

	Delay time.Duration // of a call that is put back: it becomes due so much later than now
	Stay  bool          // it was rescued: it stays where it was in line, whatever Delay says

	KeepPayload bool       // the call may be repeated
	ForgetKey   bool       // the outcome is not the answer to a repetition
	Deliveries  []Delivery // only ID and Target count. Never with CallQueued
}

// NewResult is a result on its way into the store.
type NewResult struct {
	Status int
	Header map[string][]string
	Body   *Body // nil: empty
}

// A Delivery is a result on its way to a destination: URL or APP/FUNCTION. What
// is sent is read when it is sent, from the call.
type Delivery struct {
	ID     string // also the ID of the call of a function that it makes
	Call   string // whose result it is
	Target string
	Tries  int       // that failed
	Since  time.Time // when the call ended
}

// A CallFilter says which calls are wanted. An empty field asks for nothing.
type CallFilter struct {
	App, Function string // names
	FuncID        string
	States        []faas.CallState
	After         string // only calls that were accepted before the one with this ID
	Limit         int    // at most so many; 0: 100
}

// A Tally counts calls by what became of them. Failed are those that failed, ran
// out of time or were canceled.
type Tally struct{ Queued, Running, Succeeded, Failed int }

// Limits are what an engine keeps at most. Zero is no limit.
type Limits struct {
	ResultsPerFunction faas.Bytes // results with what is kept of their calls (ResultWeight)
	ResultsTotal       faas.Bytes
	QueuePerFunction   faas.Bytes // payloads of calls that are not over; above it Accept is Busy
	QueueTotal         faas.Bytes
	CallsPerFunction   int           // calls that are over; Sweep removes those that were accepted first, but none with a delivery on its way, or that a key stands for: those end with KeyAge
	Age                time.Duration // of calls that are over, their payloads and results
	KeyAge             time.Duration // of keys, from the acceptance of their calls; a result that a key stands for is the last to be removed before
}

// DefaultLimits are those of a daemon that was told nothing.
func DefaultLimits() Limits {
	return Limits{
		ResultsPerFunction: 50 * faas.MB, ResultsTotal: 2 * faas.GB,
		QueuePerFunction: 1 * faas.GB, QueueTotal: 8 * faas.GB,
		CallsPerFunction: 100_000, Age: 7 * 24 * time.Hour, KeyAge: 24 * time.Hour,
	}
}

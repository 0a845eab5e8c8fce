package dispatch

import (
	"errors"
	"time"

	"hob/faas"
)

// Limits of attempts.
const (
	mostLosses = 5           // nodes that may die while a call runs before it counts as the reason
	lossDelay  = time.Second // after the second of them; four times as long after each further one
	busyDelay  = time.Second
	busyMax    = time.Minute
)

// removedText is why calls of a function that is no more are canceled.
const removedText = "the function was removed"

// A verdict is what follows from an attempt.
type verdict struct {
	state faas.CallState // CallQueued: it goes back into the queue
	delay time.Duration  // of one that goes back
	stay  bool           // it goes back to where it was
	err   error          // of a call that is over, or why it goes back
	fails bool           // the attempt counts as a failure
}

// decide says what follows from an attempt of a call that ended with err; call is as
// the attempt left it. draining says that this node is shutting down, and may have
// ended it for that.
func decide(fn faas.Function, call faas.Call, err error, draining bool) verdict {
	kind := faas.KindOf(err)
	switch {
	case err == nil:
		return verdict{state: faas.CallSucceeded}
	case kind == faas.Canceled:
		return verdict{state: faas.CallCanceled, err: err}
	case errors.Is(err, errOutside) && call.Started.IsZero():
		return verdict{state: faas.CallQueued, stay: true, err: err}
	case kind == faas.Busy && draining && !call.Started.IsZero() && call.Once:
		return verdict{state: faas.CallFailed, err: faas.Errorf(faas.FuncFailed, "the node was shut down while it ran, and this function must not run twice")}
	case kind == faas.Busy && !call.Started.IsZero() && call.Once:
		return verdict{state: faas.CallFailed, err: faas.Errorf(faas.FuncFailed, "what it answered could not be kept, and this function must not run twice: %w", err)}
	case kind == faas.Busy && draining:
		return verdict{state: faas.CallQueued, stay: true, err: err}
	case kind == faas.Busy:
		return verdict{state: faas.CallQueued, delay: min(busyDelay<<min(call.Attempt-1, 6), busyMax), err: err}
	case again(kind) && call.Failures < fn.Retries:
		return verdict{state: faas.CallQueued, delay: backOff(fn, call.Failures), err: err, fails: true}
	}
	return verdict{state: faas.StateAfter(err), err: err, fails: true}
}

// again reports whether another attempt may go better.
func again(kind faas.Kind) bool {
	switch kind {
	case faas.FuncFailed, faas.TimedOut, faas.Internal, faas.NotFound:
		return true
	}
	return false
}

// backOff is the time before the next attempt, after so many failures before the
// present one.
func backOff(fn faas.Function, failures int) time.Duration {
	delay := fn.RetryDelay
	for range failures {
		if delay >= fn.RetryMax/2 {
			return fn.RetryMax
		}
		delay *= 2
	}
	return min(delay, fn.RetryMax)
}

// decideLost says what follows for a call whose daemon died while it had it; begun
// is false if it is known that the call had not begun. It keeps its place, unless
// it has lost daemons before: it may be what kills them, and if it is not, the next
// one may live longer.
func decideLost(call faas.Call, begun bool) verdict {
	switch {
	case !begun:
		return verdict{state: faas.CallQueued, stay: true}
	case call.Kind == faas.CallSync:
		return verdict{state: faas.CallFailed, err: faas.Errorf(faas.FuncFailed, "the node died while it ran: whether it has done its work is not known")}
	case call.Once:
		return verdict{state: faas.CallFailed, err: faas.Errorf(faas.FuncFailed, "the node died while it ran, and this function must not run twice")}
	case call.Losses+1 >= mostLosses:
		return verdict{state: faas.CallFailed, err: faas.Errorf(faas.FuncFailed, "the node died %d times while it ran", mostLosses)}
	case call.Losses == 0:
		return verdict{state: faas.CallQueued, stay: true}
	}
	return verdict{state: faas.CallQueued, delay: lossDelay << (2 * (call.Losses - 1))}
}

// decideLapsed says what follows for a call that an outside runner had for lease, or,
// with a cause, that goes back or ends before. However often that happens, it keeps
// its place: the old queue shows a task again and again, too.
func decideLapsed(call faas.Call, cause error, lease time.Duration) verdict {
	switch {
	case faas.KindOf(cause) == faas.Canceled:
		return verdict{state: faas.CallCanceled, err: cause}
	case cause != nil:
		return verdict{state: faas.CallQueued, stay: true, err: cause}
	case call.Once:
		return verdict{state: faas.CallFailed, err: faas.Errorf(faas.FuncFailed, "an outside runner had it for %v and did not end it, and this function must not run twice", lease)}
	}
	return verdict{state: faas.CallQueued, stay: true, err: faas.Errorf(faas.TimedOut, "an outside runner had it for %v and did not end it", lease)}
}

package deliver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// How long a delivery is tried, and at what distances.
const (
	firstRetry  = time.Second
	lastRetry   = 10 * time.Minute
	giveUpAfter = 24 * time.Hour // since the call ended
)

// A try is what came of one.
type try struct {
	reason string        // why it failed; "": it did not
	final  bool          // it cannot succeed later
	after  time.Duration // that the destination asks to be left alone
	down   bool          // the destination as a whole does not answer
}

// answered is a try that an HTTP server answered.
func answered(status int, header http.Header, now time.Time) try {
	t := try{reason: fmt.Sprintf("%d %s", status, http.StatusText(status))}
	switch {
	case status >= 200 && status <= 299:
		return try{}
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		t.after = retryAfter(header.Get("Retry-After"), now)
		return t
	case status >= 300 && status <= 399 && header.Get("Location") != "":
		t.reason += fmt.Sprintf(": it leads to %s, and redirects are not followed", shown(header.Get("Location")))
	}
	t.final = true
	return t
}

// retryAfter reads a header of that name, which has seconds or a date; 0 if there
// is none that makes sense.
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(0, n), int(giveUpAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, at.Sub(now))
}

// failed is a try that got no answer.
func failed(err error) try {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // its text has the whole address
	}
	if faas.KindOf(err) == faas.Denied { // until its owner changes something, as with 404
		return try{reason: err.Error(), final: true}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return try{reason: fmt.Sprintf("no answer within %v", tryTime), down: true}
	}
	op, ok := errors.AsType[*net.OpError](err)
	return try{reason: err.Error(), down: ok && op.Op == "dial"}
}

// enqueued is a try to call a function.
func enqueued(err error) try {
	switch faas.KindOf(err) {
	case faas.OK, faas.Conflict: // an earlier try, whose end was not seen, made the call
		return try{}
	case faas.Busy, faas.TimedOut, faas.Canceled, faas.Internal:
		return try{reason: err.Error()}
	}
	return try{reason: err.Error(), final: true}
}

// unread is a try that ended before it began: what is to be sent cannot be read.
func unread(err error) try {
	if errors.Is(err, faas.ErrGone) {
		return try{reason: "the result is not kept any more", final: true}
	}
	return try{reason: err.Error(), final: faas.KindOf(err) == faas.NotFound}
}

// A verdict is what follows from a try.
type verdict struct {
	done  bool
	retry time.Duration // if not done
	words string        // for users
}

// decide says what follows from a try of a delivery whose call ended age ago. r,
// from 0 to 1, spreads tries that failed together.
func decide(one store.Delivery, t try, age time.Duration, r float64) verdict {
	n := one.Tries + 1
	switch {
	case t.reason == "" && n == 1:
		return verdict{done: true, words: "delivered to " + shown(one.Target)}
	case t.reason == "":
		return verdict{done: true, words: fmt.Sprintf("delivered to %s in %d tries", shown(one.Target), n)}
	case t.final:
		return verdict{done: true, words: "given up: " + t.reason}
	case age >= giveUpAfter:
		return verdict{done: true, words: fmt.Sprintf("given up after %dh: %s", int(age.Hours()), t.reason)}
	}
	longest := lastRetry
	if doublings := one.Tries; doublings < 10 { // 2^10 s are above lastRetry
		longest = min(longest, firstRetry<<doublings)
	}
	retry := longest/2 + time.Duration(r*float64(longest/2))
	retry = min(max(retry, t.after), max(giveUpAfter-age, firstRetry)) // the last try is at the end
	times := "once"
	if n > 1 {
		times = fmt.Sprintf("%d times", n)
	}
	return verdict{retry: retry, words: fmt.Sprintf("tried %s, again in %v: %s", times, rounded(retry), t.reason)}
}

// rounded leaves out what nobody reads.
func rounded(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

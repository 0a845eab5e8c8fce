package protocol

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// answer holds an answer back until it is whole, has reached HoldBytes or has
// waited HoldTime; then it streams. An answer that fails while it is held is
// forgotten: nothing of it has been written.
//
//	held ----> begun ----> over
//	  +---------------------^
type answer struct {
	w       http.ResponseWriter
	control *http.ResponseController

	mu     sync.Mutex // guards all below, and w
	held   []byte
	timer  *time.Timer // begins the answer; nil before its first byte
	begun  bool
	over   bool
	failed error // of the first write that failed
	status int   // 0: nothing was written
	out    int64 // bytes written

	wmu    sync.Mutex // guards the two below; never held while writing
	cut    bool       // no write may wait any more
	writes bool       // the header was written
}

// write adds p to the answer.
func (a *answer) write(p []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun {
		a.send(p)
		return a.failed
	}
	a.held = append(a.held, p...)
	if len(a.held) >= HoldBytes {
		a.begin()
	} else if a.timer == nil {
		a.timer = time.AfterFunc(HoldTime, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.begin()
		})
	}
	return a.failed
}

// begin writes what is held; from then on write writes. Precondition: a.mu is held.
func (a *answer) begin() {
	if a.begun || a.over {
		return
	}
	a.begun = true
	a.w.Header().Set("Trailer", TrailerOutcome)
	a.head()
	a.send(a.held)
	a.held = nil
}

// head writes the header. Precondition: a.mu is held.
func (a *answer) head() {
	if a.w.Header()["Content-Type"] == nil {
		a.w.Header().Set("Content-Type", "application/octet-stream") // else net/http guesses
	}
	a.wmu.Lock()
	a.writes = true
	if a.cut {
		a.control.SetWriteDeadline(time.Now())
	}
	a.wmu.Unlock()
	a.status = http.StatusOK
	a.w.WriteHeader(a.status)
}

// send writes p to the caller. Precondition: a.mu is held.
func (a *answer) send(p []byte) {
	if a.failed != nil {
		return
	}
	n, err := a.w.Write(p)
	a.out += int64(n)
	if err == nil {
		err = a.control.Flush()
		if errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	a.failed = err
}

// abort makes a write that waits for a slow caller, and every later one, fail.
// An answer that is still held is left alone: the error has to be written.
func (a *answer) abort() {
	a.wmu.Lock()
	defer a.wmu.Unlock()
	a.cut = true
	if a.writes {
		a.control.SetWriteDeadline(time.Now())
	}
}

// end ends the answer: whole if ok, else where it is; sooner sends it to the caller
// now, not when the server gets round to it. It returns the error of a
// write that failed.
func (a *answer) end(ok, sooner bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	if a.timer != nil {
		a.timer.Stop()
	}
	switch {
	case !ok:
	case a.begun:
		a.w.Header().Set(TrailerOutcome, "ok")
	default:
		a.w.Header().Set("Content-Length", strconv.Itoa(len(a.held)))
		a.head()
		if len(a.held) > 0 {
			n, err := a.w.Write(a.held)
			a.out += int64(n)
			a.failed = err
		}
		if sooner && a.failed == nil {
			a.control.Flush() // an error shows in what is written next, or is nobody's any more
		}
	}
	return a.failed
}

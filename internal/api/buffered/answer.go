package buffered

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/store"
)

const (
	// heldInMemory is how much of an answer is held in memory that is used again.
	heldInMemory = 64 << 10

	// smallAnswer is one that finds room in the kernel whether its client reads or not.
	smallAnswer = 16 << 10

	// roomEvery is after how many bytes of a file it is asked whether there is room for more.
	roomEvery = 8 << 20

	// slowReader is how long a client may take to read an answer.
	slowReader = 5 * time.Minute
)

// An Answer is the http.ResponseWriter of a call: it keeps the answer until the call is
// over, or, after Stream, until it is flushed. It is made by Hold and given back by
// Release.
//
// Once its client has left it takes no more.
type Answer struct {
	Over bool // the limit

	w     http.ResponseWriter // of the client: the protocol reads the body through it
	r     *http.Request
	calls store.Calls
	limit faas.Bytes
	room  func() error

	header http.Header
	status int // 0: there is no answer
	size   int64
	first  byte // of the body
	mem    []byte
	file   *store.Body // all of a body that does not fit into mem
	err    error       // why it takes no more

	call *faas.Call // the call, once it is made
	made string     // its ID then

	head func() (status int, err error) // nil: it is not to stream
	mu   sync.Mutex                     // guards the two below: who breaks a call off does not wait for who writes
	sent bool                           // the head: what follows is the client's at once
	cut  bool                           // the call was broken off, and nothing is to be sent but why
}

var answers = sync.Pool{New: func() any { return &Answer{header: make(http.Header), mem: make([]byte, 0, 4<<10)} }}

// Hold makes the answer to r: of at most limit bytes of body, 0 being none, in a file of
// calls if it is large, as long as room, if any, does not say why there is none.
func Hold(w http.ResponseWriter, r *http.Request, calls store.Calls, limit faas.Bytes, room func() error) *Answer {
	a := answers.Get().(*Answer)
	a.w, a.r, a.calls, a.limit, a.room = w, r, calls, limit, room
	return a
}

// Release gives up what is held, and a.
func (a *Answer) Release() {
	a.file.Discard()
	clear(a.header)
	if cap(a.mem) <= 2*heldInMemory {
		*a = Answer{header: a.header, mem: a.mem[:0]}
		answers.Put(a)
	}
}

// Untyped has an answer whose function gives it no type stay without: its type is
// guessed.
func (a *Answer) Untyped() { a.header["Content-Type"] = untyped }

// untyped asks package protocol for it.
var untyped = []string{}

// Header implements http.ResponseWriter.
func (a *Answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *Answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *Answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.err == nil {
		if a.err = a.take(p); a.err != nil {
			a.file.Discard() // it may be what fills the disk
			a.file = nil
		}
	}
	if a.err != nil {
		return 0, a.err
	}
	return len(p), nil
}

func (a *Answer) take(p []byte) error {
	if err := a.r.Context().Err(); err != nil {
		return err
	}
	if a.sent {
		return a.pass(p)
	}
	if a.size == 0 && len(p) > 0 {
		a.first = p[0]
	}
	a.size += int64(len(p))
	if a.Over = a.limit > 0 && a.size > int64(a.limit); a.Over {
		return a.tooLarge()
	}
	if a.file == nil && a.size <= heldInMemory {
		a.mem = append(a.mem, p...)
		return nil
	}
	if a.file == nil {
		a.file = a.calls.NewBody()
		if err := a.file.Spill(); err != nil { // else it would grow in memory, for as long as its reader takes
			return unheld(err)
		}
		if _, err := a.file.Write(a.mem); err != nil {
			return unheld(err)
		}
	}
	if a.room != nil && a.size/roomEvery != (a.size-int64(len(p)))/roomEvery {
		if err := a.room(); err != nil {
			return unheld(err)
		}
	}
	_, err := a.file.Write(p)
	return unheld(err)
}

// unheld is why an answer cannot be held. Its Kind must be decided: it is what the
// call has failed with.
func unheld(err error) error {
	if err == nil {
		return nil
	}
	return faas.Errorf(faas.KindOf(err), "the answer cannot be held: %w", err)
}

// What the protocol asks of a connection. To read the body of the request through
// it is all that is given, as long as nothing of the answer is on its way.

// Unwrap lets http.ResponseController set the deadline of reading.
func (a *Answer) Unwrap() http.ResponseWriter { return a.w }

// FlushError says whether there is still a client, and sends it what is to stream.
func (a *Answer) FlushError() error {
	if err := a.r.Context().Err(); err != nil || a.head == nil {
		return err
	}
	return a.flush()
}

// SetWriteDeadline does nothing to what is held: a call that ran out of time is still
// answered.
func (a *Answer) SetWriteDeadline(t time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cut = true; !a.sent {
		return nil
	}
	return http.NewResponseController(a.w).SetWriteDeadline(t)
}

// Hijack implements http.Hijacker, which Unwrap would else.
func (a *Answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// BeginsWith reports whether c is the first byte of the body.
func (a *Answer) BeginsWith(c byte) bool { return a.size > 0 && a.first == c }

// Send gives the client what is held, with a status from 200 on, and the header that
// its own writer has by now. It panics with http.ErrAbortHandler if the client does
// not take it: half an answer must not pass for a whole one.
func (a *Answer) Send(status int) {
	to := a.w.Header()
	if a.size > smallAnswer {
		LimitReader(a.w, a.r)
	}
	if hasBody(status) && (a.size > 0 || a.r.Method != http.MethodHead) { // what a HEAD leaves out, nobody knows
		to["Content-Length"] = []string{strconv.FormatInt(a.size, 10)}
	}
	if a.write(status) != nil {
		panic(http.ErrAbortHandler)
	}
}

// write sends a head with this status, and what is held.
func (a *Answer) write(status int) error {
	to := a.w.Header()
	if len(to["Content-Type"]) == 0 {
		delete(to, "Content-Type") // net/http guesses it from what is written
	}
	a.w.WriteHeader(status)
	if !hasBody(status) {
		return nil
	}
	if a.r.Method == http.MethodHead {
		_, _ = a.w.Write(a.mem) // net/http looks at it, and sends nothing
		return nil
	}
	var err error
	if a.file == nil {
		_, err = a.w.Write(a.mem)
	} else {
		_, err = io.Copy(a.w, a.file.Reader())
	}
	return err
}

func hasBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// LimitReader gives the client of r slowReader to read the answer, unless the server
// has a limit of its own. net/http takes it off before the next request.
func LimitReader(w http.ResponseWriter, r *http.Request) {
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); !ok || s.WriteTimeout == 0 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowReader)) // not every writer has one
	}
}

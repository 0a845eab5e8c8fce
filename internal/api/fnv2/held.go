package fnv2

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/api"
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

// held is the http.ResponseWriter of a call: it keeps the answer until the call is
// over, so that a failure in the middle of it is told as one. It is made by hold and
// given back by release.
//
// Once its client has left it takes no more.
type held struct {
	w     http.ResponseWriter // of the client: the protocol reads the body through it
	r     *http.Request
	calls store.Calls
	limit faas.Bytes   // of the body; 0: none
	room  func() error // why no more may be kept on the disk

	header http.Header
	status int // 0: there is no answer
	size   int64
	mem    []byte
	file   *store.Body // all of a body that does not fit into mem
	err    error       // why it takes no more
	over   bool        // because of the limit
}

var helds = sync.Pool{New: func() any { return &held{header: make(http.Header), mem: make([]byte, 0, 4<<10)} }}

func (s *Server) hold(w http.ResponseWriter, r *http.Request) *held {
	h := helds.Get().(*held)
	h.w, h.r, h.calls, h.limit, h.room = w, r, s.Calls, s.MaxResponse, s.Room
	return h
}

// untyped asks package protocol to give an answer no type if its function gave none.
var untyped = []string{}

// release gives up what is held.
func (h *held) release() {
	h.file.Discard()
	clear(h.header)
	if cap(h.mem) <= 2*heldInMemory {
		*h = held{header: h.header, mem: h.mem[:0]}
		helds.Put(h)
	}
}

// Header implements http.ResponseWriter.
func (h *held) Header() http.Header { return h.header }

// WriteHeader implements http.ResponseWriter.
func (h *held) WriteHeader(status int) {
	if h.status == 0 && status >= 200 {
		h.status = status
	}
}

// Write implements http.ResponseWriter.
func (h *held) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	if h.err == nil {
		if h.err = h.take(p); h.err != nil {
			h.file.Discard() // it may be what fills the disk
			h.file = nil
		}
	}
	if h.err != nil {
		return 0, h.err
	}
	return len(p), nil
}

func (h *held) take(p []byte) error {
	if err := h.r.Context().Err(); err != nil {
		return err
	}
	h.size += int64(len(p))
	if h.over = h.limit > 0 && h.size > int64(h.limit); h.over {
		return faas.Errorf(faas.TooLarge, "the answer is over the limit of %v", h.limit)
	}
	if h.file == nil && h.size <= heldInMemory {
		h.mem = append(h.mem, p...)
		return nil
	}
	if h.file == nil {
		h.file = h.calls.NewBody()
		if err := h.file.Spill(); err != nil { // else it would grow in memory, for as long as its reader takes
			return unheld(err)
		}
		if _, err := h.file.Write(h.mem); err != nil {
			return unheld(err)
		}
	}
	if h.room != nil && h.size/roomEvery != (h.size-int64(len(p)))/roomEvery {
		if err := h.room(); err != nil {
			return unheld(err)
		}
	}
	_, err := h.file.Write(p)
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
// it is all that is given: nothing of the answer is on its way.

// Unwrap lets http.ResponseController set the deadline of reading.
func (h *held) Unwrap() http.ResponseWriter { return h.w }

// FlushError says whether there is still a client.
func (h *held) FlushError() error { return h.r.Context().Err() }

// SetWriteDeadline does nothing: a call that ran out of time is still answered.
func (h *held) SetWriteDeadline(time.Time) error { return nil }

// Hijack implements http.Hijacker, which Unwrap would else.
func (h *held) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }

// send gives the client what was held, under the id of its call. mapped is for the
// answer of a function that was told of an HTTP request in Fn's headers: it answers
// in them.
func (h *held) send(id string, mapped bool) error {
	to := h.w.Header()
	status := max(h.status, http.StatusOK)
	if mapped {
		var err error
		if status, err = unmapHeader(to, h.header); err != nil {
			return err
		}
	} else {
		for name, values := range h.header {
			give(to, name, values)
		}
	}
	to[headerCall] = []string{id}
	if len(to["Content-Type"]) == 0 {
		delete(to, "Content-Type") // net/http guesses it from what is written, as in a Fn server
	}
	if h.size > smallAnswer {
		limitReader(h.w, h.r)
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		h.w.WriteHeader(status)
		return nil
	}
	if h.size > 0 || h.r.Method != http.MethodHead { // what a HEAD leaves out, nobody knows
		to["Content-Length"] = []string{strconv.FormatInt(h.size, 10)}
	}
	h.w.WriteHeader(status)
	if h.r.Method == http.MethodHead {
		_, _ = h.w.Write(h.mem) // net/http looks at it, and sends nothing
		return nil
	}
	var err error
	if h.file == nil {
		_, err = h.w.Write(h.mem)
	} else {
		_, err = io.Copy(h.w, h.file.Reader())
	}
	if err != nil {
		panic(http.ErrAbortHandler) // half an answer must not pass for a whole one
	}
	return nil
}

// limitReader gives the client of r slowReader to read the answer, unless the server
// has a limit of its own. net/http takes it off before the next request.
func limitReader(w http.ResponseWriter, r *http.Request) {
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); !ok || s.WriteTimeout == 0 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowReader)) // not every writer has one
	}
}

// give adds a header of a function to the answer, unless it is about one
// connection, or ours.
func give(to http.Header, name string, values []string) {
	switch {
	case isHop(name), name == "Content-Length", name == headerCall, name == headerReplayed, name == api.RequestID, strings.HasPrefix(name, "Hob-"), strings.HasPrefix(name, http.TrailerPrefix):
	case name == "Vary": // there may be one of CORS
		to[name] = slices.Concat(to[name], values)
	default:
		to[name] = values
	}
}

// headerPrefix is before the name of a header of an HTTP request, and of the answer
// to it, between hob and the function.
const headerPrefix = "Fn-Http-H-"

// unmapHeader turns the header of a function into that of the answer to an HTTP
// request, and returns the status it asks for. A status that is no number is none,
// as Fn has it; a number that cannot be the status of an answer is a fault.
func unmapHeader(to, from http.Header) (status int, err error) {
	status = http.StatusOK
	if given := from["Fn-Http-Status"]; given != nil {
		if n, err := strconv.Atoi(given[0]); err == nil && n > 0 {
			status = n
		}
	}
	if status < 200 || status > 999 {
		return 0, errInvalid
	}
	for name, values := range from {
		rest, mapped := strings.CutPrefix(name, headerPrefix)
		switch {
		case mapped && rest != "":
			give(to, rest, values)
		case name == "Content-Type" && from[headerPrefix+name] == nil:
			to[name] = values
		}
	}
	return status, nil
}

// isHop reports whether a header, in canonical form, is about one connection only.
func isHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// dropHops takes out of the header of a request what is about one connection only.
func dropHops(h http.Header) {
	trailers := false
	for _, list := range h["Te"] {
		for word := range strings.SplitSeq(list, ",") {
			trailers = trailers || strings.EqualFold(strings.TrimSpace(word), "trailers")
		}
	}
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		if isHop(name) || name == "Expect" { // the latter was between the client and this server
			delete(h, name)
		}
	}
	if trailers {
		h["Te"] = []string{"trailers"}
	}
}

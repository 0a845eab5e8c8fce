// Package api is what the HTTP APIs share: handlers that may fail, the one table
// of Kinds and statuses, request identifiers, limits of bodies, and the guard of
// what manages the node. It knows no wire format; each API below it has its own.
package api

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"hob/faas"
)

// status is the only place that knows both Kinds and HTTP statuses.
var status = map[faas.Kind]int{
	faas.Internal:    http.StatusInternalServerError,
	faas.Invalid:     http.StatusBadRequest,
	faas.NotFound:    http.StatusNotFound,
	faas.Conflict:    http.StatusConflict,
	faas.Denied:      http.StatusForbidden,
	faas.TooLarge:    http.StatusRequestEntityTooLarge,
	faas.Busy:        http.StatusServiceUnavailable,
	faas.TimedOut:    http.StatusGatewayTimeout,
	faas.FuncFailed:  http.StatusBadGateway,
	faas.Canceled:    499,
	faas.Unsupported: http.StatusNotImplemented,
}

// Status returns the HTTP status of an error: that of its Kind, unless it wraps a
// reason that has a status of its own.
func Status(err error) int {
	switch {
	case errors.Is(err, faas.ErrEnvironment):
		return http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, faas.ErrGone):
		return http.StatusGone
	case errors.Is(err, faas.ErrKeyReused):
		return http.StatusUnprocessableEntity
	}
	return status[faas.KindOf(err)]
}

// A Handler is an http.Handler that may fail. Its error is answered once, by
// Serve, in the shape of the API it belongs to. A Handler that has begun its
// answer can only break it off, with panic(http.ErrAbortHandler): the client
// must not take half an answer for a whole one.
type Handler func(w http.ResponseWriter, r *http.Request) error

// A Fault is an error as the client may see it.
type Fault struct {
	Status  int
	Kind    faas.Kind
	Message string
	Request string // ID to quote to the operator
}

// FaultBody writes a Fault in the shape that one API promises its clients.
type FaultBody func(w http.ResponseWriter, f Fault)

// Serve adapts h. An Internal error, and a panic, is told to the operator in full
// and to the caller only as a request ID to quote.
func Serve(h Handler, body FaultBody, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := w.Header().Get(RequestID) // a function may have written there by then
		err := recovered(h, w, r)
		if err == nil {
			return
		}
		kind, rest := faas.KindOf(err), hearOutTime
		if kind == faas.Canceled { // by one who has left, or sends nothing
			rest = time.Second
		}
		// net/http reads what is left of the body before it answers.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(rest))
		f := Fault{Status: Status(err), Kind: kind, Message: err.Error(), Request: id}
		if kind == faas.Internal {
			log.ErrorContext(r.Context(), "request failed",
				"request", f.Request, "method", r.Method, "path", cmp.Or(r.Pattern, r.URL.Path), "err", err) // a path may hold a secret
			f.Message = "internal error; quote request " + f.Request
		}
		body(w, f)
	})
}

// recovered carries h out and turns a panic into an error, except the one that
// breaks an answer off.
func recovered(h Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return h(w, r)
}

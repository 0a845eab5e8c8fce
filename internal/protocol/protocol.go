// Package protocol is how a call is spoken to a process: what of the request
// goes where, how the answer is read, and what makes it a success. There is one
// Conn for each format: Default for the one whose sandbox serves a single call,
// and those that Open makes.
//
// It owns the exchange and nothing around it: the process is handed to it as
// streams and an end to wait for, by whoever starts sandboxes; the deadline of
// the call comes with the context; who may call and when is decided before.
package protocol

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"hob/faas"
)

// A Conn speaks to one sandbox, one call at a time; that of a function behind a
// port, any number at once.
type Conn interface {
	// Exchange gives req to the function and its answer to w. A nil error means
	// that the function succeeded and its whole answer was written. Otherwise
	// the error says what the caller may read of it, and its Kind is decided;
	// whether part of the answer was written before, w knows. When ctx ends, the
	// exchange ends at once with the cause, in the middle if need be. Nothing of
	// it goes on after Exchange has returned, except what runs in the sandbox.
	//
	// A caller who leaves a hot function ends ctx only if the function is behind a
	// port. Otherwise the exchange goes on without one until the function has
	// answered, so that the sandbox can be kept; but not if the request is not
	// whole.
	//
	// If the Outcome says Again, the function had nothing of the request, which
	// is as it was; the error is why, if there is nobody else to give it to.
	Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error)

	// Close ends what is left of the sandbox. It is called once, after the last
	// Exchange has returned, and returns when nothing is left.
	Close() error
}

// A Process is the first process of a sandbox.
type Process interface {
	Stdin() io.WriteCloser
	Stdout() Output

	// Wait returns when the process has ended, or with the cause when ctx ends.
	Wait(ctx context.Context) (faas.Exit, error)

	// LastWords returns the end of what the process wrote to standard error, a
	// few lines at most. After the end of the process it waits a moment for what
	// is still on its way.
	LastWords() string

	// Usage returns the most memory the process has used so far, and its
	// processor time.
	Usage() (peak faas.Bytes, cpu time.Duration)

	// Start tells what the sandbox was made from.
	Start() faas.Start

	// Dial connects to what the process listens on, as sandbox.Sandbox has it. A
	// connection that has a method Quiet is asked before each call whether nothing
	// has come that nobody asked for, and the other end is open.
	Dial(ctx context.Context, network, addr string) (net.Conn, error)

	// Listener is what has listened for the process since before it began, on
	// RuntimeAPI for format lambda; nil for the others.
	Listener() net.Listener

	// UnreadInput returns how many bytes the process has not read of its standard
	// input, UnreadOutput how many we have not of its standard output. What cannot
	// be known is 0.
	UnreadInput() int
	UnreadOutput() int

	// Close ends what is left of the sandbox and waits for it.
	Close() error
}

// Output is a stream of a process.
type Output interface {
	io.Reader
	SetReadDeadline(time.Time) error
}

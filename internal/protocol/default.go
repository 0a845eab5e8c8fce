package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"hob/faas"
)

// When an answer starts, and how long its end may take.
const (
	// HoldBytes and HoldTime are how much of an answer, and for how long after
	// its first byte, is held back. While it is, a failure has its own status.
	HoldBytes = 64 << 10
	HoldTime  = 250 * time.Millisecond

	// drain is how long after the end of the process its output may go on
	// without a byte: children may hold it open.
	drain = 100 * time.Millisecond
)

// TrailerOutcome is the trailer behind an answer that was streamed: "ok". An
// answer whose function failed after it had begun is broken off: it has no end
// and no trailer.
const TrailerOutcome = "Hob-Outcome"

// Default is the format of a fresh sandbox for each call: the body on standard
// input, the rest of the request in the environment, standard output is the
// answer, and the exit status decides.
//
// The process is started in Exchange, as its environment is that of the call.
// A Default serves one Exchange.
type Default struct {
	// Start starts the process. env comes on top of what the function's image
	// brings and wins over it. req.Call names the call.
	Start func(ctx context.Context, req *faas.Request, env []string) (Process, error)

	Memory faas.Bytes // limit, for the words of one who went over it

	process Process
}

// Exchange implements Conn.
func (d *Default) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	begin := time.Now()
	p, err := d.Start(ctx, req, req.Env)
	started := time.Now()
	out := faas.Outcome{Sandbox: started.Sub(begin)}
	if err != nil {
		return out, err
	}
	d.process = p
	if out.Start = p.Start(); out.Start != "" {
		w.Header().Set(HeaderStart, string(out.Start))
	}
	x := &exchange{Process: p, w: w, control: http.NewResponseController(w), req: req, exited: make(chan struct{}), uploaded: make(chan struct{})}
	err = x.run(ctx)
	out.Run = time.Since(started)
	out.Status, out.In, out.Out = x.answer.status, x.in, x.answer.out
	if x.ended {
		out.Exit = &x.exit
	}
	out.PeakMemory, out.CPUTime = p.Usage()
	return out, d.explain(x, err)
}

// Close implements Conn.
func (d *Default) Close() error {
	if d.process == nil {
		return nil
	}
	return d.process.Close()
}

// errExit stands for the failure that explain puts into words.
var errExit = errors.New("the function failed")

// explain says what went wrong inside the function.
func (d *Default) explain(x *exchange, err error) error {
	if !errors.Is(err, errExit) {
		return err
	}
	return faas.Errorf(faas.FuncFailed, "%s", ending(x.Process, x.exit, d.Memory))
}

// exchange is one call spoken to one process. Some goroutines work on it, and
// run waits for all of them: run itself takes the answer, upload reads the body,
// input may write it, and one waits for the end of the process.
type exchange struct {
	Process
	w       http.ResponseWriter
	control *http.ResponseController
	req     *faas.Request
	answer  answer

	exited  chan struct{} // closed when ended, exit and waitErr are set
	ended   bool
	exit    faas.Exit
	waitErr error

	uploaded chan struct{} // closed when the body is not read any more, and the two below are set
	in       int64         // bytes of the body that were read
	whole    bool          // they are all there are
}

// run carries the exchange out.
func (x *exchange) run(ctx context.Context) error {
	x.answer.w, x.answer.control = x.w, x.control
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var work sync.WaitGroup
	if x.bodied() {
		x.control.EnableFullDuplex() // the answer may begin before the body has ended; only HTTP/1 needs to be told
		work.Go(func() {
			stdin := newInput(x.Stdin(), &work)
			if err := x.upload(ctx, stdin); err != nil {
				cancel(err) // the caller is gone or sent too much: what the function makes of it is of no use
			}
			stdin.end() // only now: a part of a body must not pass for the whole
		})
	} else {
		x.Stdin().Close()
		x.whole = true
		close(x.uploaded)
	}
	work.Go(func() {
		x.exit, x.waitErr = x.Wait(ctx)
		x.ended = x.waitErr == nil
		close(x.exited)
		x.Stdout().SetReadDeadline(time.Now().Add(drain)) // take asks again as long as something comes
	})
	unblocked := make(chan struct{})
	unblock := context.AfterFunc(ctx, func() {
		defer close(unblocked)
		x.Stdout().SetReadDeadline(time.Now())
		x.Stdin().Close() // a write may wait for a function that never reads
		x.answer.abort()
	})

	err := x.take(ctx)
	if err != nil {
		cancel(err) // nobody takes the rest of the answer: the process has nothing to end for
	}
	<-x.exited
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && x.waitErr != nil:
		err = x.waitErr
	case err == nil && (x.exit.Signal != "" || x.exit.Code != 0):
		err = errExit
	}
	// What is done after the answer the caller need not wait for; but the connection
	// must be told to close first if a rest of the body is in it.
	if cut := x.answer.end(err == nil, x.taken()); err == nil && cut != nil {
		err = canceled(cut)
	}
	if !unblock() {
		<-unblocked
	}
	cancel(nil)
	x.Stdin().Close()
	x.finish()
	work.Wait()
	return err
}

// take copies the answer until the process has ended and nothing more comes. A
// failed write ends it (canceled).
func (x *exchange) take(ctx context.Context) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		// Once the process has ended every read has a time of its own: the pipe
		// may be full while a slow caller was being written to, so a deadline
		// that passed meanwhile says nothing.
		fresh := x.over()
		if fresh {
			x.Stdout().SetReadDeadline(time.Now().Add(drain))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := x.Stdout().Read(*buf)
		if n > 0 {
			if err := x.answer.write((*buf)[:n]); err != nil {
				return canceled(err)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && !fresh && ctx.Err() == nil:
		case err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return nil
		default:
			return fmt.Errorf("read the answer of the function: %w", err)
		}
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// over reports whether the process has ended.
func (x *exchange) over() bool {
	select {
	case <-x.exited:
		return true
	default:
		return false
	}
}

// upload copies the body to standard input. A function that
// does not want it, or no more of it, is no failure: the rest is read and
// thrown away, so that a caller who writes everything before it reads is not
// stuck. The error is one of reading: it says why the body is not whole.
func (x *exchange) upload(ctx context.Context, stdin *input) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	defer func() {
		if !x.whole {
			close(x.uploaded)
		}
	}()
	wanted := true
	for {
		n, err := x.req.Body.Read(*buf)
		x.in += int64(n)
		if err == io.EOF {
			x.whole = true
			close(x.uploaded) // before the function has the end of it, and may end itself
		}
		if n > 0 && wanted && !stdin.write((*buf)[:n]) {
			wanted = false
			x.Stdin().Close()
		}
		switch {
		case x.whole:
			return nil
		case ctx.Err() != nil:
			return nil // it was broken off by finish, or the call has ended for a reason of its own
		case err != nil:
			return unread(err)
		}
	}
}

func (x *exchange) bodied() bool { return bodied(x.req) }

func bodied(req *faas.Request) bool {
	return req.Size != 0 && req.Body != nil && req.Body != http.NoBody
}

// unread decides the Kind of an error of reading the body.
func unread(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return faas.Errorf(faas.TooLarge, "the payload is over the limit of %v", faas.Bytes(tooLarge.Limit))
	}
	return faas.Errorf(faas.Canceled, "the caller went away in the middle of its payload: %w", err)
}

// taken reports whether the whole body has been read.
func (x *exchange) taken() bool {
	select {
	case <-x.uploaded:
		return x.whole
	default:
		return false
	}
}

// finish ends an upload that the function did not wait for. What is left of the
// body stays in the connection, which therefore cannot be used again.
func (x *exchange) finish() {
	if x.taken() {
		return
	}
	breakBody(x.w, x.req)
	<-x.uploaded
	closeAfter(x.w)
}

// breakBody makes a read of the body that waits for the caller, and every later
// one, fail.
func breakBody(w http.ResponseWriter, req *faas.Request) {
	if err := http.NewResponseController(w).SetReadDeadline(time.Now()); err != nil { // no connection
		if body, ok := req.Body.(io.Closer); ok {
			body.Close()
		}
	}
}

// closeAfter makes the server close the connection of w after the answer, with
// a moment for the client to read it. net/http does that for a body that is over
// a limit, so it is shown one: there is no other way to ask for it once the
// header of the answer has been written, and a rest of the body must never be
// taken for the next request.
func closeAfter(w http.ResponseWriter) {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

package protocol

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"hob/faas"
)

const (
	// small is how much of a body of known size is read before the function gets
	// the first byte: a request of one write needs no goroutine.
	small = 16 << 10

	// atOnce is what goes into an empty pipe or socket without a reader.
	atOnce = 48 << 10

	// settle is how long a function that has answered may take to read the rest
	// of its request.
	settle = 100 * time.Millisecond
)

// turn is one exchange of bytes with a hot function: a request there, an answer
// back. A Conn has one and uses it again and again, so that a small exchange
// costs next to no memory.
//
// One goroutine may work on it beside the caller's: upload, which writes a
// request that does not fit into a pipe. do waits for it.
type turn struct {
	life *life

	// What the bytes go over, set before do. cut makes every read and write on it
	// fail for good.
	to   io.Writer
	from Output
	cut  func()

	// farewell is how long after the end of from that of the process is waited
	// for, if the one alone does not tell whether the answer is whole.
	farewell time.Duration

	// Of one call, set by begin.
	ctx    context.Context // ends with do
	req    *faas.Request
	w      http.ResponseWriter
	expire func()         // what the end of ctx does; made once
	fired  sync.WaitGroup // expire runs

	out   *[]byte      // the request, or its beginning
	in    reader       // the answer
	buf   *[]byte      // of in, from the pool
	bytes faas.Outcome // how it ends

	gone   error // why nobody takes the answer: the rest of it is thrown away
	wasted int   // bytes of it that were, since a writer that keeps answers refused them
	dirty  bool  // something was written to w that net/http may hold back
	reset  error // how the stream broke, if not by its end
	silent bool  // it ended before a byte of the answer

	mu       sync.Mutex
	err      error // why the turn was broken off; guarded by mu, as all below
	begun    bool  // the header of the answer was written
	complete bool  // the answer is whole
	reading  bool  // the caller's goroutine waits for the body

	sent     int           // bytes of the request that were written; upload's while it runs
	unsent   bool          // the function does not take the request; as above
	uploaded chan struct{} // closed by upload; nil: there is none
	whole    bool          // upload: the body was read to its end
	first    []byte        // upload: what was read of the body, as long as that is one piece
	more     bool          // upload: there was more
}

// begin prepares t for a call, end is its counterpart.
func (t *turn) begin(ctx context.Context, req *faas.Request, w http.ResponseWriter) {
	if t.expire == nil {
		t.expire = func() {
			defer t.fired.Done()
			t.fail(context.Cause(t.ctx))
		}
		t.in.src = t
	}
	t.ctx, t.req, t.w = ctx, req, w
	t.bytes = faas.Outcome{}
	t.gone, t.wasted, t.dirty, t.reset, t.silent = nil, 0, false, nil, false
	t.err, t.begun, t.complete, t.reading = nil, false, false, false
	t.sent, t.unsent, t.uploaded, t.whole, t.first, t.more = 0, false, nil, false, nil, false
	t.out = buffers.Get().(*[]byte)
	t.buf = buffers.Get().(*[]byte)
	t.in.buf, t.in.r, t.in.w = *t.buf, 0, 0
	if t.in.most = maxHead; req.MaxHeader > 0 {
		t.in.most = int(min(req.MaxHeader, maxHead))
	}
}

func (t *turn) end() {
	if len(*t.out) <= 2*atOnce {
		buffers.Put(t.out)
	}
	buffers.Put(t.buf)
	t.ctx, t.req, t.w, t.out, t.buf, t.in.buf, t.in.head.text, t.in.trailer, t.first = nil, nil, nil, nil, nil, nil, nil, nil, nil
}

// exchange is a turn: do speaks to the function.
func (t *turn) exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter, do func(*faas.Outcome) error) (faas.Outcome, error) {
	begin := time.Now()
	t.begin(ctx, req, w)
	defer t.end()
	stop := t.guard()
	err := do(&t.bytes)
	t.conclude(begin, stop, err)
	return t.bytes, err
}

// guard breaks the turn off when ctx ends, until the function it returns was
// called.
func (t *turn) guard() (stop func() bool) {
	t.fired.Add(1)
	return context.AfterFunc(t.ctx, t.expire)
}

func (t *turn) unguard(stop func() bool) {
	if stop() {
		t.fired.Done()
	}
	t.fired.Wait()
}

// conclude ends what guard began and completes the outcome of an exchange that
// ended with err.
func (t *turn) conclude(begin time.Time, stop func() bool, err error) {
	t.unguard(stop)
	if t.err != nil {
		t.bytes.Keep = false
	}
	t.life.conclude(&t.bytes, begin, err)
}

// fail breaks the turn off: whatever waits for the function or for the caller
// ends. The first error wins. An answer that has not begun is left alone, as the
// error has to be written; so is one that is whole.
func (t *turn) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = err
	t.cut()
	if t.reading {
		breakBody(t.w, t.req)
	}
	if t.begun && !t.complete {
		http.NewResponseController(t.w).SetWriteDeadline(time.Now())
	}
}

// failed returns why the turn was broken off, or nil.
func (t *turn) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// readBody reads b full from the body of the request, or less if that ends. Its
// error says why it could not.
func (t *turn) readBody(b []byte) (int, error) {
	t.mu.Lock()
	err := t.err
	t.reading = err == nil
	t.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(t.req.Body, b)
	t.bytes.In += int64(n)
	t.mu.Lock()
	t.reading = false
	failed := t.err
	t.mu.Unlock()
	switch {
	case failed != nil:
		closeAfter(t.w)
		return n, failed
	case err == io.EOF, err == io.ErrUnexpectedEOF && t.req.Size < 0:
		return n, io.EOF
	case err != nil:
		return n, unread(err)
	}
	return n, nil
}

// send gives the function the request: head, which has no line of its length yet,
// and the body. The error is one of the caller's, before the function had any of
// it. What the function does not take shows in its answer.
func (t *turn) send(head []byte) error {
	size := t.req.Size
	if !bodied(t.req) {
		size = 0
	}
	b := appendLength(head, size)
	if size > 0 && size <= small {
		at := len(b)
		b = append(b, make([]byte, size)...)
		n, err := t.readBody(b[at:])
		if n < int(size) && (err == nil || err == io.EOF) {
			err = unread(io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		t.first = b[at:]
		size = 0
	}
	*t.out = b[:cap(b)] // it may have grown
	t.whole = size == 0
	if t.whole && len(b) <= atOnce {
		t.write(b)
		return nil
	}
	if size != 0 {
		http.NewResponseController(t.w).EnableFullDuplex() // the answer may begin before the body has ended; only HTTP/1 needs to be told
	}
	t.uploaded = make(chan struct{})
	go t.upload(b, size)
	return nil
}

// write writes to the function as long as it takes it.
func (t *turn) write(b []byte) {
	if t.unsent || len(b) == 0 {
		return
	}
	n, err := t.to.Write(b)
	t.sent += n
	t.unsent = err != nil
}

// upload writes b and then the body of this size, in chunks if that is unknown. A
// body that the function does not take is read on and thrown away, so that a
// caller who writes everything before it reads is not stuck.
func (t *turn) upload(b []byte, size int64) {
	defer close(t.uploaded)
	t.write(b)
	if t.whole || t.unsent && t.sent == 0 { // the body of a request that reached nobody stays as it is
		return
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	const room = 16 // for the line before a chunk, and that behind it
	data := (*buf)[room : len(*buf)-2]
	for left := size; ; {
		n, err := t.req.Body.Read(data)
		t.bytes.In += int64(n)
		if n > 0 {
			if t.more = t.first != nil; !t.more {
				t.first = bytes.Clone(data[:n])
			}
			p := data[:n]
			if size < 0 {
				var line [room]byte
				l := append(strconv.AppendInt(line[:0], int64(n), 16), '\r', '\n')
				copy((*buf)[room-len(l):], l)
				copy(data[n:n+2:cap(data)], "\r\n")
				p = (*buf)[room-len(l) : room+n+2]
			}
			before := t.unsent
			t.write(p)
			left -= int64(n)
			if t.unsent && !before && !t.more && t.life.overSoon(t.ctx, drain) {
				return // as above, if nothing was read
			}
		}
		switch {
		case err == nil:
			if left == 0 && size > 0 {
				t.whole = true
				return
			}
		case err == io.EOF && (size < 0 || left == 0):
			if size < 0 {
				t.write([]byte("0\r\n\r\n"))
			}
			t.whole = true
			return
		case err == io.EOF:
			t.fail(unread(io.ErrUnexpectedEOF))
			return
		default:
			t.fail(unread(err)) // what the function makes of a part is of no use
			return
		}
	}
}

// Read reads from the function: the src of the reader. What was written for the
// caller goes out before anything is waited for. Once the process has ended every
// read has a time of its own, as its children may hold the stream open.
func (t *turn) Read(p []byte) (int, error) {
	if t.dirty {
		t.flush()
	}
	for {
		over := t.life.over()
		if over {
			t.from.SetReadDeadline(time.Now().Add(drain))
		}
		if err := t.failed(); err != nil {
			return 0, err
		}
		n, err := t.from.Read(p)
		switch {
		case n > 0:
			return n, nil
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded) && !over:
			continue
		}
		if err != io.EOF {
			t.reset = err
		}
		return 0, io.EOF
	}
}

// start writes the status and the header of the answer, which is not the whole of
// it: w.Header() is set.
func (t *turn) start(status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begun || t.err != nil {
		return
	}
	t.begun, t.dirty = true, true
	t.bytes.Status = status
	t.w.WriteHeader(status)
}

// give writes a part of the answer, if it has begun. It waits for a slow caller; one
// who is gone is no error: the rest is thrown away.
func (t *turn) give(p []byte) {
	if t.gone != nil {
		t.wasted += len(p)
	}
	if t.gone != nil || !t.begun || len(p) == 0 {
		return
	}
	n, err := t.w.Write(p)
	t.bytes.Out += int64(n)
	t.dirty = true
	if err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		t.gone = err
	}
}

func (t *turn) flush() {
	t.dirty = false
	if t.gone != nil {
		return
	}
	if err := http.NewResponseController(t.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		t.gone = err
	}
}

// answered marks the answer as whole: from now on nothing breaks it off.
func (t *turn) answered() {
	t.mu.Lock()
	t.complete = t.err == nil
	t.mu.Unlock()
}

// join waits until the request has been sent, and for no longer than that takes
// if it may still succeed, else not at all. It reports whether the function took
// all of it.
func (t *turn) join(wait time.Duration) bool {
	if t.uploaded == nil {
		return !t.unsent
	}
	select {
	case <-t.uploaded:
		return t.whole && !t.unsent
	default:
	}
	if t.complete && t.dirty {
		t.flush()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-t.uploaded:
		return t.whole && !t.unsent
	case <-timer.C:
	}
	t.cut()
	breakBody(t.w, t.req)
	<-t.uploaded
	return false
}

// abandon gives up what was not read of the body: the connection of the caller,
// in which it stays, cannot be used again.
func (t *turn) abandon() {
	if t.uploaded != nil && !t.whole && t.bytes.In > 0 {
		breakBody(t.w, t.req)
		closeAfter(t.w)
	}
}

// taken waits, for a moment, until the function has read all of its standard
// input, and reports whether it has. A request without a body is not looked after.
func (t *turn) taken() bool {
	if t.req.Size == 0 {
		return true // whoever has answered has read as much
	}
	in := t.life.UnreadInput()
	if in == 0 {
		return true
	}
	if t.dirty {
		t.flush()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := 50 * time.Microsecond
	for until := time.Now().Add(settle); in > 0 && time.Now().Before(until) && !t.life.over(); in = t.life.UnreadInput() {
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-t.life.ended:
		case <-t.ctx.Done():
			return false
		}
		pause = min(2*pause, 5*time.Millisecond)
	}
	return in == 0
}

// putBack makes the body of the request what it was, and reports whether that can
// be: no more than one piece of it was read.
func (t *turn) putBack() bool {
	if t.more {
		return false
	}
	if len(t.first) > 0 {
		rest := t.req.Body
		if t.whole && t.uploaded == nil {
			rest = http.NoBody
		}
		t.req.Body = io.MultiReader(bytes.NewReader(bytes.Clone(t.first)), rest)
	}
	return true
}

// broken says why the function gave no answer, or not all of one.
func (t *turn) broken(err error) error {
	if cause := t.failed(); cause != nil {
		return cause
	}
	if m, ok := errors.AsType[malformed](err); ok {
		return faas.Errorf(faas.FuncFailed, "%w", m)
	}
	if errors.Is(err, faas.ErrHeaderTooLarge) || errors.Is(err, faas.ErrAnswerTooLarge) {
		return faas.Errorf(faas.FuncFailed, "%w", err)
	}
	if t.life.overSoon(t.ctx, mourning) {
		return t.life.died()
	}
	if cause := t.failed(); cause != nil {
		return cause
	}
	if t.begun {
		return fault(faas.FuncFailed, faas.ErrBroken, "the function closed its output in the middle of its answer")
	}
	return fault(faas.FuncFailed, faas.ErrBroken, "the function closed its output before it had answered")
}

// maxWasted is how much of an answer that is refused is read to its end, so that the
// sandbox can be kept.
const maxWasted = 1 << 20

// refused reports whether the answer is refused for good, and goes on and on.
func (t *turn) refused() bool {
	_, decided := errors.AsType[*faas.Error](t.gone)
	return decided && t.wasted > maxWasted
}

// canceled is the error of a call whose answer nobody takes, for the reason err: its
// caller is gone, unless a writer that keeps answers says otherwise.
func canceled(err error) error {
	if _, decided := errors.AsType[*faas.Error](err); decided {
		return err
	}
	return faas.Errorf(faas.Canceled, "the caller went away: %w", err)
}

// refused reports whether a stream broke because its other end is closed.
func refused(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

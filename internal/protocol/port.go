package protocol

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
)

// portConn speaks the format port: HTTP on a TCP port, as a server expects it of a
// proxy. Several exchanges may go on at once.
//
// Connections that lie idle have goroutines of net/http, for freshness at most.
// Close ends them.
type portConn struct {
	*life
	addr      string
	transport *http.Transport

	ctx   context.Context // of dialling, which a Transport may do behind the back of an exchange
	stop  context.CancelFunc
	mu    sync.Mutex
	shut  bool                  // guarded by mu
	calls map[*proxied]struct{} // going on; guarded by mu
	dials sync.WaitGroup        // Add with mu held
}

type bufferPool struct{}

func (bufferPool) Get() []byte  { return *buffers.Get().(*[]byte) }
func (bufferPool) Put(b []byte) { buffers.Put(&b) }

func openPort(ctx context.Context, fn faas.Function, p Process) (*portConn, error) {
	c := &portConn{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(fn.Port)), calls: make(map[*proxied]struct{})}
	c.life = follow(p, fn.Memory, c.release)
	conn, err := dial(ctx, c.life, "tcp", c.addr, "port "+strconv.Itoa(fn.Port))
	if err != nil {
		c.unfollow()
		return nil, err
	}
	conn.Close() // it says that something listens, no more
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.transport = &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableCompression:     true,
		MaxIdleConnsPerHost:    max(1, fn.Concurrency),
		IdleConnTimeout:        freshness,
		MaxResponseHeaderBytes: maxHead,
	}
	return c, nil
}

func (c *portConn) dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	if c.shut {
		c.mu.Unlock()
		return nil, net.ErrClosed
	}
	c.dials.Add(1)
	c.mu.Unlock()
	defer c.dials.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	conn, err := c.Dial(ctx, "tcp", c.addr)
	if err != nil {
		return nil, dialError{err}
	}
	return conn, nil
}

// release ends the reads of bodies that nobody wants any more, as the process has
// ended: net/http waits for them.
func (c *portConn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for x := range c.calls {
		x.body.interrupt(x)
	}
}

// enter and leave are around an exchange.
func (c *portConn) enter(x *proxied) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[x] = struct{}{}
}

func (c *portConn) leave(x *proxied) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, x)
}

// dialError is an error of connecting: the function had nothing of the request.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// Close implements Conn.
func (c *portConn) Close() error {
	c.mu.Lock()
	c.shut = true
	c.mu.Unlock()
	c.stop()
	c.dials.Wait()
	c.transport.CloseIdleConnections()
	return c.life.Close()
}

// Exchange implements Conn.
func (c *portConn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	begin := time.Now()
	var out faas.Outcome
	err := c.exchange(ctx, req, w, &out)
	c.conclude(&out, begin, err)
	return out, err
}

func (c *portConn) exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter, out *faas.Outcome) error {
	if c.over() {
		out.Again = true
		return c.died()
	}
	target, err := url.ParseRequestURI(cmp.Or(req.Target, "/"))
	method := cmp.Or(req.Method, http.MethodGet)
	if err != nil || !isToken(method) {
		out.Keep = true
		return faas.Errorf(faas.Invalid, "bad request for %q with method %q", req.Target, req.Method)
	}
	x := &proxied{req: req, w: w}
	// ReverseProxy panics in a server's context, to break the answer off.
	ctx = context.WithValue(ctx, http.ServerContextKey, nil)
	in := &http.Request{Method: method, URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: req.Header, Host: "localhost", Body: http.NoBody}
	if in.Header == nil {
		in.Header = http.Header{}
	}
	if asked, err := url.Parse(req.URL); err == nil && asked.Host != "" {
		in.Host = asked.Host
		x.scheme = asked.Scheme
	}
	if bodied(req) {
		x.body.r, x.body.size = req.Body, req.Size
		in.Body, in.ContentLength = &x.body, req.Size
		http.NewResponseController(w).EnableFullDuplex() // the answer may begin before the body has ended; only HTTP/1 needs to be told
	} else {
		x.body.whole = true
	}

	c.enter(x)
	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		x.abort()
	})
	(&httputil.ReverseProxy{
		Rewrite:        x.rewrite(c.addr, target.RawQuery),
		ModifyResponse: x.judge,
		Transport:      transportFunc(func(r *http.Request) (*http.Response, error) { return c.transport.RoundTrip(r.WithContext(ctx)) }), // without what would pass interim answers on
		FlushInterval:  -1,
		BufferPool:     bufferPool{},
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { x.failed = err },
		ErrorLog:       log.New(io.Discard, "", 0), // what it says, we return
	}).ServeHTTP(x, in.WithContext(ctx))
	if !stop() {
		<-aborted
	}
	c.leave(x)
	x.finish()
	out.In, out.Out, out.Status = x.body.n, x.out, x.status
	return c.verdict(ctx, x, out)
}

// verdict says what became of an exchange. What broke one connection says nothing
// of a server's others, so the process is kept as long as it answers in HTTP.
func (c *portConn) verdict(ctx context.Context, x *proxied, out *faas.Outcome) error {
	err := x.failed
	switch {
	case ctx.Err() != nil && (err != nil || x.gone != nil || !x.answered):
		out.Keep = left(ctx) // the server sees that its connection is closed
		return context.Cause(ctx)
	case x.body.err != nil && err != nil:
		out.Keep = true
		return unread(x.body.err)
	case x.gone != nil:
		out.Keep = true
		return canceled(x.gone)
	case err == nil:
		out.Keep = ctx.Err() == nil || left(ctx) // who has the answer may close the connection before we are done
		return nil
	}
	_, dialled := errors.AsType[dialError](err)
	over := c.overSoon(ctx, mourning)
	// A head is written together with the first of its body. A connection that was
	// reset held something unread, and one that lay idle had nothing yet.
	untouched := bodied(x.req) && x.body.n == 0 || refused(err) || strings.Contains(err.Error(), "server closed idle connection")
	out.Again = !x.answered && (dialled || over && untouched) && x.body.putBack(x.req)
	switch {
	case over:
		return c.died()
	case dialled:
		return fault(faas.FuncFailed, faas.ErrBroken, "the function does not listen on %s any more: %v", c.addr, err)
	case strings.Contains(err.Error(), "response headers exceeded"):
		return fault(faas.FuncFailed, faas.ErrHeaderTooLarge, "the function answered with a header of more than %d KB", maxHead>>10)
	case x.answered:
		out.Keep = true
		return fault(faas.FuncFailed, faas.ErrBroken, "the function closed its connection in the middle of its answer: %v", err)
	case refused(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		out.Keep = true
		return fault(faas.FuncFailed, faas.ErrBroken, "the function closed its connection before it had answered: %v", err)
	}
	return faas.Errorf(faas.FuncFailed, "the function answered with something that is not HTTP: %w", err)
}

// left reports whether ctx has ended because the caller is gone.
func left(ctx context.Context) bool { return faas.KindOf(context.Cause(ctx)) == faas.Canceled }

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// proxied is one exchange, and its ResponseWriter.
type proxied struct {
	req    *faas.Request
	w      http.ResponseWriter
	scheme string
	body   carried

	answered bool  // the header of an answer has come
	failed   error // of speaking to the function
	status   int
	out      int64
	gone     error // of writing to the caller

	mu    sync.Mutex
	begun bool // the header of the answer was written; guarded by mu, as is cut
	cut   bool // no write may wait any more
}

// rewrite makes the request of the caller that of a proxy.
func (x *proxied) rewrite(addr, query string) func(*httputil.ProxyRequest) {
	return func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host, p.Out.URL.RawQuery = "http", addr, query
		h := p.Out.Header
		for name := range h {
			if isOurs(name) || name == "Expect" {
				delete(h, name)
			}
		}
		forwarded := slices.Clone(p.In.Header["X-Forwarded-For"])
		if x.req.Caller != "" {
			forwarded = append(forwarded, x.req.Caller)
		}
		if len(forwarded) > 0 {
			h.Set("X-Forwarded-For", strings.Join(forwarded, ", "))
		}
		h.Set("X-Forwarded-Host", p.In.Host)
		h.Set("X-Forwarded-Proto", cmp.Or(x.scheme, "http"))
		h.Set("Hob-Call-Id", x.req.Call)
		if x.req.Attempt > 0 {
			h.Set(headerAttempt, strconv.Itoa(x.req.Attempt))
		}
		if d := deadline(x.req); d != "" {
			h.Set("Hob-Deadline", d)
		}
	}
}

// judge takes an answer as it comes.
func (x *proxied) judge(resp *http.Response) error {
	x.answered = true
	for name := range resp.Header {
		if strings.HasPrefix(name, "Hob-") {
			delete(resp.Header, name)
		}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.status = resp.StatusCode // written by ReverseProxy itself
	} else {
		resp.Body = &watched{resp.Body, &x.failed}
	}
	return nil
}

// watched is the body of an answer. It keeps the error of reading it.
type watched struct {
	io.ReadCloser
	failed *error
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		*b.failed = err
	}
	return n, err
}

func (x *proxied) Header() http.Header         { return x.w.Header() }
func (x *proxied) Unwrap() http.ResponseWriter { return x.w }

func (x *proxied) WriteHeader(status int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h := x.w.Header(); h["Content-Type"] == nil {
		h["Content-Type"] = nil // else net/http guesses
	}
	x.status, x.begun = status, true
	if x.cut {
		http.NewResponseController(x.w).SetWriteDeadline(time.Now())
	}
	x.w.WriteHeader(status)
}

func (x *proxied) Write(p []byte) (int, error) {
	n, err := x.w.Write(p)
	x.out += int64(n)
	if err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		x.gone = err
	}
	return n, err
}

// abort makes what waits for a slow caller fail.
func (x *proxied) abort() {
	x.body.interrupt(x)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cut = true
	if x.begun {
		http.NewResponseController(x.w).SetWriteDeadline(time.Now())
	}
}

// finish ends what is left of reading the body: net/http may do it behind the back
// of an exchange.
func (x *proxied) finish() {
	b := &x.body
	b.interrupt(x)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole && b.n > 0 && x.status != http.StatusSwitchingProtocols {
		breakBody(x.w, x.req)
		closeAfter(x.w)
	}
}

// carried is the body of a request on its way to the function.
type carried struct {
	r      io.Reader
	size   int64 // -1: unknown
	closed atomic.Bool

	mu    sync.Mutex // guards all below, and is held while reading
	n     int64
	whole bool
	err   error
	first []byte // what was read, as long as that is no more than resend
}

// putBack makes the body of the request what it was, and reports whether that can
// be.
func (b *carried) putBack(req *faas.Request) bool {
	if b.n != int64(len(b.first)) || b.n > 0 && !b.whole {
		return false
	}
	if b.n > 0 {
		req.Body = bytes.NewReader(b.first)
	}
	return true
}

// interrupt ends a read that waits for the caller, and allows no other.
func (b *carried) interrupt(x *proxied) {
	b.closed.Store(true)
	if !b.mu.TryLock() {
		breakBody(x.w, x.req)
		return
	}
	b.mu.Unlock()
}

func (b *carried) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.r.Read(p)
	b.n += int64(n)
	if b.n <= resend {
		b.first = append(b.first, p[:n]...)
	}
	if b.whole = err == io.EOF || b.n == b.size; err != nil && err != io.EOF && !b.closed.Load() {
		b.err = err
	}
	return n, err
}

// Close implements io.Closer. finish does what is to be done.
func (b *carried) Close() error { return nil }

package protocol

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"hob/faas"
)

// httpConn speaks the format http: HTTP/1.1 requests on the standard input of the
// process, responses on its standard output.
type httpConn struct {
	stdio
}

func openHTTP(fn faas.Function, p Process) *httpConn {
	c := new(httpConn)
	c.open(fn, p)
	return c
}

// stdio is what formats over standard input and output have in common.
type stdio struct {
	*life
	turn  turn
	calls int // that the function was asked
}

func (c *stdio) open(fn faas.Function, p Process) {
	c.life = follow(p, fn.Memory, func() { p.Stdout().SetReadDeadline(time.Now().Add(drain)) })
	c.turn.life, c.turn.farewell = c.life, mourning
	c.turn.to, c.turn.from = p.Stdin(), p.Stdout()
	c.turn.cut = func() {
		p.Stdout().SetReadDeadline(time.Now())
		p.Stdin().Close() // a write may wait for a function that never reads
	}
}

// clean reports whether the function waits for a request: it lives, and has
// written nothing but white space since its last answer. If not, the outcome says
// what becomes of the call. Nothing of it is lost.
func (c *stdio) clean(out *faas.Outcome) error {
	if c.over() {
		out.Again = true
		return c.died()
	}
	n := c.UnreadOutput()
	if n == 0 {
		return nil
	}
	t := &c.turn
	t.in.r, t.in.w = 0, 0
	for n > 0 {
		k, err := t.Read(t.in.buf[:min(n, len(t.in.buf))])
		if err != nil {
			out.Again = t.failed() == nil
			return t.broken(err)
		}
		t.in.w = k
		if rest := t.in.rest(); len(rest) > 0 {
			out.Again = c.calls > 0
			return faas.Errorf(faas.FuncFailed, "the function wrote to standard output before it was asked: %q: answers go there; write log lines to standard error", excerpt(rest))
		}
		n -= k
	}
	t.in.r, t.in.w = 0, 0
	return nil
}

// Exchange implements Conn.
func (c *httpConn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	return c.turn.exchange(ctx, req, w, c.exchange)
}

func (c *httpConn) exchange(out *faas.Outcome) error {
	t := &c.turn
	if err := c.clean(out); err != nil {
		return err
	}
	method := t.req.Method
	head, err := t.ask()
	if err == nil {
		err = t.send(head)
	}
	if err != nil {
		out.Keep = true
		return err
	}
	c.calls++
	err = t.receive(method == http.MethodHead, nil)
	if err != nil {
		lost := c.UnreadInput() // before join closes the pipe
		t.join(t.patience())
		// A process that has ended without having read a byte had nothing of the call.
		if out.Again = t.silent && c.over() && lost == t.sent && t.failed() == nil && t.putBack(); !out.Again {
			t.abandon()
		}
		return err
	}
	out.Keep = t.join(settle) && len(t.in.rest()) == 0 && !t.in.head.hangsUp() && t.taken()
	t.abandon()
	if t.gone != nil {
		return canceled(t.gone)
	}
	return nil
}

// ask makes the head of the request. Functions of IronFunctions, which look for a
// Content-Length, are always told one.
func (t *turn) ask() (head []byte, err error) {
	head = (*t.out)[:0]
	if !t.req.Convention.Iron() {
		return appendPlain(head, t.req)
	}
	if err := t.known(); err != nil {
		return nil, err
	}
	return appendRoute(head, t.req)
}

// patience is how long a request that got no answer may take to be sent: a body
// that reached nobody should not be broken off.
func (t *turn) patience() time.Duration {
	if t.silent && t.life.over() {
		return settle
	}
	return 0
}

// hangsUp reports whether the function said that it takes no other request. On
// standard output an old version of HTTP does not say that.
func (h *head) hangsUp() bool { return h.close && !h.oldSchool || h.framing == framingEnd }

// known makes the size of the body known, by reading it.
func (t *turn) known() error {
	if t.req.Size >= 0 || !bodied(t.req) {
		return nil
	}
	body, err := t.readAll(faas.FormatHTTP)
	if err != nil {
		return err
	}
	t.bytes.In = 0 // it is counted when it is sent
	t.req.Body, t.req.Size = bytes.NewReader(body), int64(len(body))
	return nil
}

// receive brings the answer to the caller. judge, if any, is asked before the
// first byte: it takes the answer over, or not.
func (t *turn) receive(bodiless bool, judge func() (taken bool, err error)) error {
	if err := t.in.readHead(bodiless); err != nil {
		t.silent = err == io.EOF
		return t.broken(err)
	}
	if judge != nil {
		if taken, err := judge(); taken {
			return err
		}
	}
	h := &t.in.head
	header := t.w.Header()
	h.copyTo(header)
	if h.framing != framingNone && !h.typed && header["Content-Type"] == nil { // an empty one says that w wants it so
		header.Set("Content-Type", "application/octet-stream") // else net/http guesses
	}
	t.start(h.status)
	for {
		p, err := t.in.next()
		if err != nil {
			if t.in.done {
				break
			}
			return t.broken(err)
		}
		if t.give(p); t.refused() {
			return canceled(t.gone)
		}
	}
	if h.framing == framingEnd && (t.reset != nil || t.life.overSoon(t.ctx, t.farewell) && t.life.exit != (faas.Exit{})) {
		return t.broken(io.ErrUnexpectedEOF) // an end that is none
	}
	if t.in.trailer != nil {
		t.in.copyTrailerTo(header)
	}
	t.answered()
	return t.failed()
}

// readAll reads a body whole, up to the limit of its format.
func (t *turn) readAll(format faas.Format) ([]byte, error) {
	size, limit := t.req.Size, int(format.MaxRequest())
	if size > int64(limit) {
		return nil, tooLarge(limit)
	}
	if !bodied(t.req) {
		return nil, nil
	}
	if size >= 0 {
		b := make([]byte, size)
		n, err := t.readBody(b)
		if n < len(b) && (err == nil || err == io.EOF) {
			err = unread(io.ErrUnexpectedEOF)
		}
		return b, err
	}
	var b []byte
	for grow := 32 << 10; ; grow = min(2*grow, 4<<20) {
		at := len(b)
		b = append(b, make([]byte, min(grow, limit+1-at))...)
		n, err := t.readBody(b[at:])
		b = b[:at+n]
		switch {
		case len(b) > limit:
			return nil, tooLarge(limit)
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

func tooLarge(limit int) error {
	return faas.Errorf(faas.TooLarge, "the payload is over the %v that a function of this format can be given", faas.Bytes(limit))
}

package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"hob/faas"
)

// Where a function of format http-stream listens: FN_LISTENER is
// "unix:" + ListenerDir + "/" + Listener.
const (
	Listener    = "lsnr.sock"
	ListenerDir = "/tmp/iofs"
)

const (
	// freshness is how long after its last use a connection is used again.
	// Servers close those that lie idle, and a frozen one finds that out late.
	freshness = time.Second

	// resend is the largest request that may be sent again when a connection broke
	// that had lain idle. The kernel says that some of it was not read; so small a
	// one is read at once or not at all.
	resend = 4 << 10
)

// dial connects to where the process listens, again and again until it does, it
// has ended, or ctx ends. where is said to users.
func dial(ctx context.Context, l *life, network, addr, where string) (net.Conn, error) {
	begin := time.Now()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	why := errors.New("a connection gets no answer")
	for {
		if l.over() {
			if l.waitErr != nil {
				return nil, l.waitErr
			}
			return nil, fault(faas.FuncFailed, faas.ErrStartExited, "the function ended before it listened on %s: %s", where, ending(l.Process, l.exit, l.memory))
		}
		conn, err := l.Dial(ctx, network, addr)
		if err == nil {
			return conn, nil
		}
		if faas.KindOf(err) == faas.Invalid {
			return nil, fault(faas.FuncFailed, faas.ErrStartExited, "the function cannot be reached on %s: %v", where, err) // it may as well have ended
		}
		if timeout, ok := errors.AsType[net.Error](err); ctx.Err() == nil && !(ok && timeout.Timeout()) { // else the dial itself ran out of time
			why = err
		}
		timer.Reset(max(time.Since(begin)/16, 100*time.Microsecond))
		select {
		case <-timer.C:
		case <-l.ended:
		case <-ctx.Done():
			cause := context.Cause(ctx)
			if faas.KindOf(cause) != faas.TimedOut {
				return nil, cause
			}
			return nil, fault(faas.TimedOut, faas.ErrStartTimeout, "%v: it does not listen on %s: %v", cause, where, why)
		}
	}
}

// streamConn speaks the format http-stream: HTTP/1.1 on a Unix socket.
type streamConn struct {
	*life
	turn turn

	mu   sync.Mutex
	conn net.Conn // nil: none is open; guarded by mu

	used time.Time // when the last exchange over conn ended
}

// quiet reports whether nothing has come over conn that nobody asked for, which
// would be taken for the next answer, and the function has not closed it. A conn
// that cannot tell is trusted.
func (c *streamConn) quiet() bool {
	asked, ok := c.conn.(interface{ Quiet() bool })
	return !ok || asked.Quiet()
}

func openStream(ctx context.Context, fn faas.Function, p Process) (*streamConn, error) {
	c := new(streamConn)
	c.life = follow(p, fn.Memory, func() { c.deadline(time.Now().Add(drain)) })
	conn, err := dial(ctx, c.life, "unix", Listener, ListenerDir+"/"+Listener)
	if err != nil {
		c.unfollow()
		return nil, err
	}
	c.set(conn)
	c.used = time.Now()
	c.turn.life, c.turn.farewell = c.life, 10*time.Millisecond
	c.turn.cut = func() { c.deadline(time.Unix(1, 0)) }
	return c, nil
}

// deadline is given to the connection that is open, if one is.
func (c *streamConn) deadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.SetReadDeadline(t)
		if t.Unix() == 1 {
			c.conn.SetWriteDeadline(t)
		}
	}
}

// set makes conn the one that is open, and closes the one that was.
func (c *streamConn) set(conn net.Conn) {
	c.mu.Lock()
	old := c.conn
	c.conn = conn
	c.mu.Unlock()
	if old != nil {
		old.Close()
	}
	if conn != nil {
		c.turn.to, c.turn.from = conn, conn
	}
}

// Close implements Conn.
func (c *streamConn) Close() error {
	c.set(nil)
	return c.life.Close()
}

// Exchange implements Conn.
func (c *streamConn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	out, err := c.turn.exchange(ctx, req, w, c.exchange)
	c.used = time.Now()
	return out, err
}

func (c *streamConn) exchange(out *faas.Outcome) error {
	t := &c.turn
	if c.over() {
		out.Again = true
		return c.died()
	}
	used := c.conn != nil && time.Since(c.used) < freshness && c.quiet()
	for {
		if !used {
			if err := c.redial(out); err != nil {
				return err
			}
		}
		head, err := appendCall((*t.out)[:0], t.req)
		if err == nil {
			err = t.send(head)
		}
		if err != nil {
			out.Keep = true
			return err
		}
		if err = t.receive(false, c.judge); err == nil || kept(err) {
			out.Keep = t.join(settle) && len(t.in.rest()) == 0
			if t.in.head.close || t.in.head.framing == framingEnd || !out.Keep {
				c.set(nil)
			}
			t.abandon()
			if err == nil && t.gone != nil {
				err = canceled(t.gone)
			}
			return err
		}
		t.join(t.patience())
		unread := t.stale()
		c.set(nil)
		if unread && c.over() {
			out.Again = true
			return err
		}
		if !unread || !used {
			t.abandon()
			return err
		}
		used = false
		t.again()
	}
}

// kept reports whether an error is an answer that a function may give.
func kept(err error) bool {
	return errors.Is(err, faas.ErrFunction)
}

// redial connects anew.
func (c *streamConn) redial(out *faas.Outcome) error {
	t := &c.turn
	c.set(nil)
	conn, err := c.Dial(t.ctx, "unix", Listener)
	if err != nil {
		if cause := t.failed(); cause != nil {
			return cause
		}
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		out.Again = true
		if c.overSoon(t.ctx, drain) {
			return c.died()
		}
		return fault(faas.FuncFailed, faas.ErrBroken, "the function does not listen on %s any more: %v", ListenerDir+"/"+Listener, err)
	}
	c.set(conn)
	if t.failed() != nil {
		t.cut() // it could not cut this one
	}
	return nil
}

// stale reports whether the connection broke before the function can have read
// the request, and the request is as it was.
func (t *turn) stale() bool {
	if !t.silent || t.failed() != nil {
		return false
	}
	unread := t.unsent && t.sent == 0 || refused(t.reset) && t.sent <= resend && t.whole && t.uploaded == nil
	return unread && t.putBack()
}

// again prepares t for a second try.
func (t *turn) again() {
	t.silent, t.reset, t.sent, t.unsent, t.uploaded, t.whole, t.first, t.bytes.In = false, nil, 0, false, nil, false, nil, 0
	t.in.r, t.in.w = 0, 0
}

// What is read of the body of an error.
const (
	maxWords = 1 << 10 // said to users
	maxError = 4 << 10
)

// judge decides by the status whether the answer is the caller's.
func (c *streamConn) judge() (taken bool, err error) {
	t := &c.turn
	switch status := t.in.head.status; status {
	case http.StatusOK:
		return false, nil
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		var text []byte
		for {
			p, err := t.in.next()
			if err != nil {
				if !t.in.done {
					return true, t.broken(err)
				}
				break
			}
			text = append(text, p[:min(len(p), maxError-len(text))]...)
		}
		t.answered()
		if err := t.failed(); err != nil {
			return true, err
		}
		if status == http.StatusGatewayTimeout {
			return true, fault(faas.TimedOut, faas.ErrFunction, "the function said that it ran out of time")
		}
		return true, fault(faas.FuncFailed, faas.ErrFunction, "%s", words(text))
	default:
		return true, fault(faas.FuncFailed, faas.ErrStatus, "the function answered with status %d: this format allows 200, 502 and 504", status)
	}
}

// words is what the body of an error says: message and detail of a JSON object,
// or text.
func words(body []byte) string {
	var object struct{ Message, Detail string }
	text := string(body)
	if json.Unmarshal(body, &object) == nil && object.Message+object.Detail != "" {
		text = object.Message
		if object.Detail != "" && text != "" {
			text += ": "
		}
		text += object.Detail
	}
	text = strings.TrimSpace(text)
	text = strings.ToValidUTF8(text[:min(len(text), maxWords)], "\uFFFD")
	if text == "" {
		return "the function said that it failed"
	}
	return text
}

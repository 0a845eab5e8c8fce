package protocol

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hob/faas"
)

// RuntimeAPI is where a function of format lambda finds the Runtime API of AWS
// Lambda, in its own network: the value of AWS_LAMBDA_RUNTIME_API.
const RuntimeAPI = "127.0.0.1:9001"

const (
	// maxEvent is the most that AWS has for an event, and for an answer that is not
	// streamed: 6 MB and 100 bytes.
	maxEvent = 6<<20 + 100

	// maxStream is the most that AWS has for a streamed answer.
	maxStream = 200 << 20
)

// lambdaConn speaks the format lambda: the process asks a server of ours for its
// next call, and sends that the answer.
//
// The server and each connection to it have goroutines, also between calls. They
// end by Close.
type lambdaConn struct {
	*life
	turn   turn
	arn    string
	server *http.Server
	leave  context.CancelFunc // ends the requests that wait for a call
	work   sync.WaitGroup     // the server and its connections

	started chan struct{} // closed by the first poll
	failed  chan struct{} // closed when startErr is set, and the process was told that it was heard
	arrived chan struct{} // has room for one: a poll has come since somebody looked

	mu       sync.Mutex // guards all below; taken with that of turn held, never the other way round
	startErr error      // what the process said instead of its first poll
	polls    []*poll    // that wait, the latest last
	call     *invocation
	last     string                   // ID of the last call that was answered
	stream   *http.ResponseController // of the answer that is being read in pieces
}

// A poll is a question of the process for its next call.
type poll struct {
	socket *runtimeSocket
	given  chan *invocation // has room for one
}

// An invocation is a call on its way through the Runtime API.
type invocation struct {
	id    string
	event []byte
	head  http.Header // that the event comes with

	triggered bool // the event is that of an HTTP request, and so is the answer

	answers chan *lambdaAnswer // has room for one
	lost    chan struct{}      // has room for one: the poll that was given the call is no more
	over    chan struct{}      // closed when nobody waits for the answer any more

	// Guarded by lambdaConn.mu.
	poll    *poll // that has it
	claimed bool  // an answer has come, or has begun to
}

func openLambda(ctx context.Context, fn faas.Function, p Process) (*lambdaConn, error) {
	l := p.Listener()
	if l == nil {
		return nil, faas.Errorf(faas.Internal, "the sandbox of function %s has no listener on %s", fn.Name, RuntimeAPI)
	}
	c := &lambdaConn{started: make(chan struct{}), failed: make(chan struct{}), arrived: make(chan struct{}, 1)}
	region := cmp.Or(fn.Env["AWS_REGION"], fn.Env["AWS_DEFAULT_REGION"], "us-east-1")
	c.arn = fmt.Sprintf("arn:aws:lambda:%s:000000000000:function:%s", region, fn.Name)
	c.life = follow(p, fn.Memory, c.hurry)
	c.turn.life, c.turn.cut = c.life, func() { c.deadline(time.Unix(1, 0)) }
	c.serve(l)
	if err := c.start(ctx); err != nil {
		c.unfollow()
		c.shut()
		return nil, err
	}
	return c, nil
}

// start returns when the process has asked for its first call.
func (c *lambdaConn) start(ctx context.Context) error {
	select {
	case <-c.started:
		return nil
	case <-c.failed:
	case <-c.ended:
		select {
		case <-c.failed: // it said why
		default:
			if c.waitErr != nil {
				return c.waitErr
			}
			return fault(faas.FuncFailed, faas.ErrStartExited, "the function ended before it asked for its first call: %s", ending(c.Process, c.exit, c.memory))
		}
	case <-ctx.Done():
		cause := context.Cause(ctx)
		if faas.KindOf(cause) != faas.TimedOut {
			return cause
		}
		return fault(faas.TimedOut, faas.ErrStartTimeout, "%v: it has not asked http://%s for its first call", cause, RuntimeAPI)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.startErr
}

// Close implements Conn. The server is the last to end, so that the process does not
// write into its log that it has gone.
func (c *lambdaConn) Close() error {
	err := c.life.Close()
	c.shut()
	return err
}

func (c *lambdaConn) shut() {
	c.leave() // net/http does not see the end of every connection that it closes
	c.server.Close()
	c.work.Wait()
}

// deadline is given to the answer that is being read in pieces, if there is one.
func (c *lambdaConn) deadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream != nil {
		c.stream.SetReadDeadline(t)
	}
}

// hurry gives the rest of an answer the time that is left to one of a process that
// has ended.
func (c *lambdaConn) hurry() { c.deadline(time.Now().Add(drain)) }

// Exchange implements Conn.
func (c *lambdaConn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	return c.turn.exchange(ctx, req, w, c.exchange)
}

func (c *lambdaConn) exchange(out *faas.Outcome) error {
	t := &c.turn
	if c.over() {
		out.Again = true
		return c.died()
	}
	body, err := t.readAll(faas.FormatLambda)
	var inv *invocation
	if err == nil {
		inv, err = c.invocation(t.req, body)
	}
	if err != nil {
		out.Keep = true
		return err
	}
	c.set(inv)
	defer c.dismiss(inv)
	a, err := c.ask(inv)
	if err != nil {
		if out.Again = c.untouched(inv) && t.failed() == nil; out.Again {
			t.req.Body, t.req.Size = bytes.NewReader(body), int64(len(body))
		}
		return err
	}
	err = c.deliver(a)
	if a.verdict != nil {
		c.mu.Lock()
		c.stream = nil
		c.mu.Unlock()
		a.verdict <- a.refusal
	}
	switch {
	case t.refused():
	case err != nil || a.failed:
		out.Keep = c.settled() // it may be about to end
	default:
		out.Keep = true
	}
	if err == nil && t.gone != nil {
		err = canceled(t.gone)
	}
	return err
}

// set makes inv the call that waits for a poll.
func (c *lambdaConn) set(inv *invocation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.call, inv.poll = inv, nil
}

// dismiss ends the invocation: an answer that comes now is refused.
func (c *lambdaConn) dismiss(inv *invocation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if inv.claimed {
		c.last = inv.id
	}
	c.call, c.stream = nil, nil
	close(inv.over)
}

// ask gives the invocation to the process and waits for the answer.
func (c *lambdaConn) ask(inv *invocation) (*lambdaAnswer, error) {
	t := &c.turn
	for given := false; ; {
		given = given || c.hand(inv)
		select {
		case a := <-inv.answers:
			return a, nil
		case <-inv.lost:
			given = false
			c.set(inv)
		case <-c.arrived:
		case <-c.ended:
			return c.bequest(inv)
		case <-t.ctx.Done():
			return nil, context.Cause(t.ctx)
		}
	}
}

// bequest is the answer of a process that has ended, if it has left one.
func (c *lambdaConn) bequest(inv *invocation) (*lambdaAnswer, error) {
	c.mu.Lock()
	given := inv.poll != nil
	c.mu.Unlock()
	if given {
		timer := time.NewTimer(drain)
		defer timer.Stop()
		select {
		case a := <-inv.answers:
			return a, nil
		case <-timer.C:
		case <-c.turn.ctx.Done():
			return nil, context.Cause(c.turn.ctx)
		}
	}
	return nil, c.died()
}

// untouched reports whether a process that has ended had nothing of the invocation:
// nobody asked for it, or the kernel says that it was not read, and it is so small
// that it is read at once or not at all.
func (c *lambdaConn) untouched(inv *invocation) bool {
	const small = resend - 1<<10 // there is a head before it
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over() && (inv.poll == nil || !inv.claimed && len(inv.event) <= small && inv.poll.socket.reset.Load())
}

// settled waits, for a moment, until the process has asked for the next call, and
// reports whether it lives: many end after an error.
func (c *lambdaConn) settled() bool {
	timer := time.NewTimer(mourning)
	defer timer.Stop()
	for {
		c.mu.Lock()
		waits := len(c.polls) > 0
		c.mu.Unlock()
		if waits {
			return true
		}
		select {
		case <-c.arrived:
		case <-c.ended:
			return false
		case <-timer.C:
			return true
		}
	}
}

// hand gives the invocation to the latest poll, and reports whether there is one:
// the client of an earlier one may have given it up.
func (c *lambdaConn) hand(inv *invocation) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.polls) - 1
	if last < 0 {
		return false
	}
	inv.poll = c.polls[last]
	c.polls = c.polls[:last]
	inv.poll.given <- inv
	return true
}

// enroll adds a poll, unless there is a call that has no answer yet.
func (c *lambdaConn) enroll(p *poll) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.call != nil && c.call.poll != nil && !c.call.claimed {
		return false
	}
	c.polls = append(c.polls, p)
	select {
	case <-c.started:
	default:
		close(c.started)
	}
	select {
	case c.arrived <- struct{}{}:
	default:
	}
	return true
}

// withdraw takes back a poll that broke off. What it was given meanwhile is lost.
func (c *lambdaConn) withdraw(p *poll) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, other := range c.polls {
		if other == p {
			c.polls = append(c.polls[:i], c.polls[i+1:]...)
			return
		}
	}
	inv := <-p.given
	inv.lost <- struct{}{}
}

// runtimeSocket is a connection of the process. It knows whether it was reset: the
// other end was closed with something unread.
type runtimeSocket struct {
	net.Conn
	reset atomic.Bool
}

func (s *runtimeSocket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, syscall.ECONNRESET) {
		s.reset.Store(true)
	}
	return n, err
}

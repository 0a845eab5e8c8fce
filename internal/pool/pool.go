// Package pool decides who runs and who waits on this node. One plan for all
// functions gives each caller a slot: the right to use one sandbox for one call.
// Who cannot be served at once waits in line, first in first out, and can be
// told its place and the reason.
//
// It owns slots, lines and limits, and the goroutines that start and stop
// sandboxes. It leaves to others how a sandbox starts (it gets a Start function),
// how much memory there is (it gets a Memory), and what a call means.
//
// For now a slot serves one call and its sandbox is stopped behind it.
package pool

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"

	"hob/faas"
)

// Memory is what sandboxes may use on this node.
type Memory interface {
	TryReserve(faas.Bytes) bool // reserve now, or report that there is no room
	Release(faas.Bytes)
	Total() faas.Bytes
	Reserved() faas.Bytes
}

// Conn is a sandbox that can serve a call.
type Conn interface {
	Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error)

	// Close returns when nothing of the sandbox is left.
	Close() error
}

// Set is the pools of all functions of a node. Its exported fields are set
// before the first Acquire and not changed after.
type Set struct {
	// Start makes a sandbox for one revision of a function. It is called outside
	// the lock, in a goroutine that Close waits for; ctx ends when the Set is
	// closed. After an error nothing is left.
	Start func(ctx context.Context, fn faas.Function) (Conn, error)

	Memory Memory
	Log    *slog.Logger

	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup // every goroutine of this Set

	mu      sync.Mutex
	plan    plan                     // guarded by mu, as all below
	conns   map[int]Conn             // by slot number
	callers map[string]chan<- *grant // by call ID
	empty   sync.Cond                // on mu: there are no slots
}

// grant ends a caller's wait, with a sandbox or with the reason for none.
type grant struct {
	slot int
	conn Conn
	err  error
}

// errClosed is what callers get from a Set that is closing.
var errClosed = faas.Errorf(faas.Busy, "this node is shutting down")

// Slot is the use of one sandbox for one call. The caller must end it with
// Done, exactly once.
type Slot struct {
	set *Set
	grant
}

// Acquire waits for a sandbox of fn until ctx ends. callID names the caller and
// must be unique among those who wait. The error is Busy when the line is full
// or the wait ended, Invalid when fn can never fit, or what Start returned.
func (s *Set) Acquire(ctx context.Context, fn faas.Function, callID string) (*Slot, error) {
	if total := s.Memory.Total(); fn.Memory > total {
		return nil, faas.Errorf(faas.Invalid, "function %s needs %v of memory, and this node has %v for all sandboxes", fn.Name, fn.Memory, total)
	}
	turn := make(chan *grant, 1)
	s.mu.Lock()
	s.init()
	if s.plan.closed {
		s.mu.Unlock()
		return nil, errClosed
	}
	s.callers[callID] = turn
	s.do(s.plan.want(callID, fn), faas.Errorf(faas.Busy, "%s of function %s wait already, and no more may", calls(fn.Line), fn.Name))
	s.mu.Unlock()

	select {
	case g := <-turn:
		return s.take(g)
	case <-ctx.Done():
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.callers, callID)
	why := cmp.Or(s.why(callID), "it was about to")
	s.do(s.plan.gone(callID), nil)
	select {
	case g := <-turn: // the grant crossed with the end of ctx
		if g.err != nil {
			return s.take(g)
		}
		s.do(s.plan.done(g.slot), nil)
	default:
	}
	kind := faas.KindOf(context.Cause(ctx))
	if kind == faas.TimedOut {
		kind = faas.Busy // the wait is over, not the call
	}
	return nil, faas.Errorf(kind, "no sandbox became free (%s): %w", why, context.Cause(ctx))
}

func (s *Set) take(g *grant) (*Slot, error) {
	if g.err != nil {
		return nil, g.err
	}
	return &Slot{set: s, grant: *g}, nil
}

// Exchange runs one call in the slot's sandbox.
func (s *Slot) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	return s.conn.Exchange(ctx, req, w)
}

// Done gives the slot back. It does not wait: the sandbox is stopped in the
// background, and its memory is free when nothing of it is left.
func (s *Slot) Done() {
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	s.set.do(s.set.plan.done(s.slot), nil)
}

// Waiting is one caller in line.
type Waiting struct {
	Call     string // ID
	Function string // ID
	Place    int    // 1 is next; 0: it is being served
	Reason   string // what it waits for, for a reader
}

// Waiting lists the callers in line, oldest first.
func (s *Set) Waiting() []Waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	var all []Waiting
	for _, w := range s.plan.waits() {
		all = append(all, Waiting{Call: w.caller, Function: w.fn.ID, Place: w.place, Reason: s.reason(w)})
	}
	return all
}

// why is the reason that a caller waits. Precondition: s.mu is held.
func (s *Set) why(callID string) string {
	for _, w := range s.plan.waits() {
		if w.caller == callID {
			return s.reason(w)
		}
	}
	return ""
}

// reason puts a wait into words. Precondition: s.mu is held.
func (s *Set) reason(w wait) string {
	switch w.reason {
	case waitLimit:
		return fmt.Sprintf("place %d in the line of the function: it may run %s at once", w.place, calls(w.fn.MaxConcurrency))
	case waitMemory:
		return fmt.Sprintf("place %d in the line for %v of memory: %v of %v are in use", w.place, w.fn.Memory, s.Memory.Reserved(), s.Memory.Total())
	}
	return "its sandbox is starting"
}

func calls(n int) string {
	if n == 1 {
		return "1 call"
	}
	return strconv.Itoa(n) + " calls"
}

// Close turns waiting callers away and returns when every slot has been given
// back and nothing is left of its sandbox.
func (s *Set) Close() {
	s.mu.Lock()
	s.init()
	s.stop()
	s.do(s.plan.close(), errClosed)
	for len(s.plan.slots) > 0 {
		s.empty.Wait()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// do carries out what the plan decided; err is the reason of a "fail" or
// "refuse". Nothing in it waits: starts and stops happen in goroutines and come
// back as events. Precondition: s.mu is held.
func (s *Set) do(acts []action, err error) {
	for _, a := range acts {
		switch a.Do {
		case "start":
			fn := s.plan.slots[a.Slot].fn
			s.work.Go(func() { s.start(a.Slot, fn) })
		case "give":
			s.answer(a.Caller, &grant{slot: a.Slot, conn: s.conns[a.Slot]})
		case "fail", "refuse":
			s.answer(a.Caller, &grant{err: err})
		case "stop":
			s.work.Go(func() { s.end(a.Slot) })
		}
	}
	if len(s.plan.slots) == 0 {
		s.empty.Broadcast()
	}
}

// answer ends the wait of a caller. Precondition: s.mu is held.
func (s *Set) answer(callID string, g *grant) {
	s.callers[callID] <- g // it holds one, and is used once
	delete(s.callers, callID)
}

// start is one start, in a goroutine of its own.
func (s *Set) start(slot int, fn faas.Function) {
	var conn Conn
	err := s.ctx.Err()
	if err == nil {
		conn, err = s.Start(s.ctx, fn)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.do(s.plan.failed(slot), err)
		return
	}
	s.conns[slot] = conn
	s.do(s.plan.ready(slot), nil)
}

// end is one stop, in a goroutine of its own.
func (s *Set) end(slot int) {
	s.mu.Lock()
	conn := s.conns[slot]
	delete(s.conns, slot)
	s.mu.Unlock()
	if err := conn.Close(); err != nil {
		s.Log.Error("sandbox was not stopped cleanly", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do(s.plan.stopped(slot), nil)
}

// init makes the zero Set usable. Precondition: s.mu is held.
func (s *Set) init() {
	if s.ctx != nil {
		return
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.plan = newPlan(s.Memory)
	s.conns = make(map[int]Conn)
	s.callers = make(map[string]chan<- *grant)
	s.empty.L = &s.mu
}

package invoke

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
)

const (
	// gatherKnown is the length up to which a body is read before its call has a slot
	// although the function could be given it as it comes.
	gatherKnown = 64 << 10

	// maxGathered is the memory that bodies of waiting calls may take on the node. What
	// is over it is read in the slot.
	maxGathered = 256 << 20

	// gatherRest is how long, in ticks, nothing of such a body may come.
	gatherRest = 10
	gatherTick = time.Second
)

// gathered is the body of a call that was read before the call had a slot: a caller
// who sends it slowly holds no sandbox.
type gathered struct {
	room   [4 << 10]byte
	body   []byte // in room, if it is small
	reader bytes.Reader
	i      *Invoker
	size   int64 // of memory that it holds

	read atomic.Int64 // bytes that have come

	mu    sync.Mutex
	timer *time.Timer     // guarded by mu, as all below
	ctx   context.Context // nil: nothing is read
	w     http.ResponseWriter
	from  io.Reader
	seen  int64 // of read, at the last tick that saw one more
	rests int   // ticks since
	cut   error // why the reading was broken off
}

// gatherable is how much of the body of req is read before the call has a slot; 0:
// nothing, as it is passed on while it comes, is here already, or will be refused.
func gatherable(fn *faas.Function, call *faas.Call, req *faas.Request) int64 {
	if req.Size == 0 || req.Body == nil || req.Body == http.NoBody || call.Kind == faas.CallAsync || req.Key != "" {
		return 0 // of the last two it was kept
	}
	switch req.Body.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return 0
	}
	most := int64(fn.Format.MaxRequest())
	if fn.Format == faas.FormatHTTP && (req.Size >= 0 || !req.Convention.Iron()) {
		most = 0
	}
	switch {
	case req.Size < 0:
		return most
	case req.Size <= max(gatherKnown, most):
		return req.Size
	}
	return 0
}

// gather reads the body of req, if that can be done before the call has a slot, and
// puts it back as what is in memory. free, if any, is called when nobody reads req any
// more. What is too much is left to who reads it in the slot.
func (i *Invoker) gather(ctx context.Context, fn *faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) (*gathered, error) {
	most := gatherable(fn, call, req)
	if most == 0 {
		return nil, nil
	}
	g, _ := i.bodies.Get().(*gathered)
	if g == nil {
		g = &gathered{i: i}
	}
	g.body, g.size = g.room[:0], 0
	g.begin(ctx, w, req.Body)
	whole, err := g.readAll(req.Body, most, req.Size < 0)
	if cut := g.end(); cut != nil {
		err = cut
	}
	if err != nil {
		g.free()
		return nil, payloadError(err)
	}
	g.reader.Reset(g.body)
	if whole {
		req.Body, req.Size = &g.reader, int64(len(g.body))
	} else {
		req.Body = io.MultiReader(&g.reader, req.Body)
	}
	return g, nil
}

// readAll reads up to most bytes of from, all of them if it is open where it ends. It
// reports whether that is the whole.
func (g *gathered) readAll(from io.Reader, most int64, open bool) (whole bool, err error) {
	if !g.hold(int64(len(g.room))) {
		return false, nil
	}
	for {
		want := most - int64(len(g.body))
		if want == 0 && !open {
			return true, nil
		}
		if want == 0 || len(g.body) == cap(g.body) && !g.grow(most) {
			return false, nil // over the limit, perhaps: who reads on knows
		}
		n, err := from.Read(g.body[len(g.body):min(cap(g.body), int(most))])
		g.body = g.body[:len(g.body)+n]
		g.read.Add(int64(n))
		switch {
		case err == io.EOF && !open && int64(len(g.body)) < most:
			return false, io.ErrUnexpectedEOF
		case err == io.EOF:
			return true, nil
		case err != nil:
			return false, err
		}
	}
}

// grow makes room for twice as much, or for most, if the node has it.
func (g *gathered) grow(most int64) bool {
	size := min(most, max(2*int64(cap(g.body)), gatherKnown))
	if !g.hold(size - int64(cap(g.body))) {
		return false
	}
	g.body = append(make([]byte, 0, size), g.body...)
	return true
}

func (g *gathered) hold(n int64) bool {
	if g.i.gathered.Add(n) > maxGathered {
		g.i.gathered.Add(-n)
		return false
	}
	g.size += n
	return true
}

// begin watches over a reading of from, the body of the request that w answers.
func (g *gathered) begin(ctx context.Context, w http.ResponseWriter, from io.Reader) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ctx, g.w, g.from, g.seen, g.rests, g.cut = ctx, w, from, 0, 0, nil
	g.read.Store(0)
	if g.timer == nil {
		g.timer = time.AfterFunc(gatherTick, g.tick)
	} else {
		g.timer.Reset(gatherTick)
	}
}

// came is when the body had come, if it was waited for; else, then.
func (g *gathered) came(then time.Time) time.Time {
	if g == nil {
		return then
	}
	return time.Now()
}

// tick breaks a reading off whose call has ended, or in which nothing comes. One that
// comes late, of an earlier reading, does no harm.
func (g *gathered) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx == nil {
		return
	}
	if n := g.read.Load(); n > g.seen {
		g.seen, g.rests = n, 0
	}
	g.rests++
	switch {
	case g.ctx.Err() != nil:
		g.cut = context.Cause(g.ctx)
	case g.rests >= gatherRest:
		g.cut = faas.Errorf(faas.Canceled, "the caller sent nothing of its payload for %v", gatherRest*gatherTick)
	default:
		g.timer.Reset(gatherTick)
		return
	}
	if http.NewResponseController(g.w).SetReadDeadline(time.Now()) != nil { // no connection
		if body, ok := g.from.(io.Closer); ok {
			body.Close()
		}
	}
}

// end is the end of a reading, and why it was broken off.
func (g *gathered) end() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer.Stop()
	g.ctx, g.w, g.from = nil, nil, nil
	return g.cut
}

// free gives the memory back, when nobody reads the body any more.
func (g *gathered) free() {
	if g == nil {
		return
	}
	g.i.gathered.Add(-g.size)
	g.body = nil
	g.reader.Reset(nil)
	g.i.bodies.Put(g)
}

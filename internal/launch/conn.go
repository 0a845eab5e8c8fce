package launch

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/protocol"
	"hob/internal/sandbox"
)

// Conn is a sandbox that can serve calls: package pool says how it is used.
type Conn struct {
	protocol.Conn
	launcher *Launcher
	root     *image.RootFS // released when the sandbox is gone

	process *process      // of a hot format; else nil
	watched chan struct{} // closed when nobody waits for the end of process any more

	fresh *process // of the default format, once it has been started
}

// startHot starts the process and waits until it takes calls.
func (c *Conn) startHot(ctx context.Context, app faas.App, fn faas.Function, plan plan, died func()) error {
	plan.ID = strings.ToLower(faas.NewID())
	if fn.Format == faas.FormatLambda {
		plan.Env = lambdaEnvironment(plan.Spec, app, fn)
	} else {
		plan.Env = environment(plan.Spec, hotEnvironment(app, fn))
	}
	begin := time.Now()
	p, err := c.launcher.start(ctx, fn, plan, "")
	if err != nil {
		return err
	}
	if fn.StartTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, begin.Add(fn.StartTimeout), faas.Errorf(faas.TimedOut, "function %s was not ready within its start timeout of %v", fn.Name, fn.StartTimeout))
		defer cancel()
	}
	if c.Conn, err = protocol.Open(ctx, fn, p); err != nil {
		return errors.Join(err, p.Close())
	}
	p.ready.Store(true)
	c.process, c.watched = p, make(chan struct{})
	go func() {
		defer close(c.watched)
		p.box.Wait(context.Background()) // returns at the latest when the sandbox is stopped
		died()
	}()
	return nil
}

// Exchange implements protocol.Conn.
func (c *Conn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	call := &req.Call
	if c.process != nil {
		if c.process.frames != nil {
			call = c.process.frames.expect(req)
		}
		c.process.begin(call)
		defer c.process.end()
	}
	out, err := c.Conn.Exchange(ctx, req, w)
	switch {
	case c.process != nil:
		out.Stderr = c.process.firstWords(call)
	case c.fresh != nil:
		out.Stderr = c.fresh.firstWords(c.fresh.call.Load())
	}
	return out, err
}

// Start tells what a hot sandbox was made from.
func (c *Conn) Start() faas.Start {
	if c.process == nil {
		return ""
	}
	return c.process.Start()
}

// errNoFreezer is why nothing is frozen on some nodes.
var errNoFreezer = errors.New("this node cannot freeze sandboxes")

// Freeze makes the sandbox stand still. It returns what memory it holds on to.
func (c *Conn) Freeze() (faas.Bytes, error) {
	f, ok := c.process.box.(sandbox.Freezer)
	if !ok || !c.process.freezer {
		return 0, errNoFreezer
	}
	if err := f.Freeze(); err != nil {
		return 0, err
	}
	c.process.frozen.Store(true)
	return c.process.box.Usage().Memory, nil
}

// Thaw lets the sandbox go on.
func (c *Conn) Thaw() error {
	c.process.frozen.Store(false)
	return c.process.box.(sandbox.Freezer).Thaw()
}

// Close ends the sandbox and returns when nothing of it is left.
func (c *Conn) Close() error {
	defer c.root.Release()
	if c.process != nil {
		c.process.ending.Store(true)
	}
	err := c.Conn.Close()
	if c.watched != nil {
		<-c.watched
	}
	return err
}

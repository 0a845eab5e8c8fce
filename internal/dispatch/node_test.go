package dispatch

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// node is what a Dispatcher needs: functions, room for their calls, and what they do.
type node struct {
	serve func(ctx context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error
	freed chan struct{}

	mu      sync.Mutex
	fns     map[string]faas.Function // guarded by mu, as all below
	apps    map[string]faas.App
	events  []string
	records []faas.Call
	order   []string // calls, as they began
}

func (n *node) FunctionByID(id string) (faas.Function, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if fn, ok := n.fns[id]; ok {
		return fn, nil
	}
	return faas.Function{}, faas.Errorf(faas.NotFound, "no function with the ID %q", id)
}

func (n *node) AppByID(id string) (faas.App, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.apps[id], nil
}

func (n *node) Welcome(app *faas.App, fn *faas.Function) (int, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	of, limit := 10, 1<<30
	if fn.MaxConcurrency > 0 {
		of = fn.MaxConcurrency
	}
	if app.MaxConcurrency > 0 {
		limit = app.MaxConcurrency
	}
	return of, limit
}

func (n *node) Freed() <-chan struct{} { return n.freed }

func (n *node) Event(_ string, e faas.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, fmt.Sprint(e.Name, " ", e.Attempt, " ", e.Message))
}

func (n *node) Record(call faas.Call) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = append(n.records, call)
}

// Run is a Runner: each call has a sandbox at once.
func (n *node) Run(ctx context.Context, _ faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	n.order = append(n.order, call.ID)
	n.mu.Unlock()
	_ = call.Advance(faas.CallRunning, time.Now())
	err := n.serve(ctx, call, req, w)
	_ = call.Advance(faas.StateAfter(err), time.Now())
	return err
}

// begin starts a Dispatcher over calls with one function, f. end stops it.
func begin(t *testing.T, calls store.Calls, n *node, change ...func(*Dispatcher)) (d *Dispatcher, end func()) {
	t.Helper()
	if n.freed == nil {
		n.freed = make(chan struct{}, 1)
	}
	if n.fns == nil {
		n.fns = map[string]faas.Function{"f": function("f")}
	}
	if n.apps == nil {
		n.apps = map[string]faas.App{"app": {ID: "app", Name: "photos"}}
	}
	if n.serve == nil {
		n.serve = func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
			_, err := io.Copy(w, req.Body)
			return err
		}
	}
	d = New()
	d.Calls, d.Runner, d.Room, d.Definitions, d.Events, d.Journal = calls, n, n, n, n, n
	d.Owner, d.Log = faas.NewID(), slog.New(slog.DiscardHandler)
	for _, c := range change {
		c(d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return d, func() {
		t.Helper()
		d.Drain()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// idle is a Dispatcher that is not run.
func idle(calls store.Calls, owner string) *Dispatcher {
	n := &node{fns: map[string]faas.Function{"f": function("f")}, apps: make(map[string]faas.App)}
	d := New()
	d.Calls, d.Definitions, d.Journal, d.Owner, d.Log = calls, n, n, owner, slog.New(slog.DiscardHandler)
	return d
}

func function(id string) faas.Function {
	return faas.Function{ID: id, App: "app", Name: id, Image: "busybox"}.WithDefaults()
}

// accept puts a call into the queue.
func accept(t *testing.T, d *Dispatcher, fn, payload string, change func(*store.Acceptance)) faas.Call {
	t.Helper()
	body := d.Calls.NewBody()
	_, _ = io.WriteString(body, payload)
	a := store.Acceptance{
		Call:    faas.Call{ID: faas.NewID(), App: "photos", Function: fn, FuncID: fn, Kind: faas.CallAsync, State: faas.CallQueued},
		Request: &faas.Request{Method: "POST", Target: "/"}, Body: body,
	}
	if change != nil {
		change(&a)
	}
	call, _, err := d.Accept(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

func priority(p int) func(*store.Acceptance) {
	return func(a *store.Acceptance) { a.Call.Priority = p }
}

// wait returns a call that is over.
func wait(t *testing.T, d *Dispatcher, id string) faas.Call {
	t.Helper()
	call, err := d.Calls.Wait(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

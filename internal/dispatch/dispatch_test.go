package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/memory"
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

func TestQueuedCallRunsAndItsResultIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		d, end := begin(t, memory.New(), n)
		defer end()
		call := wait(t, d, accept(t, d, "f", "hello", nil).ID)
		if call.State != faas.CallSucceeded || call.Attempt != 1 || call.Result != faas.ResultKept {
			t.Errorf("call = %+v", call)
		}
		result, body, err := d.Calls.Result(t.Context(), call.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(body); string(got) != "hello" || result.Status != 200 {
			t.Errorf("result %q with status %d", got, result.Status)
		}
		synctest.Wait()
		if len(n.records) != 1 || n.records[0].State != faas.CallSucceeded {
			t.Errorf("recorded %+v", n.records)
		}
	})
}

func TestQueueOfANodeThatRunsNoCallsStaysAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, n := memory.New(), &node{}
		d, end := begin(t, calls, n, func(d *Dispatcher) { d.Holds = true })
		first, second := accept(t, d, "f", "1", nil), accept(t, d, "f", "2", nil)
		removed := accept(t, d, "removed", "3", nil)
		synctest.Wait()
		for i, c := range []faas.Call{first, second} {
			got, err := calls.Call(t.Context(), c.ID)
			if d.Explain(t.Context(), &got); err != nil || got.State != faas.CallQueued || got.Place != i+1 || !strings.Contains(got.Waiting, "runs no calls") || got.Estimate != 0 {
				t.Errorf("%v: %+v", err, got)
			}
		}
		if c := wait(t, d, removed.ID); c.State != faas.CallCanceled {
			t.Errorf("one of a removed function: %+v", c)
		}
		end()
		d, end = begin(t, calls, n)
		defer end()
		if c := wait(t, d, second.ID); c.State != faas.CallSucceeded || c.Attempt != 1 {
			t.Errorf("on a node that runs calls: %+v", c)
		}
	})
}

func TestCallsStartInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := function("f")
		one.MaxConcurrency = 1
		release := make(chan struct{})
		n := &node{fns: map[string]faas.Function{"f": one, "g": function("g")}}
		n.serve = func(_ context.Context, call *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
			if call.FuncID == "f" {
				<-release
			}
			return nil
		}
		d, end := begin(t, memory.New(), n)
		defer end()
		first := accept(t, d, "f", "", nil)
		synctest.Wait()
		low := accept(t, d, "f", "", nil)
		late := accept(t, d, "f", "", func(a *store.Acceptance) { a.Delay = time.Hour; a.Call.Priority = 9 })
		high := accept(t, d, "f", "", priority(5))
		wait(t, d, accept(t, d, "g", "", nil).ID) // a function at its limit blocks nobody
		place, _, _ := d.Calls.Place(t.Context(), low.ID, []string{"f"})
		if place != 2 {
			t.Errorf("place %d, want 2", place)
		}
		n.order = nil
		for range 2 {
			release <- struct{}{}
			synctest.Wait()
		}
		if want := []string{high.ID, low.ID}; !slices.Equal(n.order, want) {
			t.Errorf("began %v, want %v after %s", n.order, want, first.ID)
		}
		release <- struct{}{}
		begun := time.Now()
		go func() { release <- struct{}{} }()
		if wait(t, d, late.ID); time.Since(begun) < time.Hour-time.Minute {
			t.Errorf("the delayed call ran after %v", time.Since(begun))
		}
	})
}

func TestDelayedCallsStartWhenTheyAreDueWhateverCameAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{fns: map[string]faas.Function{"f": function("f"), "g": function("g")}}
		d, end := begin(t, memory.New(), n)
		defer end()
		begun := time.Now()
		later := func(delay time.Duration) func(*store.Acceptance) {
			return func(a *store.Acceptance) { a.Delay = delay }
		}
		first := accept(t, d, "f", "", later(10*time.Second))
		synctest.Wait()
		second := accept(t, d, "g", "", later(time.Minute))
		synctest.Wait()
		third := accept(t, d, "f", "", later(20*time.Second))
		for _, tt := range []struct {
			id string
			at time.Duration
		}{{first.ID, 10 * time.Second}, {third.ID, 20 * time.Second}, {second.ID, time.Minute}} {
			if call := wait(t, d, tt.id); call.Started.Sub(begun).Round(time.Second) != tt.at {
				t.Errorf("a call that is due after %v began after %v", tt.at, call.Started.Sub(begun))
			}
		}
	})
}

func TestQuotaIsOneLineForItsFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{fns: make(map[string]faas.Function), apps: map[string]faas.App{"app": {ID: "app", Name: "photos", MaxConcurrency: 2}}}
		for _, id := range []string{"a", "b", "c"} {
			n.fns[id] = function(id)
		}
		running, most := 0, 0
		n.serve = func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error {
			n.mu.Lock()
			running++
			most = max(most, running)
			n.mu.Unlock()
			time.Sleep(time.Second)
			n.mu.Lock()
			running--
			n.mu.Unlock()
			return nil
		}
		calls := memory.New()
		d, end := begin(t, calls, n)
		d.Drain() // until all are there
		var want []string
		for i := range 12 {
			want = append(want, accept(t, d, []string{"a", "b", "c"}[i*7%3], "", nil).ID)
		}
		queued, err := d.Line(t.Context(), []faas.Function{n.fns["a"], n.fns["b"], n.fns["c"]}, 100)
		if err != nil || len(queued) != 12 || queued[11].Place != 12 || !strings.Contains(queued[11].Waiting, "place 12 in the line of the app photos: it may run 2 calls at once") {
			t.Errorf("line %+v, %v", queued, err)
		}
		d.mu.Lock()
		d.draining = false
		d.mu.Unlock()
		signal(d.wake)
		for _, id := range want {
			wait(t, d, id)
		}
		end()
		for i := 0; i < len(want); i += 2 { // two begin at the same moment
			if got := n.order[i : i+2]; !slices.Contains(got, want[i]) || !slices.Contains(got, want[i+1]) {
				t.Errorf("calls %d and %d: began %v, want %v", i, i+1, got, want[i:i+2])
			}
		}
		if most != 2 {
			t.Errorf("%d ran at once, want 2", most)
		}
	})
}

func TestFailedAttemptsAreTriedAgainWithBackOffUntilTheyAreTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := function("f")
		fn.Retries, fn.RetryDelay, fn.RetryMax, fn.OnFailure = 3, 10*time.Second, 30*time.Second, "ops/alarm"
		n := &node{fns: map[string]faas.Function{"f": fn}}
		var at []time.Duration
		begun := time.Now()
		n.serve = func(_ context.Context, _ *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
			at = append(at, time.Since(begun).Round(time.Second))
			if got, _ := io.ReadAll(req.Body); string(got) != "payload" {
				t.Errorf("payload %q", got)
			}
			return faas.Errorf(faas.FuncFailed, "exit code 1")
		}
		d, end := begin(t, memory.New(), n)
		defer end()
		call := wait(t, d, accept(t, d, "f", "payload", nil).ID)
		if want := []time.Duration{0, 10 * time.Second, 30 * time.Second, time.Minute}; !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
		if call.State != faas.CallFailed || call.Attempt != 4 || call.Failures != 4 || call.Error != "exit code 1" || call.Delivery != "on its way to ops/alarm" {
			t.Errorf("call = %+v", call)
		}
		due, _, err := d.Calls.Deliveries(t.Context(), 10)
		if err != nil || len(due) != 1 || due[0].Target != "ops/alarm" || due[0].Call != call.ID {
			t.Errorf("deliveries %+v, %v", due, err)
		}
		if req, err := d.Calls.Request(t.Context(), call.ID); err != nil {
			t.Errorf("the payload of a call that failed: %v", err)
		} else {
			req.Body.(io.Closer).Close()
		}
		synctest.Wait()
		want := []string{"PENDING 1 again in 10s: exit code 1", "PENDING 2 again in 20s: exit code 1", "PENDING 3 again in 30s: exit code 1", "FAILED 4 exit code 1"}
		if !slices.Equal(n.events, want) {
			t.Errorf("events %q, want %q", n.events, want)
		}
	})
}

func TestAnswerWithAServerErrorIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{serve: func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			w.WriteHeader(503)
			return nil
		}}
		d, end := begin(t, memory.New(), n)
		defer end()
		if call := wait(t, d, accept(t, d, "f", "", nil).ID); call.State != faas.CallFailed || call.Error != "call f: the function answered 503 Service Unavailable" {
			t.Errorf("call = %+v", call)
		}
	})
}

func TestAnswerOverTheLimitIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := function("f")
		fn.MaxResult = 4
		n := &node{fns: map[string]faas.Function{"f": fn}}
		d, end := begin(t, memory.New(), n)
		defer end()
		call := wait(t, d, accept(t, d, "f", "hello", nil).ID)
		if call.State != faas.CallFailed || call.ErrKind != faas.TooLarge || !strings.Contains(call.Error, "over the limit of 4 bytes") {
			t.Errorf("call = %+v", call)
		}
	})
}

func TestRunningCallIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{serve: func(ctx context.Context, _ *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		d, end := begin(t, memory.New(), n)
		defer end()
		id := accept(t, d, "f", "", nil).ID
		synctest.Wait()
		if !d.Stop(id, faas.Errorf(faas.Canceled, "its user wanted it")) || d.Stop("other", errors.New("x")) {
			t.Error("Stop does not know what runs")
		}
		if call := wait(t, d, id); call.State != faas.CallCanceled || call.Error != "its user wanted it" {
			t.Errorf("call = %+v", call)
		}
	})
}

func TestCallsOfARemovedFunctionAreCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := function("f")
		one.MaxConcurrency = 1
		release := make(chan struct{})
		n := &node{fns: map[string]faas.Function{"f": one}, serve: func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error {
			<-release
			return nil
		}}
		d, end := begin(t, memory.New(), n)
		defer end()
		runs, waits := accept(t, d, "f", "", nil), accept(t, d, "f", "", nil)
		synctest.Wait()
		n.mu.Lock()
		delete(n.fns, "f")
		n.mu.Unlock()
		d.Forget("f")
		if call := wait(t, d, waits.ID); call.State != faas.CallCanceled || call.Error != removedText {
			t.Errorf("the call in line: %+v", call)
		}
		close(release)
		if call := wait(t, d, runs.ID); call.State != faas.CallSucceeded {
			t.Errorf("the call that ran: %+v", call)
		}
	})
}

func TestCallsOfAFunctionThatWasRemovedWhileNobodyRanAreCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := memory.New()
		id := accept(t, idle(calls, "dead"), "gone", "", nil).ID
		d, end := begin(t, calls, &node{})
		defer end()
		if call := wait(t, d, id); call.State != faas.CallCanceled || call.Error != removedText {
			t.Errorf("call = %+v", call)
		}
	})
}

func TestDrainPutsCallsBackWhereTheyWere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := memory.New()
		one := function("f")
		one.MaxConcurrency = 1
		n := &node{fns: map[string]faas.Function{"f": one}}
		n.serve = func(ctx context.Context, _ *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
			time.Sleep(time.Minute)
			return faas.Errorf(faas.Busy, "this node is shutting down")
		}
		d, end := begin(t, calls, n)
		first, second := accept(t, d, "f", "", nil), accept(t, d, "f", "", nil)
		synctest.Wait()
		end()
		n = &node{fns: n.fns}
		d, end = begin(t, calls, n)
		defer end()
		wait(t, d, second.ID)
		if call := wait(t, d, first.ID); call.State != faas.CallSucceeded || call.Attempt != 2 || call.Losses != 0 {
			t.Errorf("call = %+v", call)
		}
		if want := []string{first.ID, second.ID}; !slices.Equal(n.order, want) {
			t.Errorf("began %v, want %v", n.order, want)
		}
	})
}

func TestCallsOfADeadDaemonAreRescued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := memory.New()
		dead := idle(calls, "dead")
		first := accept(t, dead, "f", "", nil)
		second := accept(t, dead, "f", "", nil)
		once := accept(t, dead, "f", "", func(a *store.Acceptance) { a.Call.Once = true })
		if taken, _, err := calls.Take(t.Context(), "dead", []store.Lane{{Functions: []string{"f"}, Limit: 1}}); err != nil || taken[0].ID != first.ID {
			t.Fatal(taken, err)
		}
		keyed := accept(t, dead, "f", "", func(a *store.Acceptance) {
			a.Call.Kind, a.Call.State, a.Call.Once = faas.CallSync, faas.CallRunning, true
			a.Key = &store.Key{Function: "f", Key: "k", Hash: "h"}
		})
		if taken, _, err := calls.Take(t.Context(), "dead", []store.Lane{{Functions: []string{"f"}, Limit: 2}}); err != nil || len(taken) != 2 {
			t.Fatal(taken, err)
		}
		one := function("f")
		one.MaxConcurrency = 1
		n := &node{fns: map[string]faas.Function{"f": one}}
		d, end := begin(t, calls, n)
		defer end()
		if call := wait(t, d, once.ID); call.State != faas.CallFailed || !strings.Contains(call.Error, "must not run twice") {
			t.Errorf("the one that must not run twice: %+v", call)
		}
		if call := wait(t, d, keyed.ID); call.State != faas.CallFailed || !strings.Contains(call.Error, "is not known") {
			t.Errorf("the synchronous one: %+v", call)
		}
		for _, id := range []string{first.ID, second.ID} {
			if call := wait(t, d, id); call.State != faas.CallSucceeded || call.Attempt != 2 || call.Losses != 1 {
				t.Errorf("call = %+v", call)
			}
		}
		if want := []string{first.ID, second.ID}; !slices.Equal(n.order, want) {
			t.Errorf("began %v, want %v", n.order, want)
		}
	})
}

func TestCallThatKillsItsNodeAgainAndAgainFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := memory.New()
		id := accept(t, idle(calls, "first"), "f", "", nil).ID
		var d *Dispatcher
		for i := range mostLosses {
			d = idle(calls, fmt.Sprint(i))
			if _, _, err := calls.Take(t.Context(), "dead", []store.Lane{{Functions: []string{"f"}, Limit: 1}}); err != nil {
				t.Fatal(err)
			}
			if err := d.rescue(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lossDelay << (2 * i)) // as long as it may be put off
		}
		if call := wait(t, d, id); call.State != faas.CallFailed || call.Error != "the node died 5 times while it ran" {
			t.Errorf("call = %+v", call)
		}
	})
}

// full is a store whose disk is full for the first so many results.
type full struct {
	*memory.Store
	left int
}

func (f *full) Settle(ctx context.Context, s store.Settlement) error {
	if f.left--; f.left >= 0 {
		return faas.Errorf(faas.Busy, "the disk is full")
	}
	return f.Store.Settle(ctx, s)
}

func TestResultWaitsForRoomOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		d, end := begin(t, &full{memory.New(), 3}, n)
		defer end()
		begun := time.Now()
		call := wait(t, d, accept(t, d, "f", "hello", nil).ID)
		if call.State != faas.CallSucceeded || call.Attempt != 1 || len(n.order) != 1 || time.Since(begun) != 3*retryEvery {
			t.Errorf("%d runs, %v, call = %+v", len(n.order), time.Since(begun), call)
		}
		_, body, err := d.Calls.Result(t.Context(), call.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(body); string(got) != "hello" {
			t.Errorf("result %q", got)
		}
	})
}

func TestDecide(t *testing.T) {
	fn := function("f")
	fn.Retries = 2
	started := time.Now()
	failed := faas.Errorf(faas.FuncFailed, "exit code 1")
	busy := faas.Errorf(faas.Busy, "no")
	for _, tt := range []struct {
		name     string
		call     faas.Call
		err      error
		draining bool
		want     verdict
	}{
		{"success", faas.Call{Attempt: 1}, nil, false, verdict{state: faas.CallSucceeded}},
		{"canceled", faas.Call{Attempt: 1}, faas.Errorf(faas.Canceled, "x"), false, verdict{state: faas.CallCanceled}},
		{"first failure", faas.Call{Attempt: 1}, failed, false, verdict{state: faas.CallQueued, delay: 10 * time.Second, fails: true}},
		{"second failure, after a node died", faas.Call{Attempt: 3, Losses: 1, Failures: 1}, failed, false, verdict{state: faas.CallQueued, delay: 20 * time.Second, fails: true}},
		{"last failure", faas.Call{Attempt: 4, Failures: 2}, failed, false, verdict{state: faas.CallFailed, fails: true}},
		{"out of time", faas.Call{Failures: 2}, faas.Errorf(faas.TimedOut, "x"), false, verdict{state: faas.CallTimedOut, fails: true}},
		{"can never work", faas.Call{Attempt: 1}, faas.Errorf(faas.Invalid, "x"), false, verdict{state: faas.CallFailed, fails: true}},
		{"no room", faas.Call{Attempt: 1}, busy, false, verdict{state: faas.CallQueued, delay: time.Second}},
		{"no room for long", faas.Call{Attempt: 99}, busy, false, verdict{state: faas.CallQueued, delay: time.Minute}},
		{"no room for its answer, and not twice", faas.Call{Attempt: 1, Started: started, Once: true}, busy, false, verdict{state: faas.CallFailed}},
		{"shut down before it began", faas.Call{Attempt: 1, Once: true}, busy, true, verdict{state: faas.CallQueued, stay: true}},
		{"shut down while it ran", faas.Call{Attempt: 1, Started: started}, busy, true, verdict{state: faas.CallQueued, stay: true}},
		{"shut down while it ran, and not twice", faas.Call{Attempt: 1, Started: started, Once: true}, busy, true, verdict{state: faas.CallFailed}},
	} {
		got := decide(fn, tt.call, tt.err, tt.draining)
		got.err = nil
		if got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestBackOffIsNeverOverItsMaximum(t *testing.T) {
	fn := faas.Function{RetryDelay: time.Second, RetryMax: 10 * time.Second}
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10, 10} {
		if got := backOff(fn, i); got != want*time.Second {
			t.Errorf("after %d failures %v, want %v", i, got, want*time.Second)
		}
	}
	if got := backOff(fn, 1000); got != fn.RetryMax {
		t.Errorf("after 1000 failures %v", got)
	}
}

func TestDelayedCallsOfManyHideNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := memory.New()
		n := &node{fns: make(map[string]faas.Function)}
		before := idle(calls, "before")
		var due []faas.Call
		for i := range 400 {
			id := fmt.Sprint("f", i)
			n.fns[id] = function(id)
			if i%80 == 7 {
				due = append(due, accept(t, before, id, "", nil))
			} else {
				accept(t, before, id, "", func(a *store.Acceptance) { a.Delay = time.Hour })
			}
		}
		d, end := begin(t, calls, n)
		defer end()
		begun := time.Now()
		for _, call := range due {
			wait(t, d, call.ID)
		}
		if time.Since(begun) > 0 {
			t.Errorf("the last call that was due ran after %v", time.Since(begun))
		}
	})
}

func TestCallAcceptedWhileItsFunctionWasRemovedIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		d, end := begin(t, memory.New(), n)
		defer end()
		synctest.Wait()
		n.mu.Lock()
		delete(n.fns, "f")
		n.mu.Unlock()
		d.Forget("f")
		synctest.Wait()
		if call := wait(t, d, accept(t, d, "f", "", nil).ID); call.State != faas.CallCanceled || call.Error != removedText {
			t.Errorf("call = %+v", call)
		}
	})
}

// broken is a store whose disk fails for the next so many settlements, and loses the
// bodies of their results.
type broken struct {
	*memory.Store
	left int
}

func (b *broken) Settle(ctx context.Context, s store.Settlement) error {
	if b.left--; b.left >= 0 {
		if s.Result != nil {
			s.Result.Body.Discard()
		}
		return errors.New("disk I/O error")
	}
	return b.Store.Settle(ctx, s)
}

func TestCallWhoseResultIsLostRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		d, end := begin(t, &broken{memory.New(), 2}, n)
		defer end()
		once := accept(t, d, "f", "once", func(a *store.Acceptance) { a.Call.Once = true })
		if call := wait(t, d, once.ID); call.State != faas.CallFailed || call.Error != "its result could not be kept" {
			t.Errorf("the one that must not run twice: %+v", call)
		}
		d.Calls.(*broken).left = 2
		call := wait(t, d, accept(t, d, "f", "hello", nil).ID)
		if call.State != faas.CallSucceeded || call.Attempt != 2 {
			t.Errorf("call = %+v", call)
		}
		_, body, err := d.Calls.Result(t.Context(), call.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(body); string(got) != "hello" {
			t.Errorf("result %q", got)
		}
	})
}

func TestCallThatIsTriedAgainAtOnceIsNeverInTwoPlaces(t *testing.T) {
	fn := function("f")
	fn.Retries, fn.RetryDelay, fn.RetryMax = 100, 1, 1 // nanosecond
	n := &node{fns: map[string]faas.Function{"f": fn}}
	var d *Dispatcher
	var mu sync.Mutex
	running := make(map[string]bool)
	n.serve = func(_ context.Context, call *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
		mu.Lock()
		defer mu.Unlock()
		if running[call.ID] {
			t.Errorf("call %s runs twice", call.ID)
		}
		running[call.ID] = true
		defer delete(running, call.ID)
		d.Event("f", faas.Event{Name: faas.EventRunning, Call: call.ID})
		return faas.Errorf(faas.FuncFailed, "exit code 1")
	}
	_, end := begin(t, memory.New(), n, func(dispatcher *Dispatcher) { d = dispatcher; d.Marks = filepath.Join(t.TempDir(), "running") })
	defer end()
	var ids []string
	for range 20 {
		ids = append(ids, accept(t, d, "f", "", nil).ID)
	}
	for _, id := range ids {
		if call := wait(t, d, id); call.State != faas.CallFailed || call.Attempt != 101 {
			t.Errorf("call = %+v", call)
		}
	}
}

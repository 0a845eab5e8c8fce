package dispatch

import (
	"context"
	"errors"
	"net/http"
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

// outsideNode has two apps that outside runners serve, with the functions f, g and h,
// and one that they do not, with own.
func outsideNode() *node {
	external := map[string]string{faas.AnnotationRunner: `"external"`}
	n := &node{
		apps: map[string]faas.App{
			"app": {ID: "app", Name: "photos", Annotations: external}, "app2": {ID: "app2", Name: "films", Annotations: external},
			"mine": {ID: "mine", Name: "mine"},
		},
		fns: map[string]faas.Function{"f": function("f"), "g": function("g"), "h": function("h"), "own": function("own")},
	}
	n.move("h", "app2")
	n.move("own", "mine")
	return n
}

func (n *node) move(fn, app string) { n.change(fn, func(f *faas.Function) { f.App = app }) }

func (n *node) change(fn string, change func(*faas.Function)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.fns[fn]
	change(&f)
	n.fns[fn] = f
}

// runner says who runs the calls of the app.
func (n *node) runner(d *Dispatcher, external bool) {
	n.mu.Lock()
	app := n.apps["app"]
	app.Annotations = nil
	if external {
		app.Annotations = map[string]string{faas.AnnotationRunner: `"external"`}
	}
	n.apps["app"] = app
	n.mu.Unlock()
	d.AppChanged(app)
}

// reserve takes a call that must be there.
func reserve(t *testing.T, d *Dispatcher) faas.Call {
	t.Helper()
	call, ok, err := d.Reserve(t.Context())
	if err != nil || !ok {
		t.Fatalf("Reserve = %t, %v; want a call", ok, err)
	}
	return call
}

// nothing wants no call to be there.
func nothing(t *testing.T, d *Dispatcher) {
	t.Helper()
	if call, ok, err := d.Reserve(t.Context()); err != nil || ok {
		t.Errorf("Reserve = %+v, %t, %v; want none", call, ok, err)
	}
}

func stored(t *testing.T, d *Dispatcher, id string) faas.Call {
	t.Helper()
	call, err := d.Calls.Call(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

func TestOutsideRunnersTakeTheCallsOfTheirAppsInTheOrderOfTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := outsideNode()
		d, end := begin(t, memory.New(), n)
		defer end()
		nothing(t, d)
		first := accept(t, d, "f", "", nil)
		late := accept(t, d, "h", "", func(a *store.Acceptance) { a.Delay, a.Call.Priority = time.Hour, 9 })
		second := accept(t, d, "h", "", nil)
		high := accept(t, d, "g", "", priority(2))
		middle := accept(t, d, "h", "", priority(1))
		wait(t, d, accept(t, d, "own", "", nil).ID)
		for place, c := range []faas.Call{high, middle, first, second} {
			if c = stored(t, d, c.ID); c.State != faas.CallQueued {
				t.Fatalf("the node took it: %+v", c)
			}
			d.Explain(t.Context(), &c)
			if c.Place != place+1 || !strings.Contains(c.Waiting, "for an outside runner to take it (GET /tasks)") {
				t.Errorf("place %d waits for %q at place %d", place+1, c.Waiting, c.Place)
			}
		}
		line, err := d.Line(t.Context(), []faas.Function{n.fns["f"], n.fns["g"], n.fns["h"]}, 10)
		if err != nil || len(line) != 5 || line[0].ID != high.ID || line[3].Place != 4 {
			t.Errorf("line %+v, %v", line, err)
		}
		for _, want := range []faas.Call{high, middle, first, second} {
			if got := reserve(t, d); got.ID != want.ID || got.Attempt != 1 || got.State != faas.CallRunning {
				t.Errorf("reserved %+v, want %s", got, want.ID)
			}
		}
		nothing(t, d)
		time.Sleep(time.Hour)
		if got := reserve(t, d); got.ID != late.ID { // those before it are in line again, with less priority
			t.Errorf("reserved %s, want the one that has become due", got.ID)
		}
	})
}

func TestReservedCallEndsAsItsRunnerSays(t *testing.T) {
	for _, tt := range []struct {
		says  error
		state faas.CallState
		event string
	}{
		{nil, faas.CallSucceeded, "FINISHED 1 "},
		{faas.Errorf(faas.FuncFailed, "exit code 3"), faas.CallFailed, "FAILED 1 exit code 3"},
		{faas.Errorf(faas.TimedOut, "too slow"), faas.CallTimedOut, "FAILED 1 too slow"},
		{faas.Errorf(faas.Canceled, "not wanted"), faas.CallCanceled, "FAILED 1 not wanted"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := outsideNode()
			n.change("f", func(f *faas.Function) { f.OnSuccess, f.OnFailure = "a/good", "a/bad" })
			d, end := begin(t, memory.New(), n)
			defer end()
			accept(t, d, "f", "x", nil)
			call := reserve(t, d)
			if outside, _ := d.Counts(); outside != 1 {
				t.Errorf("%d calls outside, want 1", outside)
			}
			time.Sleep(3 * time.Second)
			if err := d.End(t.Context(), call.ID, call.Attempt, tt.says); err != nil {
				t.Fatal(err)
			}
			got := stored(t, d, call.ID)
			if got.State != tt.state || got.Run != 3*time.Second || got.Outcome.Start != faas.StartOutside || tt.says != nil && got.Error != tt.says.Error() {
				t.Errorf("%v: call %+v", tt.says, got)
			}
			if want := []string{"RUNNING 1 ", tt.event}; !slices.Equal(n.events, want) {
				t.Errorf("events %q, want %q", n.events, want)
			}
			if len(n.records) != 1 || n.records[0].State != tt.state {
				t.Errorf("recorded %+v", n.records)
			}
			due, _, err := d.Calls.Deliveries(t.Context(), 9)
			want := map[faas.CallState]string{faas.CallSucceeded: "a/good", faas.CallFailed: "a/bad", faas.CallTimedOut: "a/bad"}[tt.state]
			if err != nil || (len(due) == 1) != (want != "") || want != "" && due[0].Target != want {
				t.Errorf("deliveries %+v, %v; want %q", due, err, want)
			}
			if _, body, err := d.Calls.Result(t.Context(), call.ID); (err == nil) != (tt.says == nil) {
				t.Errorf("result: %v", err) // an empty one of a success, which is what is delivered
			} else if err == nil {
				body.Close()
			}
			if err := d.End(t.Context(), call.ID, call.Attempt, nil); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), "is over: it is "+string(tt.state)) {
				t.Errorf("once more: %v", err)
			}
			if outside, ended := d.Counts(); outside != 0 || ended != 1 {
				t.Errorf("%d calls outside, %d ended; want 0 and 1", outside, ended)
			}
		})
	}
}

func TestReservationRunsOutAndTheRightOneWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := outsideNode()
		d, end := begin(t, memory.New(), n)
		defer end()
		first, second := accept(t, d, "f", "", nil), accept(t, d, "f", "", nil)
		slow := reserve(t, d)
		time.Sleep(Lease - time.Millisecond)
		synctest.Wait()
		if got := stored(t, d, first.ID); got.State != faas.CallRunning {
			t.Errorf("before its time: %+v", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		got := stored(t, d, first.ID)
		if got.State != faas.CallQueued || got.Attempt != 1 || !got.Due.Equal(first.Due) || got.Error != "an outside runner had it for 1m0s and did not end it" {
			t.Errorf("when its time is over: %+v", got)
		}
		if err := d.End(t.Context(), slow.ID, 1, nil); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), "ran out after 1m0s, and it is in line again") {
			t.Errorf("ended too late: %v", err)
		}
		other := reserve(t, d)
		if other.ID != first.ID || other.Attempt != 2 {
			t.Errorf("reserved %+v, want the one that came back to its place, not %s", other, second.ID)
		}
		if err := d.End(t.Context(), slow.ID, 1, nil); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), "another runner has the call: it is at reservation 2") {
			t.Errorf("ended by another: %v", err)
		}
		if err := d.End(t.Context(), slow.ID, 3, nil); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), "no reservation 3") {
			t.Errorf("a reservation that never was: %v", err)
		}
		if err := d.End(t.Context(), other.ID, 0, nil); err != nil {
			t.Errorf("ended by a runner that knows no attempts: %v", err)
		}
		if err := d.End(t.Context(), second.ID, 0, nil); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), "is not reserved: it is queued") {
			t.Errorf("one that was never reserved: %v", err)
		}
		if err := d.End(t.Context(), "unknown", 1, nil); faas.KindOf(err) != faas.NotFound {
			t.Errorf("unknown: %v", err)
		}
		if want := []string{"RUNNING 1 ", "PENDING 1 again: an outside runner had it for 1m0s and did not end it", "RUNNING 2 ", "FINISHED 2 "}; !slices.Equal(n.events, want) {
			t.Errorf("events %q, want %q", n.events, want)
		}
	})
}

func TestFunctionThatMustNotRunTwiceFailsWhenItsReservationRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, end := begin(t, memory.New(), outsideNode(), func(d *Dispatcher) { d.Lease = 100 * time.Millisecond })
		defer end()
		once := accept(t, d, "f", "", func(a *store.Acceptance) { a.Call.Once = true })
		reserve(t, d)
		if call := wait(t, d, once.ID); call.State != faas.CallFailed || call.Error != "an outside runner had it for 100ms and did not end it, and this function must not run twice" {
			t.Errorf("call = %+v", call)
		}
		again := accept(t, d, "f", "", func(a *store.Acceptance) { a.Call.Once = true })
		d.Release(reserve(t, d).ID)
		synctest.Wait()
		if got := reserve(t, d); got.ID != again.ID || got.Attempt != 2 {
			t.Errorf("one that was never handed over: %+v", got)
		}
	})
}

func TestFailedTaskIsTriedAgainAsItsFunctionSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := outsideNode()
		n.change("f", func(f *faas.Function) { f.Retries = 1 })
		d, end := begin(t, memory.New(), n)
		defer end()
		id := accept(t, d, "f", "", nil).ID
		fails := faas.Errorf(faas.FuncFailed, "exit code 1")
		if err := d.End(t.Context(), id, reserve(t, d).Attempt, fails); err != nil {
			t.Fatal(err)
		}
		nothing(t, d) // its delay is not over
		time.Sleep(faas.DefaultRetryDelay)
		if err := d.End(t.Context(), id, reserve(t, d).Attempt, fails); err != nil {
			t.Fatal(err)
		}
		if call := stored(t, d, id); call.State != faas.CallFailed || call.Failures != 2 {
			t.Errorf("call = %+v", call)
		}
	})
}

func TestReservationsGoOnWhenTheDaemonIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, n := memory.New(), outsideNode()
		d, end := begin(t, calls, n)
		kept, lapses := accept(t, d, "f", "", nil), accept(t, d, "g", "", nil)
		reserve(t, d)
		time.Sleep(Lease / 2)
		reserve(t, d)
		end()
		d, end = begin(t, calls, n)
		nothing(t, d)
		if err := d.End(t.Context(), lapses.ID, 1, nil); err != nil {
			t.Errorf("ended at the next daemon: %v", err)
		}
		time.Sleep(Lease / 2)
		synctest.Wait()
		if got := reserve(t, d); got.ID != kept.ID || got.Attempt != 2 {
			t.Errorf("reserved %+v, want the one whose time began at the daemon before", got)
		}
		end()
		time.Sleep(2 * Lease) // while no daemon is there
		d, end = begin(t, calls, n)
		defer end()
		synctest.Wait()
		if got := reserve(t, d); got.ID != kept.ID || got.Attempt != 3 {
			t.Errorf("reserved %+v", got)
		}
	})
}

func TestReservedCallIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, end := begin(t, memory.New(), outsideNode())
		defer end()
		accept(t, d, "f", "", nil)
		call := reserve(t, d)
		if seen, err := d.View().Call(t.Context(), call.ID); err != nil || seen.State != faas.CallRunning || seen.Outcome.Start != faas.StartOutside {
			t.Errorf("seen as %+v, %v", seen, err)
		}
		if !d.Stop(call.ID, faas.Errorf(faas.Canceled, "its user wanted it")) {
			t.Error("Stop does not know it")
		}
		if call := wait(t, d, call.ID); call.State != faas.CallCanceled || call.Error != "its user wanted it" {
			t.Errorf("call = %+v", call)
		}
		if err := d.End(t.Context(), call.ID, 1, nil); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), "is over: it is canceled") {
			t.Errorf("ended: %v", err)
		}
	})
}

func TestAppIsGivenToOutsideRunnersAndBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		n := outsideNode()
		n.serve = func(ctx context.Context, call *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		n.change("f", func(f *faas.Function) { f.MaxConcurrency = 1 })
		d, end := begin(t, memory.New(), n)
		defer end()
		n.runner(d, false)
		runs := accept(t, d, "f", "", nil)
		synctest.Wait()
		d.Event("f", faas.Event{Name: faas.EventRunning, Call: runs.ID}) // it has a sandbox
		waits := accept(t, d, "f", "", nil)
		synctest.Wait()
		n.runner(d, true)
		if got := reserve(t, d); got.ID != waits.ID {
			t.Errorf("reserved %+v, want the one in line", got)
		}
		release <- struct{}{}
		if call := wait(t, d, runs.ID); call.State != faas.CallSucceeded || call.Attempt != 1 {
			t.Errorf("the one that ran here: %+v", call)
		}
		third := accept(t, d, "f", "", nil)
		synctest.Wait()
		n.runner(d, false)
		release <- struct{}{}
		if call := wait(t, d, third.ID); call.State != faas.CallSucceeded {
			t.Errorf("one that waited for an outside runner: %+v", call)
		}
		if err := d.End(t.Context(), waits.ID, 1, nil); err != nil {
			t.Errorf("a reservation does not end with the setting: %v", err)
		}
		nothing(t, d)
	})
}

func TestCallWithoutASandboxGoesToOutsideRunnersWithItsApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := outsideNode()
		n.serve = func(ctx context.Context, call *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
			call.State, call.Started = faas.CallQueued, time.Time{} // it waits for memory
			<-ctx.Done()
			return context.Cause(ctx)
		}
		d, end := begin(t, memory.New(), n)
		defer end()
		n.runner(d, false)
		call := accept(t, d, "f", "", nil)
		synctest.Wait()
		nothing(t, d)
		n.runner(d, true)
		synctest.Wait()
		if got := stored(t, d, call.ID); got.State != faas.CallQueued || !got.Due.Equal(call.Due) {
			t.Errorf("not at its old place: %+v", got)
		}
		if got := reserve(t, d); got.ID != call.ID {
			t.Errorf("reserved %+v", got)
		}
	})
}

func TestQueuedAndReservedCallsOfARemovedFunctionAreCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := outsideNode()
		d, end := begin(t, memory.New(), n)
		defer end()
		accept(t, d, "f", "", nil)
		waits, taken := accept(t, d, "f", "", nil), reserve(t, d)
		n.mu.Lock()
		delete(n.fns, "f")
		n.mu.Unlock()
		d.Forget("f")
		for _, id := range []string{waits.ID, taken.ID} {
			if call := wait(t, d, id); call.State != faas.CallCanceled || call.Error != removedText {
				t.Errorf("call = %+v", call)
			}
		}
		nothing(t, d)
	})
}

func TestEachCallIsGivenToOneOfManyRunners(t *testing.T) {
	n := outsideNode()
	d, end := begin(t, memory.New(), n)
	defer end()
	const calls = 200
	for i := range calls {
		accept(t, d, []string{"f", "g", "h"}[i%3], "", nil)
	}
	var mu sync.Mutex
	given := make(map[string]int)
	var runners sync.WaitGroup
	for range 50 {
		runners.Go(func() {
			for {
				call, ok, err := d.Reserve(t.Context())
				if err != nil || !ok {
					if err != nil {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				given[call.ID]++
				mu.Unlock()
				if err := d.End(t.Context(), call.ID, call.Attempt, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	runners.Wait()
	for id, times := range given {
		if times != 1 {
			t.Errorf("call %s was given to %d runners", id, times)
		}
	}
	if _, ended := d.Counts(); len(given) != calls || ended != calls {
		t.Errorf("%d calls were given, %d have ended; want %d", len(given), ended, calls)
	}
}

func TestNodeThatShutsDownReservesNothing(t *testing.T) {
	d, end := begin(t, memory.New(), outsideNode())
	accept(t, d, "f", "", nil)
	end()
	nothing(t, d)
	idle := idle(memory.New(), "me") // it does not know yet what an earlier run has left
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the runner left")
	cancel(left)
	if _, ok, err := idle.Reserve(ctx); ok || !errors.Is(err, left) {
		t.Errorf("Reserve = %t, %v", ok, err)
	}
	if err := idle.End(ctx, "x", 1, nil); !errors.Is(err, left) {
		t.Errorf("End = %v", err)
	}
}

// hasty is a store in which a call is reserved again as soon as it is back in the
// queue.
type hasty struct {
	*memory.Store
	d     *Dispatcher
	again faas.Call
}

func (h *hasty) Settle(ctx context.Context, s store.Settlement) (err error) {
	if err = h.Store.Settle(ctx, s); err == nil && !s.Call.State.Final() {
		h.again, _, err = h.d.Reserve(ctx)
	}
	return err
}

func TestReservationBeginsWhileTheOneBeforeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := &hasty{Store: memory.New()}
		d, end := begin(t, calls, outsideNode(), func(d *Dispatcher) { calls.d = d })
		defer end()
		accept(t, d, "f", "", nil)
		first := reserve(t, d)
		d.Release(first.ID)
		synctest.Wait()
		if calls.again.ID != first.ID || calls.again.Attempt != 2 {
			t.Fatalf("reserved %+v, want call %s again", calls.again, first.ID)
		}
		inOrder(t, d, calls.again)
		if err := d.End(t.Context(), first.ID, 2, nil); err != nil {
			t.Error(err)
		}
		inOrder(t, d)
	})
}

// inOrder wants the reservations to be in the order in which they are over, so that
// only the first has to be looked at.
func inOrder(t *testing.T, d *Dispatcher, want ...faas.Call) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var until time.Time
	at := d.leases.Front()
	for _, call := range want {
		if at == nil {
			t.Fatal("a reservation is missing")
		}
		r := at.Value.(*reservation)
		if r.call.ID != call.ID || d.outside[call.ID] != r || r.until.Before(until) {
			t.Errorf("reservation of %s until %v, want that of %s, after %v", r.call.ID, r.until, call.ID, until)
		}
		until, at = r.until, at.Next()
	}
	if at != nil || len(d.outside) != len(want) {
		t.Errorf("%d reservations and %d in order, want %d", len(d.outside), d.leases.Len(), len(want))
	}
}

func TestReservationsAreInTheOrderInWhichTheyAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := memory.New()
		d, end := begin(t, calls, outsideNode())
		for range 4 {
			accept(t, d, "f", "", nil)
			time.Sleep(time.Millisecond)
		}
		var all []faas.Call
		for range 4 {
			all = append(all, reserve(t, d))
			time.Sleep(Lease / 10)
		}
		inOrder(t, d, all...)
		d.Release(all[2].ID)
		synctest.Wait()
		inOrder(t, d, all[0], all[1], all[3])
		if err := d.End(t.Context(), all[1].ID, 1, nil); err != nil {
			t.Error(err)
		}
		inOrder(t, d, all[0], all[3])
		again := reserve(t, d)
		inOrder(t, d, all[0], all[3], again)
		end()
		d, end = begin(t, calls, outsideNode())
		defer end()
		synctest.Wait()
		inOrder(t, d, all[0], all[3], again)
		time.Sleep(again.Started.Add(Lease).Sub(d.Calls.Now()))
		synctest.Wait()
		inOrder(t, d)
	})
}

package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/memory"
)

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

// writers is a store in which who asks for a tally waits for others who write.
type writers struct{ *memory.Store }

func (w writers) Tally(context.Context, string) (store.Tally, error) {
	return store.Tally{}, errors.New("somebody writes")
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
		d, end := begin(t, writers{calls}, n)
		d.Drain() // until all are there
		var want []string
		for i := range 12 {
			call := accept(t, d, []string{"a", "b", "c"}[i*7%3], "", nil)
			if want = append(want, call.ID); call.Place != len(want) {
				t.Errorf("call %d is told the place %d, without a wait for others", len(want), call.Place)
			}
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

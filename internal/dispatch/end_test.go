package dispatch

import (
	"context"
	"errors"
	"fmt"
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

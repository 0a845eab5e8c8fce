package memory_test

import (
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/memory"
	"hob/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s := memory.New()
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestContractOfCalls(t *testing.T) { storetest.RunCalls(t, open) }

// Whatever the time between two calls: the comparison itself is sound.
func TestCallsAnswerLikeThemselves(t *testing.T) { storetest.EqualCalls(t, open, open) }

func TestClockIsThatOfTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		call := faas.Call{ID: "1", FuncID: "f", State: faas.CallQueued}
		call, _, err := s.Accept(t.Context(), store.Acceptance{Call: call, Delay: time.Hour, Request: &faas.Request{}})
		if err != nil || !call.Queued.Equal(time.Now()) {
			t.Fatalf("accepted at %v, %v; want %v", call.Queued, err, time.Now())
		}
		lanes := []store.Lane{{Functions: []string{"f"}, Limit: 1}}
		taken, due, err := s.Take(t.Context(), "me", lanes)
		if len(taken) > 0 || due != time.Hour || err != nil {
			t.Fatalf("Take = %v, due in %v, %v; want nothing for 1h", taken, due, err)
		}
		time.Sleep(due)
		if taken, due, err = s.Take(t.Context(), "me", lanes); len(taken) != 1 || due != 0 || err != nil {
			t.Fatalf("Take = %v, due in %v, %v; want the call", taken, due, err)
		}
		over := make(chan faas.CallState)
		go func() {
			call, _ := s.Wait(t.Context(), "1")
			over <- call.State
		}()
		synctest.Wait() // it waits by now
		taken[0].State = faas.CallFailed
		if err := s.Settle(t.Context(), store.Settlement{Call: taken[0]}); err != nil {
			t.Fatal(err)
		}
		if got := <-over; got != faas.CallFailed {
			t.Errorf("Wait = %s, want it failed", got)
		}
	})
}

func TestCallsOfOneMomentGoByAcceptance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		defer s.Close()
		var want []string
		for range 20 { // in a bubble no time passes
			call := faas.Call{ID: faas.NewID(), FuncID: "f", State: faas.CallQueued}
			if _, _, err := s.Accept(t.Context(), store.Acceptance{Call: call, Request: &faas.Request{}}); err != nil {
				t.Fatal(err)
			}
			want = append(want, call.ID)
		}
		taken, _, err := s.Take(t.Context(), "me", []store.Lane{{Functions: []string{"f"}, Limit: 20}})
		if err != nil || len(taken) != len(want) {
			t.Fatalf("took %d calls, %v; want %d", len(taken), err, len(want))
		}
		for i, call := range taken {
			if call.ID != want[i] {
				t.Errorf("call %d is %s, want %s", i, call.ID, want[i])
			}
		}
	})
}

func open(t *testing.T, limits store.Limits) storetest.Engine {
	s := memory.New(limits)
	t.Cleanup(func() { s.Close() })
	return s
}

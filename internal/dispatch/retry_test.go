package dispatch

import (
	"context"
	"errors"
	"io"
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

// impatient is a store in which calls are canceled as soon as they are back in the
// queue.
type impatient struct {
	*memory.Store
	n *node
}

func (i *impatient) Settle(ctx context.Context, s store.Settlement) error {
	if err := i.Store.Settle(ctx, s); err != nil || s.Call.State.Final() {
		return err
	}
	if _, err := i.Cancel(ctx, s.Call.ID, "not wanted"); err != nil {
		return err
	}
	i.n.Event(s.Call.FuncID, faas.Event{Name: faas.EventFailed, Call: s.Call.ID, Attempt: s.Call.Attempt, Message: "not wanted"})
	return nil
}

func TestWhatEndsACallInTheQueueIsToldBehindItsReturn(t *testing.T) {
	failed := faas.Errorf(faas.FuncFailed, "exit code 1")
	fn := function("f")
	fn.Retries, fn.RetryDelay = 1, time.Second
	want := []string{"PENDING 1 again in 1s: exit code 1", "FAILED 1 not wanted"}
	t.Run("here", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &node{fns: map[string]faas.Function{"f": fn}}
			n.serve = func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error { return failed }
			d, end := begin(t, &impatient{memory.New(), n}, n)
			defer end()
			wait(t, d, accept(t, d, "f", "", nil).ID)
			synctest.Wait()
			if !slices.Equal(n.events, want) {
				t.Errorf("events %q, want %q", n.events, want)
			}
		})
	})
	t.Run("outside", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := outsideNode()
			n.fns["f"] = fn
			d, end := begin(t, &impatient{memory.New(), n}, n)
			defer end()
			id := accept(t, d, "f", "", nil).ID
			reserve(t, d)
			if err := d.End(t.Context(), id, 1, failed); err != nil {
				t.Fatal(err)
			}
			if want := append([]string{"RUNNING 1 "}, want...); !slices.Equal(n.events, want) {
				t.Errorf("events %q, want %q", n.events, want)
			}
		})
	})
}

// late is a store in which calls are canceled when an attempt of them is settled.
type late struct {
	*memory.Store
	d *Dispatcher
}

func (l *late) Settle(ctx context.Context, s store.Settlement) error {
	l.d.Stop(s.Call.ID, faas.Errorf(faas.Canceled, "not wanted"))
	return l.Store.Settle(ctx, s)
}

func TestCallThatIsCanceledAsItGoesBackDoesNotRunAgain(t *testing.T) {
	fn := function("f")
	fn.Retries, fn.RetryDelay = 1, time.Minute
	check := func(t *testing.T, n *node, d *Dispatcher, id string, events ...string) {
		t.Helper()
		synctest.Wait()
		if call := stored(t, d, id); call.State != faas.CallCanceled || call.Error != "not wanted" {
			t.Errorf("call = %+v", call)
		}
		if want := append(events, "PENDING 1 again in 1m0s: exit code 1", "FAILED 1 not wanted"); !slices.Equal(n.events, want) || len(n.records) != 1 {
			t.Errorf("events %q, want %q; %d records, want 1", n.events, want, len(n.records))
		}
	}
	t.Run("here", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n, calls := &node{fns: map[string]faas.Function{"f": fn}}, &late{Store: memory.New()}
			n.serve = func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error {
				return faas.Errorf(faas.FuncFailed, "exit code 1")
			}
			d, end := begin(t, calls, n, func(d *Dispatcher) { calls.d = d })
			defer end()
			check(t, n, d, accept(t, d, "f", "", nil).ID)
		})
	})
	t.Run("outside", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n, calls := outsideNode(), &late{Store: memory.New()}
			n.fns["f"] = fn
			d, end := begin(t, calls, n, func(d *Dispatcher) { calls.d = d })
			defer end()
			id := accept(t, d, "f", "", nil).ID
			reserve(t, d)
			if err := d.End(t.Context(), id, 1, faas.Errorf(faas.FuncFailed, "exit code 1")); err != nil {
				t.Fatal(err)
			}
			check(t, n, d, id, "RUNNING 1 ")
		})
	})
}

package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

// testConn is a sandbox that serves a call in a while and takes another to stop.
type testConn struct {
	delay  time.Duration
	hot    bool
	served atomic.Int32
	closed *atomic.Int32

	frozen atomic.Bool
}

func (b *testConn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	if b.frozen.Load() {
		return faas.Outcome{}, errors.New("a frozen sandbox was used")
	}
	if b.served.Add(1) > 1 && !b.hot {
		return faas.Outcome{}, errors.New("a sandbox was used twice")
	}
	select {
	case <-time.After(b.delay):
		_, err := io.Copy(w, req.Body)
		return faas.Outcome{}, err
	case <-ctx.Done():
		return faas.Outcome{}, context.Cause(ctx)
	}
}

func (b *testConn) Start() faas.Start { return faas.StartBare }

func (b *testConn) Freeze() (faas.Bytes, error) {
	time.Sleep(time.Millisecond)
	if b.frozen.Swap(true) {
		return 0, errors.New("it was frozen already")
	}
	return faas.MB, nil
}

func (b *testConn) Thaw() error {
	if !b.frozen.Swap(false) {
		return errors.New("it was not frozen")
	}
	return nil
}

func (b *testConn) Close() error {
	time.Sleep(5 * time.Millisecond)
	b.closed.Add(1)
	return nil
}

// shared is a Capacity that many goroutines may use.
type shared struct {
	mu sync.Mutex
	ledger
}

func (s *shared) TryReserve(r faas.Resources) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.TryReserve(r)
}

func (s *shared) Release(r faas.Resources) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.Release(r)
}

func (s *shared) Free() faas.Resources {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Free()
}

func newSet(total faas.Bytes) (s *Set, started, closed *atomic.Int32) {
	started, closed = new(atomic.Int32), new(atomic.Int32)
	s = &Set{Capacity: &shared{ledger: ledger{total: faas.Resources{Memory: total, CPU: 2000}}}, FreezeAfter: -1, Log: slog.New(slog.DiscardHandler)}
	s.Start = func(ctx context.Context, need Need, died func()) (Conn, error) {
		time.Sleep(100 * time.Millisecond)
		started.Add(1)
		return &testConn{delay: 10 * time.Millisecond, hot: need.Function.Format.Hot(), closed: closed}, nil
	}
	return s, started, closed
}

// reserved is what is given away.
func reserved(s *Set) faas.Resources { return s.Capacity.Total().Minus(s.Capacity.Free()) }

func function(name string, limit int) faas.Function {
	return faas.Function{ID: name, Name: name, Revision: 1, Format: faas.FormatDefault, Memory: 10 * faas.MB, MaxConcurrency: limit, Line: 1000, Idle: 30 * time.Second}
}

var errWaited = errors.New("waited 1m0s")

func call(s *Set, fn faas.Function, id string, wait time.Duration) (ended error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), wait, faas.Errorf(faas.Busy, "%w", errWaited))
	defer cancel()
	slot, err := s.Acquire(ctx, &Need{Function: fn}, id)
	if err != nil {
		return err
	}
	defer func() { slot.Done(fn.Format.Hot() && ended == nil) }()
	w := httptest.NewRecorder()
	if _, err := slot.Exchange(ctx, &faas.Request{Body: strings.NewReader(id)}, w); err != nil {
		return err
	}
	if got := w.Body.String(); got != id {
		return fmt.Errorf("answer %q, want %q", got, id)
	}
	return nil
}

func TestEachCallHasASandboxOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, closed := newSet(faas.GB)
		fn := function("f", 0)
		for i := range 3 {
			if err := call(s, fn, fmt.Sprint(i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		if started.Load() != 3 || closed.Load() != 3 || reserved(s) != (faas.Resources{}) {
			t.Errorf("started %d, closed %d, %v reserved; want 3, 3 and nothing", started.Load(), closed.Load(), reserved(s))
		}
	})
}

func TestManyCallersLittleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, closed := newSet(45 * faas.MB)
		errs := make(chan error, 100)
		for i := range cap(errs) {
			go func() { errs <- call(s, function(fmt.Sprint("f", i%7), 3), fmt.Sprint(i), time.Minute) }()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		s.Close()
		if started.Load() != 100 || closed.Load() != 100 {
			t.Errorf("started %d, closed %d; want 100 and 100", started.Load(), closed.Load())
		}
	})
}

func TestCallerThatGivesUpIsBusyAndKnowsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newSet(10 * faas.MB)
		fn := function("f", 0)
		done := make(chan error)
		go func() { done <- call(s, fn, "first", time.Minute) }()
		synctest.Wait()
		err := call(s, fn, "second", 50*time.Millisecond)
		want := "no sandbox became free (place 1 in the line for 10 MB of memory: 10 MB of 10 MB are in use): waited 1m0s"
		if faas.KindOf(err) != faas.Busy || err.Error() != want {
			t.Errorf("got %s %v\nwant busy %s", faas.KindOf(err), err, want)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})
}

func TestCallerThatLeavesIsCanceledAndItsSandboxServesTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, _ := newSet(faas.GB)
		fn := function("f", 1)
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { _, err := s.Acquire(ctx, &Need{Function: fn}, "leaves"); left <- err }()
		synctest.Wait()
		begin, stayed := time.Now(), make(chan error)
		go func() { stayed <- call(s, fn, "stays", time.Minute) }()
		synctest.Wait()
		cancel()
		if err := <-left; faas.KindOf(err) != faas.Canceled {
			t.Errorf("Acquire = %v, want Canceled", err)
		}
		if err := <-stayed; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 110*time.Millisecond || started.Load() != 1 {
			t.Errorf("took %v with %d starts, want 110ms with one", took, started.Load())
		}
		s.Close()
	})
}

func TestWaitingCallersCanBeSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newSet(25 * faas.MB)
		errs := make(chan error, 4)
		go func() { errs <- call(s, function("one", 1), "a", time.Minute) }()
		synctest.Wait()
		go func() { errs <- call(s, function("one", 1), "b", time.Minute) }()
		synctest.Wait()
		go func() { errs <- call(s, function("other", 0), "c", time.Minute) }()
		synctest.Wait()
		go func() { errs <- call(s, function("other", 0), "d", time.Minute) }()
		synctest.Wait()
		got := s.Waiting()
		want := []Waiting{
			{"a", "one", 0, "its sandbox is starting"},
			{"b", "one", 1, "place 1 in the line of the function: it may run 1 call at once"},
			{"c", "other", 0, "its sandbox is starting"},
			{"d", "other", 1, "place 1 in the line for 10 MB of memory: 20 MB of 25 MB are in use"},
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("waiting %v\nwant %v", got, want)
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		s.Close()
	})
}

func TestFunctionLargerThanTheNodeIsRefusedAtOnce(t *testing.T) {
	s, _, _ := newSet(8 * faas.MB)
	_, err := s.Acquire(t.Context(), &Need{Function: function("f", 0)}, "a")
	if want := "function f needs 10 MB of memory, and this node has 8 MB for all sandboxes: this node is too small for the function"; faas.KindOf(err) != faas.Invalid || err.Error() != want {
		t.Errorf("Acquire = %v, want %s", err, want)
	}
}

func TestFullLineIsBusyWithTheNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newSet(faas.GB)
		fn := function("f", 1)
		fn.Line = 2
		errs := make(chan error, 3)
		for i := range 3 { // one is served, two wait
			go func() { errs <- call(s, fn, fmt.Sprint(i), time.Minute) }()
		}
		synctest.Wait()
		err := call(s, fn, "one too many", time.Minute)
		if want := "2 calls of function f wait already, and no more may"; faas.KindOf(err) != faas.Busy || err.Error() != want {
			t.Errorf("call = %v, want %s", err, want)
		}
		for range 3 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		s.Close()
	})
}

func TestStartErrorReachesTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newSet(faas.GB)
		s.Start = func(context.Context, Need, func()) (Conn, error) {
			return nil, faas.Errorf(faas.NotFound, "no image %q", "photos/resize:7")
		}
		if err := call(s, function("f", 0), "a", time.Minute); faas.KindOf(err) != faas.NotFound {
			t.Errorf("call = %v, want the error of Start", err)
		}
		s.Close()
		if reserved(s) != (faas.Resources{}) {
			t.Errorf("%v are still reserved", reserved(s))
		}
	})
}

func TestCloseTurnsAwayWhoWaitsAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine outlives Close
		s, started, closed := newSet(20 * faas.MB)
		errs := make(chan error, 4)
		for i := range cap(errs) {
			go func() { errs <- call(s, function("f", 0), fmt.Sprint(i), time.Minute) }()
		}
		time.Sleep(50 * time.Millisecond) // two are starting, two wait for memory
		s.Close()
		for range cap(errs) {
			if got := faas.KindOf(<-errs); got != faas.Busy {
				t.Errorf("kind %q, want busy", got)
			}
		}
		if started.Load() != closed.Load() || reserved(s) != (faas.Resources{}) {
			t.Errorf("started %d sandboxes, closed %d, %v reserved", started.Load(), closed.Load(), reserved(s))
		}
		if err := call(s, function("f", 0), "late", time.Minute); faas.KindOf(err) != faas.Busy {
			t.Errorf("call after Close = %v, want Busy", err)
		}
	})
}

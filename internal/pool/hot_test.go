package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

func hotFunction(name string, limit int) faas.Function {
	fn := function(name, limit)
	fn.Format = faas.FormatHTTP
	return fn
}

func TestOneSandboxServesManyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, closed := newSet(faas.GB)
		for i := range 50 {
			if err := call(s, hotFunction("f", 0), fmt.Sprint(i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		if started.Load() != 1 || closed.Load() != 0 {
			t.Errorf("started %d, closed %d; want 1 and 0", started.Load(), closed.Load())
		}
		time.Sleep(30*time.Second + 10*time.Millisecond)
		synctest.Wait()
		if closed.Load() != 1 {
			t.Error("it was not ended after its idle time")
		}
		s.Close()
	})
}

func TestCallKnowsWhatItFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newSet(faas.GB)
		for _, want := range []faas.Start{faas.StartBare, faas.StartHot, faas.StartHot} {
			slot, err := s.Acquire(t.Context(), &Need{Function: hotFunction("f", 0)}, "a")
			if err != nil {
				t.Fatal(err)
			}
			if got := slot.Start(); got != want {
				t.Errorf("found %s, want %s", got, want)
			}
			slot.Done(true)
		}
		s.Close()
	})
}

func TestIdleSandboxStandsStillUntilItIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, _ := newSet(faas.GB)
		s.FreezeAfter = 50 * time.Millisecond
		fn := hotFunction("f", 0)
		for i := range 20 {
			if err := call(s, fn, fmt.Sprint(i), time.Minute); err != nil { // fails if it is frozen in a call
				t.Fatal(err)
			}
			if i%2 == 0 {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			} else {
				time.Sleep(50*time.Millisecond + time.Duration(i)*100*time.Microsecond) // while it is being frozen
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := reserved(s).Memory; got != faas.MB || started.Load() != 1 {
			t.Errorf("%v are reserved with %d starts, want the 1 MB that it holds", got, started.Load())
		}
		s.Close()
		if got := reserved(s); got != (faas.Resources{}) {
			t.Errorf("%v are still reserved", got)
		}
	})
}

// TestCallsAtTheEndOfTheIdleTimeAreNeverLost calls at the very moment when an
// idle sandbox is given up.
func TestCallsAtTheEndOfTheIdleTimeAreNeverLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, closed := newSet(faas.GB)
		s.FreezeAfter = 50 * time.Millisecond
		fn := hotFunction("f", 0)
		fn.Idle = time.Second
		for i := range 10_000 {
			if err := call(s, fn, fmt.Sprint(i), time.Minute); err != nil {
				t.Fatal(err)
			}
			time.Sleep(fn.Idle + time.Duration(rand.IntN(3)-1)*time.Nanosecond)
		}
		t.Logf("%d sandboxes for 10,000 calls", started.Load())
		s.Close()
		if started.Load() != closed.Load() || started.Load() < 100 {
			t.Errorf("started %d, closed %d", started.Load(), closed.Load())
		}
	})
}

func TestManyFunctionsLittleMemoryNoCallFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, closed := newSet(50 * 10 * faas.MB)
		s.FreezeAfter = 50 * time.Millisecond
		var wg sync.WaitGroup
		for caller := range 32 {
			wg.Go(func() {
				for i := range 20_000 / 32 {
					fn := hotFunction(fmt.Sprint("f", rand.IntN(200)), 0)
					if err := call(s, fn, fmt.Sprint(caller, "-", i), time.Minute); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		s.Close()
		if started.Load() != closed.Load() || reserved(s) != (faas.Resources{}) {
			t.Errorf("started %d, closed %d, %v reserved", started.Load(), closed.Load(), reserved(s))
		}
	})
}

func TestThousandCallersOfOneSlotAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, _ := newSet(faas.GB)
		fn := hotFunction("f", 1)
		fn.Line = 900
		var order []int // no lock: one slot
		var refused, late atomic.Int32
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second+7*time.Millisecond, faas.Errorf(faas.TimedOut, "it waited 10s"))
				defer cancel()
				slot, err := s.Acquire(ctx, &Need{Function: fn}, fmt.Sprint(i))
				switch {
				case err == nil:
					order = append(order, i)
					time.Sleep(15 * time.Millisecond)
					slot.Done(true)
				case faas.KindOf(err) != faas.Busy:
					t.Errorf("%s %v", faas.KindOf(err), err)
				case ctx.Err() != nil:
					late.Add(1)
				default:
					refused.Add(1)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		s.Close()
		for i := range order {
			if i != order[i] {
				t.Fatalf("caller %d was served as number %d", order[i], i)
			}
		}
		// 9,907 ms are left when the sandbox has started: the 661st call begins after 9,900.
		if len(order) != 661 || int(refused.Load()) != 99 || len(order)+int(late.Load()) != 901 || started.Load() != 1 {
			t.Errorf("%d served, %d refused, %d gave up, %d starts", len(order), refused.Load(), late.Load(), started.Load())
		}
	})
}

func TestSandboxThatDiesBetweenCallsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, closed := newSet(faas.GB)
		start := s.Start
		kill := make(chan func(), 8)
		s.Start = func(ctx context.Context, need Need, died func()) (Conn, error) {
			kill <- died
			return start(ctx, need, died)
		}
		fn := hotFunction("f", 0)
		for i := range 5 {
			if err := call(s, fn, fmt.Sprint(i), time.Minute); err != nil {
				t.Fatal(err)
			}
			(<-kill)()
			synctest.Wait()
		}
		time.Sleep(time.Second)
		if closed.Load() != 5 || reserved(s) != (faas.Resources{}) {
			t.Errorf("closed %d, %v reserved; want 5 and nothing", closed.Load(), reserved(s))
		}
		s.Close()
	})
}

func TestFunctionThatWantsSandboxesReadyHasThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, started, closed := newSet(faas.GB)
		fn := hotFunction("f", 0)
		fn.Min = 3
		s.Renew(&Need{Function: fn})
		time.Sleep(time.Hour)
		if started.Load() != 3 || closed.Load() != 0 {
			t.Errorf("started %d, closed %d; want 3 and 0", started.Load(), closed.Load())
		}
		fn.Revision, fn.Min = 2, 1
		s.Renew(&Need{Function: fn})
		time.Sleep(time.Hour)
		if started.Load() != 4 || closed.Load() != 3 {
			t.Errorf("after a change started %d, closed %d; want 4 and 3", started.Load(), closed.Load())
		}
		s.Forget("f")
		time.Sleep(time.Second)
		if closed.Load() != 4 {
			t.Errorf("closed %d after the function is gone, want 4", closed.Load())
		}
		s.Close()
	})
}

func TestWarmStartThatFailsIsTriedAgainEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newSet(faas.GB)
		var tried atomic.Int32
		s.Start = func(context.Context, Need, func()) (Conn, error) {
			tried.Add(1)
			return nil, errors.New("no such program")
		}
		told := make(chan string, 100)
		s.Unready = func(fn *faas.Function, why error, again time.Duration) {
			told <- fmt.Sprint(fn.ID, ": ", why, ", ", again)
		}
		fn := hotFunction("f", 0)
		fn.Min = 1
		s.Renew(&Need{Function: fn})
		time.Sleep(time.Hour)
		if got := tried.Load(); got < 55 || got > 70 {
			t.Errorf("%d tries in an hour, want one a minute and a few before", got)
		}
		for _, again := range []string{"1s", "2s", "4s", "8s", "16s", "32s", "1m0s"} {
			if got, want := <-told, "f: no such program, "+again; got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		}
		if n := len(told); n != 0 {
			t.Errorf("told of %d tries more: %q", n, <-told)
		}
		s.Close()
	})
}

// resting is a Conn that costs nothing.
type resting struct{}

func (resting) Exchange(context.Context, *faas.Request, http.ResponseWriter) (faas.Outcome, error) {
	return faas.Outcome{Keep: true}, nil
}
func (resting) Start() faas.Start           { return faas.StartBare }
func (resting) Freeze() (faas.Bytes, error) { return 0, io.EOF }
func (resting) Thaw() error                 { return nil }
func (resting) Close() error                { return nil }

func TestHotCallAllocatesNothingHere(t *testing.T) {
	s, _, _ := newSet(faas.GB)
	s.Start = func(context.Context, Need, func()) (Conn, error) { return resting{}, nil }
	defer s.Close()
	need := &Need{Function: hotFunction("f", 0)}
	ctx := t.Context()
	n := testing.AllocsPerRun(1000, func() {
		slot, err := s.Acquire(ctx, need, "call")
		if err != nil {
			t.Fatal(err)
		}
		slot.Exchange(ctx, nil, nil)
		slot.Done(true)
	})
	if n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkHotSlot(b *testing.B) {
	s, _, _ := newSet(faas.GB)
	s.Start = func(context.Context, Need, func()) (Conn, error) { return resting{}, nil }
	defer s.Close()
	need := &Need{Function: hotFunction("f", 0)}
	for b.Loop() {
		slot, err := s.Acquire(b.Context(), need, "call")
		if err != nil {
			b.Fatal(err)
		}
		slot.Done(true)
	}
}

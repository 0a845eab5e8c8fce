package invoke

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/dispatch"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// external is the rest of the world where outside runners take the calls of the app.
type external struct {
	*records
	off     atomic.Bool // they do not, yet
	removed atomic.Bool // the function
}

func (e *external) AppByID(id string) (faas.App, error) {
	app, err := e.records.AppByID(id)
	if !e.off.Load() {
		app.Annotations = map[string]string{faas.AnnotationRunner: `"external"`}
	}
	return app, err
}

func (e *external) FunctionByID(id string) (faas.Function, error) {
	if e.removed.Load() {
		return faas.Function{}, faas.Errorf(faas.NotFound, "no function with the ID %q", id)
	}
	return e.records.FunctionByID(id)
}

// newOutside is an invoker whose calls outside runners take.
func newOutside(t *testing.T) (i *Invoker, e *external, end func()) {
	i, r := newInvoker(t, echo)
	e = &external{records: r}
	d := dispatch.New()
	i.Apps, i.Calls, i.Queue = e, memory.New(), d
	d.Calls, d.Runner, d.Room, d.Definitions, d.Journal, d.Owner, d.Log = i.Calls, i, i.Pool, e, r, "run", slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return i, e, func() {
		d.Drain()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (e *external) runner(i *Invoker, outside bool) {
	e.off.Store(!outside)
	app, _ := e.AppByID("a1")
	i.Queue.(*dispatch.Dispatcher).AppChanged(app)
}

func TestTaskHoldsWhatItsFunctionWouldFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, end := newOutside(t)
		defer end()
		req := request("pay\x00load\xff", "")
		req.Method, req.URL, req.Route, req.Convention = "PUT", "http://h/r/photos/x?y=1", "/x", faas.ConventionFn
		req.Header, req.Params = http.Header{"Accept-Language": {"de", "en"}}, map[string]string{"id": "7"}
		c := enqueue(t, i, fn(), req)
		if !strings.Contains(c.Waiting, "GET /tasks") {
			t.Errorf("accepted as %+v", c)
		}
		task, err := i.Reserve(t.Context())
		if err != nil || task == nil {
			t.Fatalf("Reserve = %+v, %v", task, err)
		}
		if task.Call.ID != c.ID || task.Call.Attempt != 1 || task.Function.Image != "i" || task.Route != "/x" || string(task.Payload) != "pay\x00load\xff" {
			t.Errorf("task %+v", task)
		}
		for _, want := range []string{"A=app", "B=function", "METHOD=PUT", "REQUEST_URL=http://h/r/photos/x?y=1", "ROUTE=/x", "HEADER_ACCEPT_LANGUAGE=de en", "PARAM_ID=7", "FN_CALL_ID=" + c.ID, "FN_TYPE=async"} {
			if !slices.Contains(task.Env, want) {
				t.Errorf("environment %q lacks %s", task.Env, want)
			}
		}
		if found, err := i.Find(t.Context(), c.ID); err != nil || found.State != faas.CallRunning || found.Outcome.Start != faas.StartOutside {
			t.Errorf("found %+v, %v", found, err)
		}
		if none, err := i.Reserve(t.Context()); none != nil || err != nil {
			t.Errorf("Reserve = %+v, %v; want none", none, err)
		}
		if err := i.EndTask(t.Context(), c.ID, 1, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestCallThatAnOutsideRunnerHasIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r, end := newOutside(t)
		defer end()
		id := enqueue(t, i, fn(), request("", "")).ID
		if _, err := i.Reserve(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c, err := i.Cancel(t.Context(), id, "its user wanted it"); err != nil || c.State != faas.CallRunning {
			t.Errorf("Cancel = %+v, %v", c, err)
		}
		if c, err := i.Calls.Wait(t.Context(), id); err != nil || c.State != faas.CallCanceled || c.Error != "its user wanted it" {
			t.Errorf("over as %+v, %v", c, err)
		}
		synctest.Wait()
		if got := r.last(t); got.State != faas.CallCanceled {
			t.Errorf("record %+v", got)
		}
	})
}

// slow is a Queue in which a call that was taken is known late.
type slow struct {
	Queue
	until time.Time
}

func (s slow) Stop(id string, cause error) bool {
	return time.Now().After(s.until) && s.Queue.Stop(id, cause)
}

func TestCallBetweenTheQueueAndItsRunnerIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, end := newOutside(t)
		defer end()
		id := enqueue(t, i, fn(), request("", "")).ID
		if _, err := i.Reserve(t.Context()); err != nil {
			t.Fatal(err)
		}
		i.Queue = slow{i.Queue, time.Now().Add(200 * time.Millisecond)}
		if _, err := i.Cancel(t.Context(), id, "its user wanted it"); err != nil {
			t.Fatal(err)
		}
		if c, err := i.Calls.Wait(t.Context(), id); err != nil || c.State != faas.CallCanceled {
			t.Errorf("over as %+v, %v", c, err)
		}
	})
}

func TestPayloadOfATaskHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, e, end := newOutside(t)
		defer end()
		most, more := strings.Repeat("x", int(MaxTaskPayload)), strings.Repeat("x", int(MaxTaskPayload)+1)
		id := enqueue(t, i, fn(), request(most, "")).ID
		_, err := i.Enqueue(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallAsync), request(more, ""), -1)
		if faas.KindOf(err) != faas.TooLarge || err.Error() != "the payload is over the limit of 8 MB" {
			t.Errorf("too large a payload: %v", err)
		}
		if task, err := i.Reserve(t.Context()); err != nil || task.Call.ID != id || len(task.Payload) != int(MaxTaskPayload) {
			t.Errorf("the largest one: %v", err)
		}
		e.off.Store(true) // before the setting, payloads may be larger
		old, err := i.Enqueue(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallAsync), request(more, ""), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		next, err := i.Enqueue(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallAsync), request("next", ""), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		e.runner(i, true)
		if err := i.EndTask(t.Context(), id, 1, nil); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if task, err := i.Reserve(t.Context()); err != nil || task == nil || task.Call.ID != next.ID {
			t.Errorf("Reserve = %v; want the one behind", err)
		}
		if c, err := i.Calls.Call(t.Context(), old.ID); err != nil || c.State != faas.CallFailed || c.ErrKind != faas.TooLarge || !strings.Contains(c.Error, "over the limit of 8 MB for calls that outside runners take") {
			t.Errorf("an older call that is too large: %+v, %v", c, err)
		}
	})
}

func TestTaskThatCannotBeHandedOverIsInLineAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, e, end := newOutside(t)
		defer end()
		id := enqueue(t, i, fn(), request("x", "")).ID
		ctx, cancel := context.WithCancel(t.Context())
		q := i.Queue
		i.Queue = leavesAfter{q, cancel}
		if task, err := i.Reserve(ctx); task != nil || err == nil {
			t.Errorf("Reserve = %+v, %v", task, err)
		}
		i.Queue = q
		synctest.Wait()
		if task, err := i.Reserve(t.Context()); err != nil || task == nil || task.Call.ID != id || task.Call.Attempt != 2 {
			t.Errorf("Reserve = %+v, %v; want the call again", task, err)
		}
		e.removed.Store(true)
		if err := i.EndTask(t.Context(), id, 2, faas.Errorf(faas.FuncFailed, "exit code 1")); err != nil {
			t.Error(err)
		}
	})
}

// leavesAfter is a Queue whose runner leaves when a call is reserved.
type leavesAfter struct {
	Queue
	leave func()
}

func (l leavesAfter) Reserve(ctx context.Context) (faas.Call, bool, error) {
	call, ok, err := l.Queue.Reserve(ctx)
	l.leave()
	return call, ok, err
}

// damaged is a store of which a payload cannot be read.
type damaged struct {
	store.Calls
	id string
}

func (d damaged) Request(ctx context.Context, id string) (*faas.Request, error) {
	if id == d.id {
		return nil, errors.New("a file of the operator's is missing")
	}
	return d.Calls.Request(ctx, id)
}

func TestTaskWhosePayloadCannotBeReadStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r, end := newOutside(t)
		defer end()
		bad, good := enqueue(t, i, fn(), request("1", "")).ID, enqueue(t, i, fn(), request("2", "")).ID
		i.Calls = damaged{i.Calls, bad}
		if task, err := i.Reserve(t.Context()); err != nil || task == nil || task.Call.ID != good {
			t.Errorf("Reserve = %+v, %v; want the call behind", task, err)
		}
		if c, err := i.Calls.Call(t.Context(), bad); err != nil || c.State != faas.CallFailed || c.ErrKind != faas.Internal || c.Error != "internal error" {
			t.Errorf("the call with a damaged payload: %+v, %v", c, err)
		}
		if got := r.last(t); got.ID != bad || got.Error != "internal error" {
			t.Errorf("record %+v", got)
		}
	})
}

func TestCountsAreOfAllCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		i, r, end := newQueue(t, func(context.Context, *faas.Request, http.ResponseWriter) error {
			<-release
			return nil
		})
		want := func(what string, want Counts) {
			t.Helper()
			time.Sleep(time.Second)
			if got, err := i.Counts(t.Context()); err != nil || got != want {
				t.Errorf("%s: %+v, %v; want %+v", what, got, err, want)
			}
		}
		want("at first", Counts{})
		f := fn()
		f.MaxConcurrency, r.atOnce = 1, 1
		for range 3 {
			go func() { _, _, _ = call(t.Context(), i, f) }()
		}
		want("synchronous calls", Counts{Waiting: 2, Running: 1})
		later, err := i.Enqueue(t.Context(), f, NewCall(faas.App{}, f, faas.CallAsync), request("", ""), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		want("one that is not due", Counts{Waiting: 3, Running: 1})
		for range 3 {
			release <- struct{}{}
			synctest.Wait()
		}
		want("when they are over", Counts{Waiting: 1, Ended: 3})
		if _, err := i.Cancel(t.Context(), later.ID, "no"); err != nil {
			t.Error(err)
		}
		want("when it is canceled", Counts{Ended: 4})
		enqueue(t, i, f, request("", ""))
		want("an asynchronous one", Counts{Running: 1, Ended: 4})
		release <- struct{}{}
		want("when all is over", Counts{Ended: 5})
		end()

		out, _, end := newOutside(t)
		defer end()
		for n := range 3 {
			enqueue(t, out, fn(), request(fmt.Sprint(n), ""))
		}
		task, err := out.Reserve(t.Context())
		if err != nil || !bytes.Equal(task.Payload, []byte("0")) {
			t.Fatalf("%+v, %v", task, err)
		}
		if got, err := out.Counts(t.Context()); err != nil || got != (Counts{Waiting: 2, Running: 1}) {
			t.Errorf("with an outside runner: %+v, %v", got, err)
		}
	})
}

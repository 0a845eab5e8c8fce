package invoke

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
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/dispatch"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// newQueue is an invoker with a queue at work. end stops it.
func newQueue(t *testing.T, serve func(ctx context.Context, req *faas.Request, w http.ResponseWriter) error) (i *Invoker, r *records, end func()) {
	i, r = newInvoker(t, serve)
	calls := memory.New()
	d := dispatch.New()
	i.Calls, i.Queue = calls, d
	d.Calls, d.Runner, d.Room, d.Definitions, d.Journal, d.Owner, d.Log = calls, i, i.Pool, r, r, "run", slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return i, r, func() {
		d.Drain()
		stop, no := context.WithCancel(t.Context())
		no()
		_ = i.Drain(stop)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func request(body, key string) *faas.Request {
	return &faas.Request{Method: "POST", Target: "/", Body: strings.NewReader(body), Size: int64(len(body)), Key: key, Caller: "192.0.2.1"}
}

func enqueue(t *testing.T, i *Invoker, f faas.Function, req *faas.Request) faas.Call {
	t.Helper()
	c, err := i.Enqueue(t.Context(), f, NewCall(faas.App{Name: "photos"}, f, faas.CallAsync), req, -1)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func echo(_ context.Context, req *faas.Request, w http.ResponseWriter) error {
	_, err := io.Copy(w, req.Body)
	return err
}

func TestAsynchronousCallRunsLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r, end := newQueue(t, echo)
		defer end()
		c := enqueue(t, i, fn(), request("hello", ""))
		if c.State != faas.CallQueued || c.Attempt != 0 {
			t.Errorf("accepted as %+v", c)
		}
		over, err := i.Calls.Wait(t.Context(), c.ID)
		if err != nil || over.State != faas.CallSucceeded {
			t.Errorf("over as %+v, %v", over, err)
		}
		synctest.Wait()
		if got := r.last(t); got.ID != c.ID || got.Kind != faas.CallAsync || got.Attempt != 1 {
			t.Errorf("record %+v", got)
		}
		if found, err := i.Find(t.Context(), c.ID); err != nil || found.State != faas.CallSucceeded {
			t.Errorf("found %+v, %v", found, err)
		}
	})
}

func TestAsynchronousTimeoutIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := newInvoker(t, func(ctx context.Context, _ *faas.Request, _ http.ResponseWriter) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Hour):
				return nil
			}
		})
		f := fn() // its timeout is 30 s
		for _, tt := range []struct {
			timeout time.Duration
			want    faas.Kind
		}{{0, faas.TimedOut}, {time.Minute, faas.TimedOut}, {2 * time.Hour, faas.OK}, {-1, faas.OK}} {
			f.AsyncTimeout = tt.timeout
			c := NewCall(faas.App{}, f, faas.CallAsync)
			if err := i.Run(t.Context(), f, c, request("", ""), httptest.NewRecorder()); faas.KindOf(err) != tt.want {
				t.Errorf("timeout %v: %v, want kind %q", tt.timeout, err, tt.want)
			}
		}
	})
}

func TestNothingIsAcceptedThatCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, end := newQueue(t, echo)
		accept := func(req *faas.Request) error {
			_, err := i.Enqueue(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallAsync), req, -1)
			return err
		}
		i.Room = func() error { return faas.Errorf(faas.Busy, "the disk has 1 MB free, and 256 MB are wanted") }
		if err := accept(request("x", "")); faas.KindOf(err) != faas.Busy || !strings.Contains(err.Error(), "1 MB free") {
			t.Errorf("with a full disk: %v", err)
		}
		i.Room = nil
		req := request("", "")
		req.Body = http.MaxBytesReader(httptest.NewRecorder(), io.NopCloser(strings.NewReader("too long")), 3)
		if err := accept(req); faas.KindOf(err) != faas.TooLarge || err.Error() != "the payload is over the limit of 3 bytes" {
			t.Errorf("too long a payload: %v", err)
		}
		req.Body = io.MultiReader(strings.NewReader("half"), broken{})
		if err := accept(req); faas.KindOf(err) != faas.Canceled {
			t.Errorf("half a payload: %v", err)
		}
		req = request("", "")
		req.Header = http.Header{"X": {strings.Repeat("x", int(faas.MaxEnv))}}
		if err := accept(req); !errors.Is(err, faas.ErrEnvironment) {
			t.Errorf("too large an environment: %v", err)
		}
		end()
		if err := accept(request("x", "")); faas.KindOf(err) != faas.Busy {
			t.Errorf("while shutting down: %v", err)
		}
		if all, err := i.Calls.Tallies(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("kept %v, %v", all, err)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestKeyRunsOneCallForAllWhoHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		i, _, end := newQueue(t, func(_ context.Context, req *faas.Request, w http.ResponseWriter) error {
			runs++
			time.Sleep(time.Second)
			w.Header().Set("X-Run", fmt.Sprint(runs))
			w.WriteHeader(201)
			_, err := io.Copy(w, req.Body)
			return err
		})
		defer end()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				w := httptest.NewRecorder()
				err := i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("pay 5", "k1"), w)
				if err != nil || w.Code != 201 || w.Body.String() != "pay 5" || w.Header().Get("X-Run") != "1" {
					t.Errorf("%v: %d %s %v", err, w.Code, w.Body, w.Header())
				}
			})
		}
		wg.Wait()
		w := httptest.NewRecorder()
		if err := i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("pay 5", "k1"), w); err != nil || w.Header().Get(HeaderReplayed) != "true" {
			t.Errorf("later: %v, %v", err, w.Header())
		}
		if runs != 1 {
			t.Errorf("%d runs", runs)
		}
		err := i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("pay 6", "k1"), w)
		if !errors.Is(err, faas.ErrKeyReused) || faas.KindOf(err) != faas.Conflict {
			t.Errorf("another body: %v", err)
		}
		other := request("pay 6", "k1")
		other.Caller = "192.0.2.2"
		if err := i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), other, httptest.NewRecorder()); err != nil || runs != 2 {
			t.Errorf("another caller: %v, %d runs", err, runs)
		}
		first := enqueue(t, i, fn(), request("later", "k2"))
		if again := enqueue(t, i, fn(), request("later", "k2")); again.ID != first.ID {
			t.Errorf("asynchronous: %s and %s", first.ID, again.ID)
		}
	})
}

func TestKeyIsOfWhoHasTheSameCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		i, _, end := newQueue(t, func(_ context.Context, _ *faas.Request, w http.ResponseWriter) error {
			runs++
			_, err := fmt.Fprint(w, runs)
			return err
		})
		defer end()
		for _, tt := range []struct {
			name string
			url  string
			with http.Header
			want string // run whose answer it is; "": it is refused
		}{
			{"without any", "", nil, "1"},
			{"a token", "", http.Header{"Authorization": {"Bearer a"}}, "2"},
			{"another token", "", http.Header{"Authorization": {"Bearer b"}}, "3"},
			{"a cookie", "", http.Header{"Cookie": {"u=a"}}, "4"},
			{"another cookie", "", http.Header{"Cookie": {"u=b"}}, "5"},
			{"a cookie through a trigger", "", http.Header{"Fn-Http-H-Cookie": {"u=a"}}, "6"},
			{"both", "", http.Header{"Authorization": {"Bearer a"}, "Cookie": {"u=a"}}, "7"},
			{"the first token again", "", http.Header{"Authorization": {"Bearer a"}, "Traceparent": {"2"}}, "2"},
			{"the first cookie again", "", http.Header{"Cookie": {"u=a"}}, "4"},
			{"without any again", "", nil, "1"},
			{"another host", "http://shop.example.org/", nil, ""},
		} {
			req := request("pay 5", "k1")
			req.URL, req.Header = tt.url, tt.with
			w := httptest.NewRecorder()
			err := i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), req, w)
			if tt.want == "" && !errors.Is(err, faas.ErrKeyReused) || tt.want != "" && (err != nil || w.Body.String() != tt.want) {
				t.Errorf("%s: %v, the answer of run %s, want that of %q", tt.name, err, w.Body, tt.want)
			}
		}
	})
}

func TestKeyedFailureIsTheAnswerAndBusyIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		var fails error
		i, _, end := newQueue(t, func(context.Context, *faas.Request, http.ResponseWriter) error { runs++; return fails })
		defer end()
		try := func(key string) error {
			return i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("", key), httptest.NewRecorder())
		}
		fails = faas.Errorf(faas.FuncFailed, "exit code 1")
		first, second := try("a"), try("a")
		if runs != 1 || faas.KindOf(first) != faas.FuncFailed || second == nil || second.Error() != first.Error() {
			t.Errorf("%d runs: %v, then %v", runs, first, second)
		}
		fails = faas.Errorf(faas.Busy, "no")
		_ = try("b")
		fails = nil
		if err := try("b"); err != nil || runs != 3 {
			t.Errorf("after busy: %v, %d runs", err, runs)
		}
	})
}

func TestKeyedCallGoesOnWhenItsCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, end := newQueue(t, func(ctx context.Context, _ *faas.Request, w http.ResponseWriter) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Second):
			}
			_, err := io.WriteString(w, "done")
			return err
		})
		defer end()
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			gone <- i.Call(ctx, fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("", "k"), httptest.NewRecorder())
		}()
		synctest.Wait()
		leave()
		w := httptest.NewRecorder()
		if err := i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("", "k"), w); err != nil || w.Body.String() != "done" {
			t.Errorf("again: %v %s", err, w.Body)
		}
		<-gone
	})
}

func TestCancelEndsACallWhereverItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r, end := newQueue(t, func(ctx context.Context, _ *faas.Request, _ http.ResponseWriter) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		defer end()
		r.atOnce = 1
		f, _ := r.FunctionByID("f1")
		runs := enqueue(t, i, f, request("", ""))
		synctest.Wait()
		waits := enqueue(t, i, f, request("", ""))
		synctest.Wait()
		if c, err := i.Cancel(t.Context(), waits.ID, "not wanted"); err != nil || c.State != faas.CallCanceled || c.Error != "not wanted" {
			t.Errorf("the one in line: %+v, %v", c, err)
		}
		if c, err := i.Cancel(t.Context(), runs.ID, "not wanted"); err != nil || c.State != faas.CallRunning {
			t.Errorf("the one that runs: %+v, %v", c, err)
		}
		if c, err := i.Calls.Wait(t.Context(), runs.ID); err != nil || c.State != faas.CallCanceled || !strings.Contains(c.Error, "not wanted") {
			t.Errorf("it ended as %+v, %v", c, err)
		}
		if _, err := i.Cancel(t.Context(), runs.ID, "again"); faas.KindOf(err) != faas.Conflict {
			t.Errorf("again: %v", err)
		}
		if _, err := i.Cancel(t.Context(), "01ARZ3NDEKTSV4RRFFQ69G5FAV", "x"); faas.KindOf(err) != faas.NotFound {
			t.Errorf("unknown: %v", err)
		}
	})
}

func TestRetryIsANewCallThatNamesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := faas.Errorf(faas.FuncFailed, "exit code 1")
		i, _, end := newQueue(t, func(ctx context.Context, req *faas.Request, w http.ResponseWriter) error {
			if fails != nil {
				return fails
			}
			return echo(ctx, req, w)
		})
		defer end()
		old := enqueue(t, i, fn(), request("hello", ""))
		if _, err := i.Calls.Wait(t.Context(), old.ID); err != nil {
			t.Fatal(err)
		}
		fails = nil
		c, err := i.Retry(t.Context(), old.ID)
		if err != nil || c.ID == old.ID || c.RetryOf != old.ID {
			t.Fatalf("retry: %+v, %v", c, err)
		}
		if over, err := i.Calls.Wait(t.Context(), c.ID); err != nil || over.State != faas.CallSucceeded {
			t.Errorf("over as %+v, %v", over, err)
		}
		_, body, err := i.Calls.Result(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(body); string(got) != "hello" {
			t.Errorf("result %q", got)
		}
		if _, err := i.Retry(t.Context(), c.ID); faas.KindOf(err) != faas.Conflict {
			t.Errorf("retry of a success: %v", err)
		}
	})
}

// leaving is a Queue whose caller leaves while its call goes to the disk.
type leaving struct {
	Queue
	leave func()
}

func (l leaving) Accept(ctx context.Context, a store.Acceptance) (faas.Call, bool, error) {
	c, known, err := l.Queue.Accept(ctx, a)
	l.leave()
	return c, known, err
}

func TestKeyOfACallerWhoLeftEarlyIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, end := newQueue(t, echo)
		defer end()
		ctx, leave := context.WithCancel(t.Context())
		q := i.Queue
		i.Queue = leaving{q, leave}
		_ = i.Call(ctx, fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("hello", "k"), httptest.NewRecorder())
		i.Queue = q
		w := httptest.NewRecorder()
		if err := i.Call(t.Context(), fn(), NewCall(faas.App{}, fn(), faas.CallSync), request("hello", "k"), w); err != nil || w.Body.String() != "hello" {
			t.Errorf("again: %v %s", err, w.Body)
		}
	})
}

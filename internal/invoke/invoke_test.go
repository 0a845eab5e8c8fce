package invoke

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/capacity"
	"hob/internal/pool"
)

// conn is a sandbox whose function does what serve says.
type conn struct {
	serve func(ctx context.Context, req *faas.Request, w http.ResponseWriter) error
}

func (c conn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	begin := time.Now()
	err := c.serve(ctx, req, w)
	return faas.Outcome{Status: 200, Run: time.Since(begin), Again: errors.Is(err, errGone)}, err
}

// errGone is of a sandbox that ended before it had any of the request.
var errGone = faas.Errorf(faas.FuncFailed, "exit code 1")

func (conn) Start() faas.Start           { return faas.StartBare }
func (conn) Freeze() (faas.Bytes, error) { return 0, nil }
func (conn) Thaw() error                 { return nil }
func (conn) Close() error                { return nil }

// records is a journal and the rest of the world.
type records struct {
	mu    sync.Mutex
	calls []faas.Call
	pull  func(ctx context.Context) error

	atOnce int // calls of fn

	recording func(faas.Call) // told before a call is in calls; nil: nobody is
}

func (r *records) Record(c faas.Call) {
	if r.recording != nil {
		r.recording(c)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
}

func (r *records) Ready(ctx context.Context, fn faas.Function) (faas.Function, error) {
	if r.pull == nil {
		return fn, nil
	}
	return fn, r.pull(ctx)
}

func (r *records) FunctionByID(id string) (faas.Function, error) {
	if f := fn(); f.ID == id {
		f.MaxConcurrency = r.atOnce
		return f, nil
	}
	return faas.Function{}, faas.Errorf(faas.NotFound, "no function with the ID %q", id)
}

func (r *records) AppByID(id string) (faas.App, error) {
	return faas.App{ID: id, Name: "photos", Env: map[string]string{"A": "app", "B": "app"}}, nil
}

// last returns the only record.
func (r *records) last(t *testing.T) faas.Call {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.calls) != 1 {
		t.Fatalf("%d records, want 1: %+v", len(r.calls), r.calls)
	}
	return r.calls[0]
}

func fn() faas.Function {
	return faas.Function{ID: "f1", App: "a1", Name: "resize", Image: "i", Revision: 3, Env: map[string]string{"B": "function"}}.WithDefaults()
}

func newInvoker(t *testing.T, serve func(ctx context.Context, req *faas.Request, w http.ResponseWriter) error) (*Invoker, *records) {
	r := &records{}
	set := &pool.Set{
		Start:    func(context.Context, pool.Need, func()) (pool.Conn, error) { return conn{serve}, nil },
		Capacity: capacity.New(faas.Resources{Memory: faas.GB, CPU: 1000}), FreezeAfter: -1, Log: slog.New(slog.DiscardHandler),
	}
	t.Cleanup(set.Close)
	return &Invoker{Pool: set, Images: r, Apps: r, Journal: r, Log: slog.New(slog.DiscardHandler)}, r
}

// call makes one call and returns its answer and error.
func call(ctx context.Context, i *Invoker, f faas.Function) (*httptest.ResponseRecorder, *faas.Call, error) {
	w := httptest.NewRecorder()
	c := NewCall(faas.App{Name: "photos"}, f, faas.CallSync)
	err := i.Call(ctx, f, c, &faas.Request{Method: "POST", URL: "http://h/x", Header: http.Header{"Accept": {"a"}}}, w)
	return w, c, err
}

func TestSuccessIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r := newInvoker(t, func(_ context.Context, req *faas.Request, w http.ResponseWriter) error {
			time.Sleep(time.Second)
			w.Write([]byte(strings.Join(req.Env, " ")))
			return nil
		})
		w, c, err := call(t.Context(), i, fn())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"A=app", "B=function", "HOB_CALL_ID=" + c.ID, "HTTP_ACCEPT=a", "HOB_METHOD=POST", "HOB_APP=photos"} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("environment %q lacks %s", w.Body, want)
			}
		}
		got := r.last(t)
		if got.State != faas.CallSucceeded || got.Function != "resize" || got.App != "photos" || got.Revision != 3 || got.Run != time.Second ||
			got.Finished.Sub(got.Started) != time.Second || got.Error != "" {
			t.Errorf("record %+v", got)
		}
	})
}

func TestFailureIsRecordedInTheCallersWords(t *testing.T) {
	i, r := newInvoker(t, func(context.Context, *faas.Request, http.ResponseWriter) error {
		return faas.Errorf(faas.FuncFailed, "exit code 1: no picture")
	})
	_, _, err := call(t.Context(), i, fn())
	got := r.last(t)
	if faas.KindOf(err) != faas.FuncFailed || got.State != faas.CallFailed || got.Error != "call resize: exit code 1: no picture" || got.ErrKind != faas.FuncFailed {
		t.Errorf("call = %v, record %+v", err, got)
	}
}

func TestDefectIsNotToldToTheJournal(t *testing.T) {
	i, r := newInvoker(t, func(context.Context, *faas.Request, http.ResponseWriter) error {
		return errors.New("open /var/lib/hob/secret: permission denied")
	})
	_, _, err := call(t.Context(), i, fn())
	if got := r.last(t); err == nil || strings.Contains(got.Error, "/var/lib") {
		t.Errorf("call = %v, record %q", err, got.Error)
	}
}

// until waits for the end of ctx.
func until(ctx context.Context, _ *faas.Request, _ http.ResponseWriter) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestCallOverItsTimeTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r := newInvoker(t, until)
		begin := time.Now()
		_, _, err := call(t.Context(), i, fn())
		if faas.KindOf(err) != faas.TimedOut || !strings.Contains(err.Error(), "30s") || time.Since(begin) != 30*time.Second {
			t.Errorf("call = %v after %v", err, time.Since(begin))
		}
		if got := r.last(t); got.State != faas.CallTimedOut {
			t.Errorf("state %s", got.State)
		}
	})
}

func TestPullCountsToNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r := newInvoker(t, func(context.Context, *faas.Request, http.ResponseWriter) error { return nil })
		r.pull = func(context.Context) error { time.Sleep(time.Hour); return nil }
		if _, _, err := call(t.Context(), i, fn()); err != nil {
			t.Fatal(err)
		}
		if got := r.last(t); got.Image != time.Hour || got.Queue != 0 {
			t.Errorf("image %v, queue %v; want an hour and nothing", got.Image, got.Queue)
		}
	})
}

func TestCallThatWaitsTooLongIsBusyAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r := newInvoker(t, until)
		one := fn()
		one.MaxConcurrency, one.Timeout, one.Wait = 1, time.Hour, time.Minute
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { call(ctx, i, one) })
		synctest.Wait()
		begin := time.Now()
		wg.Go(func() {
			_, _, err := call(t.Context(), i, one)
			if faas.KindOf(err) != faas.Busy || !strings.Contains(err.Error(), "it may run 1 call at once") || time.Since(begin) != time.Minute {
				t.Errorf("second call = %v after %v", err, time.Since(begin))
			}
		})
		synctest.Wait()
		states := map[faas.CallState]string{}
		for _, c := range i.Live() {
			states[c.State] = c.Waiting
		}
		if _, running := states[faas.CallRunning]; !running || !strings.Contains(states[faas.CallQueued], "place 1") {
			t.Errorf("live calls: %v, want one that runs and one with its place", states)
		}
		time.Sleep(2 * time.Minute)
		leave()
		wg.Wait()
		if len(r.calls) != 2 || r.calls[0].State != faas.CallFailed || r.calls[1].State != faas.CallCanceled {
			t.Errorf("records %+v", r.calls)
		}
		if len(i.Live()) != 0 {
			t.Errorf("live calls: %v", i.Live())
		}
	})
}

func TestCallIsLiveUntilItIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r := newInvoker(t, until)
		r.recording = func(c faas.Call) {
			if live := i.Live(); len(live) != 1 || live[0].ID != c.ID || !c.State.Final() {
				t.Errorf("live are %v while the record is %+v", live, c)
			}
		}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		call(ctx, i, fn())
		if len(i.Live()) != 0 || len(r.calls) != 1 {
			t.Errorf("live %v, recorded %v", i.Live(), r.calls)
		}
	})
}

func TestDrainWaitsThenCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r := newInvoker(t, until)
		one := fn()
		one.Timeout = time.Hour
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := call(t.Context(), i, one); faas.KindOf(err) != faas.Busy {
				t.Errorf("call that was cut off = %v", err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		wg.Go(func() {
			time.Sleep(time.Second)
			if _, _, err := call(t.Context(), i, one); faas.KindOf(err) != faas.Busy {
				t.Errorf("call while draining = %v", err)
			}
		})
		if err := i.Drain(ctx); err == nil || !strings.Contains(err.Error(), "1 calls") {
			t.Errorf("Drain = %v, want the number that was cut off", err)
		}
		wg.Wait()
		if got := r.last(t); got.ErrKind != faas.Busy {
			t.Errorf("record %+v", got)
		}
		if err := i.Drain(t.Context()); err != nil {
			t.Errorf("second Drain = %v", err)
		}
	})
}

func TestEnvironment(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	req := faas.Request{
		Call: "c1", Method: "PUT", URL: "http://h/r/a/x?q=1", Route: "/x", Params: map[string]string{"id": "7"},
		Header: http.Header{"X-One": {"a", "b"}, "Proxy": {"http://evil"}, "User.Agent": {"z\x00"}}, Env: []string{"LAST=edge"},
	}
	tests := []struct {
		convention faas.Convention
		want       []string
	}{
		{faas.ConventionHob, []string{"HOB_CALL_ID=c1", "HOB_APP=photos", "HOB_FUNCTION=resize", "HOB_METHOD=PUT", "HOB_REQUEST_URL=http://h/r/a/x?q=1",
			"HOB_ROUTE=/x", "HOB_DEADLINE=2026-01-02T03:04:35.000Z", "HOB_MEMORY=128", "HTTP_USER_AGENT=z", "HTTP_X_ONE=a, b", "HOB_PARAM_ID=7"}},
		{faas.ConventionIron, []string{"METHOD=PUT", "REQUEST_URL=http://h/r/a/x?q=1", "ROUTE=/x", "HEADER_USER_AGENT=z", "HEADER_X_ONE=a b", "PARAM_ID=7"}},
		{faas.ConventionFn, []string{"METHOD=PUT", "REQUEST_URL=http://h/r/a/x?q=1", "ROUTE=/x", "HEADER_USER_AGENT=z", "HEADER_X_ONE=a b", "PARAM_ID=7",
			"FN_CALL_ID=c1", "FN_APP_NAME=photos", "FN_METHOD=PUT", "FN_REQUEST_URL=http://h/r/a/x?q=1", "FN_PATH=/x", "FN_DEADLINE=2026-01-02T03:04:35.000Z", "FN_MEMORY=128",
			"FN_FORMAT=default", "FN_TYPE=sync", "FN_TMPSIZE=0", "FN_HEADER_USER_AGENT=z", "FN_HEADER_User.Agent=z", "FN_HEADER_X_ONE=a, b", "FN_HEADER_X-One=a, b"}},
		{faas.ConventionHyper, []string{"HOB_CALL_ID=c1", "HTTP_USER_AGENT=z", "HTTP_X_ONE=a, b"}},
	}
	app := faas.App{Name: "photos", Env: map[string]string{"A": "app", "B": "app"}}
	for _, tt := range tests {
		t.Run(string(tt.convention), func(t *testing.T) {
			req := req
			req.Convention = tt.convention
			got, err := environment(app, fn(), &req, now.Add(30*time.Second))
			want := strings.Join(append(append([]string{"A=app", "B=app", "B=function"}, tt.want...), "LAST=edge"), "\n")
			if tt.convention == faas.ConventionHyper {
				want = strings.Join([]string{"A=app", "B=app", "B=function", "HOB_CALL_ID=c1", "HTTP_USER_AGENT=z", "HTTP_X_ONE=a, b", "LAST=edge"}, "\n")
			}
			if err != nil || strings.Join(got, "\n") != want {
				t.Errorf("got\n%s\nwant\n%s\n%v", strings.Join(got, "\n"), want, err)
			}
		})
	}
}

func TestEnvironmentOfARoute(t *testing.T) {
	app := faas.App{Name: "a", Env: map[string]string{"my-key": "app", "MY_KEY": "app's own", "K": "app", "lower": "1"}}
	for _, tt := range []struct {
		name    string
		format  faas.Format
		attempt int
		cpu     faas.CPU
		want    []string
	}{
		{"cold", faas.FormatDefault, 0, 500, []string{
			"LOWER=1", "MY_KEY=app", "K=app", "MY_KEY=app's own", "lower=1", "my-key=app", "MY_KEY=function", "K=function", "my-key=function", "METHOD=GET", "REQUEST_URL=u", "HEADER_A=1 2",
			"FN_CALL_ID=c", "FN_APP_NAME=a", "FN_METHOD=GET", "FN_REQUEST_URL=u", "FN_MEMORY=128", "FN_FORMAT=default", "FN_TYPE=sync", "FN_TMPSIZE=0", "FN_CPUS=500m", "FN_HEADER_A=1, 2",
		}},
		{"cold and queued", faas.FormatDefault, 2, 0, []string{
			"LOWER=1", "MY_KEY=app", "K=app", "MY_KEY=app's own", "lower=1", "my-key=app", "MY_KEY=function", "K=function", "my-key=function", "METHOD=GET", "REQUEST_URL=u", "HEADER_A=1 2",
			"FN_CALL_ID=c", "FN_APP_NAME=a", "FN_METHOD=GET", "FN_REQUEST_URL=u", "FN_MEMORY=128", "FN_FORMAT=default", "FN_TYPE=async", "FN_TMPSIZE=0", "FN_HEADER_A=1, 2",
		}},
		{"hot, in headers", faas.FormatHTTP, 0, 500, []string{
			"LOWER=1", "MY_KEY=app", "K=app", "MY_KEY=app's own", "lower=1", "my-key=app", "MY_KEY=function", "K=function", "my-key=function", "METHOD=GET", "REQUEST_URL=u", "HEADER_A=1 2",
		}},
	} {
		f := fn()
		f.Format, f.CPU, f.Env = tt.format, tt.cpu, map[string]string{"my-key": "function", "K": "function"}
		req := faas.Request{Call: "c", Attempt: tt.attempt, Method: "GET", URL: "u", Header: http.Header{"A": {"1", "2"}, "Proxy": {"x"}}, Convention: faas.ConventionFn}
		if got, err := environment(app, f, &req, time.Time{}); err != nil || !slices.Equal(got, tt.want) || !variables(f, &req) {
			t.Errorf("%s: %v\n%q\nwant\n%q", tt.name, err, got, tt.want)
		}
		for _, other := range []faas.Format{faas.FormatJSON, faas.FormatCloudEvent, faas.FormatHTTPStream, faas.FormatPort, faas.FormatLambda} {
			if f.Format = other; variables(f, &req) {
				t.Errorf("a function of format %s is told of each call in variables", other)
			}
		}
	}
}

func TestEnvironmentOverItsLimitNamesIt(t *testing.T) {
	i, _ := newInvoker(t, func(context.Context, *faas.Request, http.ResponseWriter) error { return nil })
	f := fn()
	c := NewCall(faas.App{}, f, faas.CallSync)
	req := &faas.Request{Header: http.Header{"X-Large": {strings.Repeat("x", 200<<10)}}}
	err := i.Call(t.Context(), f, c, req, httptest.NewRecorder())
	if faas.KindOf(err) != faas.TooLarge || !errors.Is(err, faas.ErrEnvironment) || !strings.Contains(err.Error(), "128 KB") {
		t.Errorf("call = %v, want TooLarge with the limit", err)
	}
}

func TestDeadlineBeginsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		i, _ := newInvoker(t, func(_ context.Context, req *faas.Request, _ http.ResponseWriter) error {
			for _, e := range req.Env {
				if value, ok := strings.CutPrefix(e, "HOB_DEADLINE="); ok {
					told = append(told, value)
				}
			}
			time.Sleep(10 * time.Second)
			return nil
		})
		one := fn()
		one.MaxConcurrency = 1
		begin := time.Now().UTC()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, _, err := call(t.Context(), i, one); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		const format = "2006-01-02T15:04:05.000Z"
		want := []string{begin.Add(30 * time.Second).Format(format), begin.Add(40 * time.Second).Format(format)}
		if !slices.Equal(told, want) {
			t.Errorf("deadlines %v, want %v: the second call waited 10s", told, want)
		}
	})
}

func hot() faas.Function {
	f := fn()
	f.Format = faas.FormatHTTP
	return f
}

func TestHotCallGoesOnWhenItsCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		i, _ := newInvoker(t, func(ctx context.Context, req *faas.Request, w http.ResponseWriter) error {
			leave()
			synctest.Wait()
			if ctx.Err() != nil {
				t.Errorf("the exchange was ended: %v", context.Cause(ctx))
			}
			if left := time.Until(req.Deadline); left != faas.DefaultTimeout {
				t.Errorf("%v are left, want %v", left, faas.DefaultTimeout)
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if _, _, err := call(ctx, i, hot()); faas.KindOf(err) != faas.TimedOut {
			t.Errorf("call = %v, want the end of its time", err)
		}
	})
}

func TestHotCallIsEndedByADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := newInvoker(t, func(ctx context.Context, _ *faas.Request, _ http.ResponseWriter) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		ended := make(chan error)
		go func() { _, _, err := call(t.Context(), i, hot()); ended <- err }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go i.Drain(ctx)
		if err := <-ended; faas.KindOf(err) != faas.Busy {
			t.Errorf("call = %v, want Busy", err)
		}
	})
}

func TestCallOfASandboxThatWasGoneIsGivenToAnother(t *testing.T) {
	served := 0
	i, r := newInvoker(t, func(_ context.Context, _ *faas.Request, w http.ResponseWriter) error {
		if served++; served < tries {
			return errGone
		}
		w.Write([]byte("here"))
		return nil
	})
	w, _, err := call(t.Context(), i, hot())
	if err != nil || w.Body.String() != "here" {
		t.Errorf("call = %q, %v", w.Body, err)
	}
	if got := r.last(t); got.State != faas.CallSucceeded || got.Outcome.Start != faas.StartBare {
		t.Errorf("record %+v", got)
	}
}

func TestFunctionThatEndsEachSandboxFailsItsCall(t *testing.T) {
	served := 0
	i, _ := newInvoker(t, func(context.Context, *faas.Request, http.ResponseWriter) error {
		served++
		return errGone
	})
	if _, _, err := call(t.Context(), i, hot()); !errors.Is(err, errGone) || served != tries {
		t.Errorf("call = %v after %d sandboxes, want the reason after %d", err, served, tries)
	}
}

func TestCallerIsToldWhatItFoundAndWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := newInvoker(t, func(_ context.Context, _ *faas.Request, w http.ResponseWriter) error {
			time.Sleep(20 * time.Millisecond)
			w.WriteHeader(200)
			return nil
		})
		f := hot()
		f.MaxConcurrency = 1
		go call(t.Context(), i, f)
		synctest.Wait()
		w, c, err := call(t.Context(), i, f)
		if err != nil {
			t.Fatal(err)
		}
		reason := "place 1 in the line of the function: it may run 1 call at once"
		h := w.Result().Header
		if h.Get(HeaderStart) != "bare" || h.Get(HeaderWait) != "20ms" || h.Get(HeaderWaitReason) != reason || c.Waiting != reason {
			t.Errorf("header %v, record %q", h, c.Waiting)
		}
	})
}

func TestPullForAHotCallIsEndedByADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, r := newInvoker(t, func(context.Context, *faas.Request, http.ResponseWriter) error { return nil })
		r.pull = func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		ended := make(chan error)
		go func() { _, _, err := call(t.Context(), i, hot()); ended <- err }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go i.Drain(ctx)
		if err := <-ended; faas.KindOf(err) != faas.Busy {
			t.Errorf("call = %v, want Busy", err)
		}
	})
}

package deliver_test

import (
	"bytes"
	"context"
	"encoding/json"
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

	"go.uber.org/goleak"

	"hob/faas"
	"hob/internal/deliver"
	"hob/internal/store"
	"hob/internal/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a store with a Deliverer and what its destinations got.
type world struct {
	t     *testing.T
	store *memory.Store
	log   bytes.Buffer

	mu      sync.Mutex
	asked   []string // guarded by mu, as all below; addresses, and names of functions
	headers []http.Header
	bodies  []string
	reply   func(target string) (*http.Response, error) // not called with mu held
	refuse  error                                       // of Enqueue
}

func newWorld(t *testing.T) *world {
	return &world{t: t, store: memory.New(), reply: func(string) (*http.Response, error) { return status(200), nil }}
}

func status(code int) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("thanks"))}
}

// transport is the network of a function.
func (w *world) transport(of faas.Call) http.RoundTripper {
	if of.FuncID != "F" {
		w.t.Errorf("a delivery is on behalf of %q", of.FuncID)
	}
	return w
}

// RoundTrip is the network.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.note(r.URL.String(), r.Header, r.Body)
	resp, err := w.reply(r.URL.String())
	if err == nil && resp == nil { // it never answers
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}
	return resp, err
}

func (w *world) Enqueue(_ context.Context, app, function, id string, req *faas.Request) error {
	w.note(app+"/"+function+" "+id, req.Header, req.Body)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refuse
}

func (w *world) note(target string, header http.Header, body io.Reader) {
	data, err := io.ReadAll(body)
	if c, ok := body.(io.Closer); ok {
		c.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.t.Errorf("read what is sent to %s: %v", target, err)
	}
	w.asked, w.headers, w.bodies = append(w.asked, target), append(w.headers, header), append(w.bodies, string(data))
}

// tries counts what was asked for.
func (w *world) tries() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// run starts a Deliverer, which ends with the test or by stop.
func (w *world) run() (d *deliver.Deliverer, stop func()) {
	d = deliver.New(w.store, w, w.transport, slog.New(slog.NewTextHandler(&w.log, nil)))
	ctx, cancel := context.WithCancel(w.t.Context())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := d.Run(ctx); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	return d, func() { cancel(); ended.Wait() }
}

// ends makes a call that has ended in state, with a delivery for each target.
func (w *world) ends(state faas.CallState, body string, hops int, targets ...string) faas.Call {
	w.t.Helper()
	ctx := w.t.Context()
	call := faas.Call{ID: faas.NewID(), App: "app", Function: "one", FuncID: "F", Revision: 1, Kind: faas.CallAsync, State: faas.CallQueued, Hops: hops}
	if _, _, err := w.store.Accept(ctx, store.Acceptance{Call: call, Request: &faas.Request{Method: "POST", Body: http.NoBody}}); err != nil {
		w.t.Fatal(err)
	}
	taken, _, err := w.store.Take(ctx, "me", []store.Lane{{Functions: []string{"F"}, Limit: 1}})
	if err != nil || len(taken) != 1 {
		w.t.Fatalf("took %v, %v", taken, err)
	}
	call = taken[0]
	if err := call.Advance(state, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	s := store.Settlement{Call: call}
	if state == faas.CallSucceeded {
		s.Result = &store.NewResult{Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: w.store.NewBody()}
		io.WriteString(s.Result.Body, body)
	} else {
		s.Call.Error, s.Call.ErrKind = body, faas.FuncFailed
	}
	for _, target := range targets {
		s.Deliveries = append(s.Deliveries, store.Delivery{ID: faas.NewID(), Call: call.ID, Target: target, Since: time.Now()})
	}
	if err := w.store.Settle(ctx, s); err != nil {
		w.t.Fatal(err)
	}
	return call
}

// words is what is kept of a call's delivery, and whether it is over.
func (w *world) words(id string) (string, bool) {
	w.t.Helper()
	call, err := w.store.Call(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return call.Delivery, !strings.Contains(call.Delivery, ", again in ") && call.Delivery != ""
}

func (w *world) expect(id, want string) {
	w.t.Helper()
	if got, _ := w.words(id); got != want {
		w.t.Errorf("the call says %q, want %q", got, want)
	}
}

func TestResultIsPosted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		call := w.ends(faas.CallSucceeded, "hello", 3, "https://there/hook?token=1")
		_, stop := w.run() // of a former run: due at once
		defer stop()
		synctest.Wait()
		w.expect(call.ID, "delivered to https://there/hook")
		if fmt.Sprint(w.asked, w.bodies) != "[https://there/hook?token=1] [hello]" {
			t.Fatalf("sent %q to %q", w.bodies, w.asked)
		}
		for name, want := range map[string]string{
			"Hob-Call": call.ID, "Hob-App": "app", "Hob-Function": "one", "Hob-State": "succeeded", "Hob-Attempts": "1",
			"Hob-Hops": "4", "Content-Type": "text/plain", "User-Agent": "hob",
		} {
			if got := w.headers[0].Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if key := w.headers[0].Get("Idempotency-Key"); len(key) != 26 || key == call.ID {
			t.Errorf("Idempotency-Key is %q, want the ID of the delivery", key)
		}
	})
}

func TestFailureIsPostedWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		call := w.ends(faas.CallFailed, `exit status 3 "x"`, 0, "http://there/")
		_, stop := w.run()
		defer stop()
		synctest.Wait()
		var got struct {
			Call, App, Function, State string
			Attempt                    int
			Error                      struct{ Kind, Message string }
		}
		if err := json.Unmarshal([]byte(w.bodies[0]), &got); err != nil {
			t.Fatal(err)
		}
		if got.Call != call.ID || got.App != "app" || got.Function != "one" || got.State != "failed" || got.Attempt != 1 ||
			got.Error.Kind != "func_failed" || got.Error.Message != `exit status 3 "x"` {
			t.Errorf("sent %s", w.bodies[0])
		}
		if ct := w.headers[0].Get("Content-Type"); ct != "application/json" {
			t.Errorf("Content-Type is %q", ct)
		}
	})
}

func TestDestinationThatComesBackGetsTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.reply = func(string) (*http.Response, error) {
			switch w.tries() {
			case 1:
				return nil, nil // never
			case 2:
				return nil, io.ErrUnexpectedEOF
			case 3:
				resp := status(503)
				resp.Header.Set("Retry-After", "100")
				return resp, nil
			}
			return status(204), nil
		}
		d, stop := w.run()
		defer stop()
		start := time.Now()
		call := w.ends(faas.CallSucceeded, "hello", 0, "http://there/")
		d.Wake()
		time.Sleep(30*time.Second + 200*time.Millisecond) // a look, and a try
		if got, _ := w.words(call.ID); !strings.HasPrefix(got, "tried once, again in ") || !strings.HasSuffix(got, ": no answer within 30s") {
			t.Errorf("the call says %q", got)
		}
		for over := false; !over && time.Since(start) < time.Hour; _, over = w.words(call.ID) {
			time.Sleep(time.Second)
		}
		w.expect(call.ID, "delivered to http://there/ in 4 tries")
		if took := time.Since(start); took < 131*time.Second || took > 140*time.Second {
			t.Errorf("it took %v, want the 30 s of a silent server, two short waits and 100 s", took)
		}
		if key := w.headers[0].Get("Idempotency-Key"); key != w.headers[3].Get("Idempotency-Key") {
			t.Error("the tries have different keys")
		}
	})
}

func TestDeadDestinationIsGivenUpAfterADayVisibly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.reply = func(string) (*http.Response, error) { return status(500), nil }
		_, stop := w.run()
		call := w.ends(faas.CallSucceeded, "", 0, "http://there/?token=1")
		stop()
		_, stop = w.run()
		time.Sleep(24*time.Hour + time.Minute)
		w.expect(call.ID, "given up after 24h: 500 Internal Server Error")
		stop()
		if n := w.tries(); n < 100 || n > 400 {
			t.Errorf("it was tried %d times in a day", n)
		}
		if log := w.log.String(); !strings.Contains(log, call.ID) || strings.Contains(log, "token") {
			t.Errorf("the log says\n%s", log)
		}
	})
}

func TestDeadHostBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.reply = func(target string) (*http.Response, error) {
			if strings.Contains(target, "dead") {
				return nil, nil
			}
			return status(200), nil
		}
		for range 300 {
			w.ends(faas.CallSucceeded, "x", 0, "http://dead/")
		}
		call := w.ends(faas.CallSucceeded, "x", 0, "http://alive/")
		_, stop := w.run()
		defer stop()
		synctest.Wait()
		w.expect(call.ID, "delivered to http://alive/")
		if w.tries() != 5 {
			t.Errorf("%d were asked at once, want 4 of the dead host and the other", w.tries())
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := w.tries(); n > 5+10*60/30+1 {
			t.Errorf("a host that does not answer was asked %d times in 10 minutes, want one at a time", n)
		}
	})
}

func TestFunctionGetsTheResultOnceUnderTheIDOfTheDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.refuse = faas.Errorf(faas.Busy, "the queue is full")
		call := w.ends(faas.CallSucceeded, "hello", 15, "app/two")
		_, stop := w.run()
		defer stop()
		synctest.Wait()
		if got, _ := w.words(call.ID); !strings.HasPrefix(got, "tried once") || !strings.HasSuffix(got, "the queue is full") {
			t.Errorf("the call says %q", got)
		}
		w.mu.Lock()
		w.refuse = faas.Errorf(faas.Conflict, "there is a call with this ID")
		w.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		w.expect(call.ID, "delivered to app/two in 2 tries")
		if w.asked[0] != "app/two "+w.headers[0].Get("Idempotency-Key") || w.asked[1] != w.asked[0] || w.bodies[1] != "hello" || w.headers[1].Get(deliver.Hops) != "16" {
			t.Errorf("called %q with %q and %v", w.asked, w.bodies, w.headers)
		}
	})
}

func TestWhatCannotBeDeliveredSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.refuse = faas.Errorf(faas.NotFound, "no function app/two")
		gone := w.ends(faas.CallSucceeded, "x", 0, "http://there/")
		if err := w.store.Fetched(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
		loop := w.ends(faas.CallSucceeded, "x", 16, "http://there/")
		removed := w.ends(faas.CallSucceeded, "x", 0, "app/two")
		bad := w.ends(faas.CallSucceeded, "x", 0, "http://bad host/")
		_, stop := w.run()
		defer stop()
		synctest.Wait()
		w.expect(gone.ID, "given up: the result is not kept any more")
		w.expect(removed.ID, "given up: no function app/two")
		w.expect(bad.ID, `given up: bad destination "http://bad host/"`)
		if got, over := w.words(loop.ID); !over || !strings.HasPrefix(got, "given up: 16 deliveries") {
			t.Errorf("a loop says %q", got)
		}
		if w.tries() != 1 {
			t.Errorf("asked %q, want the function alone", w.asked)
		}
	})
}

// telling is a store that tells when something was written down.
type telling struct {
	*memory.Store
	written chan string
}

func (s telling) Delivered(ctx context.Context, id string, done bool, retry time.Duration, outcome string) error {
	defer func() { s.written <- id }()
	return s.Store.Delivered(ctx, id, done, retry, outcome)
}

// full is a store whose disk is full when it is to write down deliveries.
type full struct {
	*memory.Store
	left int
}

func (f *full) Delivered(ctx context.Context, id string, done bool, retry time.Duration, outcome string) error {
	if f.left--; f.left >= 0 {
		return faas.Errorf(faas.Busy, "the disk is full")
	}
	return f.Store.Delivered(ctx, id, done, retry, outcome)
}

func TestFullDiskRepeatsNoDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		call := w.ends(faas.CallSucceeded, "x", 0, "http://there/")
		d := deliver.New(&full{w.store, 20}, w, w.transport, slog.New(slog.NewTextHandler(&w.log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() { d.Run(ctx) })
		time.Sleep(2 * time.Minute)
		stop()
		ended.Wait()
		w.expect(call.ID, "delivered to http://there/")
		if n := strings.Count(w.log.String(), "the disk is full"); w.tries() != 1 || n != 1 {
			t.Errorf("sent %d times, and the log tells it %d times, want once each", w.tries(), n)
		}
	})
}

func TestTryThatIsCutOffIsDueAtTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.reply = func(string) (*http.Response, error) { return nil, nil }
		call := w.ends(faas.CallSucceeded, "x", 0, "http://there/")
		_, stop := w.run()
		synctest.Wait()
		start := time.Now()
		stop()
		if took := time.Since(start); took > 0 {
			t.Errorf("the end took %v", took)
		}
		w.expect(call.ID, "")
		w.reply = func(string) (*http.Response, error) { return status(200), nil }
		_, stop = w.run()
		defer stop()
		synctest.Wait()
		w.expect(call.ID, "delivered to http://there/")
	})
}

func TestOverTheNetwork(t *testing.T) {
	got := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		got <- fmt.Sprintf("%s %s %d %v %s %v", r.Method, r.URL.Path, r.ContentLength, r.TransferEncoding, data[:min(len(data), 5)], err)
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		w.Write(make([]byte, 1<<20)) // more than is read
	}))
	defer server.Close()
	w := newWorld(t)
	written := make(chan string, 10) // more tries of the dead port fit too
	large := w.ends(faas.CallSucceeded, strings.Repeat("hello", 1<<20), 0, server.URL+"/large")
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	d := deliver.New(telling{w.store, written}, w, func(faas.Call) http.RoundTripper { return transport }, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { d.Run(ctx) })
	defer ended.Wait()
	defer stop()
	if line := <-got; line != "POST /large 5242880 [] hello <nil>" {
		t.Errorf("the server got %s", line)
	}
	empty := w.ends(faas.CallSucceeded, "", 0, server.URL+"/empty")
	d.Wake()
	if line := <-got; line != "POST /empty 0 []  <nil>" {
		t.Errorf("the server got %s", line)
	}
	moved := w.ends(faas.CallSucceeded, "x", 0, server.URL+"/moved")
	dead := w.ends(faas.CallSucceeded, "x", 0, "http://127.0.0.1:1/")
	d.Wake()
	for _, call := range []faas.Call{large, empty, moved, dead} {
		for text, _ := w.words(call.ID); text == ""; text, _ = w.words(call.ID) {
			<-written // of any of them: the dead port may be tried again before another has its first try
		}
	}
	stop()
	for id, want := range map[string]string{
		large.ID: "delivered to " + server.URL + "/large", empty.ID: "delivered to " + server.URL + "/empty",
		moved.ID: "given up: 302 Found: it leads to /elsewhere, and redirects are not followed",
	} {
		w.expect(id, want)
	}
	if text, _ := w.words(dead.ID); !strings.HasPrefix(text, "tried ") || !strings.Contains(text, ", again in ") || !strings.HasSuffix(text, "connection refused") {
		t.Errorf("a dead port says %q", text)
	}
}

package core_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/api/core"
	"hob/internal/store"
)

// ask sends a request to h. header are names and values in turn.
func ask(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	return askAs(context.Background(), h, method, path, body, header...)
}

func askAs(ctx context.Context, h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const functionsPath = "/api/apps/default/functions/"

// running returns a server with the call of a function that runs on.
func running(t *testing.T) (s *core.Server, h http.Handler, call faas.Call) {
	t.Helper()
	s = newServer(t)
	h = s.Handler()
	create(t, h, "runs")
	w := ask(h, "POST", functionsPath+"runs/call", "x", "Prefer", "respond-async")
	call, err := s.Calls.Call(t.Context(), w.Header().Get("Hob-Call"))
	if err != nil || call.State != faas.CallRunning {
		t.Fatalf("call is %+v, %v; want one that runs", call, err)
	}
	return s, h, call
}

func TestResultIsAwaitedToTheMomentThatTheCallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, call := running(t)
		for _, c := range []struct {
			path   string
			header []string
		}{
			{"/api/calls/" + call.ID + "/result?wait=30s", nil},
			{functionsPath + "runs/call", []string{"Prefer", "respond-async, wait=30"}},
		} {
			method := "GET"
			if c.header != nil {
				method = "POST"
			}
			begin := time.Now()
			if w := ask(h, method, c.path, "", c.header...); w.Code != http.StatusAccepted || time.Since(begin) != 30*time.Second {
				t.Errorf("%s %s: %d after %v, want 202 after 30s", method, c.path, w.Code, time.Since(begin))
			}
		}
		answers := make(chan *httptest.ResponseRecorder)
		for range 3 {
			go func() { answers <- ask(h, "GET", "/api/calls/"+call.ID+"/result?wait=1h", "") }()
		}
		time.Sleep(59 * time.Minute) // of the clock of the test
		if err := s.Queue.(*queue).end(t.Context(), call, []byte("here"), nil); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for range 3 {
			if w := <-answers; w.Code != http.StatusCreated || w.Body.String() != "here" || time.Since(begin) != 0 {
				t.Errorf("%d %q after %v, want the result at once", w.Code, w.Body, time.Since(begin))
			}
		}
	})
}

func TestCallGoesOnWhenTheCallerThatWaitsForItLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, call := running(t)
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan *httptest.ResponseRecorder)
		go func() { done <- askAs(ctx, h, "GET", "/api/calls/"+call.ID+"/result?wait=1h", "") }()
		go func() {
			done <- askAs(ctx, h, "POST", functionsPath+"runs/call", "y", "Prefer", "respond-async, wait=3600")
		}()
		synctest.Wait()
		leave()
		for range 2 {
			if w := <-done; w.Body.Len() > 0 {
				t.Errorf("nobody is there, and is answered %s", w.Body)
			}
		}
		calls, _, err := s.Calls.List(t.Context(), store.CallFilter{States: []faas.CallState{faas.CallRunning}})
		if err != nil || len(calls) != 2 {
			t.Errorf("%d calls run, %v; want 2", len(calls), err)
		}
	})
}

func TestPayloadOfAnAsynchronousCallOverTheLimitIsTooLarge(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "upper")
	for _, length := range []int64{-1, 1<<10 + 1} {
		r := httptest.NewRequest("POST", functionsPath+"upper/call", bytes.NewReader(make([]byte, 1<<10+1)))
		r.ContentLength = length
		r.Header.Set("Prefer", "respond-async")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), "over the limit of 1 KB") {
			t.Errorf("length %d: status %d, want 413: %s", length, w.Code, w.Body)
		}
	}
	if tally, err := s.Calls.Tally(t.Context(), ""); err != nil || tally != (store.Tally{}) {
		t.Errorf("accepted: %+v, %v", tally, err)
	}
}

func TestResultThatWasRemovedIsGone(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "upper")
	id := ask(h, "POST", functionsPath+"upper/call", "x", "Prefer", "respond-async").Header().Get("Hob-Call")
	if err := s.Calls.Fetched(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if w := ask(h, "GET", "/api/calls/"+id+"/result", ""); w.Code != http.StatusGone || w.Header().Get("Hob-Fault") != "not_found" {
		t.Errorf("%d %v %s, want 410", w.Code, w.Header(), w.Body)
	}
	// The store has forgotten the call, the journal has not.
	old := faas.Call{ID: faas.NewID(), App: "default", Function: "upper", Kind: faas.CallAsync, State: faas.CallFailed, Queued: time.Now(), Finished: time.Now(),
		Error: "exit code 3", ErrKind: faas.FuncFailed}
	s.Logs.Record(old)
	for _, path := range []string{"GET /result", "POST /retry"} {
		method, rest, _ := strings.Cut(path, " ")
		if w := ask(h, method, "/api/calls/"+old.ID+rest, ""); w.Code != http.StatusGone {
			t.Errorf("%s: %d %s, want 410", path, w.Code, w.Body)
		}
	}
	if w := ask(h, "POST", "/api/calls/"+old.ID+"/cancel", ""); w.Code != http.StatusConflict {
		t.Errorf("cancel: %d %s, want 409", w.Code, w.Body)
	}
}

func TestDefectOfACallIsNotToldWithItsResult(t *testing.T) {
	s, h, call := running(t)
	if err := s.Queue.(*queue).end(t.Context(), call, nil, fmt.Errorf("open /var/lib/hob/x: permission denied")); err != nil {
		t.Fatal(err)
	}
	w := ask(h, "GET", "/api/calls/"+call.ID+"/result", "")
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "/var/lib") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestFailedCallIsRunAgain(t *testing.T) {
	s, h, call := running(t)
	if err := s.Queue.(*queue).end(t.Context(), call, nil, faas.Errorf(faas.Busy, "no sandbox became free")); err != nil {
		t.Fatal(err)
	}
	if w := ask(h, "GET", "/api/calls/"+call.ID+"/result", ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "" {
		t.Errorf("%d %v: a call that has given up is as if another try could help", w.Code, w.Header())
	}
	w := ask(h, "POST", "/api/calls/"+call.ID+"/retry", "")
	var again struct {
		ID      string
		RetryOf string `json:"retry_of"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &again); err != nil || w.Code != http.StatusAccepted || again.RetryOf != call.ID ||
		again.ID != w.Header().Get("Hob-Call") || w.Header().Get("Location") != "/api/calls/"+again.ID {
		t.Errorf("%d %v %s, %v", w.Code, w.Header(), w.Body, err)
	}
}

// orphaned is a queue of calls whose function is gone.
type orphaned struct{ core.Queue }

func (orphaned) Retry(context.Context, string) (faas.Call, error) {
	return faas.Call{}, faas.Errorf(faas.NotFound, "its function is no more")
}

func TestCallOfARemovedFunctionIsNotRunAgain(t *testing.T) {
	s, h, call := running(t)
	if err := s.Queue.(*queue).end(t.Context(), call, nil, faas.Errorf(faas.FuncFailed, "exit code 3")); err != nil {
		t.Fatal(err)
	}
	s.Queue = orphaned{s.Queue}
	s.Logs.Record(call)
	if w := ask(h, "POST", "/api/calls/"+call.ID+"/retry", ""); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "its function is no more") {
		t.Errorf("%d %s, want 404 with the reason", w.Code, w.Body)
	}
}

// busy is a caller of which calls run.
type busy struct {
	functions
	live []faas.Call
}

func (b *busy) Live() []faas.Call { return b.live }

func TestFunctionIsRemovedWhileACallRunsOnlyByForce(t *testing.T) {
	s := newServer(t)
	calls := &busy{}
	s.Caller = calls
	h := s.Handler()
	create(t, h, "f")
	fn, err := s.Catalog.Function("default", "f")
	if err != nil {
		t.Fatal(err)
	}
	for range 7 {
		calls.live = append(calls.live, faas.Call{ID: faas.NewID(), FuncID: fn.ID, State: faas.CallRunning},
			faas.Call{ID: faas.NewID(), FuncID: "another", State: faas.CallRunning},
			faas.Call{ID: faas.NewID(), FuncID: fn.ID, State: faas.CallQueued})
	}
	w := ask(h, "DELETE", functionsPath+"f", "")
	if got := w.Body.String(); w.Code != http.StatusConflict || !strings.Contains(got, calls.live[0].ID) || !strings.Contains(got, "and 2 more") || !strings.Contains(got, "--force") {
		t.Errorf("%d %s, want 409 with the calls", w.Code, got)
	}
	if w := ask(h, "DELETE", functionsPath+"f?force=true", ""); w.Code != http.StatusNoContent {
		t.Errorf("forced: %d %s, want 204", w.Code, w.Body)
	}
}

func TestRefreshMakesANewAddress(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "f")
	before, err := s.Catalog.Function("default", "f")
	if err != nil {
		t.Fatal(err)
	}
	before.Annotations = map[string]string{"hyper": "{}"}
	if _, err := s.Catalog.PutFunction(t.Context(), before, before.Revision); err != nil {
		t.Fatal(err)
	}
	if w := ask(h, "PATCH", functionsPath+"f", `{"timeout":"2s"}`); w.Code != http.StatusOK {
		t.Fatalf("change: %d %s", w.Code, w.Body)
	}
	changed, err := s.Catalog.Function("default", "f")
	if err != nil || changed.Address != before.Address || changed.Annotations["hyper"] != "{}" {
		t.Errorf("a change of the timeout makes %q, %v of address %q; %v", changed.Address, changed.Annotations, before.Address, err)
	}
	w := ask(h, "POST", functionsPath+"f/refresh", "")
	after, err := s.Catalog.Function("default", "f")
	if w.Code != http.StatusOK || err != nil || after.Address == before.Address || len(after.Address) != 36 || after.Annotations["hyper"] != "{}" ||
		!strings.Contains(w.Body.String(), `"address":"`+after.Address+`"`) {
		t.Errorf("address %q becomes %q, %v: %d %s", before.Address, after.Address, err, w.Code, w.Body)
	}
}

func TestPagesHaveTheCallsOfStoreAndJournalOnceEach(t *testing.T) {
	s := newServer(t)
	s.Caller = &busy{functions: functions{logs: s.Logs}}
	h := s.Handler()
	for _, name := range []string{"upper", "waits"} {
		create(t, h, name)
	}
	want := ""
	for i := range 20 {
		var header []string
		name := "upper"
		if i%3 != 0 {
			header = []string{"Prefer", "respond-async"}
		}
		if i%5 == 1 {
			name = "waits"
		}
		if name == "waits" && header == nil {
			continue
		}
		id := ask(h, "POST", functionsPath+name+"/call", "x", header...).Header().Get("Hob-Call")
		want = id + " " + want
		if i == 8 { // a call with a key is in both
			c, err := s.Calls.Call(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			s.Logs.Record(c)
		}
	}
	for limit := range 21 {
		got, after := "", ""
		for range 30 {
			w := ask(h, "GET", fmt.Sprintf("/api/calls?limit=%d&after=%s", limit+1, after), "")
			var page struct {
				Calls []struct{ ID string }
				Next  string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK || len(page.Calls) > limit+1 {
				t.Fatalf("%d %s, %v", w.Code, w.Body, err)
			}
			for _, c := range page.Calls {
				got += c.ID + " "
			}
			if after = page.Next; after == "" {
				break
			}
		}
		if got != want {
			t.Errorf("pages of %d:\n got %s\nwant %s", limit+1, got, want)
		}
	}
}

func TestCallInFlightIsListedOnce(t *testing.T) {
	s, h, call := running(t)
	call.Waiting = "it has waited"
	s.Caller = &busy{live: []faas.Call{call}}
	for _, query := range []string{"", "?state=running", "?limit=1"} {
		if got := ask(h, "GET", "/api/calls"+query, "").Body.String(); strings.Count(got, call.ID) != 1 || !strings.Contains(got, "it has waited") {
			t.Errorf("%s: %s", query, got)
		}
	}
	if got := ask(h, "GET", "/api/calls?after="+faas.NewID(), "").Body.String(); strings.Contains(got, call.ID) {
		t.Errorf("the second page has it again: %s", got)
	}
}

// replays is a caller that answers with what an earlier call has answered.
type replays struct {
	functions
	earlier string
	fails   error
}

func (r *replays) Call(_ context.Context, _ faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	switch req.Key {
	case "again":
		call.ID = r.earlier
	case "another's":
		return faas.Errorf(faas.Conflict, "the key was used: %w", faas.ErrKeyReused)
	}
	if r.fails == nil {
		io.WriteString(w, "x")
	}
	return r.fails
}

func TestAnswerOfAnEarlierCallIsMarked(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "f")
	for _, fails := range []error{nil, faas.Errorf(faas.FuncFailed, "exit code 3")} {
		s.Caller = &replays{earlier: "01K9ZZ8N2R6W0V5T3YQ4XH7JGM", fails: fails}
		if id := ask(h, "POST", functionsPath+"f/call", "", "Idempotency-Key", "another's").Header().Get("Hob-Call"); id != "" {
			t.Errorf("a call that was refused has the id %s", id)
		}
		for key, want := range map[string]string{"again": "true", "new": ""} {
			w := ask(h, "POST", functionsPath+"f/call", "", "Idempotency-Key", key)
			if got := w.Header().Get("Idempotency-Replayed"); got != want || (w.Header().Get("Hob-Call") == "01K9ZZ8N2R6W0V5T3YQ4XH7JGM") != (want != "") {
				t.Errorf("key %q, %v: replayed %q, want %q; call %s", key, fails, got, want, w.Header().Get("Hob-Call"))
			}
		}
	}
}

func TestEventsAreLinesOfTheLog(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "f")
	fn, err := s.Catalog.Function("default", "f")
	if err != nil {
		t.Fatal(err)
	}
	s.Logs.Event(fn.ID, faas.Event{Name: faas.EventCall, Call: "C1", Stdin: "hello"})
	out := s.Logs.Writer(fn.ID, "C1", "stderr")
	io.WriteString(out, "working\n")
	out.Close()
	s.Logs.Event(fn.ID, faas.Event{Name: faas.EventFailed, Call: "C1", Attempt: 1, Message: "exit code 3"})
	for query, want := range map[string]string{
		"":                      `"event":{"name":"CALL","attempt":0,"stdin":"hello"}} "text":"working"} "event":{"name":"FAILED","attempt":1,"message":"exit code 3"}}`,
		"?events=false":         `"text":"working"}`,
		"?tail=1":               `"event":{"name":"FAILED","attempt":1,"message":"exit code 3"}}`,
		"?tail=1&events=false":  `"text":"working"}`,
		"?call=C1&events=false": `"text":"working"}`,
	} {
		var got []string
		for lines := bufio.NewScanner(ask(h, "GET", functionsPath+"f/logs"+query, "").Body); lines.Scan(); {
			line := lines.Text()
			at := max(strings.Index(line, `"event"`), strings.Index(line, `"text":"working"`))
			got = append(got, line[max(at, 0):])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q:\n got %s\nwant %s", query, strings.Join(got, " "), want)
		}
	}
}

func TestResultThatCannotBeReadToItsEndIsBrokenOff(t *testing.T) {
	s, h, call := running(t)
	if err := s.Queue.(*queue).end(t.Context(), call, []byte("the first half and the second"), nil); err != nil {
		t.Fatal(err)
	}
	s.Calls = torn{s.Calls}
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("panic %v, want %v", got, http.ErrAbortHandler)
		}
	}()
	ask(h, "GET", "/api/calls/"+call.ID+"/result", "")
}

// torn is a store whose results end before their end.
type torn struct{ store.Calls }

type tornReader struct{ store.Reader }

func (tornReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (s torn) Result(ctx context.Context, id string) (faas.Result, store.Reader, error) {
	r, body, err := s.Calls.Result(ctx, id)
	return r, tornReader{body}, err
}

func TestServerWithoutAQueueRefusesAsynchronousCalls(t *testing.T) {
	s := newServer(t)
	s.Queue, s.Calls = nil, nil
	h := s.Handler()
	create(t, h, "upper")
	for _, path := range []string{"GET /api/calls?queued=true", "GET /api/calls/x/result", "POST /api/calls/x/cancel", "POST /api/calls/x/retry", "POST " + functionsPath + "upper/call"} {
		method, at, _ := strings.Cut(path, " ")
		if w := ask(h, method, at, "", "Prefer", "respond-async"); w.Code != http.StatusNotImplemented {
			t.Errorf("%s: %d %s, want 501", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/api/calls", "/api/top", functionsPath + "upper/status", "/api/calls/01K9ZZ8N2R6W0V5T3YQ4XH7JGM"} {
		if w := ask(h, "GET", path, ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s, want 200", path, w.Code, w.Body)
		}
	}
}

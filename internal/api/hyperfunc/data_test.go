package hyperfunc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/api/hyperfunc"
	"hob/internal/store"
)

func TestOutputHasHypersStatuses(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	tests := []struct {
		command       string
		status, again int // of the first and the second time it is asked for
		body          string
	}{
		{"echo Hi", 200, 404, "Hi\n"},
		{"cat", 200, 404, "payload"},
		{"many 1024", 200, 404, strings.Repeat("x", 1024)},
		{"many 1025", 509, 509, "the output is over the limit of 1 KB\n"},
		{"runs", 201, 201, "the call is being executed\n"},
		{"waits", 202, 202, "the call is waiting for execution\n"},
		{"fail", 500, 404, "exit code 3: no such picture\n"},
		{"slow", 504, 404, "execution timeout: the function ran longer than its timeout of 1s\n"},
		{"big", 509, 404, "the output is over the limit of 1 KB\n"},
		{"headers", 500, 404, "the environment is over 128 KB: send fewer or shorter headers\n"},
		{"gone", 500, 404, "no such image: ubuntu\n"},
		{"defect", 500, 404, "server error\n"},
		{"canceled", 500, 404, "canceled by mallory\n"},
	}
	for i, tt := range tests {
		name := fmt.Sprint("f", i)
		fn := create(t, s, name, strings.Fields(tt.command)...)
		status, answer := send(h, "PUT", "/call/"+name+"/"+fn.Address, "payload")
		if status != http.StatusOK {
			t.Errorf("%s: call %d %s", tt.command, status, answer)
			continue
		}
		output := "/output/" + name + "/" + fn.Address + "/" + idOf(t, answer)
		if status, body := send(h, "GET", output, ""); status != tt.status || body != tt.body {
			t.Errorf("%s: %d %q, want %d %q", tt.command, status, body, tt.status, tt.body)
		}
		if status, body := send(h, "GET", output, ""); status != tt.again {
			t.Errorf("%s, asked for again: %d %q, want %d", tt.command, status, body, tt.again)
		}
		if tt.command == "runs" || tt.command == "waits" {
			continue
		}
		if status, body := send(h, "POST", "/call/"+name+"/"+fn.Address+"/sync", "payload"); status != tt.status || body != tt.body {
			t.Errorf("%s, sync: %d %q, want %d %q", tt.command, status, body, tt.status, tt.body)
		}
	}
}

func TestRotatedResultIsGone(t *testing.T) {
	s := newServer(t, store.Limits{ResultsPerFunction: 4 * faas.KB})
	h := s.Handler()
	fn := create(t, s, "f", "many", "1000")
	_, first := send(h, "POST", "/call/f/"+fn.Address, "")
	for range 5 {
		send(h, "POST", "/call/f/"+fn.Address, "")
	}
	for range 2 {
		if status, body := send(h, "GET", "/output/f/"+fn.Address+"/"+idOf(t, first), ""); status != http.StatusGone || !strings.Contains(body, "expired") {
			t.Errorf("%d %q, want 410", status, body)
		}
	}
}

func TestWrongAddressesAndCallsAreNotFound(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	f, g := create(t, s, "f", "echo", "f"), create(t, s, "g", "echo", "g")
	_, answer := send(h, "POST", "/call/f/"+f.Address, "")
	id := idOf(t, answer)
	nobody := faas.NewUUID()
	for _, request := range []string{
		"POST /call/f/" + g.Address, "POST /call/f/" + nobody + "/sync", "POST /call/none/" + f.Address, "GET /call/f/" + strings.ToUpper(f.Address),
		"GET /output/f/" + g.Address + "/" + id, "GET /output/g/" + g.Address + "/" + id, "GET /output/f/" + f.Address + "/" + faas.NewID() + "/wait",
		"GET /output/f/" + f.Address + "/x", "GET /logs/f/" + g.Address, "GET /logs/g/" + g.Address + "?callid=" + id, "GET /logs/f/" + f.Address + "?callid=x",
		"GET /status/f/" + nobody, "GET /funcs/call/" + faas.NewID(), "GET /funcs/none", "PUT /funcs/none", "DELETE /funcs/none",
		"POST /call/f/" + f.Address + "/else", "GET /output/f/" + f.Address, "GET /v1.23/containers/json", "GET /images/x", "GET /images/nosuch/json",
	} {
		method, target, _ := strings.Cut(request, " ")
		if status, body := send(h, method, target, "{}"); status != http.StatusNotFound || !strings.HasSuffix(body, "\n") || strings.Contains(body, f.Address) && !strings.Contains(request, f.Address) {
			t.Errorf("%s: %d %q, want 404", request, status, body)
		}
	}
	if status, body := send(h, "GET", "/output/f/"+f.Address+"/"+id, ""); status != http.StatusOK || body != "f\n" {
		t.Errorf("the right one, afterwards: %d %q", status, body)
	}
}

func TestOtherVerbsAreRefused(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "echo", "f")
	_, answer := send(h, "GET", "/call/f/"+fn.Address, "")
	output := "/output/f/" + fn.Address + "/" + idOf(t, answer)
	for request, allow := range map[string]string{
		"PATCH /call/f/" + fn.Address: "DELETE, GET, POST, PUT", "HEAD /call/f/" + fn.Address + "/sync": "DELETE, GET, POST, PUT",
		"POST " + output: "GET", "HEAD " + output: "GET", "DELETE " + output + "/wait": "GET",
		"POST /logs/f/" + fn.Address: "GET", "POST /funcs": "GET", "POST /v1.23/funcs/f": "DELETE, GET, PUT",
	} {
		method, target, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != allow {
			t.Errorf("%s: %d, Allow %q; want 405 and %q", request, w.Code, w.Header().Get("Allow"), allow)
		}
	}
	if status, _ := send(h, "GET", output, ""); status != http.StatusOK {
		t.Errorf("after HEAD: %d: the result is not there any more", status)
	}
}

func TestPayloadOverTheLimitIsTooLarge(t *testing.T) {
	s := newServer(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	fn := create(t, s, "f", "cat")
	for _, body := range []io.Reader{strings.NewReader(strings.Repeat("x", 1025)), struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 300_000))}} {
		resp, err := server.Client().Post(server.URL+"/call/f/"+fn.Address, "", body)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(text), "limit of 1 KB") {
			t.Errorf("%d %s, want 413", resp.StatusCode, text)
		}
	}
	resp, err := server.Client().Post(server.URL+"/call/f/"+fn.Address+"/sync", "", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 1024))})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || len(text) != 1024 || resp.Header.Get("Content-Type") != "text/plain" || len(resp.Header.Get("Hob-Call")) != 26 {
		t.Errorf("a payload of the limit: %d, %d bytes, %v", resp.StatusCode, len(text), resp.Header)
	}
}

func TestHeadersReachTheFunctionByHypersRule(t *testing.T) {
	s := newServer(t)
	fn := create(t, s, "f", "header", "X-Name")
	r := httptest.NewRequest("DELETE", "/call/f/"+fn.Address+"/sync", nil)
	r.Header.Set("X-Name", "value")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Body.String() != "hyper DELETE X-Name=value\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestBusyQueueSaysSo(t *testing.T) {
	s := newServer(t)
	fn := create(t, s, "f", "full")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/call/f/"+fn.Address, nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "the queue is full") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestKeyMakesOneCall(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "echo", "f")
	call := func(key string) (int, string) {
		r := httptest.NewRequest("POST", "/call/f/"+fn.Address, nil)
		r.Header.Set("Idempotency-Key", key)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	_, first := call("k")
	if status, again := call("k"); status != http.StatusOK || again != first {
		t.Errorf("%d %s, want %s", status, again, first)
	}
	for _, bad := range []string{"a b", "ä", strings.Repeat("k", 256)} {
		if status, body := call(bad); status != http.StatusBadRequest || !strings.Contains(body, "1 to 255") {
			t.Errorf("key %.10q: %d %s", bad, status, body)
		}
	}
}

// settle ends the running call of a function.
func settle(t *testing.T, s *hyperfunc.Server, id, out string) {
	t.Helper()
	call, err := s.Calls.Call(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := call.Advance(faas.CallSucceeded, time.Now()); err != nil {
		t.Fatal(err)
	}
	body := s.Calls.NewBody()
	io.WriteString(body, out)
	if err := s.Calls.Settle(t.Context(), store.Settlement{Call: call, Result: &store.NewResult{Status: 200, Body: body}}); err != nil {
		t.Fatal(err)
	}
}

func TestWaitReturnsWhenTheCallIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		h := s.Handler()
		fn := create(t, s, "f", "runs")
		_, answer := send(h, "POST", "/call/f/"+fn.Address, "")
		id := idOf(t, answer)
		got := make(chan string)
		go func() {
			status, body := send(h, "GET", "/output/f/"+fn.Address+"/"+id+"/wait", "")
			got <- fmt.Sprint(status, " ", body)
		}()
		synctest.Wait()
		select {
		case early := <-got:
			t.Fatalf("answered while the call runs: %s", early)
		default:
		}
		settle(t, s, id, "done")
		if g := <-got; g != "200 done" {
			t.Errorf("%s, want 200 done", g)
		}
	})
}

func TestResultStaysForAClientThatLeaves(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "echo", "f")
	_, answer := send(h, "POST", "/call/f/"+fn.Address, "")
	output := "/output/f/" + fn.Address + "/" + idOf(t, answer)
	func() {
		defer func() {
			if got := recover(); got != http.ErrAbortHandler {
				t.Errorf("panic %v, want %v", got, http.ErrAbortHandler)
			}
		}()
		h.ServeHTTP(gone{httptest.NewRecorder()}, httptest.NewRequest("GET", output, nil))
	}()
	if status, body := send(h, "GET", output, ""); status != http.StatusOK || body != "f\n" {
		t.Errorf("afterwards %d %q", status, body)
	}
}

// gone is an answer that nobody reads.
type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestFunctionOfAnotherAppHasADataPlane(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "echo", "theirs").Clone()
	app, err := s.Catalog.App(faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	fn.ID, fn.App, fn.Address, fn.Annotations = faas.NewID(), app.ID, faas.NewUUID(), nil
	if fn, err = s.Catalog.PutFunction(t.Context(), fn, store.IfNew); err != nil {
		t.Fatal(err)
	}
	_, answer := send(h, "POST", "/call/f/"+fn.Address, "")
	id := idOf(t, answer)
	if status, body := send(h, "GET", "/output/f/"+fn.Address+"/"+id, ""); status != http.StatusOK || body != "theirs\n" {
		t.Errorf("%d %q", status, body)
	}
	if status, body := send(h, "GET", "/funcs/call/"+id, ""); status != http.StatusNotFound {
		t.Errorf("management shows it: %d %s", status, body)
	}
	if _, body := send(h, "GET", "/funcs", ""); strings.Contains(body, fn.Address) {
		t.Errorf("management lists it: %s", body)
	}
}

func TestStatusCountsAndLists(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "waits")
	var ids []string
	for range 3 {
		_, answer := send(h, "POST", "/call/f/"+fn.Address, "")
		ids = append(ids, idOf(t, answer))
	}
	_, _, err := s.Calls.Take(t.Context(), "me", []store.Lane{{Functions: []string{fn.ID}, Limit: 2}})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, s, ids[0], "done")
	if status, body := send(h, "GET", "/status/f/"+fn.Address, ""); status != http.StatusOK || body != `{"Total":3,"Pending":1,"Running":1,"Finished":1,"Failed":0}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	for _, yes := range []string{"1", "True", "true"} {
		_, body := send(h, "GET", "/status/f/"+fn.Address+"?list="+yes, "")
		var got struct {
			List []struct {
				CallId, Status string
				Created        time.Time
				Message        *string
			}
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.List) != 3 ||
			got.List[0].CallId != ids[2] || got.List[0].Status != "PENDING" || got.List[1].Status != "RUNNING" || got.List[2].Status != "FINISHED" || got.List[2].Message != nil {
			t.Errorf("list=%s: %s", yes, body)
		}
	}
	if status, body := send(h, "GET", "/status/f/"+fn.Address+"?list=maybe", ""); status != http.StatusBadRequest || !strings.Contains(body, `list "maybe"`) {
		t.Errorf("%d %s", status, body)
	}
}

func TestBadLogParametersAreRefused(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "echo")
	for query, want := range map[string]string{
		"tail=-1": "all", "tail=x": "all", "tail=99999999999": "all", "follow=yes": "True", "%zz": "bad query", "follow=1;tail=2": "bad query",
	} {
		if status, body := send(h, "GET", "/logs/f/"+fn.Address+"?"+query, ""); status != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	r := httptest.NewRequest("GET", "/logs/f/"+fn.Address, nil)
	r.Header.Set("Upgrade", "websocket")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "websocket") {
		t.Errorf("upgrade to websocket: %d %s", w.Code, w.Body)
	}
}

func TestLogsAreTheLastEventsOnly(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "echo", "out")
	_, answer := send(h, "POST", "/call/f/"+fn.Address, "in")
	first := idOf(t, answer)
	send(h, "POST", "/call/f/"+fn.Address, "")
	stderr := s.Logs.Writer(fn.ID, first, "stderr")
	fmt.Fprintln(stderr, "not an event")
	stderr.Close()
	for query, want := range map[string]int{"": 8, "?tail=all": 8, "?tail=3": 3, "?tail=0": 0, "?callid=" + first: 4, "?follow=0?callid=" + first + "&tail=2": 2} {
		status, body := send(h, "GET", "/logs/f/"+fn.Address+query, "")
		if n := strings.Count(body, "\n"); status != http.StatusOK || n != want || strings.Contains(body, "not an event") {
			t.Errorf("%q: %d, %d lines, want %d\n%s", query, status, n, want, body)
		}
	}
	_, body := send(h, "GET", "/logs/f/"+fn.Address+"?callid="+first, "")
	want := `{"Time":"TIME","Event":"CALL","CallId":"ID","ShortStdin":"in"}
{"Time":"TIME","Event":"PENDING","CallId":"ID"}
{"Time":"TIME","Event":"RUNNING","CallId":"ID"}
{"Time":"TIME","Event":"FINISHED","CallId":"ID","ShortStdout":"out\n"}
`
	if got := strings.ReplaceAll(moment.ReplaceAllString(body, "TIME"), first, "ID"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestLogsAreFollowedOnAnUpgradedConnection(t *testing.T) {
	s := newServer(t)
	ending := make(chan struct{})
	s.Ending = ending
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	fn := create(t, s, "f", "echo", "out")
	dial := func() (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /logs/f/%s?follow=true&tail=10 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", fn.Address)
		r := bufio.NewReader(conn)
		for _, want := range []string{"HTTP/1.1 101 UPGRADED", "Content-Type: application/vnd.docker.raw-stream", "Connection: Upgrade", "Upgrade: tcp", ""} {
			if line, err := r.ReadString('\n'); err != nil || strings.TrimSuffix(line, "\r\n") != want {
				t.Fatalf("line %q, %v; want %q", line, err, want)
			}
		}
		return conn, r
	}
	leaver, r := dial()
	_, stays := dial()
	send(s.Handler(), "POST", "/call/f/"+fn.Address, "in")
	for _, r := range []*bufio.Reader{r, stays} {
		for _, want := range []string{"CALL", "PENDING", "RUNNING", "FINISHED"} {
			if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, `"Event":"`+want+`"`) {
				t.Fatalf("line %q, %v; want %s", line, err, want)
			}
		}
	}
	leaver.Close() // its handler ends: goleak sees to that
	close(ending)
	if line, err := stays.ReadString('\n'); err != io.EOF {
		t.Errorf("after the end: %q, %v", line, err)
	}
}

func TestLogsAreFollowedUntilTheClientLeaves(t *testing.T) {
	s := newServer(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	fn := create(t, s, "f", "echo", "out")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/logs/f/"+fn.Address+"?follow=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	send(s.Handler(), "POST", "/call/f/"+fn.Address, "in")
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{"CALL", "PENDING", "RUNNING", "FINISHED"} {
		if !lines.Scan() || !strings.Contains(lines.Text(), `"Event":"`+want+`"`) {
			t.Fatalf("line %q, %v; want %s", lines.Text(), lines.Err(), want)
		}
	}
	leave() // server.Close waits for the handler
}

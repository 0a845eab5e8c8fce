package fnv2_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/core"
	"hob/internal/api/fnv2"
	"hob/internal/catalog"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// caller is what functions do. A detached call is accepted if its body can be read.
type caller func(ctx context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error

func (c caller) Call(ctx context.Context, _ faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	return c(ctx, call, req, w)
}

func (c caller) Enqueue(ctx context.Context, _ faas.Function, call *faas.Call, req *faas.Request, _ time.Duration) (faas.Call, error) {
	if err := c(ctx, call, req, nil); err != nil {
		return faas.Call{}, err
	}
	return *call, nil
}

func (caller) Live() []faas.Call { return nil }
func (caller) Find(context.Context, string) (faas.Call, error) {
	return faas.Call{}, faas.Errorf(faas.NotFound, "no call")
}

// text is a function that answers with this text.
func text(says string) caller {
	return func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		_, err := io.WriteString(w, says)
		return err
	}
}

// edge is a server with the app photos, which has a function of each format, under
// the name of that, and the triggers of http-stream that are asked for.
type edge struct {
	*testing.T
	*fnv2.Server
	url     string
	catalog *catalog.Catalog
	app     faas.App
	fn      faas.Function // of http-stream
}

func serve(t *testing.T, c caller, change func(*fnv2.Server), sources ...string) *edge {
	t.Helper()
	definitions := memory.New()
	t.Cleanup(func() { definitions.Close() })
	index, err := catalog.Load(t.Context(), definitions)
	if err != nil {
		t.Fatal(err)
	}
	n := &edge{T: t, catalog: index, Server: &fnv2.Server{Catalog: index, Caller: c, Calls: definitions, Log: slog.New(slog.DiscardHandler)}}
	n.putApp("photos", nil)
	n.app, _ = index.App("photos")
	for _, format := range faas.Formats() {
		fn, err := index.PutFunction(t.Context(), faas.Function{App: n.app.ID, Name: string(format), Image: "img", Digest: "sha256:1", Format: format}.WithDefaults(), store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		if n.trigger(fn, "/"+fn.Name); format == faas.FormatHTTPStream {
			n.fn = fn
		}
	}
	for _, source := range sources {
		n.trigger(n.fn, source)
	}
	if change != nil {
		change(n.Server)
	}
	all, hosts := n.Handler(), n.HostHandler()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Hosted(r) {
			hosts.ServeHTTP(w, r)
		} else {
			all.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	n.url = s.URL
	return n
}

func (n *edge) putApp(name string, annotations map[string]string) {
	n.Helper()
	if _, err := n.catalog.PutApp(n.Context(), faas.App{Name: name, Annotations: annotations}, store.IfNew); err != nil {
		n.Fatal(err)
	}
}

func (n *edge) trigger(fn faas.Function, source string) {
	n.Helper()
	t := faas.Trigger{App: fn.App, Function: fn.ID, Name: faas.NewID(), Type: faas.TriggerHTTP, Source: source}
	if _, err := n.catalog.PutTrigger(n.Context(), t, store.IfNew); err != nil {
		n.Fatal(err)
	}
}

// invoke is the path of the function of http-stream.
func (n *edge) invoke() string { return "/invoke/" + n.fn.ID }

// do sends a request, with headers as "Name: value", and returns the answer.
func (n *edge) do(method, path string, body io.Reader, headers ...string) (*http.Response, string) {
	n.Helper()
	req, err := http.NewRequestWithContext(n.Context(), method, n.url+path, body)
	if err != nil {
		n.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header[name] = append(req.Header[name], value)
		if name == "Host" {
			req.Host = value
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		n.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		n.Fatalf("%s %s: answer: %v", method, path, err)
	}
	return resp, string(answer)
}

// says reports an answer that is not of this status and body.
func (n *edge) says(what string, resp *http.Response, body string, status int, want string) {
	n.Helper()
	if status >= 400 {
		message, _ := json.Marshal(want)
		want = fmt.Sprintf("{\"message\":%s}\n", message)
	}
	if resp.StatusCode != status || body != want {
		n.Errorf("%s: %d %q, want %d %q", what, resp.StatusCode, body, status, want)
	}
}

// lines are headers one to a line, in order, without those of each message.
func lines(h http.Header) string {
	var all []string
	for name, values := range h {
		if slices.Contains([]string{"Accept-Encoding", "User-Agent", "Date", "Fn-Http-H-Accept-Encoding", "Fn-Http-H-User-Agent"}, name) {
			continue
		}
		for _, v := range values {
			all = append(all, name+": "+v)
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func TestInvokedFunctionSeesTheRequestAsItCame(t *testing.T) {
	var got, target string
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		body, err := io.ReadAll(req.Body)
		got, target = lines(req.Header)+"\n"+string(body), req.Method+" "+req.Target+" "+req.Caller
		w.Header().Set("Content-Type", "image/png")
		return err
	}, nil)
	resp, body := n.do("POST", n.invoke(), strings.NewReader("cat"),
		"Content-Type: text/x-cat", "Fn-Intent: httprequest", "Fn-Http-Method: GET", "X-A: 1", "X-A: 2", "Authorization: Bearer t",
		"Connection: X-Mine, keep-alive", "X-Mine: 1", "Keep-Alive: 5", "Proxy-Authorization: Basic x", "Proxy-Connection: x", "Te: deflate, trailers", "Upgrade: websocket")
	n.says("answer", resp, body, 200, "")
	want := "Authorization: Bearer t\nContent-Length: 3\nContent-Type: text/x-cat\nFn-Http-Method: GET\nFn-Intent: httprequest\nTe: trailers\nX-A: 1\nX-A: 2\ncat"
	if got != want || target != "POST / 127.0.0.1" {
		t.Errorf("the function saw\n%s\nof %s, want\n%s", got, target, want)
	}
}

func TestAnswerOfInvokeIsTheFunctions(t *testing.T) {
	var id string
	n := serve(t, func(_ context.Context, call *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		id = call.ID
		for name, value := range map[string]string{
			"Content-Type": "text/x-cat", "Fn-Fdk-Version": "fdk-go/1", "X-A": "1", "Fn-Http-Status": "404", "Fn-Http-H-X-B": "2", "Fn-Call-Id": "forged",
			"Content-Length": "7000", "Connection": "close", "Trailer": "X", "Upgrade": "x", "Hob-Start": "hot", http.TrailerPrefix + "X": "y",
		} {
			w.Header().Set(name, value)
		}
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
		w.Write([]byte("me"))
		http.NewResponseController(w).Flush()
		_, err := w.Write([]byte("ow"))
		return err
	}, nil)
	resp, body := n.do("POST", n.invoke(), nil)
	n.says("answer", resp, body, 200, "meow")
	want := "Content-Length: 4\nContent-Type: text/x-cat\nFn-Call-Id: " + id + "\nFn-Fdk-Version: fdk-go/1\nFn-Http-H-X-B: 2\nFn-Http-Status: 404\nX-A: 1"
	if got := lines(resp.Header); got != want {
		t.Errorf("header\n%s\nwant\n%s", got, want)
	}
}

func TestEveryFailureIsToldInFnsWords(t *testing.T) {
	const logs = ", please ensure you are using the latest fdk and check the logs"
	wrap := func(kind faas.Kind, is error) error {
		return fmt.Errorf("call f: %w", faas.Errorf(kind, "so it is: %w", is))
	}
	for _, tt := range []struct {
		err     error
		status  int
		message string
	}{
		{wrap(faas.Invalid, faas.ErrNeverFits), 400, "Requested CPU/Memory cannot be allocated"},
		{wrap(faas.Invalid, faas.ErrVolumes), 400, "image has Volume definition"},
		{wrap(faas.FuncFailed, faas.ErrFunction), 502, "function failed"},
		{wrap(faas.TimedOut, faas.ErrFunction), 504, "Timed out"},
		{wrap(faas.FuncFailed, faas.ErrStatus), 502, "invalid function response"},
		{wrap(faas.FuncFailed, faas.ErrBroken), 502, "error receiving function response"},
		{wrap(faas.FuncFailed, faas.ErrHeaderTooLarge), 502, "function response header too large"},
		{wrap(faas.FuncFailed, faas.ErrStartExited), 502, "Container failed to initialize" + logs},
		{wrap(faas.TimedOut, faas.ErrStartTimeout), 504, "Container initialization timed out" + logs},
		{wrap(faas.TimedOut, faas.ErrPullTimeout), 504, "Image pull timed out"},
		{faas.Errorf(faas.FuncFailed, "a link that leads out of its directory"), 502, "Container failed to initialize" + logs},
		{faas.Errorf(faas.TimedOut, "the function ran longer than its timeout of 30s"), 504, "Timed out"},
		{faas.Errorf(faas.Busy, "no slot in 30s"), 503, "Timed out - server too busy"},
		{faas.Errorf(faas.Canceled, "it was canceled on request"), 444, "it was canceled on request"},
		{faas.Errorf(faas.NotFound, "the registry has none"), 404, "image img: the registry has none"},
		{faas.Errorf(faas.NotFound, "no image img"), 404, "no image img"},
		{faas.Errorf(faas.Denied, "image img: the registry wants a password"), 403, "image img: the registry wants a password"},
		{faas.Errorf(faas.Unsupported, "not on this machine"), 501, "not on this machine"},
		{faas.Errorf(faas.Invalid, "there is no command to run"), 502, "there is no command to run"},
		{wrap(faas.TooLarge, faas.ErrEnvironment), 431, "call f: so it is: send fewer or shorter headers"},
		{errors.New("open /var/lib/hob/db: permission denied"), 500, "internal server error"},
	} {
		n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			w.Header().Set("X-A", "half an answer")
			io.WriteString(w, "half an ")
			return tt.err
		}, nil)
		for _, path := range []string{n.invoke(), "/t/photos/http-stream"} {
			resp, body := n.do("POST", path, nil)
			n.says(tt.err.Error(), resp, body, tt.status, tt.message)
			h := resp.Header
			if len(h.Get("Fn-Call-Id")) != 26 || h.Get("X-A") != "" || h.Get("Content-Type") != "application/json; charset=utf-8" || (h.Get("Retry-After") == "15") != (tt.status == 503) {
				t.Errorf("%v: header %v", tt.err, h)
			}
		}
	}
}

func TestEveryKindOfFailureIsAnswered(t *testing.T) {
	for _, kind := range faas.Kinds() {
		for _, begun := range []bool{false, true} {
			n := serve(t, func(_ context.Context, call *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
				if begun {
					call.Started = time.Now()
				}
				return faas.Errorf(kind, "that is why")
			}, nil)
			if resp, body := n.do("POST", n.invoke(), nil); resp.StatusCode < 400 || !strings.Contains(body, `{"message":"`) {
				t.Errorf("%s: %d %q", kind, resp.StatusCode, body)
			}
		}
	}
}

func TestFailureOfAFormatThatFnHasNotKeepsOurWords(t *testing.T) {
	n := serve(t, func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error {
		return faas.Errorf(faas.FuncFailed, "exit code 3: no picture")
	}, nil)
	resp, body := n.do("GET", "/t/photos/default", nil)
	n.says("default", resp, body, 502, "exit code 3: no picture")
}

func TestWhatIsNotThere(t *testing.T) {
	n := serve(t, text("x"), nil)
	for _, tt := range []struct {
		method, path string
		status       int
		message      string
	}{
		{"POST", "/invoke/01M7XY3BSTFW00008ZJ0000003", 404, "Fn not found"},
		{"POST", "/invoke/zzz", 404, "Fn not found"},
		{"POST", "/invoke/" + strings.Repeat("x", 5000), 404, "Fn not found"},
		{"POST", "/invoke/", 404, "Path not found: POST /invoke/"},
		{"GET", n.invoke(), 405, "Method not allowed: GET " + n.invoke()},
		{"GET", "/t/nope/x", 404, "App not found"},
		{"GET", "/t/photos", 404, "Trigger not found"},
		{"GET", "/t/photos/", 404, "Trigger not found"},
		{"GET", "/t/photos/nope", 404, "Trigger not found"},
		{"GET", "/t/photos/http-stream/", 404, "Trigger not found"},
		{"GET", "/t/photos//http-stream", 404, "Trigger not found"},
		{"GET", "/t/photos/x/../http-stream", 404, "Trigger not found"},
	} {
		resp, body := n.do(tt.method, tt.path, nil)
		n.says(tt.method+" "+tt.path, resp, body, tt.status, tt.message)
		if id := resp.Header.Get("Fn-Call-Id"); id != "" {
			t.Errorf("%s is call %s", tt.path, id)
		}
	}
	n.NoInvoke = true
	resp, body := n.do("POST", n.invoke(), nil)
	n.says("a node that manages only", resp, body, 404, "Path not found: POST "+n.invoke())
}

func TestAppThatIsRemovedHasNoFunctions(t *testing.T) {
	var n *edge
	n = serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		if err := n.catalog.DeleteApp(n.Context(), n.app.ID); err != nil {
			t.Error(err)
		}
		_, err := io.WriteString(w, "done")
		return err
	}, nil)
	resp, body := n.do("POST", n.invoke(), nil)
	n.says("a call that runs", resp, body, 200, "done")
	resp, body = n.do("POST", n.invoke(), nil)
	n.says("the next", resp, body, 404, "Fn not found")
}

// read is a function that reads its request and says how much that was.
func read(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	size, err := io.Copy(io.Discard, req.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return faas.Errorf(faas.TooLarge, "the payload is over the limit") // as package protocol says it
	}
	if err != nil || w == nil {
		return err
	}
	_, err = io.WriteString(w, strconv.FormatInt(size, 10))
	return err
}

func TestRequestOverTheLimit(t *testing.T) {
	n := serve(t, read, func(s *fnv2.Server) { s.MaxRequest = 1000 })
	for _, path := range []string{n.invoke(), "/t/photos/http-stream"} {
		for _, tt := range []struct {
			size    int
			unknown bool
			status  int
			says    string
		}{
			{1000, false, 200, "1000"},
			{1000, true, 200, "1000"},
			{1001, false, 413, "Content-Length too large for this server, 1001 > max 1000"},
			{1001, true, 413, "Request content too large"},
			{100 << 20, true, 413, "Request content too large"},
			{100 << 20, false, 413, "Content-Length too large for this server, 104857600 > max 1000"},
		} {
			if tt.size > 1001 && path != n.invoke() {
				continue // once is enough
			}
			body := io.Reader(bytes.NewReader(make([]byte, tt.size)))
			if tt.unknown {
				body = io.MultiReader(body) // net/http does not see how long it is
			}
			resp, answer := n.do("POST", path, body)
			n.says(fmt.Sprintf("%s with %d bytes, chunked %t", path, tt.size, tt.unknown), resp, answer, tt.status, tt.says)
			if called := resp.Header.Get("Fn-Call-Id") != ""; called != (tt.status == 200 || tt.unknown) {
				t.Errorf("%s with %d bytes, chunked %t: there is a call: %t", path, tt.size, tt.unknown, called)
			}
		}
	}
	resp, answer := n.do("POST", n.invoke(), io.MultiReader(bytes.NewReader(make([]byte, 1001))), "Fn-Invoke-Type: detached")
	n.says("detached", resp, answer, 413, "Request content too large")
	if status, _ := n.raw("POST " + n.invoke() + " HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n"); status != 413 {
		t.Errorf("a client that waits to be asked for its body: %d", status)
	}
}

func TestAnswersOfAnySizeAreWhole(t *testing.T) {
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 3 << 20} {
		want := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			_, err := io.CopyBuffer(struct{ io.Writer }{w}, strings.NewReader(want), make([]byte, 10_000))
			return err
		}, nil)
		for range 2 { // what is held is used again
			resp, body := n.do("POST", n.invoke(), nil)
			if resp.StatusCode != 200 || body != want || resp.ContentLength != int64(size) {
				t.Errorf("%d bytes: %d with %d bytes, length %d", size, resp.StatusCode, len(body), resp.ContentLength)
			}
		}
	}
}

func TestAnswersAtOnceAreNotMixed(t *testing.T) {
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		body, err := io.ReadAll(req.Body)
		w.Header().Set("Fn-Http-H-X-"+string(body[:1]), call.ID)
		for range len(body) {
			w.Write(body[:1])
		}
		if len(body)%3 == 0 {
			return faas.Errorf(faas.FuncFailed, "in the end: %w", faas.ErrFunction)
		}
		return err
	}, nil)
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for size := 1 + i; size < 100_000; size *= 3 {
				letter := string(rune('A' + i))
				req, _ := http.NewRequestWithContext(t.Context(), "POST", n.url+"/t/photos/http-stream", strings.NewReader(strings.Repeat(letter, size)))
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				id := resp.Header.Get("Fn-Call-Id")
				if size%3 == 0 {
					if string(body) != "{\"message\":\"function failed\"}\n" || resp.Header.Get("X-"+letter) != "" {
						t.Errorf("%d of %s: %.20q %v", size, letter, body, resp.Header)
					}
				} else if string(body) != strings.Repeat(letter, size) || resp.Header.Get("X-"+letter) != id || len(resp.Header) != 5 {
					t.Errorf("%d of %s: %.20q %v", size, letter, body, resp.Header)
				}
			}
		})
	}
	callers.Wait()
}

func TestAnswerOverTheLimit(t *testing.T) {
	var refused error
	for _, size := range []int{10, 11, 300 << 10} {
		n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
			if req.MaxHeader != 77 {
				t.Errorf("the header may have %v", req.MaxHeader)
			}
			_, refused = io.CopyN(struct{ io.Writer }{w}, strings.NewReader(strings.Repeat("x", size)), int64(size))
			return refused
		}, func(s *fnv2.Server) { s.MaxResponse, s.MaxResponseHeader = 10, 77 })
		resp, body := n.do("POST", n.invoke(), nil)
		if size == 10 {
			n.says("at the limit", resp, body, 200, strings.Repeat("x", 10))
			continue
		}
		n.says("over it", resp, body, 502, "function response body too large")
		if faas.KindOf(refused) != faas.TooLarge {
			t.Errorf("the call fails with %v", refused)
		}
	}
}

func TestDetachedCallIsAccepted(t *testing.T) {
	var got *faas.Call
	var failure error
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		if got = call; w != nil {
			t.Error("it was run")
		}
		io.Copy(io.Discard, req.Body)
		return failure
	}, nil)
	resp, body := n.do("POST", n.invoke(), strings.NewReader("x"), "Fn-Invoke-Type: detached")
	n.says("detached", resp, body, 202, "")
	if id := resp.Header.Get("Fn-Call-Id"); id != got.ID || got.Kind != faas.CallAsync {
		t.Errorf("call %s, want %s of kind %s", id, got.ID, got.Kind)
	}
	failure = faas.Errorf(faas.Busy, "the disk is full")
	resp, body = n.do("POST", n.invoke(), strings.NewReader("x"), "Fn-Invoke-Type: detached")
	n.says("with a full disk", resp, body, 503, "Timed out - server too busy")
	if id := resp.Header.Get("Fn-Call-Id"); id != "" {
		t.Errorf("there is call %s, which was not accepted", id)
	}
}

func TestOtherInvokeTypesWait(t *testing.T) {
	n := serve(t, text("x"), nil)
	for _, kind := range []string{"sync", "Detached", "later"} {
		resp, body := n.do("POST", n.invoke(), nil, "Fn-Invoke-Type: "+kind)
		n.says(kind, resp, body, 200, "x")
	}
	resp, body := n.do("POST", "/t/photos/http-stream", nil, "Fn-Invoke-Type: detached", "Is-Dry-Run: true")
	n.says("a trigger", resp, body, 200, "x")
}

func TestDryRunRunsNothing(t *testing.T) {
	runs := 0
	n := serve(t, func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error { runs++; return nil }, func(s *fnv2.Server) { s.MaxRequest = 10 })
	for _, tt := range []struct {
		path    string
		headers []string
		body    string
		status  int
		says    string
		runs    int
	}{
		{n.invoke(), []string{"Is-Dry-Run: true"}, "", 200, "", 0},
		{n.invoke(), []string{"Is-Dry-Run: True", "Fn-Invoke-Type: detached"}, "", 202, "", 0},
		{n.invoke(), []string{"Is-Dry-Run: true", "Idempotency-Key: a b"}, "", 400, "Invalid header Idempotency-Key: one of 1 to 255 visible ASCII characters is wanted", 0},
		{n.invoke(), []string{"Is-Dry-Run: perhaps"}, "", 400, `Invalid header Is-Dry-Run: "perhaps" is neither true nor false`, 0},
		{n.invoke(), []string{"Is-Dry-Run: true"}, "more than that", 413, "Content-Length too large for this server, 14 > max 10", 0},
		{"/invoke/zzz", []string{"Is-Dry-Run: true"}, "", 404, "Fn not found", 0},
		{n.invoke(), []string{"Is-Dry-Run: false"}, "", 200, "", 1},
	} {
		runs = 0
		resp, body := n.do("POST", tt.path, strings.NewReader(tt.body), tt.headers...)
		n.says(fmt.Sprint(tt.headers), resp, body, tt.status, tt.says)
		if runs != tt.runs {
			t.Errorf("%v: it ran %d times, want %d", tt.headers, runs, tt.runs)
		}
	}
}

func TestCallWithAKeyIsNamedByTheOneThatAnswers(t *testing.T) {
	var failure error
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		if req.Key != "k1" {
			t.Errorf("key %q", req.Key)
		}
		call.ID = "THEOTHER"
		if w != nil {
			w.Header().Set("Idempotency-Replayed", "true")
		}
		return failure
	}, nil)
	for _, path := range []string{n.invoke(), "/t/photos/http-stream"} {
		resp, _ := n.do("POST", path, nil, "Idempotency-Key: k1")
		if h := resp.Header; h.Get("Fn-Call-Id") != "THEOTHER" || h.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%s: header %v", path, h)
		}
	}
	resp, _ := n.do("POST", n.invoke(), nil, "Idempotency-Key: k1", "Fn-Invoke-Type: detached")
	if h := resp.Header; resp.StatusCode != 202 || h.Get("Fn-Call-Id") != "THEOTHER" {
		t.Errorf("detached: %d, header %v", resp.StatusCode, h)
	}
	failure = faas.Errorf(faas.Conflict, "the key was used for another request: %w", faas.ErrKeyReused)
	resp, body := n.do("POST", n.invoke(), nil, "Idempotency-Key: k1")
	n.says("another request", resp, body, 422, "the key was used for another request: use a new key for a new request")
	if id := resp.Header.Get("Fn-Call-Id"); id != "" {
		t.Errorf("there is call %s", id)
	}
	for _, bad := range [][]string{{"Idempotency-Key: a", "Idempotency-Key: b"}, {"Idempotency-Key: "}, {"Idempotency-Key: " + strings.Repeat("x", 256)}} {
		if resp, body := n.do("POST", n.invoke(), nil, bad...); resp.StatusCode != 400 {
			t.Errorf("%v: %d %s", bad, resp.StatusCode, body)
		}
	}
}

func TestAnswerIsRefusedOnceItsCallerHasLeft(t *testing.T) {
	called, refused := make(chan struct{}), make(chan error)
	n := serve(t, func(ctx context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		close(called)
		<-ctx.Done()
		_, err := io.WriteString(w, "late")
		refused <- errors.Join(err, http.NewResponseController(w).Flush())
		return faas.Errorf(faas.Canceled, "the caller went away: %w", err)
	}, nil)
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-called
		leave()
	}()
	req, _ := http.NewRequestWithContext(ctx, "POST", n.url+n.invoke(), nil)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Error("there is an answer")
	}
	if err := <-refused; !errors.Is(err, context.Canceled) {
		t.Errorf("the late answer: %v", err)
	}
}

func TestConnectionOfTheCallerStaysItsOwn(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		control := http.NewResponseController(w)
		if _, _, err := control.Hijack(); err == nil {
			t.Error("a function can have the connection")
		}
		if err := control.SetReadDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		w.Header().Set("X-A", "1")
		w.WriteHeader(http.StatusOK)
		control.SetWriteDeadline(time.Unix(1, 0)) // as the protocol breaks an answer off
		return faas.Errorf(faas.TimedOut, "the function ran longer than its timeout of 1s")
	}, nil)
	resp, body := n.do("POST", n.invoke(), nil)
	n.says("out of time in the middle", resp, body, 504, "Timed out")
}

// raw sends bytes and returns status and body of the answer.
func (n *edge) raw(request string) (int, string) {
	n.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		n.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func TestSmuggledHeaders(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		body, err := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%q %d\n%s", body, req.Size, lines(req.Header))
		return err
	}, nil)
	head := "POST " + n.invoke() + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
	for _, tt := range []struct {
		name, request string
		status        int
		says          string
	}{
		{"two lengths", head + "Content-Length: 3\r\nContent-Length: 30\r\n\r\nabcGET /", 400, ""},
		{"two lengths in one", head + "Content-Length: 3, 30\r\n\r\nabcGET /", 400, ""},
		{"the same twice", head + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 200, "\"abc\" 3\nContent-Length: 3"},
		{"chunked with a length", head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "\"hello\" -1\n"},
		{"chunked in two ways", head + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501, ""},
		{"space before the colon", head + "Content-Length : 3\r\n\r\nabc", 400, ""},
		{"a folded line", head + "Content-Length: 0\r\nX-A: 1\r\n Fn-Intent: x\r\n\r\n", 200, "\"\" 0\nContent-Length: 0\nX-A: 1 Fn-Intent: x"},
		{"a carriage return in a value", head + "X-A: 1\rFn-Intent: x\r\n\r\n", 400, ""},
		{"two hosts", head + "Host: other\r\n\r\n", 400, ""},
	} {
		status, body := n.raw(tt.request)
		if status != tt.status || tt.status == 200 && body != tt.says {
			t.Errorf("%s: %d %q, want %d %q", tt.name, status, body, tt.status, tt.says)
		}
	}
}

// blank is a ResponseWriter that costs nothing.
type blank struct{ header http.Header }

func (b *blank) Header() http.Header         { return b.header }
func (b *blank) WriteHeader(int)             {}
func (b *blank) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkCall is what the edge costs in a call, beside that of our own API.
func BenchmarkCall(b *testing.B) {
	definitions := memory.New()
	defer definitions.Close()
	index, err := catalog.Load(b.Context(), definitions)
	if err != nil {
		b.Fatal(err)
	}
	app, err := index.App(faas.DefaultApp)
	if err != nil {
		b.Fatal(err)
	}
	fn, err := index.PutFunction(b.Context(), faas.Function{App: app.ID, Name: "f", Image: "img", Format: faas.FormatHTTPStream}.WithDefaults(), store.IfNew)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := index.PutTrigger(b.Context(), faas.Trigger{App: app.ID, Function: fn.ID, Name: "t", Type: faas.TriggerHTTP, Source: "/f"}, store.IfNew); err != nil {
		b.Fatal(err)
	}
	typed, hello := []string{"text/plain"}, []byte("hello")
	does := caller(func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		h := w.Header()
		h["Content-Type"], h["Content-Length"], h["Hob-Start"] = typed, typed, typed
		w.WriteHeader(http.StatusOK)
		_, err := w.Write(hello)
		return err
	})
	fns := (&fnv2.Server{Catalog: index, Caller: does, Calls: definitions, Log: slog.New(slog.DiscardHandler)}).Handler()
	for _, edge := range []struct {
		name, path string
		handler    http.Handler
	}{
		{"core", "/api/apps/default/functions/f/call", (&core.Server{Catalog: index, Caller: does}).Handler()},
		{"invoke", "/invoke/" + fn.ID, fns},
		{"trigger", "/t/default/f", fns},
	} {
		b.Run(edge.name, func(b *testing.B) {
			b.ReportAllocs()
			header := http.Header{"Accept": {"*/*"}, "User-Agent": {"bench"}, "Content-Type": typed, "Content-Length": {"0"}, "Request-Id": {"r"}}
			for b.Loop() {
				u, err := url.ParseRequestURI(edge.path)
				if err != nil {
					b.Fatal(err)
				}
				r := &http.Request{Method: "POST", URL: u, Host: "127.0.0.1:8080", RemoteAddr: "127.0.0.1:9", Header: maps.Clone(header), Body: http.NoBody}
				edge.handler.ServeHTTP(&blank{make(http.Header)}, r)
			}
		})
	}
}

package ironv1_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hob/faas"
	"hob/internal/api/buffered"
	"hob/internal/store"
)

// caller is what functions do. A queued call is accepted if its body can be read.
type caller func(ctx context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error

func (c caller) Call(ctx context.Context, _ faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	return c(ctx, call, req, w)
}

func (c caller) Enqueue(ctx context.Context, _ faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error) {
	call.Due = call.Queued.Add(delay)
	if err := c(ctx, call, req, nil); err != nil {
		return faas.Call{}, err
	}
	return *call, nil
}

func (caller) Live() []faas.Call { return nil }
func (caller) Find(context.Context, string) (faas.Call, error) {
	return faas.Call{}, faas.Errorf(faas.NotFound, "no call")
}

// echo is a function that answers with what it reads.
func echo(_ context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	call.Started = time.Now()
	body, err := io.ReadAll(req.Body)
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return faas.Errorf(faas.TooLarge, "the payload is over the limit")
	}
	if w != nil && err == nil {
		fmt.Fprintf(w, "%s %d %s", req.Method, req.Size, body)
	}
	return err
}

// edge is a server with the app a, on a listener.
type edge struct {
	*node
	url string
	app faas.App
}

func serve(t *testing.T, c caller) *edge {
	t.Helper()
	n := &edge{node: newNode(t)}
	n.Caller = c
	var err error
	if n.app, err = n.Catalog.PutApp(t.Context(), faas.App{Name: "a"}, store.IfNew); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(n.handler)
	t.Cleanup(server.Close)
	n.url = server.URL
	return n
}

// route makes a route of this format.
func (n *edge) route(format faas.Format, t faas.Trigger) buffered.Route {
	n.t.Helper()
	fn := faas.Function{App: n.app.ID, Name: faas.NewID(), Image: "x/y:1", Format: format, Memory: 32 * faas.MB}.WithDefaults()
	fn, err := n.Catalog.PutFunction(n.t.Context(), fn, store.IfNew)
	if err != nil {
		n.t.Fatal(err)
	}
	t.App, t.Function, t.Name, t.Type, t.Convention = n.app.ID, fn.ID, faas.NewID(), faas.TriggerHTTP, faas.ConventionFn
	if t, err = n.Catalog.PutTrigger(n.t.Context(), t, store.IfNew); err != nil {
		n.t.Fatal(err)
	}
	return buffered.Route{Function: fn, Trigger: t}
}

// ask sends a request, with headers as "Name: value", and checks what is of each answer.
func (n *edge) ask(method, path string, body io.Reader, headers ...string) (*http.Response, string) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, body)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header[name] = append(req.Header[name], value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("%s %s: answer: %v", method, path, err)
	}
	id := resp.Header.Get("Fn-Call-Id")
	if len(id) != 26 || !slices.Equal(resp.Header["Fn_call_id"], []string{id}) || len(resp.Header["Fn-Call-Id"]) != 1 {
		n.t.Errorf("%s %s: call %q and %q", method, path, id, resp.Header["Fn_call_id"])
	}
	if resp.Header.Get("Content-Length") != strconv.Itoa(len(text)) && method != "HEAD" && resp.StatusCode != http.StatusNoContent {
		n.t.Errorf("%s %s: %d bytes, Content-Length %q", method, path, len(text), resp.Header["Content-Length"])
	}
	return resp, string(text)
}

// says reports an answer that is not of this status and body, or message of an error.
func (n *edge) says(what string, resp *http.Response, body string, status int, want string) {
	n.t.Helper()
	if status >= 400 {
		message, _ := json.Marshal(want)
		want = fmt.Sprintf("{\"request_id\":%q,\"error\":{\"message\":%s}}\n", resp.Header.Get("Fn-Call-Id"), message)
	}
	if resp.StatusCode != status || body != want {
		n.t.Errorf("%s: %d %q, want %d %q", what, resp.StatusCode, body, status, want)
	}
}

func TestEveryVerbHasItsBody(t *testing.T) {
	n := serve(t, echo)
	n.route(faas.FormatDefault, faas.Trigger{Source: "/h"})
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "LINK"} {
		resp, body := n.ask(method, "/r/a/h?payload=no", strings.NewReader("body"))
		n.says(method, resp, body, 200, method+" 4 body")
	}
	for _, tt := range []struct{ method, query, want string }{
		{"GET", "?payload=a%20b+c", "GET 5 a b c"}, {"GET", "?x=1&payload=y", "GET 1 y"}, {"GET", "?payload=", "GET 0 "}, {"GET", "?mypayload=x", "GET 0 "}, {"GET", "", "GET 0 "},
		{"POST", "?payload=x", "POST 0 "}, {"DELETE", "?payload=x", "DELETE 0 "}, {"GET", "?payload=a;b", "GET 0 "}, {"GET", "?payload=1&payload=2", "GET 1 1"},
	} {
		resp, body := n.ask(tt.method, "/r/a/h"+tt.query, nil)
		n.says(tt.method+tt.query, resp, body, 200, tt.want)
	}
	if resp, body := n.ask("HEAD", "/r/a/h", nil); resp.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d %q", resp.StatusCode, body)
	}
}

func TestBodyOverTheLimitIsRefused(t *testing.T) {
	n := serve(t, echo)
	n.MaxRequest = 10
	n.route(faas.FormatDefault, faas.Trigger{Source: "/h"})
	n.route(faas.FormatDefault, faas.Trigger{Source: "/later", Async: true})
	for _, path := range []string{"/r/a/h", "/r/a/later"} {
		for _, body := range []io.Reader{strings.NewReader("more than that"), io.MultiReader(strings.NewReader("more than that"))} {
			resp, text := n.ask("POST", path, body)
			n.says(path, resp, text, 413, "Request content too large")
		}
		resp, text := n.ask("GET", path+"?payload=more+than+that", nil)
		n.says("payload of "+path, resp, text, 413, "Request content too large")
	}
}

func TestFunctionIsToldOfTheRequest(t *testing.T) {
	var got faas.Request
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		got = *req
		return nil
	})
	n.route(faas.FormatHTTP, faas.Trigger{Source: "/h"})
	n.ask("PUT", "/r/a/h?a=%20", nil, "X-A: 1", "Connection: X-Hop", "X-Hop: 1", "Idempotency-Key: k")
	if got.Method != "PUT" || got.Target != "/r/a/h?a=%20" || got.URL != n.url+"/r/a/h?a=%20" || got.Route != "/h" || got.Convention != faas.ConventionFn ||
		got.Header.Get("X-A") != "1" || got.Header.Get("X-Hop") != "" || got.Key != "k" || got.Caller != "127.0.0.1" {
		t.Errorf("%+v", got)
	}
	resp, body := n.ask("PUT", "/r/a/h", nil, "Idempotency-Key: a b")
	n.says("a bad key", resp, body, 400, "Invalid header Idempotency-Key: one of 1 to 255 visible ASCII characters is wanted")
}

func TestPathLeadsToARoute(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		fmt.Fprint(w, req.Route, req.Params)
		return nil
	})
	for _, source := range []string{"/", "/h", "/h/deep", "/users/:id", "/gr öße", "/d//e"} {
		n.route(faas.FormatDefault, faas.Trigger{Source: source})
	}
	for path, want := range map[string]string{
		"/r/a": "/", "/r/a/": "/", "/r/a?x": "/", "/r/a/h": "/h", "/r/a/h/": "/h", "/r/a//h": "/h", "/r/a/%2Fh": "/h", "/r/a/x/../h": "/h", "/r/a/x/%2e%2e/h": "/h", "/r/a/./h": "/h",
		"/r/a/../../h": "/h", "/r/a/h/deep": "/h/deep", "/r/a/h%2Fdeep": "/h/deep", "/r/a/gr%20%C3%B6%C3%9Fe": "/gr öße", "/r/a/d//e": "/d//e", "/r/a/users/:id": "/users/:id",
	} {
		resp, body := n.ask("GET", path, nil)
		n.says(path, resp, body, 200, want+"map[]")
	}
	for path, want := range map[string]string{
		"/r/a/users/7": "Route not found", "/r/a/none": "Route not found", "/r/a/hh": "Route not found", "/r/b/h": "App not found", "/r/b": "App not found", "/r/A/h": "App not found",
		"/r": "Path not found: /r", "/r/": "Path not found: /r/", "/r//h": "Path not found: /r//h",
	} {
		resp, body := n.ask("GET", path, nil)
		n.says(path, resp, body, 404, want)
	}
	n.Patterns = true
	resp, body := n.ask("GET", "/r/a/users/7", nil)
	n.says("with patterns", resp, body, 200, "/users/:idmap[id:7]")
	n.NoInvoke = true
	resp, body = n.ask("GET", "/r/a/h", nil)
	n.says("a node that manages only", resp, body, 400, "Invoking routes /r/ is not supported on nodes configured as type API")
}

func TestTypeOfAnAnswerIsGivenOrFound(t *testing.T) {
	for _, tt := range []struct {
		header map[string][]string // of the function
		own    map[string][]string // of the route
		text   string
		status int
		want   string
	}{
		{nil, nil, "text", 200, "text/plain; charset=utf-8"},
		{nil, nil, "<html>", 200, "text/html; charset=utf-8"},
		{nil, nil, `{"a":1}`, 200, "application/json; charset=utf-8"},
		{nil, nil, ` {"a":1}`, 200, "text/plain; charset=utf-8"},
		{nil, nil, "{" + strings.Repeat("x", 100_000), 200, "application/json; charset=utf-8"},
		{map[string][]string{"Content-Type": {"text/x-a"}}, nil, "{}", 201, "text/x-a"},
		{nil, map[string][]string{"Content-Type": {"text/x-b"}}, "{}", 200, "text/x-b"},
		{map[string][]string{"Content-Type": {"text/x-a"}}, map[string][]string{"Content-Type": {"text/x-b"}}, "{}", 200, "text/x-a"},
		{nil, nil, "", 204, ""},
	} {
		n := serve(t, func(_ context.Context, call *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
			call.Started = time.Now()
			for name, values := range tt.header {
				w.Header()[name] = values
			}
			if len(w.Header()["Content-Type"]) == 0 && w.Header()["Content-Type"] == nil {
				w.Header().Set("Content-Type", "application/octet-stream") // as package protocol does
			}
			w.WriteHeader(tt.status)
			_, err := io.WriteString(w, tt.text)
			return err
		})
		n.route(faas.FormatHTTP, faas.Trigger{Source: "/h", Header: tt.own})
		resp, body := n.ask("GET", "/r/a/h", nil)
		n.says(tt.text[:min(9, len(tt.text))], resp, body, tt.status, tt.text)
		if got := resp.Header.Get("Content-Type"); got != tt.want {
			t.Errorf("%.20q: type %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestEveryFailureHasItsAnswer(t *testing.T) {
	wrap := func(kind faas.Kind, is error) error {
		return fmt.Errorf("call f: %w", faas.Errorf(kind, "so it is: %w", is))
	}
	noImage := func(kind faas.Kind, text string) error {
		return faas.Errorf(kind, "%w", errors.Join(faas.ErrNoImage, errors.New(text)))
	}
	exit := func(code int, signal string, oom bool) *faas.Exit {
		return &faas.Exit{Code: code, Signal: signal, OOM: oom}
	}
	for _, tt := range []struct {
		name    string
		err     error
		format  faas.Format
		exit    *faas.Exit
		ran     bool
		status  int
		message string
	}{
		{"exit code", faas.Errorf(faas.FuncFailed, "exit code 3: no such picture"), faas.FormatDefault, exit(3, "", false), true, 500, "exit code 3"},
		{"exit code of a hot one", wrap(faas.FuncFailed, faas.ErrBroken), faas.FormatHTTP, exit(4, "", false), true, 500, "exit code 4"},
		{"signal", faas.Errorf(faas.FuncFailed, "killed by SIGSEGV"), faas.FormatDefault, exit(0, "SIGSEGV", false), true, 500, "killed by SIGSEGV"},
		{"memory", faas.Errorf(faas.FuncFailed, "killed"), faas.FormatDefault, exit(0, "SIGKILL", true), true, 500, "out of memory error: the function went over its limit of 32 MB"},
		{"end without an answer", wrap(faas.FuncFailed, faas.ErrBroken), faas.FormatJSON, exit(0, "", false), true, 502,
			"invalid json response from function err: so it is: the function ended, or closed its connection, before it had answered"},
		{"no HTTP", fmt.Errorf("call f: %w", faas.Errorf(faas.FuncFailed, "%w", errors.Join(faas.ErrMalformed))), faas.FormatHTTP, exit(0, "SIGKILL", false), true, 502,
			"invalid http response from function err: the function answered with something that its format does not allow"},
		{"no JSON", faas.Errorf(faas.FuncFailed, "invalid json response from function: bad: %w", faas.ErrMalformed), faas.FormatCloudEvent, nil, true, 502,
			"invalid json response from function err: bad: the function answered with something that its format does not allow"},
		{"object too large", wrap(faas.FuncFailed, faas.ErrAnswerTooLarge), faas.FormatJSON, nil, true, 502, "function response too large"},
		{"header too large", wrap(faas.FuncFailed, faas.ErrHeaderTooLarge), faas.FormatHTTP, nil, true, 502, "function response too large"},
		{"it says so", faas.Errorf(faas.FuncFailed, "no: %w", faas.ErrFunction), faas.FormatHTTP, nil, true, 502, "no: the function says that it failed"},
		{"out of time", faas.Errorf(faas.TimedOut, "the function ran longer than its timeout of 30s"), faas.FormatDefault, exit(0, "SIGTERM", false), true, 504, "Timed out"},
		{"full line", fmt.Errorf("call f: %w", faas.Errorf(faas.Busy, "100 calls wait already, and %w", faas.ErrLineFull)), faas.FormatDefault, nil, false, 500, "The runner queue is full"},
		{"no room in time", faas.Errorf(faas.Busy, "no slot in 30s"), faas.FormatDefault, nil, false, 503, "Timed out - server too busy"},
		{"never fits", wrap(faas.Invalid, faas.ErrNeverFits), faas.FormatDefault, nil, false, 400, "Requested CPU/Memory cannot be allocated"},
		{"volumes", wrap(faas.Invalid, faas.ErrVolumes), faas.FormatDefault, nil, false, 400, "image has Volume definition"},
		{"no such image", noImage(faas.NotFound, "gone"), faas.FormatDefault, nil, false, 404, "Failed to pull image 'x/y:1': the image could not be fetched\ngone"},
		{"no login", noImage(faas.Denied, "login"), faas.FormatDefault, nil, false, 401, "Failed to pull image 'x/y:1': the image could not be fetched\nlogin"},
		{"no registry", noImage(faas.Busy, "down"), faas.FormatDefault, nil, false, 500, "Failed to pull image 'x/y:1': the image could not be fetched\ndown"},
		{"slow registry", noImage(faas.TimedOut, "slow"), faas.FormatDefault, nil, false, 500, "Failed to pull image 'x/y:1': the image could not be fetched\nslow"},
		{"large environment", wrap(faas.TooLarge, faas.ErrEnvironment), faas.FormatDefault, nil, false, 431, "call f: so it is: send fewer or shorter headers"},
		{"key of another request", faas.Errorf(faas.Conflict, "no: %w", faas.ErrKeyReused), faas.FormatDefault, nil, false, 422, "no: use a new key for a new request"},
		{"canceled", faas.Errorf(faas.Canceled, "it was canceled on request"), faas.FormatDefault, nil, true, 444, "it was canceled on request"},
		{"no payload for it", faas.Errorf(faas.Invalid, "the payload is not JSON"), faas.FormatCloudEvent, nil, true, 400, "the payload is not JSON"},
		{"a defect", errors.New("open /var/lib/hob/db: permission denied"), faas.FormatDefault, nil, true, 500, "internal server error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := serve(t, func(_ context.Context, call *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
				if tt.ran {
					call.Started = time.Now()
				}
				call.Outcome.Exit = tt.exit
				w.Header().Set("X-Half", "1")
				io.WriteString(w, "half an ")
				return tt.err
			})
			n.route(tt.format, faas.Trigger{Source: "/h", Header: map[string][]string{"X-A": {"1", "2"}, "Content-Type": {"text/x-a"}}})
			resp, body := n.ask("POST", "/r/a/h", nil)
			n.says(tt.name, resp, body, tt.status, tt.message)
			h := resp.Header
			if (h.Get("Retry-After") == "15") != (tt.status == 503) || (h.Get("XXX-FXLB-WAIT") != "") != (tt.status == 503 || tt.status == 504) ||
				slices.Equal(h["X-A"], []string{"1", "2"}) != tt.ran || h.Get("X-Half") != "" || h.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("header %v", h)
			}
			if wait := h.Get("XXX-FXLB-WAIT"); wait != "" {
				if _, err := time.ParseDuration(wait); err != nil {
					t.Errorf("the wait is %q", wait)
				}
			}
		})
	}
}

func TestEveryKindOfFailureIsAnswered(t *testing.T) {
	for _, kind := range faas.Kinds() {
		for _, async := range []bool{false, true} {
			n := serve(t, func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error {
				return faas.Errorf(kind, "that is why")
			})
			n.route(faas.FormatDefault, faas.Trigger{Source: "/h", Async: async})
			if resp, body := n.ask("POST", "/r/a/h", nil); resp.StatusCode < 400 || !strings.Contains(body, `"error":{"message":"`) {
				t.Errorf("%s: %d %q", kind, resp.StatusCode, body)
			}
		}
	}
}

func TestAnswerOverTheLimit(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		_, err := w.Write(make([]byte, 11))
		return err
	})
	n.MaxResponse = 10
	n.route(faas.FormatDefault, faas.Trigger{Source: "/h"})
	resp, body := n.ask("POST", "/r/a/h", nil)
	n.says("11 bytes", resp, body, 502, "function response too large")
}

func TestBodyThatIsBrokenIsInvalid(t *testing.T) {
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		call.Started = time.Now()
		_, err := io.ReadAll(req.Body)
		return faas.Errorf(faas.Canceled, "the caller went away: %w", err)
	})
	n.route(faas.FormatDefault, faas.Trigger{Source: "/h", Header: map[string][]string{"X-A": {"of the function"}}})
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/r/a/h", io.NopCloser(broken{}))
	n.handler.ServeHTTP(w, r)
	if w.Code != 400 || !strings.Contains(w.Body.String(), `"message":"Invalid payload"`) || w.Header().Get("X-A") != "" {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("invalid byte in chunk length") }

func TestAsyncRouteAnswersWithTheCall(t *testing.T) {
	var got *faas.Call
	var header http.Header
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
		if got, header = call, req.Header; w != nil {
			t.Error("it was run")
		}
		return nil
	})
	n.route(faas.FormatDefault, faas.Trigger{Source: "/later", Async: true, Header: map[string][]string{"X-A": {"1"}}})
	resp, body := n.ask("POST", "/r/a/later", strings.NewReader("x"), "Hob-Priority: 2", "Hob-Delay: 1m")
	n.says("async", resp, body, 202, `{"call_id":"`+resp.Header.Get("Fn-Call-Id")+"\"}\n")
	if got.Kind != faas.CallAsync || got.Priority != 2 || got.Due.Sub(got.Queued) != time.Minute || header.Get("Hob-Priority")+header.Get("Hob-Delay") != "" || resp.Header.Get("X-A") != "" {
		t.Errorf("%+v %v %v", got, header, resp.Header)
	}
	n.ask("POST", "/r/a/later", nil)
	if got.Due.Sub(got.Queued) >= 0 {
		t.Errorf("it is due %v after it came: the function's own delay counts", got.Due.Sub(got.Queued))
	}
	resp, body = n.ask("POST", "/r/a/later", nil, "Hob-Priority: 10")
	n.says("too high a priority", resp, body, 400, `header Hob-Priority is "10": it must be a whole number between 0 and 9`)
}

func TestRouteWithAKeyWantsAToken(t *testing.T) {
	n := serve(t, echo)
	n.route(faas.FormatDefault, faas.Trigger{Source: "/locked", Key: "secret"})
	n.route(faas.FormatDefault, faas.Trigger{Source: "/locked/later", Key: "secret", Async: true})
	token := func(method jwt.SigningMethod, key any, exp, nbf time.Duration) string {
		now := time.Now()
		claims := jwt.MapClaims{"iat": now.Unix(), "exp": now.Add(exp).Unix(), "nbf": now.Add(nbf).Unix()}
		signed, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return "Authorization: Bearer " + signed
	}
	good := token(jwt.SigningMethodHS256, []byte("secret"), time.Hour, -time.Minute)
	resp, body := n.ask("POST", "/r/a/locked", nil, good)
	n.says("a good token", resp, body, 200, "POST 0 ")
	if resp, body = n.ask("POST", "/r/a/locked/later", nil, good); resp.StatusCode != 202 {
		t.Errorf("async: %d %s", resp.StatusCode, body)
	}
	for name, header := range map[string]string{
		"none": "X-A: 1", "garbage": "Authorization: Bearer garbage", "another scheme": "Authorization: Basic eDp5", "another key": token(jwt.SigningMethodHS256, []byte("other"), time.Hour, 0),
		"another algorithm": token(jwt.SigningMethodHS512, []byte("secret"), time.Hour, 0), "algorithm none": token(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, time.Hour, 0),
		"expired": token(jwt.SigningMethodHS256, []byte("secret"), -time.Minute, -time.Hour), "not yet": token(jwt.SigningMethodHS256, []byte("secret"), time.Hour, time.Minute),
	} {
		for _, path := range []string{"/r/a/locked", "/r/a/locked/later"} {
			resp, body := n.ask("POST", path, strings.NewReader("x"), header)
			var said struct{ Error struct{ Message string } }
			if err := json.Unmarshal([]byte(body), &said); err != nil || resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != `Bearer realm=""` || said.Error.Message == "" || strings.Contains(body, "secret") {
				t.Errorf("%s of %s: %d %v %s", name, path, resp.StatusCode, resp.Header, body)
			}
		}
	}
}

func TestTokenOfManagementReachesNoRouteWithoutAKey(t *testing.T) {
	var got string
	n := serve(t, func(_ context.Context, call *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		got = req.Header.Get("Authorization")
		return nil
	})
	n.TokenKey = "of the node"
	n.route(faas.FormatDefault, faas.Trigger{Source: "/h"})
	n.route(faas.FormatDefault, faas.Trigger{Source: "/later", Async: true})
	n.route(faas.FormatDefault, faas.Trigger{Source: "/locked", Key: "its own"})
	bearer := func(key string) string {
		signed, err := jwt.New(jwt.SigningMethodHS256).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + signed
	}
	node, own := bearer("of the node"), bearer("its own")
	for _, tt := range []struct{ path, sent, want string }{
		{"/r/a/h", node, ""}, {"/r/a/h", own, own}, {"/r/a/h", "Basic eDp5", "Basic eDp5"}, {"/r/a/later", node, ""}, {"/r/a/locked", own, own},
	} {
		got = "not called"
		if resp, body := n.ask("POST", tt.path, nil, "Authorization: "+tt.sent); resp.StatusCode >= 400 || got != tt.want {
			t.Errorf("%s: %d %s, the function has %q, want %q", tt.path, resp.StatusCode, body, got, tt.want)
		}
	}
}

func TestRouteThatWasFoundByAHostNameIsAnsweredAlike(t *testing.T) {
	n := serve(t, echo)
	to := n.route(faas.FormatDefault, faas.Trigger{Source: "/h", Header: map[string][]string{"X-A": {"1"}}})
	w := httptest.NewRecorder()
	n.Route(w, httptest.NewRequestWithContext(t.Context(), "PUT", "/h", strings.NewReader("x")), n.app, &to)
	if h := w.Result().Header; w.Code != 200 || w.Body.String() != "PUT 1 x" || h.Get("X-A") != "1" || h.Get("Fn-Call-Id") == "" {
		t.Errorf("%d %s %v", w.Code, w.Body, h)
	}
	n.MaxRequest = 1
	w = httptest.NewRecorder()
	n.Route(w, httptest.NewRequestWithContext(t.Context(), "PUT", "/h", strings.NewReader("xx")), n.app, &to)
	if w.Code != 413 || !strings.HasPrefix(w.Body.String(), `{"request_id":"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

package fnv2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/fnv2"
)

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
			"Idempotency-Replayed": "true", "Request-Id": "forged",
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
		{wrap(faas.Busy, faas.ErrNoImage), 503, "call f: so it is: the image could not be fetched"},
		{wrap(faas.NotFound, faas.ErrNoImage), 404, "call f: so it is: the image could not be fetched"},
		{faas.Errorf(faas.Canceled, "it was canceled on request"), 444, "it was canceled on request"},
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
	failure = faas.Errorf(faas.FuncFailed, "it had failed")
	resp, _ = n.do("POST", n.invoke(), nil, "Idempotency-Key: k1")
	if h := resp.Header; resp.StatusCode != 502 || h.Get("Fn-Call-Id") != "THEOTHER" || h.Get("Idempotency-Replayed") != "true" {
		t.Errorf("a call that had failed: %d, header %v", resp.StatusCode, h)
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

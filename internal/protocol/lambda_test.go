package protocol_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/protocol"
)

// runtimeClient is what a Lambda runtime is to the Runtime API.
type runtimeClient struct {
	ctx  context.Context
	addr string
	http *http.Client
}

func newRuntime(ctx context.Context, p *process) *runtimeClient {
	return &runtimeClient{ctx, p.listener.Addr().String(), &http.Client{Transport: new(http.Transport)}}
}

// event is a call that a runtime was given.
type event struct {
	id     string
	header http.Header
	body   io.ReadCloser
}

func (e event) read() string {
	b, _ := io.ReadAll(e.body)
	e.body.Close()
	return string(b)
}

func (c *runtimeClient) send(method, path string, body io.Reader, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(c.ctx, method, "http://"+c.addr+path, body)
	if err != nil {
		panic(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return c.http.Do(req)
}

func (c *runtimeClient) next() (event, error) {
	resp, err := c.send("GET", "/2018-06-01/runtime/invocation/next", nil)
	if err != nil {
		return event{}, err
	}
	if resp.StatusCode != 200 {
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return event{}, fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return event{resp.Header.Get("Lambda-Runtime-Aws-Request-Id"), resp.Header, resp.Body}, nil
}

// post answers, and returns status and body of what it is told.
func (c *runtimeClient) post(path string, body io.Reader, headers ...string) string {
	resp, err := c.send("POST", "/2018-06-01/runtime/"+path, body, headers...)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimSpace(b))
}

func (c *runtimeClient) answer(id, body string, headers ...string) string {
	return c.post("invocation/"+id+"/response", strings.NewReader(body), headers...)
}

const accepted = `202 {"status":"OK"}`

// askForCalls is a runtime around f.
func askForCalls(ctx context.Context, p *process, f function) faas.Exit {
	c := newRuntime(ctx, p)
	defer c.http.CloseIdleConnections()
	for n := 1; ; n++ {
		e, err := c.next()
		if err != nil {
			return done
		}
		r := f(ask{n: n, call: e.id, method: "POST", header: e.header, read: func() string { return strings.TrimPrefix(e.read(), "{}") }})
		if r.wait != nil {
			<-r.wait
		}
		if r.status != 0 {
			c.answer(e.id, r.body)
		}
		if r.exit != nil || r.hang {
			return ending(ctx, r)
		}
	}
}

// runtime is a program that is one.
func runtimeProgram(run func(c *runtimeClient) faas.Exit) program {
	return func(ctx context.Context, p *process) faas.Exit {
		c := newRuntime(ctx, p)
		defer c.http.CloseIdleConnections()
		return run(c)
	}
}

// answers is a program that does the same for each call.
func answers(do func(c *runtimeClient, e event)) program {
	return runtimeProgram(func(c *runtimeClient) faas.Exit {
		for {
			e, err := c.next()
			if err != nil {
				return done
			}
			do(c, e)
		}
	})
}

func lambda(t testing.TB, do func(c *runtimeClient, e event)) protocol.Conn {
	return openProgram(t, faas.FormatLambda, answers(do))
}

func TestLambdaEventHasItsHeaders(t *testing.T) {
	seen := make(chan http.Header, 1)
	c := lambda(t, func(c *runtimeClient, e event) { seen <- e.header; c.answer(e.id, `"fine"`) })
	const root = "Root=1-463ac35c-9f6413ad48485a3953bb6124;Parent=a2fb4a1d1a96d312;Sampled="
	for _, tt := range []struct{ header, trace string }{
		{"X-Amzn-Trace-Id: Root=1-5-6;Sampled=1", "Root=1-5-6;Sampled=1"},
		{"B3: 463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1", root + "1"},
		{"B3: 463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312", root + "0"},
		{"Traceparent: 00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01", root + "1"},
		{"X-B3-Traceid: 48485a3953bb6124, X-B3-Spanid: a2fb4a1d1a96d312, X-B3-Sampled: 1", "Root=1-00000000-0000000048485a3953bb6124;Parent=a2fb4a1d1a96d312;Sampled=1"},
		{"B3: 0", ""}, {"X-B3-Traceid: ; rm -rf", ""}, {"X: y", ""},
	} {
		req := request("7")
		req.Deadline = time.UnixMilli(1234567890123)
		req.Header = http.Header{}
		for h := range strings.SplitSeq(tt.header, ", ") {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		rec := httptest.NewRecorder()
		if out, err := c.Exchange(t.Context(), req, rec); err != nil || !out.Keep || rec.Body.String() != `"fine"` || rec.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%+v, %v, %+v", out, err, rec)
		}
		h := <-seen
		if h.Get("Lambda-Runtime-Aws-Request-Id") != "c1" || h.Get("Lambda-Runtime-Deadline-Ms") != "1234567890123" || h.Get("Content-Type") != "application/json" ||
			h.Get("Lambda-Runtime-Invoked-Function-Arn") != "arn:aws:lambda:us-east-1:000000000000:function:f" || h["Lambda-Runtime-Client-Context"] != nil || h["Lambda-Runtime-Cognito-Identity"] != nil {
			t.Errorf("headers %v", h)
		}
		trace := h.Get("Lambda-Runtime-Trace-Id")
		if tt.trace != "" && trace != tt.trace || !strings.HasPrefix(trace, "Root=1-") || tt.trace == "" && (len(trace) != 74 || !strings.HasSuffix(trace, ";Sampled=0")) {
			t.Errorf("%s: trace %q, want %q", tt.header, trace, tt.trace)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLambdaStart is what a process may do instead of asking for its first call.
func TestLambdaStart(t *testing.T) {
	late := faas.Errorf(faas.TimedOut, "the function was not ready within 50ms")
	for _, tt := range []struct {
		name    string
		program program
		cancel  error
		kind    faas.Kind
		is      error
		says    string
	}{
		{name: "says that it cannot", program: runtimeProgram(func(c *runtimeClient) faas.Exit {
			c.post("init/error", strings.NewReader(`{"errorMessage":"no module app","errorType":"Runtime.ImportModuleError","stackTrace":[]}`), "Lambda-Runtime-Function-Error-Type: x")
			return faas.Exit{Code: 1}
		}), kind: faas.FuncFailed, is: faas.ErrStartExited, says: "the function could not start: no module app (Runtime.ImportModuleError)"},
		{name: "says that it cannot and goes on", program: func(ctx context.Context, p *process) faas.Exit {
			newRuntime(ctx, p).post("init/error", strings.NewReader("broken"), "Lambda-Runtime-Function-Error-Type: X.Y")
			return idle(ctx, p)
		}, kind: faas.FuncFailed, is: faas.ErrStartExited, says: "the function could not start: broken (X.Y)"},
		{name: "ends", program: func(_ context.Context, p *process) faas.Exit { p.words = "no bootstrap"; return faas.Exit{Code: 127} },
			kind: faas.FuncFailed, is: faas.ErrStartExited, says: "the function ended before it asked for its first call: exit code 127: no bootstrap"},
		{name: "never", program: idle, kind: faas.TimedOut, is: faas.ErrStartTimeout, says: "within 50ms: it has not asked http://127.0.0.1:9001 for its first call"},
		{name: "while nobody waits any more", program: idle, cancel: faas.Errorf(faas.Canceled, "the caller went away"), kind: faas.Canceled, says: "the caller went away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(func(ctx context.Context, p *process) faas.Exit { <-p.ready; return tt.program(ctx, p) })
			p.listener = listen(t)
			close(p.ready)
			defer p.Close()
			timeout := 50 * time.Millisecond
			if tt.kind == faas.FuncFailed {
				timeout = 10 * time.Second
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), timeout, late)
			defer cancel()
			if tt.cancel != nil {
				c, stop := context.WithCancelCause(t.Context())
				stop(tt.cancel)
				ctx = c
			}
			conn, err := protocol.Open(ctx, faas.Function{Format: faas.FormatLambda}, p)
			if conn != nil || faas.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("Open = %v, %v of kind %q, want %q", conn, err, faas.KindOf(err), tt.says)
			}
			if p.closed != 0 {
				t.Error("the process was closed, which is for the caller to do")
			}
		})
	}
}

// TestLambdaAnswers is the table of what a function posts for a direct call, what it
// is told, and what the caller gets.
func TestLambdaAnswers(t *testing.T) {
	const six = 6<<20 + 100
	long := strings.Repeat("x", six+1)
	chunked := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }
	for _, tt := range []struct {
		name string
		do   func(c *runtimeClient, id string) string

		told        string // to the function
		status      int
		answer      string
		contentType string
		kind        faas.Kind
		is          error
		says        string
		keep        bool
	}{
		{name: "JSON", do: func(c *runtimeClient, id string) string {
			return c.answer(id, `{"a":1}`, "Content-Type: application/json")
		},
			told: accepted, status: 200, answer: `{"a":1}`, contentType: "application/json", keep: true},
		{name: "as curl posts it", do: func(c *runtimeClient, id string) string {
			return c.answer(id, `[1]`, "Content-Type: application/x-www-form-urlencoded")
		}, told: accepted, status: 200, answer: `[1]`, contentType: "application/json", keep: true},
		{name: "an image", do: func(c *runtimeClient, id string) string { return c.answer(id, "\x00\xff", "Content-Type: image/png") },
			told: accepted, status: 200, answer: "\x00\xff", contentType: "image/png", keep: true},
		{name: "nothing", do: func(c *runtimeClient, id string) string { return c.answer(id, "") },
			told: accepted, status: 200, contentType: "application/json", keep: true},
		{name: "as long as it may be", do: func(c *runtimeClient, id string) string { return c.answer(id, long[1:]) },
			told: accepted, status: 200, answer: long[1:], contentType: "application/json", keep: true},
		{name: "a byte too long", do: func(c *runtimeClient, id string) string { return c.answer(id, long) },
			told: `413 {"errorMessage":"Exceeded maximum allowed payload size (6291556 bytes).","errorType":"RequestEntityTooLarge"}`,
			kind: faas.FuncFailed, is: faas.ErrMalformed, says: "over the limit of 6291556 bytes", keep: true},
		{name: "a byte too long in pieces", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/response", chunked(long), "Content-Type: application/json")
		}, told: `413 {"errorMessage":"Exceeded maximum`, kind: faas.FuncFailed, is: faas.ErrMalformed, says: "over the limit of 6291556 bytes", keep: true},
		{name: "in pieces without being asked", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/response", chunked(long), "Content-Type: application/octet-stream")
		}, told: accepted, status: 200, answer: long, contentType: "application/octet-stream", keep: true},
		{name: "a stream", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/response", chunked(long), "Lambda-Runtime-Function-Response-Mode: streaming", "Content-Type: text/plain")
		}, told: accepted, status: 200, answer: long, contentType: "text/plain", keep: true},
		{name: "an empty stream", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/response", chunked(""), "Lambda-Runtime-Function-Response-Mode: streaming", "Content-Type: text/plain")
		}, told: accepted, status: 200, contentType: "text/plain", keep: true},
		{name: "a stream with a head, raw", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/response", chunked("{}\x00\x00\x00\x00\x00\x00\x00\x00hi"), "Content-Type: application/vnd.awslambda.http-integration-response")
		}, told: accepted, status: 200, answer: "{}\x00\x00\x00\x00\x00\x00\x00\x00hi", contentType: "application/vnd.awslambda.http-integration-response", keep: true},
		{name: "a stream that fails before its first byte", do: func(c *runtimeClient, id string) string {
			return c.stream(id, "", "")
		}, told: accepted, kind: faas.FuncFailed, is: faas.ErrFunction, says: "it broke (Late)", keep: true},
		{name: "a stream that fails", do: func(c *runtimeClient, id string) string {
			return c.stream(id, "half", "")
		}, told: accepted, status: 200, answer: "half", contentType: "text/plain", kind: faas.FuncFailed, is: faas.ErrFunction, says: "it broke (Late)", keep: true},
		{name: "an unknown mode", do: func(c *runtimeClient, id string) string {
			first := c.answer(id, "1", "Lambda-Runtime-Function-Response-Mode: telepathy")
			c.answer(id, "2")
			return first
		}, told: `400 {"errorMessage":"Invalid function response mode: it is streaming, or is not said","errorType":"InvalidFunctionResponseMode"}`, status: 200, answer: "2", contentType: "application/json", keep: true},
		{name: "for another call", do: func(c *runtimeClient, id string) string {
			first := c.answer("c2", "evil")
			c.answer(id, "2")
			return first
		}, told: `400 {"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}`, status: 200, answer: "2", contentType: "application/json", keep: true},
		{name: "twice", do: func(c *runtimeClient, id string) string {
			c.answer(id, "1")
			return c.answer(id, "2")
		}, told: `403 {"errorMessage":"The call has an answer already","errorType":"InvalidStateTransition"}`, status: 200, answer: "1", contentType: "application/json", keep: true},
		{name: "an answer and an error", do: func(c *runtimeClient, id string) string {
			c.answer(id, "1")
			return c.post("invocation/"+id+"/error", strings.NewReader("{}"))
		}, told: `403 `, status: 200, answer: "1", contentType: "application/json", keep: true},
		{name: "an error", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/error", strings.NewReader(`{"errorMessage":"no picture","errorType":"PictureError","stackTrace":["a"]}`))
		}, told: accepted, kind: faas.FuncFailed, is: faas.ErrFunction, says: "no picture (PictureError)", keep: true},
		{name: "an error with a header alone", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/error", nil, "Lambda-Runtime-Function-Error-Type: Function.Crash")
		}, told: accepted, kind: faas.FuncFailed, is: faas.ErrFunction, says: "(Function.Crash)", keep: true},
		{name: "an error without a word", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/error", nil)
		}, told: accepted, kind: faas.FuncFailed, is: faas.ErrFunction, says: "the function said that it failed", keep: true},
		{name: "an error that is an essay", do: func(c *runtimeClient, id string) string {
			return c.post("invocation/"+id+"/error", strings.NewReader(strings.Repeat("ä", 5000)))
		}, told: accepted, kind: faas.FuncFailed, is: faas.ErrFunction, says: "ä…", keep: true},
		{name: "asks for the next call", do: func(c *runtimeClient, id string) string {
			_, err := c.next()
			c.answer(id, "1")
			return err.Error()
		}, told: `403 {"errorMessage":"The call before has no answer yet","errorType":"InvalidStateTransition"}`, status: 200, answer: "1", contentType: "application/json", keep: true},
		{name: "says that it cannot start", do: func(c *runtimeClient, id string) string {
			got := c.post("init/error", strings.NewReader("{}"))
			c.answer(id, "1")
			return got
		}, told: `403 {"errorMessage":"The function has started","errorType":"InvalidStateTransition"}`, status: 200, answer: "1", contentType: "application/json", keep: true},
		{name: "wants extensions", do: func(c *runtimeClient, id string) string {
			resp, err := c.send("POST", "/2020-01-01/extension/register", strings.NewReader(`{"events":[]}`))
			if err != nil {
				return err.Error()
			}
			resp.Body.Close()
			c.answer(id, "1")
			return resp.Status
		}, told: "403 Forbidden", status: 200, answer: "1", contentType: "application/json", keep: true},
		{name: "wants telemetry", do: func(c *runtimeClient, id string) string {
			got := c.post("../../2022-07-01/telemetry", nil)
			c.answer(id, "1")
			return got
		}, told: `404 {"errorMessage":"No such resource","errorType":"NotFound"}`, status: 200, answer: "1", contentType: "application/json", keep: true},
		{name: "less than its length", do: func(c *runtimeClient, id string) string {
			return c.raw("POST /2018-06-01/runtime/invocation/" + id + "/response HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
		}, kind: faas.FuncFailed, is: faas.ErrBroken, says: "closed its connection in the middle of its answer", keep: true},
		{name: "less than its length of a stream", do: func(c *runtimeClient, id string) string {
			return c.raw("POST /2018-06-01/runtime/invocation/" + id + "/response HTTP/1.1\r\nHost: x\r\nLambda-Runtime-Function-Response-Mode: streaming\r\nContent-Length: 10\r\n\r\nhalf")
		}, status: 200, answer: "half", contentType: "application/json", kind: faas.FuncFailed, is: faas.ErrBroken, says: "closed its connection in the middle of its answer", keep: true},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			told := make(chan string, 2)
			c := lambda(t, func(c *runtimeClient, e event) {
				if e.read() == "next" {
					c.answer(e.id, "still here")
					return
				}
				told <- tt.do(c, e.id)
			})
			rec := httptest.NewRecorder()
			out, err := c.Exchange(t.Context(), request("7"), rec)
			if got := <-told; !strings.HasPrefix(got, tt.told) {
				t.Errorf("the function was told %q, want %q", got, tt.told)
			}
			if faas.KindOf(err) != tt.kind || tt.is != nil && !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v of kind %q, want %v of kind %q: %s", err, faas.KindOf(err), tt.is, tt.kind, tt.says)
			}
			if out.Keep != tt.keep || out.Again || out.Status != tt.status {
				t.Errorf("%+v, want keep %t, status %d", out, tt.keep, tt.status)
			}
			if got := rec.Body.String(); got != tt.answer || out.Out != int64(len(got)) || rec.Header().Get("Content-Type") != tt.contentType {
				t.Errorf("answer of %d bytes %.40q, type %q, want %d bytes, %q", len(got), got, rec.Header().Get("Content-Type"), len(tt.answer), tt.contentType)
			}
			if errors.Is(err, faas.ErrFunction) && out.Status == 0 && rec.Header().Get("X-Amz-Function-Error") != "Unhandled" {
				t.Errorf("header %v", rec.Header())
			}
			rec = httptest.NewRecorder()
			if out, err := c.Exchange(t.Context(), request("next"), rec); err != nil || !out.Keep || rec.Body.String() != "still here" {
				t.Errorf("the next call: %+v, %v, %q", out, err, rec.Body)
			}
		})
	}
}

// stream posts an answer in pieces that ends with an error.
func (c *runtimeClient) stream(id, body, contentType string) string {
	req, err := http.NewRequestWithContext(c.ctx, "POST", "http://"+c.addr+"/2018-06-01/runtime/invocation/"+id+"/response", struct{ io.Reader }{strings.NewReader(body)})
	if err != nil {
		panic(err)
	}
	req.Header.Set("Lambda-Runtime-Function-Response-Mode", "streaming")
	req.Header.Set("Content-Type", cmp.Or(contentType, "text/plain"))
	req.Trailer = http.Header{"Lambda-Runtime-Function-Error-Type": {"Late"}, "Lambda-Runtime-Function-Error-Body": {"eyJlcnJvck1lc3NhZ2UiOiJpdCBicm9rZSJ9"}}
	resp, err := c.http.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimSpace(b))
}

// raw sends bytes over a connection of their own, and closes it.
func (c *runtimeClient) raw(text string) string {
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	io.WriteString(conn, text)
	return ""
}

// TestLambdaAnswerAfterItsTimeIsRefused: the call is over, and the sandbox with it.
func TestLambdaAnswerAfterItsTimeIsRefused(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	over, told := make(chan struct{}), make(chan string, 1)
	c := lambda(t, func(c *runtimeClient, e event) {
		cancel(errEnd)
		<-over
		told <- c.answer(e.id, "late")
	})
	out, err := c.Exchange(ctx, request("7"), httptest.NewRecorder())
	close(over)
	if err != errEnd || out.Keep || out.Again {
		t.Errorf("%+v, %v", out, err)
	}
	if got := <-told; got != `400 {"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}` {
		t.Errorf("told %q", got)
	}
}

func TestLambdaEventOverTheLimitIsRefused(t *testing.T) {
	c := lambda(t, func(c *runtimeClient, e event) { c.answer(e.id, fmt.Sprint(len(e.read()))) })
	for size, ok := range map[int64]bool{6<<20 + 100: true, 6<<20 + 101: false} {
		for _, known := range []bool{true, false} {
			req := request("")
			req.Body, req.Size = io.LimitReader(zeros{}, size), size
			if !known {
				req.Size = -1
			}
			rec := httptest.NewRecorder()
			out, err := c.Exchange(t.Context(), req, rec)
			if !out.Keep || ok && (err != nil || rec.Body.String() != fmt.Sprint(size)) || !ok && (faas.KindOf(err) != faas.TooLarge || !strings.Contains(err.Error(), "6 MB")) {
				t.Errorf("%d bytes: %+v, %v", size, out, err)
			}
		}
	}
	req := request(strings.Repeat("\xff", 5<<20))
	req.Route = "/x"
	if out, err := c.Exchange(t.Context(), req, httptest.NewRecorder()); !out.Keep || faas.KindOf(err) != faas.TooLarge || !strings.Contains(err.Error(), "the limit of AWS Lambda is 6291556") {
		t.Errorf("an event that is too large in base64: %+v, %v", out, err)
	}
}

// TestLambdaStreamReachesTheCallerAsItComes, and waits for one who is slow.
func TestLambdaStreamReachesTheCallerAsItComes(t *testing.T) {
	for _, triggered := range []bool{false, true} {
		release := make(chan struct{})
		conn := lambda(t, func(c *runtimeClient, e event) {
			r, w := io.Pipe()
			go func() {
				io.WriteString(w, `{"statusCode":201,"headers":{"X-A":"b","content-type":"text/event-stream"},"cookies":["k=v"]}`)
				w.Write(make([]byte, 5))
				w.Write(append(make([]byte, 3), "first"...))
				<-release
				io.WriteString(w, " last")
				w.Close()
			}()
			c.post("invocation/"+e.id+"/response", r, "Content-Type: application/vnd.awslambda.http-integration-response")
		})
		outcomes := make(chan ended, 1)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			req := request("")
			if triggered {
				req.Route = "/x"
			}
			out, err := conn.Exchange(t.Context(), req, w)
			outcomes <- ended{out, err}
		}))
		resp, err := http.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		if !triggered {
			io.ReadFull(resp.Body, make([]byte, len(`{"statusCode":201,"headers":{"X-A":"b","content-type":"text/event-stream"},"cookies":["k=v"]}`)+8))
		} else if resp.StatusCode != 201 || resp.Header.Get("X-A") != "b" || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Set-Cookie") != "k=v" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		first := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
			t.Errorf("%q, %v", first, err)
		}
		close(release)
		if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != " last" {
			t.Errorf("%q, %v", rest, err)
		}
		resp.Body.Close()
		if o := <-outcomes; o.err != nil || !o.out.Keep {
			t.Errorf("%+v", o)
		}
		srv.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestLambdaStreamHasALimit: of 200 MB, as AWS has it.
func TestLambdaStreamHasALimit(t *testing.T) {
	told := make(chan string, 1)
	c := lambda(t, func(c *runtimeClient, e event) {
		size := int64(200 << 20)
		if e.read() != "7" {
			size++
		}
		told <- c.post("invocation/"+e.id+"/response", io.LimitReader(zeros{}, size), "Lambda-Runtime-Function-Response-Mode: streaming")
	})
	for said, ok := range map[string]bool{"7": true, "8": false} {
		w := &counter{header: http.Header{}}
		out, err := c.Exchange(t.Context(), request(said), w)
		got := <-told
		if ok && (err != nil || w.n != 200<<20 || got != accepted) {
			t.Errorf("%+v, %v, told %q", out, err, got)
		}
		if !ok && (!errors.Is(err, faas.ErrMalformed) || !strings.Contains(err.Error(), "200 MB") || out.Status != 200 || !strings.HasPrefix(got, "413 ")) {
			t.Errorf("%+v, %v, told %q", out, err, got)
		}
	}
}

// TestLambdaStreamEnds with the time of its call, or its process, also while nothing
// comes.
func TestLambdaStreamEnds(t *testing.T) {
	for _, dies := range []bool{false, true} {
		ctx, cancel := context.WithCancelCause(t.Context())
		die := make(chan struct{})
		c := openProgram(t, faas.FormatLambda, runtimeProgram(func(c *runtimeClient) faas.Exit {
			e, err := c.next()
			if err != nil {
				return done
			}
			r, w := io.Pipe()
			defer w.CloseWithError(io.ErrClosedPipe)
			inner, stop := context.WithCancel(c.ctx)
			defer stop()
			go (&runtimeClient{inner, c.addr, c.http}).post("invocation/"+e.id+"/response", r, "Lambda-Runtime-Function-Response-Mode: streaming")
			io.WriteString(w, "first")
			if dies {
				<-die
				return faas.Exit{Signal: "SIGSEGV"}
			}
			<-c.ctx.Done()
			return faas.Exit{Signal: "SIGKILL"}
		}))
		w := &told{ResponseRecorder: httptest.NewRecorder(), wrote: func() {
			if dies {
				close(die)
			} else {
				cancel(errEnd)
			}
		}}
		out, err := c.Exchange(ctx, request("7"), w)
		if out.Keep || out.Status != 200 || !dies && err != errEnd || dies && (err == nil || !strings.Contains(err.Error(), "SIGSEGV")) {
			t.Errorf("dies %t: %+v, %v", dies, out, err)
		}
		cancel(nil)
	}
}

// told is a writer that tells of its first byte.
type told struct {
	*httptest.ResponseRecorder
	wrote func()
}

func (w *told) Write(p []byte) (int, error) {
	if w.wrote != nil {
		w.wrote()
		w.wrote = nil
	}
	return w.ResponseRecorder.Write(p)
}

// TestLambdaThatEndsAfterAnErrorIsNotKept: as those in Go do after a panic.
func TestLambdaThatEndsAfterAnErrorIsNotKept(t *testing.T) {
	c := openProgram(t, faas.FormatLambda, runtimeProgram(func(c *runtimeClient) faas.Exit {
		e, err := c.next()
		if err != nil {
			return done
		}
		c.post("invocation/"+e.id+"/error", strings.NewReader(`{"errorMessage":"boom","errorType":"errorString"}`))
		return faas.Exit{Code: 1}
	}))
	out, err := c.Exchange(t.Context(), request("7"), httptest.NewRecorder())
	if !errors.Is(err, faas.ErrFunction) || err.Error() != "boom (errorString)" || out.Keep || out.Exit == nil {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestLambdaThatDiesWithItsPollOpenHadNothing: the kernel says that the event was not
// read.
func TestLambdaThatDiesWithItsPollOpenHadNothing(t *testing.T) {
	c := openProgram(t, faas.FormatLambda, func(ctx context.Context, p *process) faas.Exit {
		conn, err := net.Dial("tcp", p.listener.Addr().String())
		if err != nil {
			panic(err)
		}
		defer conn.Close() // with an event in it
		defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
		io.WriteString(conn, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			panic(err)
		}
		raw.Read(func(fd uintptr) bool { // returns when something has come
			n, _ := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
			return n > 0
		})
		return faas.Exit{Code: 1}
	})
	req := request("7")
	out, err := c.Exchange(t.Context(), req, httptest.NewRecorder())
	rest, _ := io.ReadAll(req.Body)
	if !out.Again || out.Keep || faas.KindOf(err) != faas.FuncFailed || string(rest) != "7" {
		t.Errorf("%+v, %v, body %q", out, err, rest)
	}
}

// TestLambdaPollThatBreaksOffIsNotGivenACall: its client asks again.
func TestLambdaPollThatBreaksOffIsNotGivenACall(t *testing.T) {
	l := listen(t)
	leave, again := make(chan struct{}), make(chan struct{})
	p := start(func(ctx context.Context, p *process) faas.Exit {
		<-p.ready
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			panic(err)
		}
		io.WriteString(conn, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
		<-leave
		conn.Close()
		<-again
		return answers(func(c *runtimeClient, e event) { c.answer(e.id, "fine") })(ctx, p)
	})
	watched := &watchedListener{l, make(chan struct{}, 10)}
	p.listener = watched
	close(p.ready)
	c, err := protocol.Open(t.Context(), faas.Function{Format: faas.FormatLambda}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	close(leave)
	<-watched.closed
	close(again)
	if out, err := c.Exchange(t.Context(), request("7"), httptest.NewRecorder()); err != nil || !out.Keep {
		t.Errorf("%+v, %v", out, err)
	}
}

// watchedListener tells when a connection was closed on our side.
type watchedListener struct {
	net.Listener
	closed chan struct{}
}

func (l *watchedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return watchedConn{conn, l.closed}, err
}

type watchedConn struct {
	net.Conn
	closed chan struct{}
}

func (c watchedConn) Close() error {
	c.closed <- struct{}{}
	return c.Conn.Close()
}

// TestLambdaTrigger is the table of events of HTTP requests and their answers.
func TestLambdaTrigger(t *testing.T) {
	for _, tt := range []struct {
		name, answer, contentType string
		status                    int
		header                    http.Header
		body                      string
		is                        error
		says                      string
	}{
		{name: "whole", answer: `{"statusCode":404,"headers":{"x-a":"b","Content-Type":"text/plain","Connection":"close","Hob-Start":"x","X-N":7,"Bad Name":"x","X-Bad":"a\nb"},"cookies":["a=1; Path=/","b=2"],"body":"not here"}`,
			status: 404, header: http.Header{"X-A": {"b"}, "Content-Type": {"text/plain"}, "Set-Cookie": {"a=1; Path=/", "b=2"}, "X-N": {"7"}, "Connection": nil, "Hob-Start": nil, "Bad Name": nil, "X-Bad": nil, "X-Amz-Function-Error": nil}, body: "not here"},
		{name: "several values", answer: `{"statusCode":"200","headers":{"X-A":"1"},"multiValueHeaders":{"X-A":["1","2"]}}`,
			status: 200, header: http.Header{"X-A": {"1", "2"}, "Content-Type": {"application/json"}}},
		{name: "base64", answer: `{"statusCode":200,"isBase64Encoded":true,"headers":{"content-type":"image/png"},"body":"AP8="}`, status: 200, body: "\x00\xff"},
		{name: "no content", answer: `{"statusCode":204}`, status: 204},
		{name: "nulls", answer: `{"statusCode":200,"headers":null,"body":null,"cookies":null,"isBase64Encoded":null}`, status: 200},
		{name: "an object", answer: `{"a":1}`, status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: `{"a":1}`},
		{name: "a string", answer: `"hi"`, status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: `"hi"`},
		{name: "an image", answer: "\xff", contentType: "image/png", status: 200, header: http.Header{"Content-Type": {"image/png"}}, body: "\xff"},
		{name: "no JSON", answer: "hi", is: faas.ErrMalformed, says: `something that is not JSON: "hi"`},
		{name: "nothing", answer: "", is: faas.ErrMalformed, says: "not JSON"},
		{name: "a status that is none", answer: `{"statusCode":42}`, is: faas.ErrMalformed, says: "statusCode 42, which is not between 200 and 599"},
		{name: "a status that is a word", answer: `{"statusCode":"fine"}`, is: faas.ErrMalformed, says: `statusCode "fine"`},
		{name: "a body that is an object", answer: `{"statusCode":200,"body":{}}`, is: faas.ErrMalformed, says: "the body of the function's answer is not a string"},
		{name: "a body that is not base64", answer: `{"statusCode":200,"isBase64Encoded":true,"body":"?"}`, is: faas.ErrMalformed, says: "not base64"},
		{name: "headers that are none", answer: `{"statusCode":200,"headers":[]}`, is: faas.ErrMalformed, says: "headers of the function's answer"},
		{name: "base64 that is a word", answer: `{"statusCode":200,"isBase64Encoded":"yes"}`, is: faas.ErrMalformed, says: "neither true nor false"},
		{name: "a stream without a head", answer: "{}", contentType: "application/vnd.awslambda.http-integration-response", is: faas.ErrMalformed, says: "ends before the end of its head"},
		{name: "a stream with an endless head", answer: strings.Repeat("x", 65<<10), contentType: "application/vnd.awslambda.http-integration-response", is: faas.ErrMalformed, says: "no end of its head, 8 zero bytes, in its first 64 KB"},
		{name: "a stream with a broken head", answer: "x\x00\x00\x00\x00\x00\x00\x00\x00", contentType: "application/vnd.awslambda.http-integration-response", is: faas.ErrMalformed, says: "the head of the function's answer is not a JSON object"},
		{name: "a stream with nothing behind its head", answer: "{}\x00\x00\x00\x00\x00\x00\x00\x00", contentType: "application/vnd.awslambda.http-integration-response", status: 200, header: http.Header{"Content-Type": {"application/octet-stream"}}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			c := lambda(t, func(c *runtimeClient, e event) { c.answer(e.id, tt.answer, "Content-Type: "+tt.contentType) })
			req := request("7")
			req.Route, req.Target, req.URL = "/x", "/x", "http://h/x"
			rec := httptest.NewRecorder()
			out, err := c.Exchange(t.Context(), req, rec)
			if !out.Keep || !errors.Is(err, tt.is) || tt.is != nil && (!strings.Contains(err.Error(), tt.says) || faas.KindOf(err) != faas.FuncFailed) {
				t.Errorf("%+v, %v, want %v: %s", out, err, tt.is, tt.says)
			}
			if tt.is == nil && (rec.Code != tt.status || out.Status != tt.status || rec.Body.String() != tt.body) {
				t.Errorf("status %d, %q, want %d, %q", rec.Code, rec.Body, tt.status, tt.body)
			}
			for name, want := range tt.header {
				if got := rec.Header()[name]; !slices.Equal(got, want) {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestLambdaEventOfAnHTTPRequest(t *testing.T) {
	c := lambda(t, func(c *runtimeClient, e event) {
		b, _ := json.Marshal(map[string]any{"statusCode": 200, "body": e.read()})
		c.answer(e.id, string(b))
	})
	req := request("a b")
	req.Method, req.URL, req.Route, req.Target = "PUT", "https://shop.example:8443/t/shop/pets/7?q=1&q=%20&r", "/pets/:id", "/pets/7?q=1&q=%20&r"
	req.Params, req.Caller = map[string]string{"id": "7"}, "192.0.2.1"
	req.Header = http.Header{"User-Agent": {"curl/8"}, "Cookie": {"a=1; b=2", "c=3"}, "X-Two": {"1", "2"}, "Content-Type": {"text/plain"}, "Connection": {"X-Hop"}, "X-Hop": {"1"},
		"X-Forwarded-For": {"198.51.100.7"}, "X-Amzn-Trace-Id": {"Root=1-2-3"}, "Fn-Call-Id": {"fake"}}
	rec := httptest.NewRecorder()
	if _, err := c.Exchange(t.Context(), req, rec); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	about := got["requestContext"].(map[string]any)
	at, err := time.Parse("02/Jan/2006:15:04:05 -0700", about["time"].(string))
	if epoch := time.UnixMilli(int64(about["timeEpoch"].(float64))); err != nil || at.Unix() != epoch.Unix() || time.Since(epoch) > time.Hour {
		t.Errorf("time %v, %v", about["time"], about["timeEpoch"])
	}
	delete(about, "time")
	delete(about, "timeEpoch")
	want := `{"body":"a b","cookies":["a=1","b=2","c=3"],"headers":{"content-length":"3","content-type":"text/plain","host":"shop.example:8443","user-agent":"curl/8",` +
		`"x-amzn-trace-id":"Root=1-2-3","x-forwarded-for":"198.51.100.7, 192.0.2.1","x-forwarded-port":"8443","x-forwarded-proto":"https","x-two":"1,2"},"isBase64Encoded":false,` +
		`"pathParameters":{"id":"7"},"queryStringParameters":{"q":"1, ","r":""},"rawPath":"/pets/7","rawQueryString":"q=1&q=%20&r",` +
		`"requestContext":{"accountId":"anonymous","apiId":"shop","domainName":"shop.example","domainPrefix":"shop","http":{"method":"PUT","path":"/pets/7","protocol":"HTTP/1.1","sourceIp":"192.0.2.1","userAgent":"curl/8"},` +
		`"requestId":"c1","routeKey":"$default","stage":"$default"},"routeKey":"$default","version":"2.0"}`
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(got)
	if strings.TrimSpace(b.String()) != want {
		t.Errorf("event %s\nwant  %s", b.String(), want)
	}
	for _, tt := range []struct{ contentType, encoding, body, want string }{
		{"application/json; charset=utf-8", "", `{}`, `{}`},
		{"application/problem+json", "", `{}`, `{}`},
		{"application/x-www-form-urlencoded", "", "a=b", "YT1i"}, // as AWS does
		{"", "", "a", "YQ=="},
		{"text/plain", "", "\xff", "/w=="},
		{"text/plain", "gzip", "a", "YQ=="},
	} {
		req := request(tt.body)
		req.Route, req.Header = "/x", http.Header{"Content-Type": {tt.contentType}, "Content-Encoding": {tt.encoding}}
		rec := httptest.NewRecorder()
		var got struct {
			Body            string
			IsBase64Encoded bool
		}
		if _, err := c.Exchange(t.Context(), req, rec); err != nil || json.Unmarshal(rec.Body.Bytes(), &got) != nil || got.Body != tt.want || got.IsBase64Encoded != (tt.body != tt.want) {
			t.Errorf("%+v: %+v, %v", tt, got, err)
		}
	}
}

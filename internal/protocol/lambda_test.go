package protocol_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
	late := faas.Errorf(faas.TimedOut, "the function was not ready within 500ms")
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
		{name: "never", program: idle, kind: faas.TimedOut, is: faas.ErrStartTimeout, says: "within 500ms: it has not asked http://127.0.0.1:9001 for its first call"},
		{name: "while nobody waits any more", program: idle, cancel: faas.Errorf(faas.Canceled, "the caller went away"), kind: faas.Canceled, says: "the caller went away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(func(ctx context.Context, p *process) faas.Exit { <-p.ready; return tt.program(ctx, p) })
			p.listener = listen(t)
			close(p.ready)
			defer p.Close()
			timeout := 500 * time.Millisecond
			if tt.kind == faas.FuncFailed {
				timeout = time.Minute
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
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn) // until the other side has seen it: the next request must not come before
	return ""
}

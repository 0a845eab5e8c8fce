package protocol_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/protocol"
)

// within runs f, which must not take for ever.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s has not returned", what)
	}
}

// bodiedPoll asks for a call with a body that does not come, and returns the status
// it is told.
func bodiedPoll(ctx context.Context, p *process, framing string) (status string) {
	conn, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil { // it is over
		return err.Error()
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	io.WriteString(conn, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n"+framing+"\r\n\r\n")
	status, _ = bufio.NewReader(conn).ReadString('\n')
	return status
}

// TestLambdaPollWithABodyIsRefused: the end of its connection would not be seen before
// that of the body.
func TestLambdaPollWithABodyIsRefused(t *testing.T) {
	for _, framing := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
		told := make(chan string, 1)
		c := openProgram(t, faas.FormatLambda, func(ctx context.Context, p *process) faas.Exit {
			r := newRuntime(ctx, p)
			defer r.http.CloseIdleConnections()
			e, err := r.next()
			if err != nil {
				return done
			}
			r.answer(e.id, "fine")
			told <- bodiedPoll(ctx, p, framing)
			<-ctx.Done()
			return done
		})
		if out, err := c.Exchange(t.Context(), request("7"), httptest.NewRecorder()); err != nil || !out.Keep {
			t.Errorf("%+v, %v", out, err)
		}
		select {
		case got := <-told:
			if got != "HTTP/1.1 400 Bad Request\r\n" {
				t.Errorf("told %q", got)
			}
		case <-time.After(20 * time.Second):
			t.Error("told nothing")
		}
	} // c.Close is waited for
}

// TestLambdaThatSaysItFailedAndPollsWithABody has not started, and nothing of it is
// left.
func TestLambdaThatSaysItFailedAndPollsWithABody(t *testing.T) {
	p := start(func(ctx context.Context, p *process) faas.Exit {
		<-p.ready
		r := newRuntime(ctx, p)
		defer r.http.CloseIdleConnections()
		go bodiedPoll(ctx, p, "Content-Length: 5")
		r.post("init/error", strings.NewReader(`{"errorMessage":"no","errorType":"E"}`))
		bodiedPoll(ctx, p, "Content-Length: 5")
		<-ctx.Done()
		return done
	})
	p.listener = listen(t)
	close(p.ready)
	within(t, "Open", func() {
		if _, err := protocol.Open(t.Context(), faas.Function{Format: faas.FormatLambda}, p); !errors.Is(err, faas.ErrStartExited) {
			t.Errorf("open: %v", err)
		}
	})
	within(t, "Close", func() { p.Close() })
}

// triggered is a request that came through a trigger.
func triggered(body string) *faas.Request {
	req := request(body)
	req.Route, req.Target, req.URL = "/x", "/x", "http://h/x"
	return req
}

// TestLambdaHeaderOverItsLimitIsRefused, whatever it is made of, and before it costs
// the node memory.
func TestLambdaHeaderOverItsLimitIsRefused(t *testing.T) {
	const stream = "application/vnd.awslambda.http-integration-response"
	many := func(one string, size int) string { return strings.Repeat(one+",", size/(len(one)+1)) + one }
	for _, tt := range []struct {
		name, answer, contentType string
		most                      faas.Bytes
		limit                     string // "": it is an answer
	}{
		{name: "header", answer: `{"statusCode":200,"headers":{"a":"` + strings.Repeat("x", 4000) + `","b":"` + strings.Repeat("x", 200) + `"}}`, most: 4 * faas.KB, limit: "4 KB"},
		{name: "header that fits", answer: `{"statusCode":200,"headers":{"a":"` + strings.Repeat("x", 4000) + `"}}`, most: 4 * faas.KB},
		{name: "cookies", answer: `{"statusCode":200,"cookies":[` + many(`"a=b"`, 4000) + `]}`, most: 4 * faas.KB, limit: "4 KB"},
		{name: "values", answer: `{"statusCode":200,"multiValueHeaders":{"a":[` + many(`"x"`, 5000) + `]}}`, most: 4 * faas.KB, limit: "4 KB"},
		{name: "the format's own", answer: `{"statusCode":200,"headers":{"a":"` + strings.Repeat("x", 300<<10) + `"}}`, limit: "256 KB"},
		{name: "a limit above the format's own", answer: `{"statusCode":200,"headers":{"a":"` + strings.Repeat("x", 300<<10) + `"}}`, most: faas.MB, limit: "256 KB"},
		{name: "head of a stream", answer: `{"headers":{"a":"` + strings.Repeat("x", 5000) + `"}}` + "\x00\x00\x00\x00\x00\x00\x00\x00body", contentType: stream, most: 4 * faas.KB, limit: "4 KB"},
		{name: "type", answer: "hi", contentType: "image/" + strings.Repeat("x", 5000), most: 4 * faas.KB, limit: "4 KB"},
		{name: "objects for values", answer: `{"statusCode":200,"headers":{"a":[` + many("{}", 6_000_000) + `]}}`, limit: "256 KB"},
		{name: "empty values", answer: `{"statusCode":200,"multiValueHeaders":{"a":[` + many(`""`, 6_000_000) + `]}}`, limit: "256 KB"},
		{name: "empty cookies", answer: `{"statusCode":200,"cookies":[` + many(`""`, 6_000_000) + `]}`, limit: "256 KB"},
		{name: "keys that nobody knows", answer: `{"statusCode":200,` + many(`"":{}`, 6_000_000) + `}`},
		{name: "values that nobody knows", answer: `{"statusCode":200,"x":[` + many(`{}`, 6_000_000) + `]}`},
		{name: "objects in a small header", answer: `{"statusCode":200,"headers":{"a":[` + many("{}", 250_000) + `]}}`},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			c := lambda(t, func(c *runtimeClient, e event) { c.answer(e.id, tt.answer, "Content-Type: "+tt.contentType) })
			req := triggered("7")
			req.MaxHeader = tt.most
			rec := httptest.NewRecorder()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			out, err := c.Exchange(t.Context(), req, rec)
			runtime.ReadMemStats(&after)
			if !out.Keep {
				t.Errorf("not kept: %+v", out)
			}
			if tt.limit == "" && (err != nil || rec.Code != 200) {
				t.Errorf("%d, %v", rec.Code, err)
			}
			if tt.limit != "" && (!errors.Is(err, faas.ErrHeaderTooLarge) || faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "more than "+tt.limit)) {
				t.Errorf("%v, want %s", err, tt.limit)
			}
			// Of the 6 MB some copies are made, also in the function of this test.
			if n := after.TotalAlloc - before.TotalAlloc; n > 48<<20 {
				t.Errorf("it took %v", faas.Bytes(n))
			}
		})
	}
}

// TestLambdaAnswerIsKnownByExactNames: as AWS does. An answer of the SDK of AWS has
// almost the same.
func TestLambdaAnswerIsKnownByExactNames(t *testing.T) {
	for _, answer := range []string{`{"StatusCode":500,"Body":"x"}`, `{"STATUSCODE":500}`, `{"statuscode":"x"}`} {
		c := lambda(t, func(c *runtimeClient, e event) { c.answer(e.id, answer) })
		rec := httptest.NewRecorder()
		if out, err := c.Exchange(t.Context(), triggered("7"), rec); err != nil || !out.Keep || rec.Code != 200 || rec.Body.String() != answer {
			t.Errorf("%s: %+v, %v, %d %q", answer, out, err, rec.Code, rec.Body)
		}
	}
	c := lambda(t, func(c *runtimeClient, e event) {
		c.answer(e.id, `{"statusCode":201,"StatusCode":500,"Headers":{"X-A":"no"},"headers":{"X-A":"yes"},"body":"yes","BODY":"no","Cookies":["a=b"]}`)
	})
	rec := httptest.NewRecorder()
	if out, err := c.Exchange(t.Context(), triggered("7"), rec); err != nil || !out.Keep || rec.Code != 201 || rec.Body.String() != "yes" || rec.Header().Get("X-A") != "yes" || rec.Header().Get("Set-Cookie") != "" {
		t.Errorf("%+v, %v, %d %v %q", out, err, rec.Code, rec.Header(), rec.Body)
	}
}

// TestLambdaEventHasTextAsItIs: what HTML is made of takes no more room in the event.
func TestLambdaEventHasTextAsItIs(t *testing.T) {
	said := strings.Repeat("<&>", 1<<20)
	c := lambda(t, func(c *runtimeClient, e event) {
		text := e.read()
		c.answer(e.id, fmt.Sprint(strings.Contains(text, said), strings.HasSuffix(text, "}")), "Content-Type: text/plain")
	})
	req := triggered(said)
	req.Header = map[string][]string{"Content-Type": {"text/html"}}
	rec := httptest.NewRecorder()
	if out, err := c.Exchange(t.Context(), req, rec); err != nil || !out.Keep || rec.Body.String() != "true true" {
		t.Errorf("%+v, %v, %q", out, err, rec.Body)
	}
}

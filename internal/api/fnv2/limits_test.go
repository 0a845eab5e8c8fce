package fnv2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/api/fnv2"
	"hob/internal/store"
)

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

// filed are calls whose bodies are files in a directory, if they are large.
type filed struct {
	store.Calls
	dir string
}

func (f filed) NewBody() *store.Body { return store.NewBody(f.dir) }

func TestLargeAnswerIsNotHeldInMemory(t *testing.T) {
	dir := t.TempDir()
	n := serve(t, func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		for i, size := range []int{64 << 10, 1} {
			if _, err := w.Write(make([]byte, size)); err != nil {
				return err
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != i {
				t.Errorf("%d files, %v, want %d", len(files), err, i)
			}
		}
		return nil
	}, func(s *fnv2.Server) { s.Calls = filed{s.Calls, dir} })
	resp, body := n.do("POST", n.invoke(), nil)
	if resp.StatusCode != 200 || len(body) != 64<<10+1 {
		t.Errorf("%d, %d bytes", resp.StatusCode, len(body))
	}
}

// patience is a writer that notes how long the client may take.
type patience struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (p *patience) SetWriteDeadline(t time.Time) error { p.until = t; return nil }

// TestNobodyHasForeverToReadAnAnswer: one of a call that is small finds room in the
// kernel, and waits for nobody.
func TestNobodyHasForeverToReadAnAnswer(t *testing.T) {
	n := serve(t, text(strings.Repeat("x", 17<<10)), nil)
	for _, path := range []string{"POST " + n.invoke(), "GET /t/photos/http-stream", "POST /invoke/nope", "GET /nope", "GET /v2/apps", "POST /v2/apps", "PUT " + n.invoke()} {
		method, path, _ := strings.Cut(path, " ")
		for _, limited := range []time.Duration{0, time.Second} { // the latter by the server itself
			w := &patience{ResponseRecorder: httptest.NewRecorder()}
			ctx := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{WriteTimeout: limited})
			n.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, nil))
			if left := time.Until(w.until); limited == 0 && (left <= 0 || left > 5*time.Minute) || limited > 0 && !w.until.IsZero() {
				t.Errorf("%s %s: with a limit of %v the client has until %v", method, path, limited, w.until)
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

func TestAnswerThatComesBeforeALargeBodyIsHeard(t *testing.T) {
	failure := faas.Errorf(faas.Busy, "no room")
	n := serve(t, func(context.Context, *faas.Call, *faas.Request, http.ResponseWriter) error { return failure }, nil)
	body := strings.Repeat("x", 8<<20) // more than sockets hold
	for _, tt := range []struct {
		method, path, header string
		status               int
	}{
		{"POST", "/invoke/nope", "", 404}, {"PUT", n.invoke(), "", 405}, {"POST", "/t/photos/nope", "", 404}, {"POST", "/t/nope/x", "", 404}, {"POST", "/nope", "", 404},
		{"POST", n.invoke(), "Is-Dry-Run: true\r\n", 200}, {"POST", n.invoke(), "Is-Dry-Run: zz\r\n", 400}, {"POST", n.invoke(), "Idempotency-Key: a b\r\n", 400},
		{"POST", n.invoke(), "", 503}, {"POST", n.invoke(), "Fn-Invoke-Type: detached\r\n", 503}, {"POST", "/v2/apps", "", 413}, {"DELETE", "/v2/apps/nope", "", 404},
	} {
		for _, framed := range []string{fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body), fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)} {
			if status, _ := n.raw(tt.method + " " + tt.path + " HTTP/1.1\r\nHost: h\r\n" + tt.header + framed); status != tt.status {
				t.Errorf("%s %s %s: %d, want %d", tt.method, tt.path, tt.header, status, tt.status)
			}
		}
		if status, _ := n.raw(tt.method + " " + tt.path + " HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9000000\r\n" + tt.header + "\r\n"); status != tt.status && status != 100 {
			t.Errorf("%s %s %s, waiting to be asked: %d, want %d", tt.method, tt.path, tt.header, status, tt.status)
		}
	}
}

// pipes is a listener of one connection.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestClientThatRestsInItsBodyIsAnswered: net/http reads the rest of a small body
// before it answers.
func TestClientThatRestsInItsBodyIsAnswered(t *testing.T) {
	n := serve(t, func(_ context.Context, call *faas.Call, _ *faas.Request, _ http.ResponseWriter) error {
		call.Started = time.Now()
		return nil
	}, nil)
	for path, want := range map[string]string{n.invoke(): "200", "/t/photos/nope": "404", "/invoke/nope": "404", "/nope": "404", "/v2/nope": "404"} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			listener := pipes(make(chan net.Conn, 1))
			listener <- theirs
			server := &http.Server{Handler: n.Handler()}
			var serving sync.WaitGroup
			serving.Go(func() { server.Serve(listener) })
			begun := time.Now()
			io.WriteString(ours, "POST "+path+" HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
			answer, err := io.ReadAll(ours)
			if took := time.Since(begun); !strings.HasPrefix(string(answer), "HTTP/1.1 "+want) || took > 15*time.Second {
				t.Errorf("%s: %.20q, %v after %v", path, answer, err, took)
			}
			close(listener)
			server.Close()
			serving.Wait()
		})
	}
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

func TestMalformedChunksAreTold(t *testing.T) {
	n := serve(t, func(_ context.Context, _ *faas.Call, req *faas.Request, _ http.ResponseWriter) error {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return faas.Errorf(faas.Canceled, "the caller went away: %w", err) // as package protocol says it
		}
		return nil
	}, nil)
	for chunks, want := range map[string]string{
		"zz\r\n": "invalid byte in chunk length", "3\r\nabcd\r\n0\r\n\r\n": "malformed chunked encoding", "fffffffffffffffff\r\n": "http chunk length too large",
	} {
		for _, header := range []string{"", "Fn-Invoke-Type: detached\r\n", "Idempotency-Key: k\r\n"} {
			status, body := n.raw("POST " + n.invoke() + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + header + "\r\n" + chunks)
			if status != 400 || body != `{"message":"Invalid request body: `+want+"\"}\n" {
				t.Errorf("%q %s: %d %q", chunks, header, status, body)
			}
		}
	}
}

package protocol_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/protocol"
)

// listenIn is a program that serves HTTP with net/http in either format that
// listens.
func listenIn(format faas.Format, h http.Handler) program {
	return func(ctx context.Context, p *process) faas.Exit {
		l := p.listener
		if format == faas.FormatHTTPStream {
			var err error
			if l, err = net.Listen("unix", filepath.Join(p.dir, protocol.Listener)); err != nil {
				panic(err)
			}
		}
		srv := &http.Server{Handler: h}
		defer context.AfterFunc(ctx, func() { srv.Close() })()
		srv.Serve(l)
		return faas.Exit{Signal: "SIGKILL"}
	}
}

// hotEdge serves calls of one Conn over HTTP. inflight counts them.
func hotEdge(t *testing.T, c protocol.Conn) (url string, outcomes <-chan ended) {
	t.Helper()
	results := make(chan ended, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := &faas.Request{Call: "c1", Method: r.Method, Target: r.URL.RequestURI(), URL: "http://" + r.Host + r.URL.RequestURI(), Header: r.Header, Body: r.Body, Size: r.ContentLength, Caller: "192.0.2.1"}
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(r.Context()), 20*time.Second, errEnd)
		defer cancel()
		out, err := c.Exchange(ctx, req, w)
		results <- ended{out, err}
		switch {
		case err == nil:
		case out.Status != 0:
			panic(http.ErrAbortHandler)
		default:
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	}))
	srv.Config.ErrorLog = nil
	t.Cleanup(srv.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return srv.URL, results
}

type ended struct {
	out faas.Outcome
	err error
}

// pipeProgram reads requests with net/http and gives each to serve, which writes
// the raw answer.
func pipeProgram(serve func(n int, req *http.Request, out *os.File)) program {
	return func(_ context.Context, p *process) faas.Exit {
		in := bufio.NewReader(p.in)
		for n := 1; ; n++ {
			req, err := http.ReadRequest(in)
			if err != nil {
				return faas.Exit{}
			}
			serve(n, req, p.out)
			io.Copy(io.Discard, req.Body)
		}
	}
}

func TestFirstByteOfAHotAnswerIsNotHeld(t *testing.T) {
	for _, framing := range []string{"Content-Length: 10\r\n\r\nfirst", "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"} {
		release := make(chan struct{})
		c := openProgram(t, faas.FormatHTTP, pipeProgram(func(_ int, _ *http.Request, out *os.File) {
			io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"+framing)
			<-release
			if strings.HasPrefix(framing, "C") {
				io.WriteString(out, " last")
			} else {
				io.WriteString(out, "5\r\n last\r\n0\r\nX-Sum: 7\r\n\r\n")
			}
		}))
		url, outcomes := hotEdge(t, c)
		resp := post(t, url, nil)
		first := make([]byte, 5)
		_, err := io.ReadFull(resp.Body, first)
		close(release)
		if err != nil || string(first) != "first" {
			t.Fatalf("read %q: %v", first, err)
		}
		if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != " last" {
			t.Errorf("rest %q: %v", rest, err)
		}
		if strings.HasPrefix(framing, "T") && resp.Trailer.Get("X-Sum") != "7" {
			t.Errorf("trailer %v", resp.Trailer)
		}
		if o := <-outcomes; o.err != nil || !o.out.Keep {
			t.Errorf("%+v", o)
		}
	}
}

// TestQuestionAndAnswerTakeTurns: a hot function may answer while it reads.
func TestQuestionAndAnswerTakeTurns(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.WriteHeader(200)
		rc.Flush()
		buf := make([]byte, 4)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	for _, format := range []faas.Format{faas.FormatHTTPStream, faas.FormatPort} {
		url, outcomes := hotEdge(t, openProgram(t, format, listenIn(format, echo)))
		r, w := io.Pipe()
		resp := post(t, url, r)
		for _, word := range []string{"ping", "pong"} {
			if _, err := io.WriteString(w, word); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4)
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != word {
				t.Fatalf("%s: read %q: %v", format, got, err)
			}
		}
		w.Close()
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
			t.Errorf("rest %q: %v", rest, err)
		}
		if o := <-outcomes; o.err != nil || !o.out.Keep {
			t.Errorf("%s: %+v", format, o)
		}
	}
}

func TestWhatIsWrittenBeforeAnyQuestionIsNamed(t *testing.T) {
	for _, format := range []faas.Format{faas.FormatHTTP, faas.FormatJSON, faas.FormatCloudEvent} {
		wrote := make(chan struct{})
		c := openProgram(t, format, func(ctx context.Context, p *process) faas.Exit {
			io.WriteString(p.out, "\nstarting up\n")
			close(wrote)
			return speakers[format](echo)(ctx, p)
		})
		<-wrote
		out, err := c.Exchange(t.Context(), request("1"), httptest.NewRecorder())
		want := `the function wrote to standard output before it was asked: "starting up\n": answers go there; write log lines to standard error`
		if faas.KindOf(err) != faas.FuncFailed || err.Error() != want || out.Keep || out.Again {
			t.Errorf("%s: %v, %+v", format, err, out)
		}
	}
}

func TestWhatIsWrittenBetweenCallsMakesTheNextGoElsewhere(t *testing.T) {
	wrote := make(chan struct{})
	wake := make(chan struct{})
	c := openProgram(t, faas.FormatHTTP, func(ctx context.Context, p *process) faas.Exit {
		go func() {
			<-wake
			io.WriteString(p.out, "\n\n ")
			wrote <- struct{}{}
			<-wake
			io.WriteString(p.out, "late")
			wrote <- struct{}{}
		}()
		return speakers[faas.FormatHTTP](echo)(ctx, p)
	})
	call := func() (faas.Outcome, error) { return c.Exchange(t.Context(), request("1"), httptest.NewRecorder()) }
	for range 2 { // white space is nothing
		if out, err := call(); err != nil || !out.Keep {
			t.Fatalf("%+v, %v", out, err)
		}
		wake <- struct{}{}
		<-wrote
	}
	if out, err := call(); !out.Again || out.Keep || err == nil || !strings.Contains(err.Error(), "late") {
		t.Errorf("%+v, %v, want it again", out, err)
	}
}

// caller is one who leaves when told to.
type caller struct {
	*httptest.ResponseRecorder
	left chan struct{}
	seen sync.Once
	gone chan struct{} // closed at the first write that fails
}

func (c *caller) Write(p []byte) (int, error) {
	select {
	case <-c.left:
		c.seen.Do(func() { close(c.gone) })
		return 0, errors.New("broken pipe")
	default:
		return c.ResponseRecorder.Write(p)
	}
}

func TestFunctionWhoseCallerLeftMayFinish(t *testing.T) {
	for _, finishes := range []bool{true, false} {
		t.Run(fmt.Sprint(finishes), func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w := &caller{ResponseRecorder: httptest.NewRecorder(), left: make(chan struct{}), gone: make(chan struct{})}
			c := openProgram(t, faas.FormatHTTP, pipeProgram(func(n int, req *http.Request, out *os.File) {
				if n > 1 {
					io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					return
				}
				io.WriteString(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
				close(w.left)
				for range 100 {
					fmt.Fprintf(out, "%x\r\n%s\r\n", 1<<16, strings.Repeat("x", 1<<16))
				}
				if finishes {
					io.WriteString(out, "0\r\n\r\n")
					return
				}
				<-w.gone
				cancel(errEnd)
			}))
			out, err := c.Exchange(ctx, request("1"), w)
			if finishes {
				if faas.KindOf(err) != faas.Canceled || !out.Keep {
					t.Errorf("%+v, %v", out, err)
				}
				rec := httptest.NewRecorder()
				if out, err := c.Exchange(ctx, request("1"), rec); err != nil || !out.Keep || rec.Body.String() != "ok" {
					t.Errorf("the next call: %+v, %v, %q", out, err, rec.Body)
				}
				return
			}
			if err != errEnd || out.Keep {
				t.Errorf("%+v, %v", out, err)
			}
		})
	}
}

// TestEndlessAnswerTakesNoMemory: of a function whose caller has left.
func TestEndlessAnswerTakesNoMemory(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	w := &caller{ResponseRecorder: httptest.NewRecorder(), left: make(chan struct{}), gone: make(chan struct{})}
	close(w.left)
	piece := make([]byte, 1<<20)
	c := openProgram(t, faas.FormatHTTP, pipeProgram(func(n int, req *http.Request, out *os.File) {
		io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
		for n := range 10000 {
			if _, err := out.Write(piece); err != nil {
				return
			}
			if n == 500 {
				cancel(errEnd)
			}
		}
	}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	out, err := c.Exchange(ctx, request("1"), w)
	runtime.ReadMemStats(&after)
	if err != errEnd || out.Keep {
		t.Errorf("%+v, %v", out, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

// counter is a caller who throws the answer away.
type counter struct {
	header http.Header
	n      int64
}

func (c *counter) Header() http.Header         { return c.header }
func (c *counter) WriteHeader(int)             {}
func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// TestGigabyteEachWay: in constant memory.
func TestGigabyteEachWay(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() || raceEnabled {
		size = 64 << 20
	}
	for _, format := range streams {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprint(format, known), func(t *testing.T) {
				serve := func(r io.Reader, w io.Writer) {
					in, out := bufio.NewReaderSize(r, 1<<16), bufio.NewWriterSize(w, 1<<16)
					for {
						req, err := http.ReadRequest(in)
						if err != nil {
							return
						}
						resp := &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Body: req.Body, ContentLength: req.ContentLength}
						if resp.ContentLength < 0 {
							resp.TransferEncoding = []string{"chunked"}
						}
						if resp.Write(out) != nil || out.Flush() != nil {
							return
						}
					}
				}
				c := openProgram(t, format, func(ctx context.Context, p *process) faas.Exit {
					if format == faas.FormatHTTP {
						serve(p.in, p.out)
						return faas.Exit{}
					}
					l, err := net.Listen("unix", filepath.Join(p.dir, protocol.Listener))
					if err != nil {
						panic(err)
					}
					defer l.Close()
					conn, err := l.Accept()
					if err != nil {
						panic(err)
					}
					defer conn.Close()
					defer context.AfterFunc(ctx, func() { conn.Close() })()
					serve(conn, conn)
					return faas.Exit{}
				})
				req := request("")
				req.Body, req.Size = io.LimitReader(zeros{}, size), size
				if !known {
					req.Size = -1
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				w := &counter{header: http.Header{}}
				out, err := c.Exchange(t.Context(), req, w)
				runtime.ReadMemStats(&after)
				if err != nil || !out.Keep || w.n != size || out.In != size || out.Out != size {
					t.Errorf("%d bytes came back of %d: %+v, %v", w.n, size, out, err)
				}
				if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
					t.Errorf("%d bytes were allocated", grown)
				}
			})
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestChildThatHoldsTheOutputIsNotWaitedFor: the process has ended, its child has
// its standard output and says nothing.
func TestChildThatHoldsTheOutputIsNotWaitedFor(t *testing.T) {
	for _, format := range []faas.Format{faas.FormatHTTP, faas.FormatJSON} {
		c := openProgram(t, format, func(_ context.Context, p *process) faas.Exit {
			p.keepOut = true
			bufio.NewReader(p.in).ReadString('\n')
			return faas.Exit{Code: 1}
		})
		out, err := c.Exchange(t.Context(), request("1"), httptest.NewRecorder())
		if faas.KindOf(err) != faas.FuncFailed || err.Error() != "exit code 1" || out.Keep || out.Exit == nil {
			t.Errorf("%s: %+v, %v", format, out, err)
		}
	}
}

func TestCallThatEndsWhileItsBodyIsStuckEnds(t *testing.T) {
	for _, format := range hot {
		for _, size := range []int64{100, 1 << 20, -1} {
			ctx, cancel := context.WithCancelCause(t.Context())
			c := openProgram(t, format, speakers[format](func(a ask) reply { a.read(); return answer("") }))
			r, w := io.Pipe()
			req := request("")
			req.Body, req.Size = r, size
			go func() {
				io.WriteString(w, "7") // returns when it is read
				cancel(errEnd)
			}()
			out, err := c.Exchange(ctx, req, httptest.NewRecorder())
			if err != errEnd || out.Keep {
				t.Errorf("%s, size %d: %+v, %v", format, size, out, err)
			}
			w.Close()
			cancel(nil)
		}
	}
}

func TestAnswerWithoutABodyIsUnderstood(t *testing.T) {
	c := open(t, faas.FormatHTTP, func(a ask) reply {
		if a.method == "HEAD" {
			return reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"}
		}
		return reply{raw: "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"}
	})
	for method, status := range map[string]int{"HEAD": 200, "GET": 304} {
		req := request("")
		req.Method = method
		rec := httptest.NewRecorder()
		out, err := c.Exchange(t.Context(), req, rec)
		if err != nil || !out.Keep || rec.Code != status || rec.Body.Len() > 0 {
			t.Errorf("%s: %+v, %v, status %d", method, out, err, rec.Code)
		}
		if got := rec.Header().Get("Content-Length"); method == "HEAD" && got != "1234" {
			t.Errorf("length %q", got)
		}
	}
}

func TestFunctionOfARouteIsToldALengthAndTheEnvironment(t *testing.T) {
	got := make(chan string, 1)
	c := openProgram(t, faas.FormatHTTP, func(_ context.Context, p *process) faas.Exit {
		buf := make([]byte, 4096)
		n, _ := p.in.Read(buf)
		got <- string(buf[:n])
		io.WriteString(p.out, "HTTP/1.1 200 OK\nContent-Length: 2\n\nok\n")
		io.Copy(io.Discard, p.in)
		return faas.Exit{}
	})
	req := request("")
	req.Convention, req.Env = faas.ConventionFn, []string{"METHOD=POST", "HEADER_ACCEPT=a b"}
	req.Body, req.Size = io.MultiReader(strings.NewReader("he"), strings.NewReader("llo")), -1
	rec := httptest.NewRecorder()
	out, err := c.Exchange(t.Context(), req, rec)
	asked := <-got
	if !strings.HasPrefix(asked, "POST ") || !strings.HasSuffix(asked, "METHOD: POST\r\nHEADER_ACCEPT: a b\r\nTask-ID: c1\r\nContent-Length: 5\r\n\r\nhello") {
		t.Errorf("asked %q", asked)
	}
	if err != nil || !out.Keep || rec.Body.String() != "ok" || out.In != 5 {
		t.Errorf("%+v, %v, %q", out, err, rec.Body)
	}
}

func TestObjectsAreAsFnHasThem(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, body string
		format                  faas.Format
		asked                   string // with TIME for one
		answer                  string
		status                  int
		want, wantType          string
		says                    string
	}{
		{name: "json", format: faas.FormatJSON, contentType: "text/plain", body: `say "hi" <b>`,
			asked:  `{"call_id":"c1","deadline":"2026-01-02T03:04:05.006Z","body":"say \"hi\" <b>","content_type":"text/plain","protocol":{"type":"http","method":"POST","request_url":"http://h/x","headers":{"Content-Type":["text/plain"]}}}` + "\n",
			answer: ` {"body":"a}\"{","content_type":"text/x","protocol":{"status_code":201,"headers":{"Content-Type":["text/y"],"x-one":"1","X-Two":["1","2"]}}} `,
			status: 201, want: `a}"{`, wantType: "text/x"},
		{name: "event of a plain request", format: faas.FormatCloudEvent, contentType: "application/json", body: `{"a":1}`,
			asked: `{"cloudEventsVersion":"0.1","eventID":"c1","source":"http://h/x","eventType":"http","eventTypeVersion":"","eventTime":"TIME","schemaURL":"","contentType":"application/json",` +
				`"extensions":{"protocol":{"type":"http","method":"POST","request_url":"http://h/x","headers":{"Content-Type":["application/json"]}},"deadline":"2026-01-02T03:04:05.006Z"},"data":{"a":1}}` + "\n",
			answer: `{"contentType":"application/json","data":{"b":[2]},"extensions":{"protocol":{"status_code":202,"headers":{"X-One":["1"]}}}}`,
			status: 202, want: `{"b":[2]}`, wantType: "application/json"},
		{name: "event of an event", format: faas.FormatCloudEvent, contentType: "application/cloudevents+json; charset=utf-8", body: `{"eventID":"e7","data":1,"extensions":{"mine":true}}`,
			asked: `{"data":1,"eventID":"e7","extensions":{"deadline":"2026-01-02T03:04:05.006Z","mine":true,"protocol":{"type":"http","method":"POST","request_url":"http://h/x",` +
				`"headers":{"Content-Type":["application/cloudevents+json; charset=utf-8"]}}}}` + "\n",
			answer: `{"eventID":"e8","contentType":"image/png","data":""}`,
			status: 200, want: `{"eventID":"e8","contentType":"image/png","data":""}`, wantType: "application/cloudevents+json"},
		{name: "event with text", format: faas.FormatCloudEvent, contentType: "application/json", body: `1`, answer: `{"contentType":"text/plain","data":"hi"}`, status: 200, want: "hi", wantType: "text/plain"},
		{name: "event of an unknown type", format: faas.FormatCloudEvent, contentType: "application/json", body: `1`, answer: `{"contentType":"image/png","data":"hi"}`,
			says: `the function answered with an event of contentType "image/png"`},
		{name: "payload that is no JSON", format: faas.FormatCloudEvent, contentType: "application/json", body: `hello`, says: "the payload is not JSON"},
		{name: "payload that is no event", format: faas.FormatCloudEvent, contentType: "application/cloudevents+json", body: `7`, says: "the payload is not the CloudEvent that its type promises"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(chan string, 1)
			c := openProgram(t, tt.format, func(_ context.Context, p *process) faas.Exit {
				line, _ := bufio.NewReader(p.in).ReadString('\n')
				asked <- line
				io.WriteString(p.out, tt.answer)
				io.Copy(io.Discard, p.in)
				return faas.Exit{}
			})
			req := request(tt.body)
			req.URL, req.Header = "http://h/x", http.Header{"Content-Type": {tt.contentType}, "Connection": {"close"}}
			req.Deadline = time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
			rec := httptest.NewRecorder()
			out, err := c.Exchange(t.Context(), req, rec)
			if !out.Keep {
				t.Errorf("not kept: %v", err)
			}
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v, want %q", err, tt.says)
				}
				return
			}
			if err != nil || rec.Code != tt.status || rec.Body.String() != tt.want || rec.Header().Get("Content-Type") != tt.wantType {
				t.Errorf("status %d, type %q, body %q, %v", rec.Code, rec.Header().Get("Content-Type"), rec.Body, err)
			}
			got := <-asked
			if i := strings.Index(got, `"eventTime":"`); i >= 0 {
				i += len(`"eventTime":"`)
				got = got[:i] + "TIME" + got[i+strings.IndexByte(got[i:], '"'):]
			}
			if tt.asked != "" && got != tt.asked {
				t.Errorf("asked %s\nwant  %s", got, tt.asked)
			}
		})
	}
}

func TestObjectOverTheLimitIsRefused(t *testing.T) {
	c := openProgram(t, faas.FormatJSON, func(ctx context.Context, p *process) faas.Exit {
		bufio.NewReader(p.in).ReadString('\n')
		io.WriteString(p.out, `{"body":"`)
		for piece := bytes.Repeat([]byte("x"), 1<<16); ; {
			if _, err := p.out.Write(piece); err != nil {
				return faas.Exit{}
			}
		}
	})
	out, err := c.Exchange(t.Context(), request("1"), httptest.NewRecorder())
	if faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "more than 16 MB") || out.Keep {
		t.Errorf("%+v, %v", out, err)
	}
	c = open(t, faas.FormatJSON, echo)
	req := request("")
	req.Body, req.Size = zeros{}, 17<<20
	if out, err := c.Exchange(t.Context(), req, httptest.NewRecorder()); faas.KindOf(err) != faas.TooLarge || !strings.Contains(err.Error(), "16 MB") || !out.Keep {
		t.Errorf("%+v, %v", out, err)
	}
	req.Size = -1
	if out, err := c.Exchange(t.Context(), req, httptest.NewRecorder()); faas.KindOf(err) != faas.TooLarge || !out.Keep {
		t.Errorf("%+v, %v", out, err)
	}
}

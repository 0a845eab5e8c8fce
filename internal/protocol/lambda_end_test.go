package protocol_test

import (
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

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/protocol"
)

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
		if ok && raceEnabled {
			continue // it takes long
		}
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

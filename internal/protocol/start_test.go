package protocol_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/protocol"
)

// refusing is a process that cannot be reached.
type refusing struct {
	*process
	err error
}

func (r refusing) Dial(context.Context, string, string) (net.Conn, error) { return nil, r.err }

// idle is a program that does nothing.
func idle(ctx context.Context, _ *process) faas.Exit {
	<-ctx.Done()
	return faas.Exit{Signal: "SIGKILL"}
}

// quietPort returns a port of 127.0.0.1 that is taken, and nobody listens on.
func quietPort(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return addr.(*unix.SockaddrInet4).Port
}

func TestStartThatDoesNotListen(t *testing.T) {
	late := faas.Errorf(faas.TimedOut, "the function was not ready within 500ms")
	for _, tt := range []struct {
		name    string
		program program
		dial    error
		cancel  error // of the start; nil: it times out
		kind    faas.Kind
		is      error
		says    string
	}{
		{name: "never", program: idle, kind: faas.TimedOut, is: faas.ErrStartTimeout, says: "the function was not ready within 500ms: it does not listen on "},
		{name: "with the wrong mode", program: idle, dial: errors.New("the socket has mode 0755"), kind: faas.TimedOut, is: faas.ErrStartTimeout, says: "the socket has mode 0755"},
		{name: "behind a link", program: idle, dial: faas.Errorf(faas.Invalid, "lsnr.sock is an absolute link"), kind: faas.FuncFailed, is: faas.ErrStartExited, says: "lsnr.sock is an absolute link"},
		{name: "and ends", program: func(_ context.Context, p *process) faas.Exit {
			p.words = "FN_LISTENER is not set"
			return faas.Exit{Code: 2}
		}, kind: faas.FuncFailed, is: faas.ErrStartExited, says: ": exit code 2: FN_LISTENER is not set"},
		{name: "while nobody waits any more", program: idle, cancel: faas.Errorf(faas.Canceled, "the caller went away"), kind: faas.Canceled, says: "the caller went away"},
	} {
		for _, format := range []faas.Format{faas.FormatHTTPStream, faas.FormatPort} {
			t.Run(tt.name+"/"+string(format), func(t *testing.T) {
				t.Parallel()
				p := start(tt.program)
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
				var process protocol.Process = p
				if tt.dial != nil {
					process = refusing{p, tt.dial}
				}
				conn, err := protocol.Open(ctx, faas.Function{Format: format, Port: quietPort(t)}, process)
				if conn != nil || faas.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || tt.is != nil && !errors.Is(err, tt.is) {
					t.Errorf("Open = %v, %v of kind %q, want %q", conn, err, faas.KindOf(err), tt.says)
				}
				if p.closed != 0 {
					t.Error("the process was closed, which is for the caller to do")
				}
			})
		}
	}
}

// tried is a process that tells when it has been dialled some times in vain.
type tried struct {
	*process
	left int
	done chan struct{}
}

func (t *tried) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := t.process.Dial(ctx, network, addr)
	if t.left--; t.left == 0 {
		close(t.done)
	}
	return conn, err
}

func TestStartThatListensLateIsWaitedFor(t *testing.T) {
	p := &tried{left: 5, done: make(chan struct{})}
	p.process = start(func(ctx context.Context, inner *process) faas.Exit {
		<-p.done
		return speakers[faas.FormatHTTPStream](echo)(ctx, inner)
	})
	c, err := protocol.Open(t.Context(), faas.Function{Format: faas.FormatHTTPStream}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Exchange(t.Context(), request("1"), httptest.NewRecorder()); err != nil {
		t.Error(err)
	}
}

func TestDefaultIsNotOpened(t *testing.T) {
	if _, err := protocol.Open(t.Context(), faas.Function{Format: faas.FormatDefault}, nil); faas.KindOf(err) != faas.Unsupported {
		t.Errorf("error %v", err)
	}
}

// memory is a process whose connections are pipes in memory, for tests in a bubble.
type memory struct {
	protocol.Process
	serve func(n int, c net.Conn)
	dials int
	work  sync.WaitGroup
	ended chan struct{}
}

func (m *memory) Dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	m.dials++
	n := m.dials
	m.work.Go(func() {
		defer theirs.Close()
		m.serve(n, theirs)
	})
	return ours, nil
}

func (m *memory) Wait(ctx context.Context) (faas.Exit, error) {
	select {
	case <-m.ended:
		return faas.Exit{Code: 1}, nil
	case <-ctx.Done():
		return faas.Exit{}, context.Cause(ctx)
	}
}
func (m *memory) LastWords() string                  { return "" }
func (m *memory) Usage() (faas.Bytes, time.Duration) { return 0, 0 }
func (m *memory) Close() error                       { m.work.Wait(); return nil }

// TestConnectionIsUsedAgainWhileItIsFresh, and not after: the function may be
// frozen in between, and finds out late that it should have closed it.
func TestConnectionIsUsedAgainWhileItIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{ended: make(chan struct{}), serve: func(_ int, c net.Conn) {
			in := bufio.NewReader(c)
			for {
				req, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				closing := ""
				if req.Header.Get("X-Close") != "" {
					closing = "Connection: close\r\n"
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n%sContent-Length: 0\r\n\r\n", closing)
				if closing != "" {
					return
				}
			}
		}}
		c, err := protocol.Open(t.Context(), faas.Function{Format: faas.FormatHTTPStream}, m)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			idle  time.Duration
			close bool
			dials int
		}{{0, false, 1}, {900 * time.Millisecond, false, 1}, {1100 * time.Millisecond, false, 2}, {0, true, 2}, {0, false, 3}, {time.Hour, false, 4}} {
			time.Sleep(step.idle)
			req := request("")
			if step.close {
				req.Header = http.Header{"X-Close": {"1"}}
			}
			out, err := c.Exchange(t.Context(), req, httptest.NewRecorder())
			if err != nil || !out.Keep || m.dials != step.dials {
				t.Errorf("%+v: %d dials, %+v, %v", step, m.dials, out, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestConnectionThatLayIdleMayBreak: a request that was not read goes over a new
// one; one that was is not given to the function twice.
func TestConnectionThatLayIdleMayBreak(t *testing.T) {
	for _, reads := range []bool{false, true} {
		served := make(chan struct{}, 10)
		c := openProgram(t, faas.FormatHTTPStream, func(ctx context.Context, p *process) faas.Exit {
			l, err := net.Listen("unix", filepath.Join(p.dir, protocol.Listener))
			if err != nil {
				panic(err)
			}
			defer l.Close()
			defer context.AfterFunc(ctx, func() { l.Close() })()
			for n := 1; ; n++ {
				conn, err := l.Accept()
				if err != nil {
					return faas.Exit{Signal: "SIGKILL"}
				}
				in := bufio.NewReader(conn)
				for calls := 1; ; calls++ {
					req, err := http.ReadRequest(in)
					if err != nil || n == 1 && calls == 2 {
						break
					}
					io.Copy(io.Discard, req.Body)
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					if n == 1 && !reads {
						break
					}
				}
				conn.Close()
				served <- struct{}{}
			}
		})
		if out, err := c.Exchange(t.Context(), request("1"), httptest.NewRecorder()); err != nil || !out.Keep {
			t.Fatalf("%+v, %v", out, err)
		}
		if !reads {
			<-served // the connection is closed now
		}
		req := request("2")
		out, err := c.Exchange(t.Context(), req, httptest.NewRecorder())
		if reads {
			if !errors.Is(err, faas.ErrBroken) || out.Keep || out.Again {
				t.Errorf("%+v, %v, want it broken", out, err)
			}
			continue
		}
		if err != nil || !out.Keep || out.In != 1 {
			t.Errorf("%+v, %v, want it on a new connection", out, err)
		}
	}
}

// TestAnswerThatNobodyAskedForIsNotTheNext: it came behind the last one, late.
func TestAnswerThatNobodyAskedForIsNotTheNext(t *testing.T) {
	wrote := make(chan struct{})
	dials := 0
	c := openProgram(t, faas.FormatHTTPStream, func(ctx context.Context, p *process) faas.Exit {
		l, err := net.Listen("unix", filepath.Join(p.dir, protocol.Listener))
		if err != nil {
			panic(err)
		}
		defer l.Close()
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for {
			conn, err := l.Accept()
			if err != nil {
				return faas.Exit{Signal: "SIGKILL"}
			}
			dials++
			in := bufio.NewReader(conn)
			for {
				req, err := http.ReadRequest(in)
				if err != nil {
					break
				}
				io.Copy(io.Discard, req.Body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", dials)
				if dials == 1 {
					<-wrote // the answer has been taken
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
					wrote <- struct{}{}
				}
			}
			conn.Close()
		}
	})
	for _, want := range []string{"1", "2"} {
		rec := httptest.NewRecorder()
		out, err := c.Exchange(t.Context(), request("x"), rec)
		if err != nil || !out.Keep || rec.Body.String() != want {
			t.Errorf("%+v, %v, %q, want %q", out, err, rec.Body, want)
		}
		if want == "1" {
			wrote <- struct{}{}
			<-wrote
		}
	}
}

// TestConnectionThatTheFunctionClosedIsNotUsed: not all say that they will.
func TestConnectionThatTheFunctionClosedIsNotUsed(t *testing.T) {
	closed := make(chan struct{})
	c := openProgram(t, faas.FormatHTTPStream, func(ctx context.Context, p *process) faas.Exit {
		l, err := net.Listen("unix", filepath.Join(p.dir, protocol.Listener))
		if err != nil {
			panic(err)
		}
		defer l.Close()
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for first := true; ; first = false {
			conn, err := l.Accept()
			if err != nil {
				return faas.Exit{Signal: "SIGKILL"}
			}
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.Copy(io.Discard, req.Body)
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
			conn.Close()
			if first {
				close(closed)
			}
		}
	})
	for range 2 {
		rec := httptest.NewRecorder()
		if out, err := c.Exchange(t.Context(), request("x"), rec); err != nil || !out.Keep || out.Again || rec.Body.String() != "ok" {
			t.Errorf("%+v, %v, %q", out, err, rec.Body)
		}
		<-closed
	}
}

package api

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

// conn is a writer that notes what deadline is set.
type conn struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (c *conn) SetReadDeadline(t time.Time) error { c.deadline = t; return nil }

func TestSenderOfASteadyBodyMayNotRestForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &conn{ResponseRecorder: httptest.NewRecorder()}
		body := Steady(c, io.NopCloser(io.MultiReader(strings.NewReader("a"), strings.NewReader("b"))))
		if _, err := body.Read(make([]byte, 1)); err != nil || time.Until(c.deadline) != restTime {
			t.Errorf("%v, a deadline in %v", err, time.Until(c.deadline))
		}
		if rest, err := io.ReadAll(body); string(rest) != "b" || err != nil || !c.deadline.IsZero() {
			t.Errorf("read %q, %v, and the deadline is %v", rest, err, c.deadline)
		}
	})
}

func TestSteadyBodyNeedsNoConnection(t *testing.T) {
	var w http.ResponseWriter = httptest.NewRecorder()
	r, p := net.Pipe()
	go func() { io.WriteString(p, "x"); p.Close() }()
	if got, err := io.ReadAll(Steady(w, r)); string(got) != "x" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

// pipes is a net.Listener of connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }
func (pipes) Close() error   { return nil }

// TestClientThatStopsInItsBodyIsAnsweredAndLeft: also where the answer does not wait
// for the body, net/http does.
func TestClientThatStopsInItsBodyIsAnsweredAndLeft(t *testing.T) {
	for name, h := range map[string]Handler{
		"steady body": func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.ReadAll(Steady(w, r.Body))
			return faas.Errorf(faas.Invalid, "%w", err)
		},
		"early answer": func(http.ResponseWriter, *http.Request) error { return faas.Errorf(faas.NotFound, "nothing here") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := make(pipes, 1)
				server := &http.Server{Handler: Serve(h, plain, slog.New(slog.DiscardHandler))}
				go server.Serve(l)
				client, conn := net.Pipe()
				l <- conn
				go io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
				begin := time.Now()
				in := bufio.NewReader(client)
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode < 400 || time.Since(begin) > 2*restTime {
					t.Errorf("%v, %v after %v", resp, err, time.Since(begin))
				}
				if _, err := io.Copy(io.Discard, in); err != nil || time.Since(begin) > 2*restTime {
					t.Errorf("the connection ended with %v after %v", err, time.Since(begin))
				}
				close(l)
				server.Shutdown(context.Background())
				client.Close()
			})
		})
	}
}

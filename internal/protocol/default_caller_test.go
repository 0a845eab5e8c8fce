package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/protocol"
)

// edge serves calls of one program over HTTP as an API does: a failure before the
// answer has begun gets a status, one after it breaks the answer off.
func edge(t *testing.T, run program) (url string, errs <-chan error) {
	ended := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := &protocol.Default{Start: func(context.Context, *faas.Request, []string) (protocol.Process, error) { return start(run), nil }}
		defer d.Close()
		out, err := d.Exchange(r.Context(), &faas.Request{Body: r.Body, Size: r.ContentLength}, w)
		ended <- err
		switch {
		case err == nil:
		case out.Status != 0:
			panic(http.ErrAbortHandler)
		default:
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return srv.URL, ended
}

func post(t *testing.T, url string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestFirstBytesAreNotHeldForLong(t *testing.T) {
	release := make(chan struct{})
	url, _ := edge(t, func(_ context.Context, p *process) faas.Exit {
		io.WriteString(p.out, "first")
		<-release // the process goes on until its caller has seen the first bytes
		io.WriteString(p.out, " and last")
		return ok
	})
	begin := time.Now()
	resp := post(t, url, nil)
	first := make([]byte, 5)
	_, err := io.ReadFull(resp.Body, first)
	took := time.Since(begin)
	close(release)
	if err != nil || string(first) != "first" || took < protocol.HoldTime {
		t.Fatalf("read %q after %v: %v", first, took, err)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != " and last" {
		t.Errorf("rest %q: %v", rest, err)
	}
	if got := resp.Trailer.Get(protocol.TrailerOutcome); got != "ok" {
		t.Errorf("trailer %q, want ok", got)
	}
}

func TestLargeAnswerStreamsAtOnce(t *testing.T) {
	release := make(chan struct{})
	big := bytes.Repeat([]byte("x"), protocol.HoldBytes)
	url, _ := edge(t, func(_ context.Context, p *process) faas.Exit {
		p.out.Write(big)
		<-release
		return ok
	})
	resp := post(t, url, nil)
	_, err := io.ReadFull(resp.Body, make([]byte, len(big)))
	close(release)
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 || resp.Trailer.Get(protocol.TrailerOutcome) != "ok" {
		t.Errorf("rest %q, trailer %v: %v", rest, resp.Trailer, err)
	}
}

func TestLateFailureBreaksTheAnswerOff(t *testing.T) {
	url, errs := edge(t, func(_ context.Context, p *process) faas.Exit {
		p.out.Write(make([]byte, 2*protocol.HoldBytes))
		return faas.Exit{Code: 1}
	})
	resp := post(t, url, nil)
	if resp.StatusCode != 200 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the client read %d bytes and then %v, want an unexpected end", n, err)
	}
	if got := resp.Trailer.Get(protocol.TrailerOutcome); got != "" {
		t.Errorf("trailer %q behind a failure", got)
	}
	if err := <-errs; faas.KindOf(err) != faas.FuncFailed {
		t.Errorf("error %v", err)
	}
}

func TestEarlyFailureHasItsStatus(t *testing.T) {
	url, _ := edge(t, exit(7, strings.Repeat("x", protocol.HoldBytes-1)))
	resp := post(t, url, strings.NewReader("in"))
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusBadGateway || string(body) != "exit code 7\n" {
		t.Errorf("status %d, body %.40q: %v", resp.StatusCode, body, err)
	}
}

// TestAnswerBeforeTheBodyHasEnded: question and answer may take turns.
func TestAnswerBeforeTheBodyHasEnded(t *testing.T) {
	url, _ := edge(t, func(_ context.Context, p *process) faas.Exit {
		_, err := io.Copy(p.out, p.in)
		if err != nil {
			return faas.Exit{Code: 1}
		}
		return ok
	})
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.WriteString(w, "ping")
	}()
	resp := post(t, url, r)
	<-done
	got := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "ping" {
		t.Fatalf("read %q: %v", got, err)
	}
	go func() {
		io.WriteString(w, "pong")
		w.Close()
	}()
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "pong" {
		t.Errorf("rest %q: %v", rest, err)
	}
}

// TestRestOfABodyIsNotTheNextRequest: the connection of a body that was not read
// to its end is closed.
func TestRestOfABodyIsNotTheNextRequest(t *testing.T) {
	url, _ := edge(t, func(_ context.Context, p *process) faas.Exit {
		io.WriteString(p.out, "enough")
		return ok
	})
	r, w := io.Pipe()
	defer w.Close()
	resp := post(t, url, r) // its body never ends
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "enough" || !resp.Close {
		t.Errorf("answer %q, connection closed %v: %v", body, resp.Close, err)
	}
}

// hesitant is a process with a pen in place of its input.
type hesitant struct {
	*process
	pen *pen
}

func (h hesitant) Stdin() io.WriteCloser { return h.pen }

// pen takes what is written, and says so only when it is closed.
type pen struct {
	io.WriteCloser
	closed chan struct{}
	once   sync.Once
}

func (p *pen) Write(b []byte) (int, error) {
	defer func() { <-p.closed }()
	return p.WriteCloser.Write(b)
}

func (p *pen) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.WriteCloser.Close()
}

// TestFunctionThatEndsBehindItsBodyLeavesTheConnection has it end before the one who
// brought it the body knows that it is there.
func TestFunctionThatEndsBehindItsBodyLeavesTheConnection(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := start(func(_ context.Context, p *process) faas.Exit {
			io.ReadFull(p.in, make([]byte, 6))
			io.WriteString(p.out, "enough")
			return ok
		})
		defer p.Close()
		d := &protocol.Default{Start: func(context.Context, *faas.Request, []string) (protocol.Process, error) {
			return hesitant{p, &pen{WriteCloser: p.stdin, closed: make(chan struct{})}}, nil
		}}
		if _, err := d.Exchange(r.Context(), &faas.Request{Body: r.Body, Size: r.ContentLength}, w); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	defer http.DefaultClient.CloseIdleConnections()
	resp := post(t, srv.URL, strings.NewReader("a body"))
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "enough" || resp.Close {
		t.Errorf("answer %q, connection closed %v: %v", body, resp.Close, err)
	}
}

func TestCallerWhoDoesNotReadIsNotWaitedFor(t *testing.T) {
	late := faas.Errorf(faas.TimedOut, "too long")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	ended := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := conn(t, func(ctx context.Context, p *process) faas.Exit {
			for {
				if _, err := p.out.Write(make([]byte, 1<<16)); err != nil {
					return faas.Exit{Code: 1}
				}
			}
		})
		_, err := d.Exchange(ctx, &faas.Request{Body: http.NoBody}, w)
		ended <- err
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	resp := post(t, srv.URL, nil)
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil { // and no more
		t.Fatal(err)
	}
	cancel(late)
	if err := <-ended; err != late {
		t.Errorf("error %v, want %v", err, late)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the answer had a clean end")
	}
}

// TestCallerWhoLeavesAFunctionThatDoesNotReadIsSeen: net/http notices that a
// caller has gone away only when it reads, so the body is read ahead.
func TestCallerWhoLeavesAFunctionThatDoesNotReadIsSeen(t *testing.T) {
	running := make(chan struct{})
	url, errs := edge(t, func(ctx context.Context, _ *process) faas.Exit {
		close(running)
		<-ctx.Done()
		return faas.Exit{Signal: "SIGKILL"}
	})
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(strings.Repeat("x", protocol.Ahead)))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-running
		leave()
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("answer %s, want none", resp.Status)
	}
	if err := <-errs; faas.KindOf(err) != faas.Canceled {
		t.Errorf("Exchange = %v, want Canceled", err)
	}
}

func TestBodyThatIsReadLateArrivesWhole(t *testing.T) {
	begin := make(chan struct{})
	want := strings.Repeat("0123456789abcdef", 5*protocol.Ahead/16)
	d := conn(t, func(_ context.Context, p *process) faas.Exit {
		<-begin
		io.Copy(p.out, p.in)
		return faas.Exit{}
	})
	req := request("")
	body := &countdown{r: strings.NewReader(want), left: protocol.Ahead / 2, done: begin}
	req.Body, req.Size = body, int64(len(want))
	rec := httptest.NewRecorder()
	out, err := d.Exchange(t.Context(), req, rec)
	if err != nil || rec.Body.String() != want || out.In != int64(len(want)) {
		t.Errorf("%d bytes came back of %d, %d counted: %v", rec.Body.Len(), len(want), out.In, err)
	}
}

// countdown closes done when so much of it was read.
type countdown struct {
	r    io.Reader
	left int
	done chan struct{}
}

func (c *countdown) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left > 0 && c.left <= n {
		close(c.done)
	}
	c.left -= n
	return n, err
}

package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is what runs in a process of these tests. ctx ends when it is killed.
type program func(ctx context.Context, p *process) faas.Exit

// process is a protocol.Process over real pipes.
type process struct {
	in, out *os.File // the program's ends
	words   string   // last words
	dir     string   // of the sockets it listens on
	port    int      // it listens on, of format port

	listener net.Listener  // of that port, or of the Runtime API of format lambda
	ready    chan struct{} // closed when the two above are set

	stdin, stdout *os.File // the other ends
	unread        [2]*gauge
	keepOut       bool // the program's end of stdout outlives it, as if a child held it

	ended    chan struct{} // closed when exit is set
	exit     faas.Exit
	returned chan struct{}
	kill     context.CancelFunc
	closed   int
}

func start(run program) *process {
	p := &process{ready: make(chan struct{}), ended: make(chan struct{}), returned: make(chan struct{})}
	var err, err2 error
	p.in, p.stdin, err = os.Pipe()
	p.stdout, p.out, err2 = os.Pipe()
	dir, err3 := os.MkdirTemp("", "p")
	p.dir = dir
	if err := errors.Join(err, err2, err3); err != nil {
		panic(err)
	}
	p.unread = [2]*gauge{gaugeOf(p.stdin), gaugeOf(p.stdout)}
	ctx, kill := context.WithCancel(context.Background())
	p.kill = kill
	go func() {
		defer close(p.returned)
		p.exit = run(ctx, p)
		p.in.Close()
		if !p.keepOut {
			p.out.Close()
		}
		close(p.ended)
	}()
	return p
}

func (p *process) Stdin() io.WriteCloser              { return p.stdin }
func (p *process) Stdout() protocol.Output            { return p.stdout }
func (p *process) LastWords() string                  { return p.words }
func (p *process) Usage() (faas.Bytes, time.Duration) { return 3 * faas.MB, 5 * time.Millisecond }
func (p *process) Start() faas.Start                  { return faas.StartBare }
func (p *process) UnreadInput() int                   { return p.unread[0].Unread() }
func (p *process) UnreadOutput() int                  { return p.unread[1].Unread() }
func (p *process) Listener() net.Listener             { return p.listener }

func (p *process) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if network == "unix" {
		addr = filepath.Join(p.dir, addr)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if unix, ok := conn.(*net.UnixConn); ok {
		return socket{unix, gaugeOf(unix)}, nil
	}
	return conn, err
}

// socket tells what has come over it.
type socket struct {
	*net.UnixConn
	*gauge
}

// gauge tells how many bytes are in a pipe, and whether a socket lies as it was left.
// It allocates nothing.
type gauge struct {
	raw   syscall.RawConn
	ask   func(fd uintptr)
	n     int
	look  func(fd uintptr)
	polls [1]unix.PollFd
}

func gaugeOf(c syscall.Conn) *gauge {
	raw, err := c.SyscallConn()
	if err != nil {
		panic(err)
	}
	g := &gauge{raw: raw}
	g.ask = func(fd uintptr) { g.n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }
	g.look = func(fd uintptr) {
		g.polls[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
		g.n, _ = unix.Poll(g.polls[:], 0)
	}
	return g
}

func (g *gauge) Quiet() bool {
	g.n = 1
	g.raw.Control(g.look)
	return g.n == 0
}

func (g *gauge) Unread() int {
	g.n = 0
	g.raw.Control(g.ask)
	return g.n
}

func (p *process) Wait(ctx context.Context) (faas.Exit, error) {
	select {
	case <-p.ended:
		return p.exit, nil
	case <-ctx.Done():
		return faas.Exit{}, context.Cause(ctx)
	}
}

func (p *process) Close() error {
	p.closed++
	p.kill()
	for _, f := range []*os.File{p.in, p.out, p.stdin, p.stdout} {
		f.Close()
	}
	<-p.returned
	os.RemoveAll(p.dir)
	return nil
}

// conn returns a Conn whose process runs this program, and is closed at the end
// of the test.
func conn(t testing.TB, run program) *protocol.Default {
	d := &protocol.Default{Memory: 64 * faas.MB, Start: func(context.Context, *faas.Request, []string) (protocol.Process, error) {
		return start(run), nil
	}}
	t.Cleanup(func() { d.Close() })
	return d
}

func request(body string) *faas.Request {
	return &faas.Request{Call: "c1", Method: "POST", Body: strings.NewReader(body), Size: int64(len(body))}
}

// exit is a program that reads all, answers and ends.
func exit(code int, answer string) program {
	return func(_ context.Context, p *process) faas.Exit {
		io.Copy(io.Discard, p.in)
		io.WriteString(p.out, answer)
		return faas.Exit{Code: code}
	}
}

var ok faas.Exit

func TestExchange(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for _, tt := range []struct {
		name    string
		program program
		body    string
		answer  string // as the caller got it
		kind    faas.Kind
		says    string // the error
		code    int    // exit code
		signal  string
	}{
		{name: "answers", program: exit(0, "hello"), body: "in", answer: "hello"},
		{name: "gives back what it reads", body: big, answer: big, program: func(_ context.Context, p *process) faas.Exit {
			io.Copy(p.out, p.in)
			return ok
		}},
		{name: "prints nothing", program: exit(0, ""), body: "in"},
		{name: "gets no body", program: exit(0, "hello"), answer: "hello"},
		{name: "prints much", program: exit(0, big+big), answer: big + big},
		{name: "never reads a large body", body: big, answer: "done", program: func(_ context.Context, p *process) faas.Exit {
			io.WriteString(p.out, "done")
			return ok
		}},
		{name: "closes its input and answers", body: big, answer: "done", program: func(_ context.Context, p *process) faas.Exit {
			p.in.Close()
			io.WriteString(p.out, "done")
			return ok
		}},
		{name: "fails", kind: faas.FuncFailed, code: 1, says: "exit code 1: no such picture\nsorry", program: func(_ context.Context, p *process) faas.Exit {
			p.words = "no such picture\nsorry"
			return faas.Exit{Code: 1}
		}},
		{name: "fails after a short answer", program: exit(3, "half"), kind: faas.FuncFailed, code: 3, says: "exit code 3"},
		{name: "fails without reading a large body", body: big, kind: faas.FuncFailed, code: 1, says: "exit code 1", program: func(context.Context, *process) faas.Exit {
			return faas.Exit{Code: 1}
		}},
		{name: "is killed by a signal", kind: faas.FuncFailed, signal: "SIGSEGV", says: "killed by SIGSEGV", program: func(context.Context, *process) faas.Exit {
			return faas.Exit{Signal: "SIGSEGV"}
		}},
		{name: "is over its memory", kind: faas.FuncFailed, signal: "SIGKILL", says: "killed: over its 64 MB memory limit", program: func(context.Context, *process) faas.Exit {
			return faas.Exit{Signal: "SIGKILL", OOM: true}
		}},
		{name: "closes its output, goes on and fails", kind: faas.FuncFailed, code: 3, says: "exit code 3", program: func(_ context.Context, p *process) faas.Exit {
			io.WriteString(p.out, "an answer")
			p.out.Close()
			io.Copy(io.Discard, p.in)
			return faas.Exit{Code: 3}
		}},
		{name: "leaves a child that holds its output", answer: "mine", program: func(_ context.Context, p *process) faas.Exit {
			p.keepOut = true
			io.WriteString(p.out, "mine")
			return ok
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			out, err := conn(t, tt.program).Exchange(t.Context(), request(tt.body), w)
			if faas.KindOf(err) != tt.kind || err != nil && err.Error() != tt.says {
				t.Fatalf("error %q of kind %q, want %q of kind %q", err, faas.KindOf(err), tt.says, tt.kind)
			}
			if out.Exit == nil || out.Exit.Code != tt.code || out.Exit.Signal != tt.signal {
				t.Errorf("exit %+v, want code %d and signal %q", out.Exit, tt.code, tt.signal)
			}
			if got := w.Body.String(); got != tt.answer {
				t.Errorf("answer of %d bytes %.40q, want %d bytes", len(got), got, len(tt.answer))
			}
			if out.Out != int64(len(tt.answer)) {
				t.Errorf("counted %d bytes of answer, want %d", out.Out, len(tt.answer))
			}
			if tt.kind == faas.OK && (out.Status != 200 || w.Code != 200) {
				t.Errorf("status %d written, %d reported, want 200", w.Code, out.Status)
			}
			if tt.kind != faas.OK && (out.Status != 0 || len(w.Header()) > 1) {
				t.Errorf("the failure of an answer that was held wrote status %d and header %v", out.Status, w.Header())
			}
			if out.PeakMemory != 3*faas.MB || out.CPUTime != 5*time.Millisecond || out.Start != faas.StartBare || out.Keep {
				t.Errorf("outcome %+v", out)
			}
		})
	}
}

func TestBodyIsCounted(t *testing.T) {
	out, err := conn(t, exit(0, "")).Exchange(t.Context(), request("12345"), httptest.NewRecorder())
	if err != nil || out.In != 5 {
		t.Errorf("read %d bytes: %v, want 5", out.In, err)
	}
}

func TestShortAnswerSaysItsLength(t *testing.T) {
	w := httptest.NewRecorder()
	if _, err := conn(t, exit(0, "<html>")).Exchange(t.Context(), request(""), w); err != nil {
		t.Fatal(err)
	}
	if h := w.Header(); h.Get("Content-Length") != "6" || h.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("header %v, want a length of 6 and no guessed type", h)
	}
}

func TestStartFails(t *testing.T) {
	want := faas.Errorf(faas.Invalid, "there is no program")
	d := &protocol.Default{Start: func(context.Context, *faas.Request, []string) (protocol.Process, error) { return nil, want }}
	w := httptest.NewRecorder()
	out, err := d.Exchange(t.Context(), request("in"), w)
	if err != want || out.Exit != nil || w.Body.Len() > 0 || len(w.Header()) > 0 {
		t.Errorf("error %v, outcome %+v, header %v; want %v and nothing else", err, out, w.Header(), want)
	}
	if err := d.Close(); err != nil {
		t.Errorf("close without a process: %v", err)
	}
}

func TestEnvironmentReachesTheStart(t *testing.T) {
	var got []string
	d := &protocol.Default{Start: func(_ context.Context, req *faas.Request, env []string) (protocol.Process, error) {
		got = append(env, req.Call)
		return start(exit(0, "")), nil
	}}
	defer d.Close()
	req := request("")
	req.Env = []string{"A=1"}
	if _, err := d.Exchange(t.Context(), req, httptest.NewRecorder()); err != nil || strings.Join(got, " ") != "A=1 c1" {
		t.Errorf("start got %q: %v", got, err)
	}
}

// TestTimeoutIsTheAnswer: the cause of the end of the call wins over what the
// process would have made of it, and no exit is made up.
func TestTimeoutIsTheAnswer(t *testing.T) {
	for _, tt := range []struct{ name, body string }{
		{"without a body", ""},
		{"in the middle of a body", strings.Repeat("x", 1<<20)}, // more than a pipe holds: the upload waits for the function
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			late := faas.Errorf(faas.TimedOut, "the function ran longer than its timeout of 1s")
			d := conn(t, func(ctx context.Context, p *process) faas.Exit {
				io.WriteString(p.out, "not enough")
				cancel(late)
				<-ctx.Done()
				return faas.Exit{Signal: "SIGKILL"}
			})
			w := httptest.NewRecorder()
			out, err := d.Exchange(ctx, request(tt.body), w)
			if err != late || out.Exit != nil || w.Body.Len() > 0 {
				t.Errorf("error %v, exit %+v, answer %q; want %v and neither", err, out.Exit, w.Body, late)
			}
		})
	}
}

func TestBodyThatNeverEndsIsNotWaitedFor(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	req := request("")
	req.Body, req.Size = r, -1
	d := conn(t, func(_ context.Context, p *process) faas.Exit {
		io.WriteString(p.out, "done")
		return ok
	})
	rec := httptest.NewRecorder()
	if _, err := d.Exchange(t.Context(), req, rec); err != nil || rec.Body.String() != "done" {
		t.Errorf("answer %q: %v", rec.Body, err)
	}
}

func TestBodyOverTheLimitIsTooLarge(t *testing.T) {
	d := conn(t, func(_ context.Context, p *process) faas.Exit { // waits for a whole body
		io.Copy(io.Discard, p.in)
		io.WriteString(p.out, "an answer to half a question")
		return ok
	})
	rec := httptest.NewRecorder()
	req := request("")
	req.Body, req.Size = http.MaxBytesReader(rec, io.NopCloser(strings.NewReader(strings.Repeat("x", 4096))), 1024), -1
	_, err := d.Exchange(t.Context(), req, rec)
	if want := "the payload is over the limit of 1 KB"; faas.KindOf(err) != faas.TooLarge || err.Error() != want {
		t.Errorf("error %v of kind %q, want %q", err, faas.KindOf(err), want)
	}
	if rec.Body.Len() > 0 {
		t.Errorf("the caller got %q", rec.Body)
	}
}

func TestBodyThatBreaksOffIsCanceled(t *testing.T) {
	d := conn(t, exit(0, "an answer to half a question"))
	rec := httptest.NewRecorder()
	req := request("")
	req.Body, req.Size = io.MultiReader(strings.NewReader("half"), broken{}), 100
	_, err := d.Exchange(t.Context(), req, rec)
	if faas.KindOf(err) != faas.Canceled || !errors.Is(err, io.ErrUnexpectedEOF) || rec.Body.Len() > 0 {
		t.Errorf("error %v of kind %q, answer %q", err, faas.KindOf(err), rec.Body)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// deaf is a caller who has gone away.
type deaf struct{ http.ResponseWriter }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestCallerWhoIsGoneIsCanceled(t *testing.T) {
	for _, tt := range []struct {
		name    string
		program program
	}{
		{"at a short answer", exit(0, "hello")},
		{"in a stream without end", func(_ context.Context, p *process) faas.Exit {
			for {
				if _, err := p.out.Write(make([]byte, 4096)); err != nil {
					return faas.Exit{Signal: "SIGPIPE"}
				}
			}
		}},
		{"in a stream whose process goes on in silence", func(ctx context.Context, p *process) faas.Exit {
			p.out.Write(make([]byte, protocol.HoldBytes))
			<-ctx.Done()
			return faas.Exit{Signal: "SIGKILL"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := conn(t, tt.program).Exchange(t.Context(), request(""), deaf{httptest.NewRecorder()})
			if faas.KindOf(err) != faas.Canceled || !strings.Contains(err.Error(), "the caller went away") {
				t.Errorf("error %v of kind %q, want Canceled", err, faas.KindOf(err))
			}
		})
	}
}

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

func TestCloseEndsTheProcessOnce(t *testing.T) {
	var p *process
	d := &protocol.Default{Start: func(context.Context, *faas.Request, []string) (protocol.Process, error) {
		p = start(exit(0, ""))
		return p, nil
	}}
	if _, err := d.Exchange(t.Context(), request(""), httptest.NewRecorder()); err != nil {
		t.Fatal(err)
	}
	if p.closed != 0 {
		t.Error("the exchange closed the sandbox, which is for its owner to do")
	}
	if err := d.Close(); err != nil || p.closed != 1 {
		t.Errorf("closed %d times: %v", p.closed, err)
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

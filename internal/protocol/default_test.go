package protocol_test

import (
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

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(goRuntimeDir)
		os.Exit(code)
	}))
}

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
	keepOut       bool     // the program's end of stdout outlives it, as if a child held it
	last          net.Conn // a connection that ends behind it: that of an answer it dies in

	ended    chan struct{} // closed when exit is set
	mourned  chan struct{} // closed by mourn, when who speaks over a socket knows of it
	mourn    func()
	exit     faas.Exit
	returned chan struct{}
	kill     context.CancelFunc
	closed   int
}

func start(run program) *process {
	p := &process{ready: make(chan struct{}), ended: make(chan struct{}), mourned: make(chan struct{}), returned: make(chan struct{})}
	p.mourn = sync.OnceFunc(func() { close(p.mourned) })
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
		if _, ok := p.last.(*net.UnixConn); ok {
			select {
			case <-p.mourned:
			case <-ctx.Done():
			}
		}
		if p.last != nil {
			p.last.Close()
		}
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
		return socket{unix, gaugeOf(unix), p}, nil
	}
	return conn, err
}

// socket tells what has come over it.
type socket struct {
	*net.UnixConn
	*gauge
	of *process
}

// SetReadDeadline is what follows when the end of the process is known.
func (s socket) SetReadDeadline(t time.Time) error {
	select {
	case <-s.of.ended:
		s.of.mourn()
	default:
	}
	return s.UnixConn.SetReadDeadline(t)
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

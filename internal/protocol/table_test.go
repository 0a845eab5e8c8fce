package protocol_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/protocol"
)

// ask is what a function was asked, in whatever format.
type ask struct {
	n            int // 1 for the first
	call, method string
	header       http.Header
	read         func() string // the body
}

// reply is what it does about it.
type reply struct {
	status int // 0: no answer
	header http.Header
	body   string
	behind string        // raw bytes behind the answer
	raw    string        // instead of an answer
	exit   *faas.Exit    // the process ends then
	hang   bool          // it goes on in silence
	wait   chan struct{} // before the answer
}

func answer(body string) reply { return reply{status: 200, body: body} }

type function func(a ask) reply

// echo answers with what it was given.
func echo(a ask) reply { return answer(a.read()) }

// speakers run a function in each format.
var speakers = map[faas.Format]func(f function) program{
	faas.FormatDefault: func(f function) program {
		return func(ctx context.Context, p *process) faas.Exit {
			r := f(ask{n: 1, call: "c1", method: "POST", header: http.Header{}, read: func() string { b, _ := io.ReadAll(p.in); return string(b) }})
			if r.wait != nil {
				<-r.wait
			}
			io.WriteString(p.out, r.raw+r.body)
			return ending(ctx, r)
		}
	},
	faas.FormatHTTP: func(f function) program {
		return func(ctx context.Context, p *process) faas.Exit { return serveHTTP(ctx, p.in, p.out, 0, f) }
	},
	faas.FormatHTTPStream: func(f function) program {
		return func(ctx context.Context, p *process) faas.Exit {
			l, err := net.Listen("unix", filepath.Join(p.dir, protocol.Listener))
			if err != nil {
				panic(err)
			}
			return serveConns(ctx, p, l, f)
		}
	},
	faas.FormatJSON: func(f function) program {
		return func(ctx context.Context, p *process) faas.Exit {
			return serveObjects(ctx, p, f, func(raw []byte, n int) ask {
				var in struct {
					CallID   string `json:"call_id"`
					Body     string
					Protocol struct {
						Method  string
						Headers http.Header
					}
				}
				if err := json.Unmarshal(raw, &in); err != nil {
					panic(err)
				}
				return ask{n: n, call: in.CallID, method: in.Protocol.Method, header: in.Protocol.Headers, read: func() string { return in.Body }}
			}, func(r reply) any {
				return map[string]any{"body": r.body, "protocol": map[string]any{"status_code": r.status, "headers": r.header}}
			})
		}
	},
	faas.FormatCloudEvent: func(f function) program {
		return func(ctx context.Context, p *process) faas.Exit {
			return serveObjects(ctx, p, f, func(raw []byte, n int) ask {
				var in struct {
					EventID    string
					Data       json.RawMessage
					Extensions struct {
						Protocol struct {
							Method  string
							Headers http.Header
						}
					}
				}
				if err := json.Unmarshal(raw, &in); err != nil {
					panic(err)
				}
				text := string(in.Data)
				if text == "null" {
					text = ""
				}
				http := in.Extensions.Protocol
				return ask{n: n, call: in.EventID, method: http.Method, header: http.Headers, read: func() string { return text }}
			}, func(r reply) any {
				return map[string]any{"contentType": "text/plain", "data": r.body, "extensions": map[string]any{
					"protocol": map[string]any{"status_code": r.status, "headers": r.header},
				}}
			})
		}
	},
	faas.FormatPort: func(f function) program {
		return func(ctx context.Context, p *process) faas.Exit {
			return serveConns(ctx, p, p.listener, f)
		}
	},
	faas.FormatLambda: func(f function) program {
		return func(ctx context.Context, p *process) faas.Exit { return askForCalls(ctx, p, f) }
	},
}

func serveConns(ctx context.Context, p *process, l net.Listener, f function) faas.Exit {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for n := 0; ; {
		c, err := l.Accept()
		if err != nil {
			return faas.Exit{Signal: "SIGKILL"}
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		exit := serveHTTP(ctx, c, c, n, func(a ask) reply { n = a.n; return f(a) })
		stop()
		if exit != done {
			p.last = c
			return exit
		}
		c.Close()
	}
}

func serveObjects(ctx context.Context, p *process, f function, decode func([]byte, int) ask, encode func(reply) any) faas.Exit {
	in := json.NewDecoder(p.in)
	for n := 1; ; n++ {
		var raw json.RawMessage
		if err := in.Decode(&raw); err != nil {
			return done
		}
		r := f(decode(raw, n))
		if r.wait != nil {
			<-r.wait
		}
		if r.status != 0 {
			var b bytes.Buffer
			json.NewEncoder(&b).Encode(encode(r))
			b.WriteString(r.behind)
			p.out.Write(b.Bytes())
		}
		io.WriteString(p.out, r.raw)
		if r.exit != nil || r.hang {
			return ending(ctx, r)
		}
	}
}

// done is the exit of a function whose input has ended.
var done = faas.Exit{Code: 99}

func ending(ctx context.Context, r reply) faas.Exit {
	if r.hang {
		<-ctx.Done()
		return faas.Exit{Signal: "SIGKILL"}
	}
	if r.exit != nil {
		return *r.exit
	}
	return faas.Exit{}
}

func serveHTTP(ctx context.Context, r io.Reader, w io.Writer, n int, f function) faas.Exit {
	in := bufio.NewReader(r)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return done
		}
		n++
		id := cmp.Or(req.Header.Get("Fn-Call-Id"), req.Header.Get("Hob-Call-Id"), req.Header.Get("Task-Id"))
		a := f(ask{n: n, call: id, method: cmp.Or(req.Header.Get("Fn-Method"), req.Header.Get("METHOD"), req.Method), header: req.Header, read: func() string { b, _ := io.ReadAll(req.Body); return string(b) }})
		if a.wait != nil {
			<-a.wait
		}
		if a.status != 0 {
			var b bytes.Buffer
			fmt.Fprintf(&b, "HTTP/1.1 %d x\r\n", a.status)
			a.header.Write(&b)
			fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(a.body), a.body)
			b.WriteString(a.behind)
			w.Write(b.Bytes())
		}
		io.WriteString(w, a.raw)
		if a.exit != nil || a.hang {
			return ending(ctx, a)
		}
	}
}

// open returns a Conn of this format to a process that runs f.
func open(t testing.TB, format faas.Format, f function) protocol.Conn {
	return openProgram(t, format, speakers[format](f))
}

func openProgram(t testing.TB, format faas.Format, run program) protocol.Conn {
	t.Helper()
	conn, _ := openProcess(t, format, run)
	return conn
}

func openProcess(t testing.TB, format faas.Format, run program) (protocol.Conn, *process) {
	t.Helper()
	if format == faas.FormatDefault {
		return conn(t, run), nil
	}
	p := start(func(ctx context.Context, p *process) faas.Exit {
		<-p.ready
		return run(ctx, p)
	})
	if format == faas.FormatPort || format == faas.FormatLambda {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.listener, p.port = l, l.Addr().(*net.TCPAddr).Port
	}
	close(p.ready)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, faas.Errorf(faas.TimedOut, "too slow a start"))
	defer cancel()
	fn := faas.Function{Name: "f", Format: format, Memory: 64 * faas.MB}.WithDefaults()
	fn.Port = p.port
	c, err := protocol.Open(ctx, fn, p)
	if err != nil {
		p.Close()
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c, p
}

var (
	all      = faas.Formats()
	hot      = slices.DeleteFunc(faas.Formats(), func(f faas.Format) bool { return !f.Hot() })
	statuses = []faas.Format{faas.FormatHTTP, faas.FormatJSON, faas.FormatCloudEvent, faas.FormatPort} // those whose functions have a status of their own
	streams  = []faas.Format{faas.FormatHTTP, faas.FormatHTTPStream}
	objects  = []faas.Format{faas.FormatJSON, faas.FormatCloudEvent}
)

// errEnd is why the calls of these tests are ended.
var errEnd = faas.Errorf(faas.TimedOut, "the function ran longer than its timeout of 1s")

// exchanges is what happens between hob and a function, in every format.
var exchanges = []struct {
	name    string
	formats []faas.Format
	body    func() io.Reader // nil: said
	size    int64            // of body; 0: 10
	said    string
	f       function
	before  int  // calls that succeed before this one
	end     bool // the call is ended once the function has been asked
	gone    bool // the caller does not read

	status int // 0: of an error
	header http.Header
	answer string
	kind   faas.Kind
	says   string // in the error
	keep   bool   // of hot formats
	again  bool   // of hot formats
}{
	{name: "answers", formats: all, said: `"hello"`, f: echo, status: 200, answer: `"hello"`, keep: true},
	{name: "is given nothing", formats: all, f: echo, status: 200, keep: true},
	{name: "is asked again", formats: hot, said: "7", f: func(a ask) reply { return answer(fmt.Sprint(a.n, a.read())) }, before: 2, status: 200, answer: "37", keep: true},
	{name: "gives back much", formats: all, said: strings.Repeat("1234567890123456", 1<<16), f: echo, status: 200, answer: strings.Repeat("1234567890123456", 1<<16), keep: true},
	{name: "is told of its call", formats: all, said: "7", f: func(a ask) reply { a.read(); return answer(a.call) }, status: 200, answer: "c1", keep: true},
	{name: "has a status and a header", formats: statuses, said: "7", f: func(a ask) reply {
		a.read()
		return reply{status: 404, header: http.Header{"X-Two": {"1", "2"}, "Content-Type": {"text/plain"}}, body: "not here"}
	}, status: 404, header: http.Header{"X-Two": {"1", "2"}, "Content-Type": {"text/plain"}}, answer: "not here", keep: true},
	{name: "ends with a code", formats: all, said: "7", f: func(a ask) reply { a.read(); return reply{exit: &faas.Exit{Code: 3}} },
		kind: faas.FuncFailed, says: "exit code 3: no such picture"},
	{name: "is killed by a signal", formats: all, said: "7", f: func(a ask) reply { a.read(); return reply{exit: &faas.Exit{Signal: "SIGSEGV"}} },
		kind: faas.FuncFailed, says: "killed by SIGSEGV: no such picture"},
	{name: "is over its memory", formats: all, said: "7", f: func(a ask) reply { a.read(); return reply{exit: &faas.Exit{Signal: "SIGKILL", OOM: true}} },
		kind: faas.FuncFailed, says: "killed: over its 64 MB memory limit: no such picture"},
	{name: "ends on a later call", formats: hot, said: "7", before: 3, f: func(a ask) reply {
		a.read()
		if a.n == 4 {
			return reply{exit: &faas.Exit{Code: 3}}
		}
		return answer("fine")
	}, kind: faas.FuncFailed, says: "exit code 3: no such picture"},
	{name: "says nothing until its time is over", formats: all, said: "7", end: true, f: func(a ask) reply { a.read(); return reply{hang: true} },
		kind: faas.TimedOut, says: errEnd.Error()},
	{name: "reads nothing until its time is over", formats: all, said: strings.Repeat("7", 1<<20), end: true, f: func(a ask) reply { return reply{hang: true} },
		kind: faas.TimedOut, says: errEnd.Error()},
	{name: "is given a body that breaks off", formats: all, body: func() io.Reader { return io.MultiReader(strings.NewReader("half"), broken{}) }, f: echo,
		kind: faas.Canceled, says: "the caller went away in the middle of its payload: unexpected EOF", keep: true},
	{name: "is given a large body that breaks off", formats: streams, body: func() io.Reader {
		return io.MultiReader(strings.NewReader(strings.Repeat("7", 1<<20)), broken{})
	}, size: 2 << 20, f: echo, kind: faas.Canceled, says: "the caller went away in the middle of its payload: unexpected EOF"},
	{name: "is given a body over the limit", formats: all, body: func() io.Reader {
		return http.MaxBytesReader(httptest.NewRecorder(), io.NopCloser(strings.NewReader("hello")), 3)
	}, f: echo,
		kind: faas.TooLarge, says: "the payload is over the limit of 3 bytes", keep: true},
	{name: "has no caller any more", formats: all, said: "7", gone: true, f: echo, kind: faas.Canceled, says: "the caller went away", keep: true},
	{name: "answers before it reads", formats: streams, said: strings.Repeat("7", 1<<20), f: func(a ask) reply { return reply{status: 200, body: "enough", hang: true} },
		status: 200, answer: "enough"},
	{name: "writes behind its answer", formats: streams, said: "7", f: func(a ask) reply { a.read(); return reply{status: 200, body: "first", behind: "second"} },
		status: 200, answer: "first"},
	{name: "answers twice", formats: streams, said: "7", f: func(a ask) reply {
		a.read()
		return reply{status: 200, body: "first", behind: "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"}
	}, status: 200, answer: "first"},
	{name: "ends in the middle of its answer", formats: streams, said: "7", f: func(a ask) reply {
		a.read()
		return reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", exit: &faas.Exit{Code: 3}}
	}, status: 200, answer: "half", kind: faas.FuncFailed, says: "exit code 3: no such picture"},
	{name: "speaks something else", formats: streams, said: "7", f: func(a ask) reply { a.read(); return reply{raw: "hello, world\n", hang: true} },
		kind: faas.FuncFailed, says: `the function answered with something that is not HTTP: "hello, world\n"`},
	{name: "does not say how long its answer is", formats: streams, said: "7", f: func(a ask) reply { a.read(); return reply{raw: "HTTP/1.1 200 OK\r\n\r\nhello", hang: true} },
		kind: faas.FuncFailed, says: "the function answered with neither Content-Length nor Transfer-Encoding: chunked, so its end cannot be seen"},
	{name: "answers in chunks", formats: streams, said: "7", f: func(a ask) reply {
		a.read()
		return reply{raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"}
	}, status: 200, answer: "hello", keep: true},
	{name: "answers until it ends", formats: streams, said: "7", f: func(a ask) reply {
		a.read()
		return reply{raw: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", exit: &faas.Exit{}}
	}, status: 200, answer: "hello"},
	{name: "fails in the middle of an answer without a length", formats: streams, said: "7", f: func(a ask) reply {
		a.read()
		return reply{raw: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhel", exit: &faas.Exit{Signal: "SIGSEGV"}}
	}, status: 200, answer: "hel", kind: faas.FuncFailed, says: "killed by SIGSEGV"},
	{name: "answers with a header of 10 MB", formats: streams, said: "7", f: func(a ask) reply {
		a.read()
		return reply{raw: "HTTP/1.1 200 OK\r\nX-Large: " + strings.Repeat("x", 10<<20), hang: true}
	}, kind: faas.FuncFailed, says: "the function answered with a header of more than 256 KB"},
	{name: "writes before it is asked", formats: []faas.Format{faas.FormatHTTP}, said: "7", before: 1, f: func(a ask) reply {
		a.read()
		return reply{status: 200, body: "fine", behind: " \r\n"}
	}, status: 200, answer: "fine", keep: true},
	{name: "answers with no JSON", formats: objects, said: "7", f: func(a ask) reply { return reply{raw: "hello, world\n", hang: true} },
		kind: faas.FuncFailed, says: "invalid json response from function: it begins with \"hello, world\\n\""},
	{name: "answers with broken JSON", formats: objects, said: "7", f: func(a ask) reply { return reply{raw: "{\"body\": tru}\n", hang: true} },
		kind: faas.FuncFailed, says: "invalid json response from function: invalid character"},
	{name: "writes behind its object", formats: objects, said: "7", f: func(a ask) reply { return reply{status: 200, body: "first", behind: "second"} },
		status: 200, answer: "first"},
	{name: "has a status that is none", formats: objects, said: "7", f: func(a ask) reply { return reply{status: 42} },
		kind: faas.FuncFailed, says: "the function answered with status 42, which is not between 200 and 599", keep: true},
	{name: "has nothing to say", formats: statuses, said: "7", f: func(a ask) reply { a.read(); return reply{status: 204} }, status: 204, keep: true},
	{name: "says that it failed", formats: []faas.Format{faas.FormatHTTPStream}, said: "7", f: func(a ask) reply {
		a.read()
		return reply{status: 502, body: `{"message":"Exception in function","detail":"no such picture"}`}
	}, kind: faas.FuncFailed, says: "Exception in function: no such picture", keep: true},
	{name: "says that its time is over", formats: []faas.Format{faas.FormatHTTPStream}, said: "7", f: func(a ask) reply { a.read(); return reply{status: 504} },
		kind: faas.TimedOut, says: "the function said that it ran out of time", keep: true},
	{name: "has a status that is not allowed", formats: []faas.Format{faas.FormatHTTPStream}, said: "7", f: func(a ask) reply { a.read(); return reply{status: 404, body: "x"} },
		kind: faas.FuncFailed, says: "the function answered with status 404: this format allows 200, 502 and 504"},
}

func TestExchanges(t *testing.T) {
	for _, tt := range exchanges {
		for _, format := range tt.formats {
			t.Run(strings.ReplaceAll(tt.name, " ", "_")+"/"+string(format), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				c := openProgram(t, format, func(ctx context.Context, p *process) faas.Exit {
					p.words = "no such picture"
					return speakers[format](func(a ask) reply {
						if tt.end {
							cancel(errEnd)
						}
						return tt.f(a)
					})(ctx, p)
				})
				for n := range tt.before {
					rec := httptest.NewRecorder()
					if out, err := c.Exchange(ctx, request("1"), rec); err != nil || !out.Keep {
						t.Fatalf("call %d: %+v, %v", n, out, err)
					}
				}
				req := request(tt.said)
				if tt.body != nil {
					req.Body, req.Size = tt.body(), cmp.Or(tt.size, 10)
				}
				rec := httptest.NewRecorder()
				var w http.ResponseWriter = rec
				if tt.gone {
					w = deaf{rec}
				}
				out, err := c.Exchange(ctx, req, w)
				if faas.KindOf(err) != tt.kind || err != nil && !strings.Contains(err.Error(), tt.says) {
					t.Fatalf("error %q of kind %q, want %q of kind %q", err, faas.KindOf(err), tt.says, tt.kind)
				}
				if keep := tt.keep && format.Hot(); out.Keep != keep || out.Again != tt.again {
					t.Errorf("keep %v, again %v, want %v and %v", out.Keep, out.Again, keep, tt.again)
				}
				if tt.gone {
					return
				}
				if out.Status != tt.status || tt.status != 0 && rec.Code != tt.status {
					t.Errorf("status %d reported, %d written, want %d", out.Status, rec.Code, tt.status)
				}
				if got := rec.Body.String(); got != tt.answer || out.Out != int64(len(got)) {
					t.Errorf("answer of %d bytes %.40q, %d counted, want %d bytes", len(got), got, out.Out, len(tt.answer))
				}
				if err == nil && out.In != int64(len(tt.said)) && tt.name != "answers before it reads" {
					t.Errorf("%d bytes counted of %d", out.In, len(tt.said))
				}
				for name, want := range tt.header {
					if got := rec.Header()[name]; !slices.Equal(got, want) {
						t.Errorf("header %s is %q, want %q", name, got, want)
					}
				}
			})
		}
	}
}

// TestCallThatMeetsADeadProcessIsNotLost: it can be given to another one, as it is.
func TestCallThatMeetsADeadProcessIsNotLost(t *testing.T) {
	for _, format := range hot {
		for _, size := range []int{3, 100 << 10} {
			if format == faas.FormatPort && size > 4<<10 {
				continue // how much of it was read cannot be known
			}
			t.Run(fmt.Sprint(format, size), func(t *testing.T) {
				die := make(chan struct{})
				c, p := openProcess(t, format, func(ctx context.Context, p *process) faas.Exit {
					result := make(chan faas.Exit, 1)
					inner, cancel := context.WithCancel(ctx)
					go func() { result <- speakers[format](echo)(inner, p) }()
					select {
					case exit := <-result:
						cancel()
						return exit
					case <-die:
					}
					p.in.Close()
					p.out.Close()
					cancel()
					<-result
					return faas.Exit{Code: 1}
				})
				if out, err := c.Exchange(t.Context(), request("1"), httptest.NewRecorder()); err != nil || !out.Keep {
					t.Fatalf("%+v, %v", out, err)
				}
				close(die)
				<-p.ended
				said := strings.Repeat("7", size)
				req := request(said)
				rec := httptest.NewRecorder()
				out, err := c.Exchange(t.Context(), req, rec)
				if !out.Again || out.Keep || faas.KindOf(err) != faas.FuncFailed || out.Status != 0 {
					t.Errorf("%+v, %v, want it again", out, err)
				}
				if rest, err := io.ReadAll(req.Body); err != nil || string(rest) != said {
					t.Errorf("the body is %d bytes now, %v, want %d", len(rest), err, size)
				}
			})
		}
	}
}

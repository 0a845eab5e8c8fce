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
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
)

func TestServerBehindAPortSeesAProxy(t *testing.T) {
	got := make(chan *http.Request, 1)
	url, outcomes := hotEdge(t, openProgram(t, faas.FormatPort, listenIn(faas.FormatPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r
		w.Header().Set("Hob-Call-Id", "forged")
		w.WriteHeader(http.StatusTeapot)
	}))))
	req, err := http.NewRequestWithContext(t.Context(), "DELETE", url+"/a%2Fb?x=1;y&z", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "198.51.100.7")
	req.Header.Set("Hob-Call-Id", "forged")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r := <-got
	if r.Method != "DELETE" || r.RequestURI != "/a%2Fb?x=1;y&z" || "http://"+r.Host != url {
		t.Errorf("asked %s %s of %s", r.Method, r.RequestURI, r.Host)
	}
	for name, want := range map[string]string{"X-Forwarded-For": "198.51.100.7, 192.0.2.1", "X-Forwarded-Host": r.Host, "X-Forwarded-Proto": "http", "Hob-Call-Id": "c1"} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if o := <-outcomes; o.err != nil || !o.out.Keep || o.out.Status != http.StatusTeapot || resp.StatusCode != http.StatusTeapot || resp.Header.Get("Hob-Call-Id") != "" {
		t.Errorf("%+v, answer %v", o, resp)
	}
}

func TestServerTakesSeveralCallsAtOnce(t *testing.T) {
	const n = 8
	var all sync.WaitGroup
	all.Add(n)
	c := openProgram(t, faas.FormatPort, listenIn(faas.FormatPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Done()
		all.Wait() // nobody is answered before all have asked
		io.Copy(w, r.Body)
	})))
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			rec := httptest.NewRecorder()
			if out, err := c.Exchange(t.Context(), request(fmt.Sprint(i)), rec); err != nil || !out.Keep || rec.Body.String() != fmt.Sprint(i) {
				t.Errorf("call %d: %+v, %v, %q", i, out, err, rec.Body)
			}
		})
	}
	calls.Wait()
}

func TestUpgradePassesThrough(t *testing.T) {
	url, outcomes := hotEdge(t, openProgram(t, faas.FormatPort, listenIn(faas.FormatPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, "you said "+line)
	}))))
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
		t.Fatalf("%+v, %v", resp, err)
	}
	io.WriteString(conn, "hello\n")
	if line, err := in.ReadString('\n'); err != nil || line != "you said hello\n" {
		t.Errorf("read %q, %v", line, err)
	}
	conn.Close()
	if o := <-outcomes; o.err != nil || o.out.Status != http.StatusSwitchingProtocols {
		t.Errorf("%+v", o)
	}
}

func TestEventsPassAsTheyCome(t *testing.T) {
	for _, format := range []faas.Format{faas.FormatPort, faas.FormatHTTPStream} {
		next := make(chan struct{})
		url, outcomes := hotEdge(t, openProgram(t, format, listenIn(format, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for n := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", n)
				http.NewResponseController(w).Flush()
				<-next
			}
		}))))
		in := bufio.NewReader(post(t, url, nil).Body)
		for n := range 3 {
			line, err := in.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", n) {
				t.Fatalf("%s: event %d is %q, %v", format, n, line, err)
			}
			in.ReadString('\n')
			next <- struct{}{}
		}
		if o := <-outcomes; o.err != nil || !o.out.Keep {
			t.Errorf("%s: %+v", format, o)
		}
	}
}

// TestCallerWhoLeavesAServerIsToldToIt: ctx ends with the caller, and the server
// goes on.
func TestCallerWhoLeavesAServerIsToldToIt(t *testing.T) {
	asked, told := make(chan struct{}), make(chan struct{})
	c := openProgram(t, faas.FormatPort, listenIn(faas.FormatPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(told)
	})))
	left := faas.Errorf(faas.Canceled, "the caller went away")
	ctx, leave := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		leave(left)
	}()
	out, err := c.Exchange(ctx, request(""), httptest.NewRecorder())
	if err != left || !out.Keep {
		t.Errorf("%+v, %v", out, err)
	}
	<-told
}

// leaver is a caller that leaves when it has the answer.
type leaver struct {
	*httptest.ResponseRecorder
	leave context.CancelFunc
}

func (l leaver) Write(p []byte) (int, error) {
	defer l.leave()
	return l.ResponseRecorder.Write(p)
}

func TestServerGoesOnWhenACallerLeavesWithItsAnswer(t *testing.T) {
	c := openProgram(t, faas.FormatPort, listenIn(faas.FormatPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "answer")
	})))
	for range 20 {
		ctx, leave := context.WithCancel(t.Context())
		caller := leaver{httptest.NewRecorder(), leave}
		if out, err := c.Exchange(ctx, request(""), caller); err != nil || !out.Keep || caller.Body.String() != "answer" {
			t.Fatalf("%+v, %v, %q", out, err, caller.Body)
		}
	}
}

func TestServerThatBreaksItsAnswerOffFails(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		keep bool
		is   error
		says string
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true, faas.ErrBroken, "in the middle of its answer"},
		{"", true, faas.ErrBroken, "before it had answered"},
		{"hello, world\n\n", false, nil, "not HTTP"},
		{"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 300<<10) + "\r\n\r\n", false, faas.ErrHeaderTooLarge, "more than 256 KB"},
	} {
		c := openProgram(t, faas.FormatPort, func(ctx context.Context, p *process) faas.Exit {
			defer p.listener.Close()
			defer context.AfterFunc(ctx, func() { p.listener.Close() })()
			for {
				conn, err := p.listener.Accept()
				if err != nil {
					return faas.Exit{Signal: "SIGKILL"}
				}
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					io.WriteString(conn, tt.raw)
				}
				conn.Close()
			}
		})
		out, err := c.Exchange(t.Context(), request(""), httptest.NewRecorder())
		if faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), tt.says) || tt.is != nil && !errors.Is(err, tt.is) || out.Keep != tt.keep || out.Again {
			t.Errorf("%.40q: %+v, %v", tt.raw, out, err)
		}
	}
}

func TestServerThatListensNoMoreHadNothing(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	c := openProgram(t, faas.FormatPort, func(ctx context.Context, p *process) faas.Exit {
		<-stop
		p.listener.Close()
		close(stopped)
		<-ctx.Done()
		return faas.Exit{Signal: "SIGKILL"}
	})
	close(stop)
	<-stopped
	req := request("body")
	out, err := c.Exchange(t.Context(), req, httptest.NewRecorder())
	rest, _ := io.ReadAll(req.Body)
	if !out.Again || out.Keep || faas.KindOf(err) != faas.FuncFailed || string(rest) != "body" {
		t.Errorf("%+v, %v, body %q", out, err, rest)
	}
}

func TestUploadToAServerThatDiesEnds(t *testing.T) {
	c := openProgram(t, faas.FormatPort, func(ctx context.Context, p *process) faas.Exit {
		defer p.listener.Close()
		p.listener.Accept() // the look whether something listens
		conn, err := p.listener.Accept()
		if err != nil {
			return faas.Exit{Signal: "SIGKILL"}
		}
		http.ReadRequest(bufio.NewReader(conn))
		conn.Close()
		return faas.Exit{Signal: "SIGSEGV"}
	})
	r, w := io.Pipe()
	defer w.Close()
	req := request("")
	req.Body, req.Size = r, 100 // never comes
	begin := time.Now()
	out, err := c.Exchange(t.Context(), req, httptest.NewRecorder())
	if faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "SIGSEGV") || out.Keep {
		t.Errorf("%+v, %v after %v", out, err, time.Since(begin))
	}
}

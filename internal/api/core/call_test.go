package core

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/store"
	"hob/internal/store/memory"
)

func TestTargetIsWhatStandsBehindTheCall(t *testing.T) {
	const base = "/api/apps/photos/functions/f"
	for _, c := range []struct{ url, want string }{
		{base + "/call", "photos f /"},
		{base + "/call/", "photos f /"},
		{base + "/call//", "photos f //"},
		{base + "/call?q", "photos f /?q"},
		{base + "/call/?", "photos f /?"},
		{base + "/call/a%2Fb/%20/..//c?x=%0A&y", "photos f /a%2Fb/%20/..//c?x=%0A&y"},
		{base + "/call/a/functions/b/call", "photos f /a/functions/b/call"},
		{"/api/apps/a%2Fb/functions/%C3%A9/call", "a/b é /"},
		{base + "/caller", ""},
		{base + "/calls/1", ""},
		{base, ""},
		{base + "/logs", ""},
		{"/api/apps/photos/functions/call", ""},
		{"/api/apps//functions/f/call", ""},
		{"/api/apps/photos/functions//call", ""},
		{"/api//apps/photos/functions/f/call", ""},
		{"/api/apps/photos/../functions/f/call", ""},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if to, is := targetOf(u); is {
			got = to.app + " " + to.function + " " + to.path
		}
		if got != c.want {
			t.Errorf("%s is a call of %q, want %q", c.url, got, c.want)
		}
		if is := IsCall(&http.Request{URL: u}); is != (c.want != "") {
			t.Errorf("IsCall(%s) = %t", c.url, is)
		}
	}
}

// caller is what a function does.
type caller func(req *faas.Request, w http.ResponseWriter) error

func (c caller) Call(_ context.Context, _ faas.Function, _ *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	return c(req, w)
}
func (caller) Live() []faas.Call { return nil }

// serve runs a server whose function f of the default app does what c says.
func serve(t *testing.T, c caller) *httptest.Server {
	t.Helper()
	definitions := memory.New()
	t.Cleanup(func() { definitions.Close() })
	app, err := definitions.App(t.Context(), faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := definitions.PutFunction(t.Context(), faas.Function{ID: faas.NewID(), App: app.ID, Name: "f"}, store.IfNew); err != nil {
		t.Fatal(err)
	}
	index, err := catalog.Load(t.Context(), definitions)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer((&Server{Catalog: index, Caller: c}).Handler())
	t.Cleanup(s.Close)
	return s
}

var errLate = faas.Errorf(faas.FuncFailed, "exit code 3")

func TestFailureIsToldAsLongAsTheAnswerHasNotBegun(t *testing.T) {
	for _, c := range []struct {
		name  string
		does  caller
		begun bool
	}{
		{"nothing", func(*faas.Request, http.ResponseWriter) error { return nil }, false},
		{"early hints", func(_ *faas.Request, w http.ResponseWriter) error {
			w.WriteHeader(http.StatusEarlyHints)
			return nil
		}, false},
		{"a status", func(_ *faas.Request, w http.ResponseWriter) error {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}, true},
		{"a byte", func(_ *faas.Request, w http.ResponseWriter) error {
			_, err := w.Write([]byte("x"))
			return err
		}, true},
		{"a flush", func(_ *faas.Request, w http.ResponseWriter) error {
			return http.NewResponseController(w).Flush()
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			b := &begun{ResponseWriter: w, call: &faas.Call{ID: "C1"}, id: "C1"}
			if err := c.does(nil, b); err != nil {
				t.Fatal(err)
			}
			if b.is != c.begun {
				t.Errorf("begun: %t, want %t", b.is, c.begun)
			}
			s := serve(t, func(req *faas.Request, w http.ResponseWriter) error {
				if err := c.does(req, w); err != nil {
					return err
				}
				return errLate
			})
			resp, err := http.Get(s.URL + "/api/apps/default/functions/f/call")
			told := err == nil && resp.StatusCode == http.StatusBadGateway && resp.Header.Get("Hob-Fault") == "func_failed"
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if told == c.begun {
				t.Errorf("the failure is told: %t, want %t", told, !c.begun)
			}
			if c.begun && err == nil && resp.StatusCode != http.StatusNoContent { // which has no body to break off
				t.Error("the answer ends as if it were whole")
			}
		})
	}
}

func TestFirstBytesReachTheCallerBeforeTheFunctionHasEnded(t *testing.T) {
	read := make(chan struct{})
	s := serve(t, func(_ *faas.Request, w http.ResponseWriter) error {
		io.WriteString(w, "data: 1\n\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		<-read
		io.WriteString(w, "data: 2\n\n")
		return nil
	})
	resp, err := http.Get(s.URL + "/api/apps/default/functions/f/call/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 9)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "data: 1\n\n" {
		t.Fatalf("got %q, %v", first, err)
	}
	close(read)
	if rest, err := io.ReadAll(resp.Body); string(rest) != "data: 2\n\n" || err != nil {
		t.Errorf("then %q, %v", rest, err)
	}
}

func TestUpgradedConnectionBelongsToTheFunction(t *testing.T) {
	for _, failure := range []error{nil, errors.New("the function is gone")} {
		s := serve(t, func(req *faas.Request, w http.ResponseWriter) error {
			if got := req.Method + " " + req.Target + " " + req.Header.Get("Upgrade") + " " + req.Caller; got != "GET /chat?room=1 echo 127.0.0.1" {
				t.Errorf("asked for %q", got)
			}
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			defer conn.Close()
			line, err := buf.ReadString('\n')
			if err != nil {
				return err
			}
			buf.WriteString(strings.ToUpper(line))
			buf.Flush()
			return failure
		})
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /api/apps/default/functions/f/call/chat?room=1 HTTP/1.1\r\nHost: hob\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Hob-Call") == "" {
			t.Fatalf("got %+v, %v", resp, err)
		}
		io.WriteString(conn, "hello\n")
		if rest, err := io.ReadAll(r); string(rest) != "HELLO\n" || err != nil {
			t.Errorf("got %q, %v; want the echo and the end, whatever comes of the call (%v)", rest, err, failure)
		}
	}
}

func TestBusyIsAnsweredWithTheTimeToWait(t *testing.T) {
	for given, want := range map[string]string{"": "1", "15": "15"} {
		s := serve(t, func(_ *faas.Request, w http.ResponseWriter) error {
			if given != "" {
				w.Header().Set("Retry-After", given)
			}
			return faas.Errorf(faas.Busy, "no sandbox became free in 30s")
		})
		resp, err := http.Get(s.URL + "/api/apps/default/functions/f/call")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Retry-After"); resp.StatusCode != http.StatusServiceUnavailable || got != want {
			t.Errorf("status %d, Retry-After %q; want 503, %q", resp.StatusCode, got, want)
		}
	}
}

package api

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"hob/faas"
)

func plain(w http.ResponseWriter, f Fault) {
	w.WriteHeader(f.Status)
	fmt.Fprintf(w, "%d %s", f.Status, f.Message)
}

func TestServe(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"classified", faas.Errorf(faas.NotFound, "no function %q in app %q", "resize", "photos"), `404 no function "resize" in app "photos"`},
		{"wrapped", fmt.Errorf("call resize: %w", faas.Errorf(faas.Busy, "no slot in 30s")), "503 call resize: no slot in 30s"},
		{"unclassified", errors.New("open /var/lib/x/db: permission denied"), "500 internal error; quote request r7"},
		{"headers", faas.Errorf(faas.TooLarge, "the environment is over 128 KB: %w", faas.ErrEnvironment), "431 the environment is over 128 KB: send fewer or shorter headers"},
		{"gone", faas.Errorf(faas.NotFound, "the result of call C1: %w", faas.ErrGone), "410 the result of call C1: it is not kept any more"},
		{"another request", faas.Errorf(faas.Conflict, "the key was used: %w", faas.ErrKeyReused), "422 the key was used: use a new key for a new request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := serve(func(http.ResponseWriter, *http.Request) error { return tt.err }); got != tt.want {
				t.Errorf("answer = %q, want %q", got, tt.want)
			}
		})
	}
}

func serve(h Handler) string {
	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	w.Header().Set(RequestID, "r7")
	Serve(h, plain, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
	return w.Body.String()
}

func TestPanicIsAnInternalError(t *testing.T) {
	if got := serve(func(http.ResponseWriter, *http.Request) error { panic("a defect") }); got != "500 internal error; quote request r7" {
		t.Errorf("answer = %q", got)
	}
}

func TestBrokenOffAnswerStaysBrokenOff(t *testing.T) {
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("panic %v, want %v", got, http.ErrAbortHandler)
		}
	}()
	serve(func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) })
}

func TestEveryKindHasAStatus(t *testing.T) {
	for _, kind := range faas.Kinds() {
		if status[kind] == 0 {
			t.Errorf("kind %s has no HTTP status", kind)
		}
	}
}

func TestClientsCannotChooseTheRequestID(t *testing.T) {
	var inside string
	h := Identify(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { inside = r.Header.Get(RequestID) }), "", nil)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set(RequestID, "mine")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if named := w.Header().Get(RequestID); inside != "mine" || named == "mine" || len(named) != 26 {
		t.Errorf("ID inside %q, on the answer %q", inside, w.Header().Get(RequestID))
	}
}

func TestGuard(t *testing.T) {
	g := Guard{Hosts: []string{"node.example"}}
	h := g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") }), plain)
	tests := []struct {
		name, method, host string
		header             map[string]string
		status             int
	}{
		{"loopback", "POST", "127.0.0.1:8080", nil, 200},
		{"loopback of version 6", "POST", "[::1]:8080", nil, 200},
		{"localhost", "POST", "LocalHost:8080", nil, 200},
		{"configured", "POST", "node.example:8080", nil, 200},
		{"a name that points here", "GET", "evil.example:8080", nil, 403},
		{"another address", "GET", "192.0.2.1", nil, 403},
		{"empty", "GET", "", nil, 403},
		{"a page of another origin", "POST", "127.0.0.1:8080", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"an old browser's page", "POST", "127.0.0.1:8080", map[string]string{"Origin": "http://evil.example"}, 403},
		{"reading by a page", "GET", "127.0.0.1:8080", map[string]string{"Sec-Fetch-Site": "cross-site"}, 200},
		{"a page of this node", "POST", "127.0.0.1:8080", map[string]string{"Sec-Fetch-Site": "same-origin"}, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, "/", nil)
			r.Host = tt.host
			for k, v := range tt.header {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.status {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
		})
	}
}

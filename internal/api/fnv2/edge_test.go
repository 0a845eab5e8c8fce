package fnv2_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/core"
	"hob/internal/api/fnv2"
	"hob/internal/catalog"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// caller is what functions do. A detached call is accepted if its body can be read.
type caller func(ctx context.Context, call *faas.Call, req *faas.Request, w http.ResponseWriter) error

func (c caller) Call(ctx context.Context, _ faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	return c(ctx, call, req, w)
}

func (c caller) Enqueue(ctx context.Context, _ faas.Function, call *faas.Call, req *faas.Request, _ time.Duration) (faas.Call, error) {
	if err := c(ctx, call, req, nil); err != nil {
		return faas.Call{}, err
	}
	return *call, nil
}

func (caller) Live() []faas.Call { return nil }
func (caller) Find(context.Context, string) (faas.Call, error) {
	return faas.Call{}, faas.Errorf(faas.NotFound, "no call")
}

// text is a function that answers with this text.
func text(says string) caller {
	return func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		_, err := io.WriteString(w, says)
		return err
	}
}

// edge is a server with the app photos, which has a function of each format, under
// the name of that, and the triggers of http-stream that are asked for.
type edge struct {
	*testing.T
	*fnv2.Server
	url     string
	catalog *catalog.Catalog
	app     faas.App
	fn      faas.Function // of http-stream
}

func serve(t *testing.T, c caller, change func(*fnv2.Server), sources ...string) *edge {
	t.Helper()
	definitions := memory.New()
	t.Cleanup(func() { definitions.Close() })
	index, err := catalog.Load(t.Context(), definitions)
	if err != nil {
		t.Fatal(err)
	}
	n := &edge{T: t, catalog: index, Server: &fnv2.Server{Catalog: index, Caller: c, Calls: definitions, Log: slog.New(slog.DiscardHandler)}}
	n.putApp("photos", nil)
	n.app, _ = index.App("photos")
	for _, format := range faas.Formats() {
		fn, err := index.PutFunction(t.Context(), faas.Function{App: n.app.ID, Name: string(format), Image: "img", Digest: "sha256:1", Format: format}.WithDefaults(), store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		if n.trigger(fn, "/"+fn.Name); format == faas.FormatHTTPStream {
			n.fn = fn
		}
	}
	for _, source := range sources {
		n.trigger(n.fn, source)
	}
	if change != nil {
		change(n.Server)
	}
	all, hosts := n.Handler(), n.HostHandler()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Hosted(r) {
			hosts.ServeHTTP(w, r)
		} else {
			all.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	n.url = s.URL
	return n
}

func (n *edge) putApp(name string, annotations map[string]string) {
	n.Helper()
	if _, err := n.catalog.PutApp(n.Context(), faas.App{Name: name, Annotations: annotations}, store.IfNew); err != nil {
		n.Fatal(err)
	}
}

func (n *edge) trigger(fn faas.Function, source string) {
	n.Helper()
	t := faas.Trigger{App: fn.App, Function: fn.ID, Name: faas.NewID(), Type: faas.TriggerHTTP, Source: source}
	if _, err := n.catalog.PutTrigger(n.Context(), t, store.IfNew); err != nil {
		n.Fatal(err)
	}
}

// invoke is the path of the function of http-stream.
func (n *edge) invoke() string { return "/invoke/" + n.fn.ID }

// do sends a request, with headers as "Name: value", and returns the answer.
func (n *edge) do(method, path string, body io.Reader, headers ...string) (*http.Response, string) {
	n.Helper()
	req, err := http.NewRequestWithContext(n.Context(), method, n.url+path, body)
	if err != nil {
		n.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header[name] = append(req.Header[name], value)
		if name == "Host" {
			req.Host = value
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		n.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		n.Fatalf("%s %s: answer: %v", method, path, err)
	}
	return resp, string(answer)
}

// says reports an answer that is not of this status and body.
func (n *edge) says(what string, resp *http.Response, body string, status int, want string) {
	n.Helper()
	if status >= 400 {
		message, _ := json.Marshal(want)
		want = fmt.Sprintf("{\"message\":%s}\n", message)
	}
	if resp.StatusCode != status || body != want {
		n.Errorf("%s: %d %q, want %d %q", what, resp.StatusCode, body, status, want)
	}
}

// lines are headers one to a line, in order, without those of each message.
func lines(h http.Header) string {
	var all []string
	for name, values := range h {
		if slices.Contains([]string{"Accept-Encoding", "User-Agent", "Date", "Fn-Http-H-Accept-Encoding", "Fn-Http-H-User-Agent"}, name) {
			continue
		}
		for _, v := range values {
			all = append(all, name+": "+v)
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// raw sends bytes and returns status and body of the answer.
func (n *edge) raw(request string) (int, string) {
	n.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		n.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// blank is a ResponseWriter that costs nothing.
type blank struct{ header http.Header }

func (b *blank) Header() http.Header              { return b.header }
func (b *blank) WriteHeader(int)                  {}
func (b *blank) Write(p []byte) (int, error)      { return len(p), nil }
func (b *blank) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkCall is what the edge costs in a call, beside that of our own API.
func BenchmarkCall(b *testing.B) {
	definitions := memory.New()
	defer definitions.Close()
	index, err := catalog.Load(b.Context(), definitions)
	if err != nil {
		b.Fatal(err)
	}
	app, err := index.App(faas.DefaultApp)
	if err != nil {
		b.Fatal(err)
	}
	fn, err := index.PutFunction(b.Context(), faas.Function{App: app.ID, Name: "f", Image: "img", Format: faas.FormatHTTPStream}.WithDefaults(), store.IfNew)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := index.PutTrigger(b.Context(), faas.Trigger{App: app.ID, Function: fn.ID, Name: "t", Type: faas.TriggerHTTP, Source: "/f"}, store.IfNew); err != nil {
		b.Fatal(err)
	}
	typed, hello := []string{"text/plain"}, []byte("hello")
	does := caller(func(_ context.Context, _ *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
		h := w.Header()
		h["Content-Type"], h["Content-Length"], h["Hob-Start"] = typed, typed, typed
		w.WriteHeader(http.StatusOK)
		_, err := w.Write(hello)
		return err
	})
	fns := (&fnv2.Server{Catalog: index, Caller: does, Calls: definitions, Log: slog.New(slog.DiscardHandler)}).Handler()
	for _, edge := range []struct {
		name, path string
		handler    http.Handler
	}{
		{"core", "/api/apps/default/functions/f/call", (&core.Server{Catalog: index, Caller: does}).Handler()},
		{"invoke", "/invoke/" + fn.ID, fns},
		{"trigger", "/t/default/f", fns},
	} {
		b.Run(edge.name, func(b *testing.B) {
			b.ReportAllocs()
			header := http.Header{"Accept": {"*/*"}, "User-Agent": {"bench"}, "Content-Type": typed, "Content-Length": {"0"}, "Request-Id": {"r"}}
			for b.Loop() {
				u, err := url.ParseRequestURI(edge.path)
				if err != nil {
					b.Fatal(err)
				}
				r := &http.Request{Method: "POST", URL: u, Host: "127.0.0.1:8080", RemoteAddr: "127.0.0.1:9", Header: maps.Clone(header), Body: http.NoBody}
				edge.handler.ServeHTTP(&blank{make(http.Header)}, r)
			}
		})
	}
}

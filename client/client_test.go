package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
)

// server answers every request with h.
func server(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return connect(t, s.URL)
}

func connect(t *testing.T, address string) *client.Client {
	t.Helper()
	c, err := client.New(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestEveryKindCrossesTheWire(t *testing.T) {
	for _, kind := range faas.Kinds() {
		c := server(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Hob-Call", "C1")
			w.Header().Set("Hob-Fault", string(kind))
			w.WriteHeader(500)
			fmt.Fprintf(w, `{"error":{"kind":%q,"message":"why","request":"R1"}}`, kind)
		})
		_, err := c.Call(t.Context(), client.CallRequest{App: "default", Function: "f"})
		f, ok := errors.AsType[*client.Failure](err)
		if faas.KindOf(err) != kind || !ok || f.Call != "C1" || f.Request != "R1" || err.Error() != "why" {
			t.Errorf("kind %q arrives as %q: %#v", kind, faas.KindOf(err), err)
		}
	}
}

func TestKindOfANewerServerIsInternal(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(418)
		io.WriteString(w, `{"error":{"kind":"teapot","message":"short and stout"}}`)
	})
	_, err := c.Apps(t.Context())
	if faas.KindOf(err) != faas.Internal || err.Error() != "short and stout" {
		t.Errorf("%v of kind %q, want internal", err, faas.KindOf(err))
	}
}

func TestAnswerOfAStrangerIsInternal(t *testing.T) {
	c := server(t, http.NotFound)
	_, err := c.Function(t.Context(), "default", "f")
	if faas.KindOf(err) != faas.Internal || !strings.Contains(err.Error(), "is this the address of a hob server?") {
		t.Errorf("%v of kind %q, want internal: the server did not say this", err, faas.KindOf(err))
	}
}

func TestStrangerThatLetsNobodyInIsDenied(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who are you?", http.StatusUnauthorized) })
	if _, err := c.Apps(t.Context()); faas.KindOf(err) != faas.Denied || !strings.Contains(err.Error(), "no token was sent") {
		t.Errorf("%v of kind %q, want denied: nothing was sent", err, faas.KindOf(err))
	}
}

func TestServerThatIsNotThereIsToldWithTheWayOut(t *testing.T) {
	for _, address := range []string{"http://127.0.0.1:1", "unix://" + filepath.Join(t.TempDir(), "hob.sock")} {
		_, err := connect(t, address).Node(t.Context())
		if faas.KindOf(err) != faas.Internal || !strings.Contains(err.Error(), "no server answers at "+address) || !strings.Contains(err.Error(), "hob serve") {
			t.Errorf("%s: %v of kind %q", address, err, faas.KindOf(err))
		}
	}
}

func TestBadAddressIsInvalid(t *testing.T) {
	for _, address := range []string{"", "localhost:8080", "ftp://x", "http://", "unix://relative/path", "http://h/?q=1", "http://[::1"} {
		if _, err := client.New(address); faas.KindOf(err) != faas.Invalid {
			t.Errorf("New(%q) = %v, want invalid", address, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "hob.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"version":%q}`, r.URL.Path)
	})}}
	s.Start()
	t.Cleanup(s.Close)
	node, err := connect(t, "unix://"+socket).Node(t.Context())
	if err != nil || node.Version != "/api/node" {
		t.Errorf("got %+v, %v", node, err)
	}
}

func TestContextThatEndsIsItsOwnError(t *testing.T) {
	c := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, faas.Errorf(faas.TimedOut, "too slow"))
	defer cancel()
	if _, err := c.Apps(ctx); faas.KindOf(err) != faas.TimedOut || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("%v of kind %q, want timed_out", err, faas.KindOf(err))
	}
}

// call reads the whole answer of a call.
func call(t *testing.T, c *client.Client, body io.Reader) (string, error) {
	t.Helper()
	a, err := c.Call(t.Context(), client.CallRequest{App: "photos", Function: "f", Body: body, Header: http.Header{"X-A": {"b"}}})
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return string(b), err
}

func TestCallStreamsBothWays(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.URL.Path != "/api/apps/photos/functions/f/call" || r.Header.Get("X-A") != "b" {
			t.Errorf("got %s %s %v", r.Method, r.URL, r.Header)
		}
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "Hob-Outcome")
		io.Copy(flushing{w}, r.Body)
		w.Header().Set("Hob-Outcome", "ok")
	})
	in, out := io.Pipe()
	go func() {
		io.WriteString(out, "one ")
		io.WriteString(out, "two")
		out.Close()
	}()
	if got, err := call(t, c, in); got != "one two" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	return n, errors.Join(err, http.NewResponseController(f.ResponseWriter).Flush())
}

func TestAnswerThatIsBrokenOffFails(t *testing.T) {
	record := `{"id":"C1","error":{"kind":"timed_out","message":"it ran for longer than 1s"}}`
	for _, known := range []bool{true, false} {
		c := server(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path != "/api/calls/C1":
				w.Header().Set("Hob-Call", "C1")
				io.WriteString(flushing{w}, "the first ha")
				panic(http.ErrAbortHandler)
			case known:
				io.WriteString(w, record)
			default:
				http.NotFound(w, r)
			}
		})
		got, err := call(t, c, nil)
		want := "the answer was broken off after 12 bytes: the connection was closed in the middle of it"
		if known {
			want = "the answer was broken off after 12 bytes: it ran for longer than 1s"
		}
		f, ok := errors.AsType[*client.Failure](err)
		if got != "the first ha" || faas.KindOf(err) != faas.FuncFailed || err.Error() != want || !ok || f.Call != "C1" {
			t.Errorf("got %q, %v of kind %q; want %s", got, err, faas.KindOf(err), want)
		}
	}
}

func TestEndWithoutTheOutcomeIsBrokenOff(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Hob-Outcome")
		io.WriteString(flushing{w}, "half of it") // and a proxy in between makes a clean end of it
	})
	got, err := call(t, c, nil)
	if got != "half of it" || faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "broken off after 10 bytes") {
		t.Errorf("got %q, %v of kind %q", got, err, faas.KindOf(err))
	}
}

func TestSizeOfAFileIsTold(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.ContentLength) })
	for _, c2 := range []struct {
		body io.Reader
		want string
	}{{client.Sized(strings.NewReader("abc"), 3), "3"}, {client.Sized(strings.NewReader(""), 0), "0"}, {io.NopCloser(strings.NewReader("abc")), "-1"}, {nil, "0"}} {
		if got, err := call(t, c, c2.body); got != c2.want || err != nil {
			t.Errorf("length %s, %v; want %s", got, err, c2.want)
		}
	}
}

func TestLogsEndWithTheErrorBehindTheLines(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.String(), "/api/apps/default/functions/f/logs?call=C1&follow=true&tail=2"; got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
		io.WriteString(w, `{"time":"2026-01-02T03:04:05Z","call":"C1","stream":"stderr","text":"one"}`+"\n")
		io.WriteString(w, `{"error":{"kind":"not_found","message":"it was removed"}}`+"\n")
	})
	var got []string
	for line, err := range c.Logs(t.Context(), client.LogSelection{App: "default", Function: "f", Call: "C1", Tail: 2, Follow: true}) {
		if err != nil {
			got = append(got, string(faas.KindOf(err))+" "+err.Error())
		} else {
			got = append(got, line.Stream+" "+line.Text)
		}
	}
	if want := "stderr one, not_found it was removed"; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPullReportsProgressAndItsEnd(t *testing.T) {
	step := `{"progress":{"done":5,"total":10,"layers":[{"digest":"sha256:1","state":"fetching","done":5,"total":10}]}}` + "\n"
	for _, tt := range []struct{ name, last, want string }{
		{"the image", `{"image":{"digest":"sha256:2"}}`, "sha256:2 <nil>"},
		{"an error", `{"error":{"kind":"denied","message":"wrong credentials"}}`, " wrong credentials"},
		{"nothing", ``, " the pull was broken off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := server(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, step+tt.last) })
			var steps []client.Progress
			m, err := c.Pull(t.Context(), client.PullRequest{Image: "b"}, func(p client.Progress) { steps = append(steps, p) })
			if got := fmt.Sprint(m.Digest, " ", err); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(steps) != 1 || steps[0].Done != 5 || steps[0].Layers[0].State != "fetching" {
				t.Errorf("steps %+v", steps)
			}
		})
	}
}

func TestResetFieldsAreNull(t *testing.T) {
	var body string
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body = string(b)
		io.WriteString(w, "{}")
	})
	image := "b"
	_, err := c.UpdateFunction(t.Context(), "default", "f", client.Settings{Image: &image, Env: map[string]*string{"A": nil}, Reset: []string{"timeout"}}, "")
	if want := `{"env":{"A":null},"image":"b","timeout":null}`; err != nil || body != want {
		t.Errorf("sent %s, %v; want %s", body, err, want)
	}
	_, err = c.UpdateApp(t.Context(), "a", client.AppSettings{Shape: new(""), Reset: []string{"network", "allow"}})
	if want := `{"allow":null,"network":null,"shape":""}`; err != nil || body != want {
		t.Errorf("sent %s, %v; want %s", body, err, want)
	}
	_, err = c.CreateApp(t.Context(), "a", client.AppSettings{Network: new("none")})
	if want := `{"name":"a","network":"none"}`; err != nil || body != want {
		t.Errorf("sent %s, %v; want %s", body, err, want)
	}
	if _, err := c.UpdateApp(t.Context(), "a", client.AppSettings{Network: new("none"), Reset: []string{"network"}}); err == nil {
		t.Error("a field is set and reset at once")
	}
}

func TestStatusThatTheFunctionChoseIsAnAnswer(t *testing.T) {
	for _, c := range []struct {
		status int
		header string // that makes it somebody else's
		kind   faas.Kind
	}{
		{201, "", faas.OK}, {302, "", faas.OK}, {404, "", faas.OK}, {503, "", faas.OK},
		{503, "Hob-Fault", faas.Busy},
		{502, "no Hob-Call", faas.Internal}, // of something in between
	} {
		cl := server(t, func(w http.ResponseWriter, r *http.Request) {
			if c.header != "no Hob-Call" {
				w.Header().Set("Hob-Call", "C1")
			}
			if c.header == "Hob-Fault" {
				w.Header().Set("Hob-Fault", "busy")
			}
			w.WriteHeader(c.status)
			io.WriteString(w, `{"error":{"kind":"busy","message":"full"}}`)
		})
		a, err := cl.Call(t.Context(), client.CallRequest{App: "default", Function: "f"})
		if c.header == "no Hob-Call" {
			if err == nil {
				t.Errorf("%d without the id of a call is an answer", c.status)
			}
			continue
		}
		if faas.KindOf(err) != c.kind {
			t.Errorf("%d %s: %v of kind %q, want %q", c.status, c.header, err, faas.KindOf(err), c.kind)
		}
		if err == nil {
			a.Body.Close()
			if a.Status != c.status || a.Call != "C1" {
				t.Errorf("answer %d of call %s, want %d of C1", a.Status, a.Call, c.status)
			}
		}
	}
}

func TestPathReachesTheServerAsItIsWritten(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	for path, want := range map[string]string{
		"": "", "/": "/", "a": "/a", "//a/./..": "//a/./..", "/a%2Fb?x=%0A&y": "/a%2Fb?x=%0A&y", "?x": "/?x",
	} {
		a, err := c.Call(t.Context(), client.CallRequest{App: "default", Function: "f", Path: path})
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if got := strings.TrimPrefix(string(b), "/api/apps/default/functions/f/call"); got != want {
			t.Errorf("path %q arrives as %q, want %q", path, got, want)
		}
	}
	if _, err := c.Call(t.Context(), client.CallRequest{App: "default", Function: "f", Path: "/%zz"}); faas.KindOf(err) != faas.Invalid {
		t.Errorf("a path that is not escaped: %v, want invalid", err)
	}
}

func TestTokenIsSentWithEveryRequest(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer s3cret" {
			t.Errorf("%s %s: Authorization %q", r.Method, r.URL, got)
		}
		io.WriteString(w, "{}")
	}))
	t.Cleanup(s.Close)
	c, err := client.New(s.URL, client.WithToken("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	_, nodeErr := c.Node(t.Context())
	_, callErr := call(t, c, strings.NewReader("x"))
	_, loadErr := c.Load(t.Context(), strings.NewReader("x"), "")
	if err := errors.Join(nodeErr, callErr, loadErr); err != nil {
		t.Error(err)
	}
	if _, err := client.New(s.URL, client.WithToken("two\nlines")); faas.KindOf(err) != faas.Invalid || strings.Contains(err.Error(), "two") {
		t.Errorf("a token of two lines: %v, want invalid, without the token", err)
	}
}

func TestNamesAreEscapedInPaths(t *testing.T) {
	var got string
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Method + " " + r.URL.EscapedPath()
		io.WriteString(w, "{}")
	})
	const app, fn = "日本", "größe:1"
	const at = "/api/apps/%E6%97%A5%E6%9C%AC"
	for _, ask := range []struct {
		do   func() error
		want string
	}{
		{func() error { _, err := c.App(t.Context(), app); return err }, "GET " + at},
		{func() error { _, err := c.Function(t.Context(), app, fn); return err }, "GET " + at + "/functions/gr%C3%B6%C3%9Fe:1"},
		{func() error { _, err := c.Triggers(t.Context(), app, ""); return err }, "GET " + at + "/triggers"},
		{func() error { _, err := c.Triggers(t.Context(), app, fn); return err }, "GET " + at + "/functions/gr%C3%B6%C3%9Fe:1/triggers"},
		{func() error {
			_, err := c.PutTrigger(t.Context(), app, fn, "a+b", client.TriggerSettings{})
			return err
		}, "PUT " + at + "/functions/gr%C3%B6%C3%9Fe:1/triggers/a+b"},
		{func() error { return c.DeleteTrigger(t.Context(), app, fn, "a?b") }, "DELETE " + at + "/functions/gr%C3%B6%C3%9Fe:1/triggers/a%3Fb"},
	} {
		if err := ask.do(); err != nil || got != ask.want {
			t.Errorf("asked for %s, %v; want %s", got, err, ask.want)
		}
	}
}

func TestReachAndIsolationCrossTheWire(t *testing.T) {
	var asked, sent string
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked, sent = r.Method+" "+r.URL.Path, string(b)
		io.WriteString(w, `{"network":"allow","allow":["10.1.2.3:5432"],"isolation":"gvisor","devices":["/dev/kvm"],
			"isolations":[{"name":"gvisor","available":false,"reason":"no program runsc"}],"refused":7}`)
	})
	ctx, rules, none := t.Context(), []string{"10.1.2.3:5432"}, []string{}
	check := func(what, wantAsked, wantSent string, got, want any, err error) {
		t.Helper()
		if err != nil || asked != wantAsked || sent != wantSent || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\nasked %s, %s\nwant  %s, %s\ngot  %+v\nwant %+v", what, err, asked, sent, wantAsked, wantSent, got, want)
		}
	}
	fn := client.Function{Network: "allow", Allow: rules, Isolation: "gvisor", Devices: []string{"/dev/kvm"}}
	got, err := c.CreateFunction(ctx, "a", "f", client.Settings{Network: new("allow"), Allow: &rules, Isolation: new("gvisor"), Devices: &none}, "")
	check("create", "POST /api/apps/a/functions", `{"name":"f","network":"allow","allow":["10.1.2.3:5432"],"isolation":"gvisor","devices":[]}`, got, fn, err)
	got, err = c.UpdateFunction(ctx, "a", "f", client.Settings{Network: new(""), Allow: &none, Revision: 3, Reset: []string{"devices"}}, "")
	check("update", "PATCH /api/apps/a/functions/f", `{"allow":[],"devices":null,"network":"","revision":3}`, got, fn, err)
	app, err := c.UpdateApp(ctx, "a", client.AppSettings{Allow: &rules, Revision: 3})
	check("app", "PATCH /api/apps/a", `{"allow":["10.1.2.3:5432"],"revision":3}`, app, client.App{Network: "allow", Allow: rules}, err)
	node, err := c.Node(ctx)
	check("node", "GET /api/node", "", node, client.Node{Network: "allow", Refused: 7, Isolations: []client.Isolation{{Name: "gvisor", Reason: "no program runsc"}}}, err)
}
